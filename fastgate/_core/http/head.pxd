"""head: the head of a message, whatever version of HTTP it came in. Rules: docs/http.md.

The caller owns all memory. Results are spans: offsets into the caller's buffer.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastgate._core.platform.chars cimport fg_same_lowered

cdef enum:
    MAX_FIELDS = 128          # fields a head can hold; the configured cap may be lower

# Why a head was refused, in more detail than the Reason; for `detail`, logs and tests. Append only:
# the numbers are in logs. FAULT_TEXTS (Python, faults.py) has a sentence for each.
cpdef enum ParseFault:
    FAULT_NONE = 0
    # the request line
    FAULT_BLANK_LINES = 1
    FAULT_METHOD = 2
    FAULT_REQUEST_LINE = 3
    FAULT_VERSION_MISSING = 4
    FAULT_VERSION_MALFORMED = 5
    FAULT_VERSION_UNSUPPORTED = 6
    FAULT_LINE_TOO_LONG = 7
    # its target
    FAULT_TARGET_MISSING = 8
    FAULT_TARGET_FORM = 9
    FAULT_TARGET_SCHEME = 10
    FAULT_TARGET_AUTHORITY = 11
    FAULT_TARGET_USERINFO = 12
    FAULT_TARGET_FRAGMENT = 13
    FAULT_TARGET_NON_ASCII = 14
    FAULT_TARGET_CHARACTER = 15
    FAULT_TARGET_SPACE = 16
    FAULT_TARGET_ESCAPE = 17
    FAULT_TARGET_NUL = 18
    # any line
    FAULT_BARE_LF = 19
    FAULT_BARE_CR = 20
    FAULT_NUL = 21
    FAULT_CONTROL = 22
    # field lines
    FAULT_FOLDING = 23
    FAULT_FIELD_NAME_EMPTY = 24
    FAULT_FIELD_NAME = 25
    FAULT_FIELD_SPACE = 26
    FAULT_FIELD_COLON = 27
    FAULT_FIELD_TOO_LONG = 28
    FAULT_FIELDS_TOO_MANY = 29
    FAULT_HEAD_TOO_LARGE = 30
    # Host
    FAULT_HOST_MISSING = 31
    FAULT_HOST_REPEATED = 32
    FAULT_HOST_EMPTY = 33
    FAULT_HOST_USERINFO = 34
    FAULT_HOST_INVALID = 35
    FAULT_HOST_PORT = 36
    FAULT_HOST_MISMATCH = 37
    # framing
    FAULT_LENGTH_INVALID = 38
    FAULT_LENGTH_OVERFLOW = 39
    FAULT_LENGTH_REPEATED = 40
    FAULT_LENGTH_WITH_CODING = 41
    FAULT_CODING_REPEATED = 42
    FAULT_CODING_INVALID = 43
    FAULT_CODING_UNKNOWN = 44
    FAULT_CODING_HTTP10 = 45
    # other fields
    FAULT_CONNECTION_INVALID = 46
    FAULT_CONNECTION_TOO_MANY = 47
    FAULT_UPGRADE_BODY = 48
    # the status line
    FAULT_STATUS_LINE = 49
    FAULT_STATUS_CODE = 50
    # found after the parse
    FAULT_MAX_FORWARDS = 51
    FAULT_COUNT = 52

cpdef enum Method:
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_CONNECT = 6
    METHOD_OPTIONS = 7
    METHOD_TRACE = 8
    METHOD_PATCH = 9

# Well-known fields, recognised while parsing so that names are compared only once.
cpdef enum FieldName:
    F_OTHER = 0
    F_HOST = 1
    F_CONNECTION = 2
    F_CONTENT_LENGTH = 3
    F_TRANSFER_ENCODING = 4
    F_KEEP_ALIVE = 5
    F_PROXY_CONNECTION = 6
    F_PROXY_AUTHENTICATE = 7
    F_PROXY_AUTHORIZATION = 8
    F_TE = 9
    F_TRAILER = 10
    F_UPGRADE = 11
    F_EXPECT = 12
    F_AUTHORIZATION = 13
    F_VIA = 14
    F_FORWARDED = 15
    F_X_FORWARDED_FOR = 16
    F_X_FORWARDED_PROTO = 17
    F_X_FORWARDED_HOST = 18
    F_X_REQUEST_ID = 19
    F_TRACEPARENT = 20
    F_TRACESTATE = 21
    F_ACCEPT = 22
    F_ORIGIN = 23
    F_USER_AGENT = 24
    F_X_CONSUMER = 25         # any X-Consumer-*, X-FastGate-*, Client-Cert, Client-Cert-Chain: identity that only the gateway
                              # may set; also names that an upstream may confuse with a field set by proxies
    F_DATE = 26
    F_SERVER = 27
    F_HTTP2_SETTINGS = 28
    F_X_REAL_IP = 29
    F_X_FORWARDED_PORT = 30
    F_CONTENT_TYPE = 31
    F_COOKIE = 32
    F_ACCESS_CONTROL_REQUEST_METHOD = 33
    F_RETRY_AFTER = 34
    F_ACCESS_CONTROL = 35     # any other Access-Control-*
    F_X_FORWARDED = 36        # any other X-Forwarded*
    F_PROXY_CLAIM = 37        # another field by which proxies name the client or the URL (X-Client-IP, ...)
    F_MAX_FORWARDS = 38
    F_STRICT_TRANSPORT_SECURITY = 39
    F_UNDERSCORE = 63         # a name with "_" (policy: drop, reject, allow)

cpdef enum Framing:
    FRAMING_NONE = 0          # no body
    FRAMING_LENGTH = 1        # content_length bytes (possibly 0: there was a Content-Length)
    FRAMING_CHUNKED = 2
    FRAMING_CLOSE = 3         # responses only: until the connection closes

cdef enum Version:
    HTTP_1_0 = 0              # for any version, the oldest first
    HTTP_1_1 = 1

cpdef enum TargetForm:
    TARGET_ORIGIN = 0
    TARGET_ABSOLUTE = 1
    TARGET_ASTERISK = 2
    TARGET_AUTHORITY = 3      # CONNECT

cpdef enum HeadFlag:
    HEAD_KEEP_ALIVE = 1       # the peer lets the connection stay open after this message
    HEAD_EXPECT_CONTINUE = 2
    HEAD_UPGRADE_WEBSOCKET = 4    # Connection names Upgrade, and Upgrade is websocket
    HEAD_PATH_NEEDS_NORMALIZING = 8   # has "//", a dot segment, an escape or the like: see normalize_path
    HEAD_HAS_UNDERSCORE = 16
    HEAD_CONNECTION_NAMES = 32    # Connection names fields other than close/keep-alive/upgrade/te: they get FIELD_HOP
    HEAD_BAD_EXPECT = 64      # an Expect other than 100-continue: answer 417
    HEAD_HAS_ENCODED_SLASH = 128  # %2f, %5c or a backslash in the path
    HEAD_UPGRADE_OTHER = 256

cdef enum:
    FIELD_HOP = 1             # hop-by-hop: not forwarded (by name, or named in Connection)
    FIELD_UNDERSCORE = 2
    FIELD_CREDENTIAL = 4      # an API key: not forwarded (set by key_places)
    FIELD_UNUSUAL = 8         # the name has characters other than letters, digits and "-", but no "_"

cdef struct span:
    uint32_t off
    uint32_t len

cdef struct field:
    uint32_t name             # offset of the name; the line runs from here to line_end
    uint32_t value
    uint32_t line_end         # offset just past the line's CRLF
    uint16_t name_len
    uint8_t id                # FieldName
    uint8_t flags             # FIELD_*
    uint32_t value_len        # without the whitespace around it

cdef struct caps:
    # lines are measured without their CRLF, the head as a whole
    uint32_t line             # request line / status line, bytes   (414 / 502)
    uint32_t head             # whole head, bytes                   (431 / 502)
    uint32_t fields           # number of fields, at most MAX_FIELDS (431 / 502)
    uint32_t field            # one field line, bytes               (431 / 502)

cdef struct head:
    # how far the parse is (resumable); zero all of it with head_reset
    uint32_t line             # offset of the first line not yet parsed
    uint32_t scanned          # no CRLF before this offset
    uint32_t state
    # the result
    uint32_t size             # bytes of the head, including the empty line
    uint32_t flags            # HeadFlag
    span method
    span target               # as received
    span authority            # of an absolute-form target (len 0: none)
    span path                 # without query; always starts with "/": if the target has no path
                              # ("*", CONNECT, some absolute forms), a "/" elsewhere in the
                              # request line is used
    span query                # without "?"; has_query distinguishes "" from none
    span host                 # value of Host (HTTP/1.0 without Host: the target's authority),
                              # without port, without a final dot; len 0: none (HTTP/1.0)
    span reason               # response: reason phrase
    int64_t content_length    # -1: none; also set if framing excludes a body (HEAD)
    uint16_t nfields
    uint16_t status           # response
    uint16_t fault            # ParseFault, when refused
    uint16_t host_port        # 0: none
    uint8_t method_id         # Method
    uint8_t version           # Version
    uint8_t framing           # Framing
    uint8_t form              # TargetForm
    uint8_t has_query
    uint8_t options           # private: what Connection and Upgrade contained (parser.pyx, OPTION_*)
    uint16_t named            # private: fields that Connection names
    uint8_t first[64]         # FieldName → index + 1 of its first field; 0: absent
    field fields[MAX_FIELDS]

cdef void head_reset(head *h) noexcept nogil
    # cheap: does not touch fields[]
cdef int fault_reason(int fault) noexcept nogil
    # the Reason for refusing a request with this ParseFault
cdef uint8_t method_of(const char *p, uint32_t length) noexcept nogil
    # its Method


cdef inline int has_field(const head *h, int name) noexcept nogil:
    """1 + index of the first field with this FieldName; 0: absent."""
    return h.first[name]

cdef inline const field *field_of(const head *h, int name) noexcept nogil:
    """That field; only valid if has_field returned true."""
    return &h.fields[h.first[name] - 1]

cdef inline uint8_t lower(uint8_t x) noexcept nogil:
    return x | 0x20 if 65 <= x <= 90 else x

cdef inline int named(const char *base, const field *f, const char *lowered, uint32_t n) noexcept nogil:
    """Whether a field has this name, given in lower case."""
    return f.name_len == n and fg_same_lowered(base + f.name, lowered, n)

cdef inline int has_body(const head *h) noexcept nogil:
    """Whether a request has a non-empty body, according to its head."""
    return h.framing == FRAMING_CHUNKED or h.content_length > 0
