"""http1: the strict HTTP/1.1 message-head parser and body framing. Law: docs/http.md.

The caller owns all memory. Results are spans: offsets into the caller's buffer. A parse is
resumable: call again with the same head and the same buffer grown; whole or byte by byte,
the result is the same.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MAX_FIELDS = 128          # fields a head can hold; the configured cap may be lower
    # Return values of the parse functions (besides > 0: bytes of the head, now complete).
    PARSE_INCOMPLETE = 0      # valid so far; call again with more bytes
    # < 0: minus a Reason of reason.pxd, e.g. -MALFORMED_REQUEST, -HEADERS_TOO_LARGE.

# Why a head was refused, finer than the Reason; for `detail`, logs and tests.
cpdef enum ParseFault:
    FAULT_NONE = 0

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

# Well-known fields, recognised while parsing so that nobody compares names again.
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
    F_X_CONSUMER = 25         # any X-Consumer-*: identity that only the gateway may set
    F_DATE = 26
    F_SERVER = 27
    F_HTTP2_SETTINGS = 28
    F_X_REAL_IP = 29
    F_X_FORWARDED_PORT = 30
    F_CONTENT_TYPE = 31
    F_COOKIE = 32
    F_ACCESS_CONTROL_REQUEST_METHOD = 33
    F_RETRY_AFTER = 34
    F_UNDERSCORE = 63         # a name with "_" in it (policy: drop, reject, allow)

cpdef enum Framing:
    FRAMING_NONE = 0          # no body
    FRAMING_LENGTH = 1        # content_length bytes
    FRAMING_CHUNKED = 2
    FRAMING_CLOSE = 3         # responses only: until the connection closes

cpdef enum TargetForm:
    TARGET_ORIGIN = 0
    TARGET_ABSOLUTE = 1
    TARGET_ASTERISK = 2
    TARGET_AUTHORITY = 3      # CONNECT

cpdef enum HeadFlag:
    HEAD_KEEP_ALIVE = 1       # the peer lets the connection live after this message
    HEAD_EXPECT_CONTINUE = 2
    HEAD_UPGRADE_WEBSOCKET = 4    # Connection names Upgrade and Upgrade is websocket
    HEAD_PATH_NEEDS_NORMALIZING = 8   # has // or dot segment or %-escape or such: see normalize_path
    HEAD_HAS_UNDERSCORE = 16
    HEAD_CONNECTION_NAMES = 32    # Connection names fields besides close/keep-alive/upgrade/te: they carry FIELD_HOP
    HEAD_BAD_EXPECT = 64      # an Expect other than 100-continue: answer 417
    HEAD_HAS_ENCODED_SLASH = 128  # %2f, %5c or a backslash in the path
    HEAD_UPGRADE_OTHER = 256

cdef enum:
    FIELD_HOP = 1             # hop-by-hop: not forwarded (by name, or named in Connection)
    FIELD_UNDERSCORE = 2

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
    uint32_t value_len        # without the white space around it

cdef struct caps:
    uint32_t line             # request line / status line, bytes   (414 / 502)
    uint32_t head             # whole head, bytes                   (431 / 502)
    uint32_t fields           # number of fields, at most MAX_FIELDS (431 / 502)
    uint32_t field            # one field line, bytes               (431 / 502)

cdef struct head:
    # where the parse stands (resumable); zero all of it with head_reset
    uint32_t line             # offset of the first line not yet parsed
    uint32_t scanned          # no CRLF before this offset
    uint32_t state
    # the result
    uint32_t size             # bytes of the head, with the empty line
    uint32_t flags            # HeadFlag
    span method
    span target               # as received
    span authority            # of an absolute-form target (len 0: none)
    span path                 # within target, without query; "/" is always there
    span query                # without "?"; has_query tells "" from none
    span host                 # value of Host, without port
    span reason               # response: reason phrase
    int64_t content_length    # -1: none
    uint16_t nfields
    uint16_t status           # response
    uint16_t fault            # ParseFault, when refused
    uint16_t host_port        # 0: none given
    uint8_t method_id         # Method
    uint8_t minor             # HTTP/1.<minor>
    uint8_t framing           # Framing
    uint8_t form              # TargetForm
    uint8_t has_query
    uint8_t first[64]         # FieldName → index + 1 of its first field; 0: absent
    field fields[MAX_FIELDS]

cdef void head_reset(head *h) noexcept nogil
    # cheap: does not touch fields[]

cdef int parse_request(head *h, const char *buf, uint32_t length, const caps *c) noexcept nogil
cdef int parse_response(head *h, const char *buf, uint32_t length, const caps *c,
                        uint8_t request_method) noexcept nogil
    # Sets framing for the answer to that method. -UPSTREAM_INVALID_RESPONSE on any fault.
    # A 1xx is returned as a complete head with FRAMING_NONE.

cdef int normalize_path(const char *path, uint32_t length, char *out, uint32_t cap,
                        int allow_encoded_slash) noexcept nogil
    # The one canonical path: unreserved escapes decoded, other escapes upper-cased, "//"
    # merged, dot segments removed. > 0: its length (never more than `length`); < 0: minus a Reason.

# Chunked bodies. In-place: `buf` in, canonical bytes out at the same `buf`.
cdef enum:
    CHUNK_MORE = 0            # everything consumed, the body goes on
    CHUNK_END = 1             # the body ended at *consumed
    # < 0: minus a Reason (-MALFORMED_REQUEST)

cdef struct chunk_state:
    uint64_t remaining        # bytes left of this chunk's data
    uint64_t total            # data bytes seen so far (for body caps)
    uint32_t extension        # bytes of chunk extensions and trailers seen so far (capped)
    uint8_t state
    uint8_t digits

cdef void chunk_reset(chunk_state *s) noexcept nogil
cdef int chunk_relay(chunk_state *s, char *buf, uint32_t length,
                     uint32_t *consumed, uint32_t *out_len) noexcept nogil
    # out: still chunked, canonical: sizes re-emitted as they came less leading zeros (lower or
    # upper hex kept), extensions and trailers dropped, ends with 0 CRLF CRLF. out_len <= consumed.
cdef int chunk_decode(chunk_state *s, char *buf, uint32_t length,
                      uint32_t *consumed, uint32_t *out_len) noexcept nogil
    # out: the data bytes alone.

cdef int valid_token(const char *p, uint32_t length) noexcept nogil
