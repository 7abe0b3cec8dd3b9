"""fields: the lines of a head, and the fields they carry; for requests and responses alike.

    buf   |GET / HTTP/1.1␍␊|Host: a␍␊|Acce
           0                ▲ line    ▲ scanned

`line` is the beginning of the first line that is not parsed yet. Before `scanned`, there is no line
end and no forbidden octet. Each call continues from there, so each octet is scanned once, however
the bytes arrive, and each line is parsed once, when its CRLF is there. The result does not depend
on how the bytes were split:

- a control character, a bare CR and a bare LF are refused at once;
- a line or head that is too long is refused as soon as it has one octet too many;
- everything else about a line is decided when the line is complete.

Speed: the end of a line is found by a vector scanner (chars.pxd), which in the same pass checks
each octet; a name is scanned with the class that stops at ":" and at unusual characters. One test
accepts a whole good line; a separate path finds out what is wrong with a bad one. Known names become a FieldName by
a switch on length and one or two 8-byte comparisons.

A framing field (Host, Content-Length, Transfer-Encoding) is checked on its own line. The only
contradiction between two fields, length and coding, is found on the second one.
"""
from libc.stdint cimport uint16_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp

from fastgate._core.platform.chars cimport (
    CH_NAME, CH_TEXT, CH_TOKEN, fg_cset, fg_cset_make, fg_same, fg_scanner_named, fg_token,
    fg_token_begins, fg_token_is, fg_token_of, is_class, same_ci)
from fastgate._core.http.head cimport (
    FAULT_BARE_CR, FAULT_BARE_LF, FAULT_CODING_HTTP10, FAULT_CODING_INVALID, FAULT_CODING_REPEATED,
    FAULT_CODING_UNKNOWN, FAULT_CONNECTION_INVALID, FAULT_CONNECTION_TOO_MANY, FAULT_CONTROL,
    FAULT_FIELDS_TOO_MANY, FAULT_FIELD_COLON, FAULT_FIELD_NAME, FAULT_FIELD_NAME_EMPTY,
    FAULT_FIELD_SPACE, FAULT_FIELD_TOO_LONG, FAULT_FOLDING, FAULT_HEAD_TOO_LARGE, FAULT_HOST_EMPTY,
    FAULT_HOST_INVALID, FAULT_HOST_PORT, FAULT_HOST_REPEATED, FAULT_HOST_USERINFO,
    FAULT_LENGTH_INVALID, FAULT_LENGTH_OVERFLOW, FAULT_LENGTH_REPEATED, FAULT_LENGTH_WITH_CODING,
    FAULT_NUL, FIELD_HOP, FIELD_UNDERSCORE, FIELD_UNUSUAL, F_ACCEPT, F_ACCESS_CONTROL,
    F_ACCESS_CONTROL_REQUEST_METHOD, F_AUTHORIZATION, F_CONNECTION, F_CONTENT_LENGTH,
    F_CONTENT_TYPE, F_COOKIE, F_DATE, F_EXPECT, F_FORWARDED, F_HOST, F_HTTP2_SETTINGS, F_KEEP_ALIVE,
    F_MAX_FORWARDS, F_ORIGIN, F_OTHER, F_PROXY_AUTHENTICATE, F_PROXY_AUTHORIZATION, F_PROXY_CLAIM,
    F_PROXY_CONNECTION, F_RETRY_AFTER, F_SERVER, F_STRICT_TRANSPORT_SECURITY, F_TE, F_TRACEPARENT, F_TRACESTATE, F_TRAILER,
    F_TRANSFER_ENCODING, F_UNDERSCORE, F_UPGRADE, F_USER_AGENT, F_VIA, F_X_CONSUMER, F_X_FORWARDED,
    F_X_FORWARDED_FOR, F_X_FORWARDED_HOST, F_X_FORWARDED_PORT, F_X_FORWARDED_PROTO, F_X_REAL_IP,
    F_X_REQUEST_ID, HEAD_BAD_EXPECT, HEAD_CONNECTION_NAMES, HEAD_EXPECT_CONTINUE,
    HEAD_HAS_UNDERSCORE, MAX_FIELDS, field)
from fastgate._core.http.uri cimport (
    AUTHORITY_EMPTY, AUTHORITY_PORT, AUTHORITY_USERINFO, authority, parse_authority)

cdef enum:
    MAX_NAMED = 32            # elements of all Connection fields together

    LONGEST_KNOWN = 64        # octets; every known name, and every known prefix, is shorter
    NEVER_OVER = 18           # this many digits are always below MAX_LENGTH

# Fields that only the gateway, or a trusted proxy, may set.
cdef uint64_t GATEWAY_SETS = (
    <uint64_t>1 << F_X_CONSUMER | <uint64_t>1 << F_FORWARDED | <uint64_t>1 << F_X_FORWARDED_FOR
    | <uint64_t>1 << F_X_FORWARDED_PROTO | <uint64_t>1 << F_X_FORWARDED_HOST
    | <uint64_t>1 << F_X_FORWARDED_PORT | <uint64_t>1 << F_X_FORWARDED | <uint64_t>1 << F_X_REAL_IP
    | <uint64_t>1 << F_PROXY_CLAIM)
cdef uint64_t MAX_LENGTH = <uint64_t>1 << 62

# Fields that Connection cannot take away from a message, by FieldName.
cdef uint64_t PROTECTED = (
    <uint64_t>1 << F_HOST | <uint64_t>1 << F_CONTENT_LENGTH | <uint64_t>1 << F_TRANSFER_ENCODING
    | <uint64_t>1 << F_AUTHORIZATION | <uint64_t>1 << F_VIA | <uint64_t>1 << F_FORWARDED
    | <uint64_t>1 << F_X_FORWARDED_FOR | <uint64_t>1 << F_X_FORWARDED_PROTO
    | <uint64_t>1 << F_X_FORWARDED_HOST | <uint64_t>1 << F_X_FORWARDED_PORT
    | <uint64_t>1 << F_X_REAL_IP | <uint64_t>1 << F_X_REQUEST_ID | <uint64_t>1 << F_TRACEPARENT
    | <uint64_t>1 << F_TRACESTATE | <uint64_t>1 << F_X_CONSUMER | <uint64_t>1 << F_CONTENT_TYPE
    | <uint64_t>1 << F_COOKIE | <uint64_t>1 << F_ORIGIN | <uint64_t>1 << F_EXPECT
    | <uint64_t>1 << F_X_FORWARDED | <uint64_t>1 << F_PROXY_CLAIM | <uint64_t>1 << F_MAX_FORWARDS
    | <uint64_t>1 << F_DATE | <uint64_t>1 << F_SERVER | <uint64_t>1 << F_RETRY_AFTER)

cdef fg_scanner scan = fg_scanner_named("table")
cdef fg_cset TEXT_SET, NAME_SET, TOKEN_SET

if not (fg_cset_make(&TEXT_SET, CH_TEXT) and fg_cset_make(&NAME_SET, CH_NAME)
        and fg_cset_make(&TOKEN_SET, CH_TOKEN)):
    raise SystemError("a character class does not fit the vector scanners")


cdef void fields_use_scanner(fg_scanner scanner) noexcept nogil:
    global scan
    scan = scanner


cdef int64_t _not_whole(head *h, const char *buf, uint32_t length, uint32_t s, uint32_t cap,
                        uint32_t head_cap, int too_long) noexcept nogil:
    """LINE_*, for the line at h.line whose text ends at s: it is incomplete or invalid."""
    cdef uint64_t bound = <uint64_t>h.line + cap
    cdef uint8_t c
    h.scanned = s
    # The cap that is reached first applies, however many octets there are.
    if head_cap <= bound:
        if <uint64_t>s + (s < length) > head_cap:
            h.fault = FAULT_HEAD_TOO_LARGE
            return LINE_FAULT
    elif s > bound:
        h.fault = too_long
        return LINE_FAULT
    if s == length:
        return LINE_MORE
    c = <uint8_t>buf[s]
    if c == c"\r":
        if s + 1 == length:
            return LINE_MORE
        if buf[s + 1] != c"\n":
            h.fault = FAULT_BARE_CR
        else:
            h.fault = FAULT_HEAD_TOO_LARGE
    elif c == c"\n":
        h.fault = FAULT_BARE_LF
    else:
        h.fault = FAULT_CONTROL if c else FAULT_NUL
    return LINE_FAULT


cdef int64_t read_line(head *h, const char *buf, uint32_t length, uint32_t cap,
                       uint32_t head_cap, int too_long) noexcept nogil:
    # The CRLF has to be in the buffer, and under the head's cap.
    cdef const char *stop = buf + (length if length < head_cap else head_cap)
    cdef const char *end = scan(buf + h.scanned, buf + length, &TEXT_SET)
    if stop - end < 2 or end - (buf + h.line) > cap or memcmp(end, b"\r\n", 2) != 0:
        return _not_whole(h, buf, length, <uint32_t>(end - buf), cap, head_cap, too_long)
    return end - buf


# ---- fields ---------------------------------------------------------------------------
cdef uint8_t _name_id(const char *p, uint32_t n) noexcept nogil:
    """The FieldName of a token of letters, digits and "-"; of others, if only its beginning counts."""
    cdef fg_token name = fg_token_of(p, n)
    if n == 4:
        if fg_token_is(&name, b"host", 4):
            return F_HOST
        if fg_token_is(&name, b"date", 4):
            return F_DATE
    elif n == 6:
        if fg_token_is(&name, b"accept", 6):
            return F_ACCEPT
        if fg_token_is(&name, b"cookie", 6):
            return F_COOKIE
        if fg_token_is(&name, b"origin", 6):
            return F_ORIGIN
        if fg_token_is(&name, b"expect", 6):
            return F_EXPECT
        if fg_token_is(&name, b"server", 6):
            return F_SERVER
    elif n == 10:
        if fg_token_is(&name, b"connection", 10):
            return F_CONNECTION
        if fg_token_is(&name, b"user-agent", 10):
            return F_USER_AGENT
        if fg_token_is(&name, b"keep-alive", 10):
            return F_KEEP_ALIVE
        if fg_token_is(&name, b"tracestate", 10):
            return F_TRACESTATE
    elif n == 12:
        if fg_token_is(&name, b"content-type", 12):
            return F_CONTENT_TYPE
        if fg_token_is(&name, b"x-request-id", 12):
            return F_X_REQUEST_ID
        if fg_token_is(&name, b"max-forwards", 12):
            return F_MAX_FORWARDS
        if fg_token_is(&name, b"x-url-scheme", 12):
            return F_PROXY_CLAIM
    elif n == 14:
        if fg_token_is(&name, b"content-length", 14):
            return F_CONTENT_LENGTH
        if fg_token_is(&name, b"http2-settings", 14):
            return F_HTTP2_SETTINGS
        if fg_token_is(&name, b"true-client-ip", 14) or fg_token_is(&name, b"x-proxyuser-ip", 14):
            return F_PROXY_CLAIM
    elif n == 13:
        if fg_token_is(&name, b"authorization", 13):
            return F_AUTHORIZATION
        if fg_token_is(&name, b"x-remote-addr", 13) or fg_token_is(&name, b"x-rewrite-url", 13) or fg_token_is(
                &name, b"fly-client-ip", 13):
            return F_PROXY_CLAIM
    elif n == 11:
        if fg_token_is(&name, b"traceparent", 11):
            return F_TRACEPARENT
        if fg_token_is(&name, b"client-cert", 11):
            return F_X_CONSUMER
        if fg_token_is(&name, b"retry-after", 11):
            return F_RETRY_AFTER
        if fg_token_is(&name, b"x-client-ip", 11) or fg_token_is(&name, b"x-remote-ip", 11):
            return F_PROXY_CLAIM
    elif n == 17:
        if fg_token_is(&name, b"transfer-encoding", 17):
            return F_TRANSFER_ENCODING
        if fg_token_is(&name, b"x-forwarded-proto", 17):
            return F_X_FORWARDED_PROTO
        if fg_token_is(&name, b"client-cert-chain", 17):
            return F_X_CONSUMER
    elif n == 2:
        if fg_token_is(&name, b"te", 2):
            return F_TE
    elif n == 3:
        if fg_token_is(&name, b"via", 3):
            return F_VIA
    elif n == 7:
        if fg_token_is(&name, b"upgrade", 7):
            return F_UPGRADE
        if fg_token_is(&name, b"trailer", 7):
            return F_TRAILER
    elif n == 9:
        if fg_token_is(&name, b"forwarded", 9):
            return F_FORWARDED
        if fg_token_is(&name, b"x-real-ip", 9):
            return F_X_REAL_IP
        if fg_token_is(&name, b"client-ip", 9):
            return F_PROXY_CLAIM
    elif n == 8:
        if fg_token_is(&name, b"x-scheme", 8):
            return F_PROXY_CLAIM
    elif n == 15:
        if fg_token_is(&name, b"x-forwarded-for", 15):
            return F_X_FORWARDED_FOR
        if fg_token_is(&name, b"front-end-https", 15):
            return F_PROXY_CLAIM
    elif n == 16:
        if fg_token_is(&name, b"x-forwarded-host", 16):
            return F_X_FORWARDED_HOST
        if fg_token_is(&name, b"x-forwarded-port", 16):
            return F_X_FORWARDED_PORT
        if fg_token_is(&name, b"proxy-connection", 16):
            return F_PROXY_CONNECTION
        if fg_token_is(&name, b"cf-connecting-ip", 16) or fg_token_is(
                &name, b"fastly-client-ip", 16) or fg_token_is(&name, b"x-originating-ip", 16) or fg_token_is(
                &name, b"x-azure-clientip", 16) or fg_token_is(&name, b"x-azure-socketip", 16):
            return F_PROXY_CLAIM
    elif n == 18:
        if fg_token_is(&name, b"cf-connecting-ipv6", 18):
            return F_PROXY_CLAIM
        if fg_token_is(&name, b"proxy-authenticate", 18):
            return F_PROXY_AUTHENTICATE
    elif n == 19:
        if fg_token_is(&name, b"proxy-authorization", 19):
            return F_PROXY_AUTHORIZATION
        if fg_token_is(&name, b"x-cluster-client-ip", 19) or fg_token_is(&name, b"x-appengine-user-ip", 19):
            return F_PROXY_CLAIM
    elif n == 24:
        if fg_token_is(&name, b"x-envoy-external-address", 24):
            return F_PROXY_CLAIM
    elif n == 25:
        if fg_token_is(&name, b"strict-transport-security", 25):
            return F_STRICT_TRANSPORT_SECURITY
    elif n == 29:
        if fg_token_is(&name, b"access-control-request-method", 29):
            return F_ACCESS_CONTROL_REQUEST_METHOD
    if n >= 11:
        if fg_token_begins(&name, b"x-consumer-", 11) or fg_token_begins(&name, b"x-fastgate-", 11):
            return F_X_CONSUMER
        if fg_token_begins(&name, b"x-forwarded", 11):
            return F_X_FORWARDED
        if fg_token_begins(&name, b"x-original-", 11):
            return F_PROXY_CLAIM
        if n >= 15 and fg_token_begins(&name, b"access-control-", 15):
            return F_ACCESS_CONTROL
    return F_OTHER


cdef uint8_t _unusual(const char *p, const char *end) noexcept nogil:
    """The flag of a name with other characters than most."""
    return FIELD_UNUSUAL if memchr(p, c"_", end - p) == NULL else FIELD_UNDERSCORE


cdef uint8_t _unusual_id(const char *p, uint32_t n, uint8_t flags) noexcept nogil:
    """A name with "_", "." or the like, all of which CGI-like upstreams read as "-". If that makes it a
    field that only the gateway or a proxy may set, it is dropped, even if underscores are allowed and
    the peer is trusted."""
    cdef char dashed[LONGEST_KNOWN]
    cdef uint32_t i, k = n if n < LONGEST_KNOWN else LONGEST_KNOWN
    for i in range(k):
        dashed[i] = p[i] if is_class(p[i], CH_NAME) else c"-"
    if GATEWAY_SETS >> _name_id(dashed, k) & 1:
        return F_X_CONSUMER
    return F_UNDERSCORE if flags == FIELD_UNDERSCORE else _name_id(p, n)


cdef int _name_fault(const char *p, const char *bad, const char *end) noexcept nogil:
    """Why the name of the line [p, end) is not valid: `bad` is its first octet that is not a
    tchar."""
    if p[0] == c" " or p[0] == c"\t":
        return FAULT_FOLDING
    if memchr(p, c":", end - p) == NULL:
        return FAULT_FIELD_COLON
    return FAULT_FIELD_SPACE if bad[0] == c" " or bad[0] == c"\t" else FAULT_FIELD_NAME


cdef int64_t read_fields(head *h, const char *buf, uint32_t length, const caps *c,
                         bint response) noexcept nogil:
    cdef uint32_t most = c.fields if c.fields < MAX_FIELDS else MAX_FIELDS
    cdef field *f = &h.fields[h.nfields]
    cdef field *full = &h.fields[most]
    cdef const char *limit = buf + length
    cdef const char *stop = buf + (length if length < c.head else c.head)
    cdef const char *begin = buf + h.line
    cdef const char *scanned = buf + h.scanned
    cdef const char *end
    cdef const char *p
    cdef int fault
    cdef uint8_t flags, repeated
    while True:
        # Not from the name's end: the next line would have to wait for two scans instead of one.
        end = scan(scanned, limit, &TEXT_SET)
        if stop - end < 2 or end - begin > c.field or memcmp(end, b"\r\n", 2) != 0:
            return _not_whole(h, buf, length, <uint32_t>(end - buf), c.field, c.head, FAULT_FIELD_TOO_LONG)
        if end == begin:
            return end - buf
        if f >= full:
            h.fault = FAULT_FIELDS_TOO_MANY
            return LINE_FAULT
        # The scan may run to the buffer's end: CR is not a tchar, so it stops at the line's end.
        p = scan(begin, limit, &NAME_SET)
        flags = 0
        if p[0] != c":":
            p = scan(p, end, &TOKEN_SET)
            flags = _unusual(begin, p)
            if flags == FIELD_UNDERSCORE:
                h.flags |= HEAD_HAS_UNDERSCORE
            if p[0] != c":":
                h.fault = _name_fault(begin, p, end)
                return LINE_FAULT
        if p == begin:
            h.fault = FAULT_FIELD_NAME_EMPTY
            return LINE_FAULT
        if p - begin > 0xffff:
            h.fault = FAULT_FIELD_TOO_LONG
            return LINE_FAULT
        scanned = end + 2
        f.name = <uint32_t>(begin - buf)
        f.name_len = <uint16_t>(p - begin)
        f.line_end = <uint32_t>(scanned - buf)
        h.line = f.line_end
        h.scanned = f.line_end
        # The colon and the CR are not whitespace, and no other text octet is below "!".
        p += 1
        while <uint8_t>(end - 1)[0] <= c" ":
            end -= 1
        while <uint8_t>p[0] <= c" " and p < end:
            p += 1
        f.value = <uint32_t>(p - buf)
        f.value_len = <uint32_t>(end - p)
        f.flags = flags
        if flags:
            f.id = _unusual_id(begin, f.name_len, flags)
        else:
            f.id = _name_id(begin, f.name_len)
        h.nfields += 1
        if f.id != F_OTHER:
            repeated = h.first[f.id]
            if not repeated:
                h.first[f.id] = <uint8_t>h.nfields
            fault = _known_field(h, buf, f, repeated, response)
            if fault:
                h.fault = <uint16_t>fault
                return LINE_FAULT
        begin = scanned
        f += 1


cdef inline int _known_field(head *h, const char *buf, field *f, bint repeated,
                             bint response) noexcept nogil:
    """Apply a known field to the parse. Returns a ParseFault, or 0."""
    if f.id == F_HOST:
        return 0 if response else _host(h, buf, f, repeated)
    if f.id == F_CONTENT_LENGTH:
        return _content_length(h, buf, f, repeated)
    if f.id == F_TRANSFER_ENCODING:
        f.flags |= FIELD_HOP
        return _transfer_encoding(h, buf, f, repeated)
    if f.id == F_CONNECTION:
        f.flags |= FIELD_HOP
        return _connection(h, buf, f)
    if f.id == F_UPGRADE:
        f.flags |= FIELD_HOP
        if not repeated and f.value_len == 9 and fg_same(buf + f.value, b"websocket", 9):
            h.options |= OPTION_WEBSOCKET
        else:
            h.options |= OPTION_PROTOCOL
    elif f.id == F_EXPECT:
        if f.value_len == 12 and fg_same(buf + f.value, b"100-continue", 12):
            h.flags |= HEAD_EXPECT_CONTINUE
        else:
            h.flags |= HEAD_BAD_EXPECT
    elif (F_KEEP_ALIVE <= f.id <= F_TRAILER) or f.id == F_HTTP2_SETTINGS:
        f.flags |= FIELD_HOP
    return 0


cdef int _host(head *h, const char *buf, field *f, bint repeated) noexcept nogil:
    cdef authority a
    cdef int rc
    if repeated:
        return FAULT_HOST_REPEATED
    rc = parse_authority(buf + f.value, f.value_len, &a)
    if rc < 0:
        if rc == AUTHORITY_EMPTY:
            return FAULT_HOST_EMPTY
        if rc == AUTHORITY_USERINFO:
            return FAULT_HOST_USERINFO
        return FAULT_HOST_PORT if rc == AUTHORITY_PORT else FAULT_HOST_INVALID
    h.host.off = f.value
    h.host.len = a.host_len
    h.host_port = <uint16_t>a.port if a.port > 0 else 0
    return 0


cdef int _content_length(head *h, const char *buf, field *f, bint repeated) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint32_t i
    cdef uint8_t digit
    if repeated:
        return FAULT_LENGTH_REPEATED
    if f.value_len == 0:
        return FAULT_LENGTH_INVALID
    for i in range(f.value_len):
        digit = <uint8_t>buf[f.value + i] - 48
        if digit > 9:
            return FAULT_LENGTH_INVALID
        if i >= NEVER_OVER and value > (MAX_LENGTH - digit) / 10:
            return FAULT_LENGTH_OVERFLOW
        value = value * 10 + digit
    h.content_length = <int64_t>value
    return FAULT_LENGTH_WITH_CODING if h.first[<int>F_TRANSFER_ENCODING] else 0


cdef int _transfer_encoding(head *h, const char *buf, field *f, bint repeated) noexcept nogil:
    cdef const char *p = buf + f.value
    cdef const char *end = p + f.value_len
    cdef const char *token
    cdef bint chunked = False
    if repeated:
        return FAULT_CODING_REPEATED
    if h.version == 0:
        return FAULT_CODING_HTTP10
    if h.first[<int>F_CONTENT_LENGTH]:
        return FAULT_LENGTH_WITH_CODING
    if f.value_len == 7 and fg_same(p, b"chunked", 7):
        return 0
    # A list of unknown codings, with chunked at most as the last, is valid: 501. Anything else
    # (empty elements, parameters, chunked twice or not last) may be an attack: 400.
    while p < end:
        token = p
        while p < end and is_class(p[0], CH_TOKEN):
            p += 1
        if p == token or chunked:
            return FAULT_CODING_INVALID
        chunked = p - token == 7 and fg_same(token, b"chunked", 7)
        if p == end:
            return FAULT_CODING_UNKNOWN
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
        if p[0] != c",":
            return FAULT_CODING_INVALID
        p += 1
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
    return FAULT_CODING_INVALID


cdef inline int _element(const char **at, const char *end, const char **token) noexcept nogil:
    """The next element of a list of tokens: its length; 0 at the end; -1: not a list of tokens."""
    cdef const char *p = at[0]
    while p < end and (p[0] == c"," or p[0] == c" " or p[0] == c"\t"):
        p += 1
    token[0] = p
    while p < end and is_class(p[0], CH_TOKEN):
        p += 1
    cdef int n = <int>(p - token[0])
    at[0] = p
    while p < end and (p[0] == c" " or p[0] == c"\t"):
        p += 1
    if p < end and p[0] != c",":
        return -1
    return n


cdef int _connection(head *h, const char *buf, field *f) noexcept nogil:
    cdef const char *p = buf + f.value
    cdef const char *end = p + f.value_len
    cdef const char *token = NULL
    cdef int n
    while True:
        n = _element(&p, end, &token)
        if n <= 0:
            return FAULT_CONNECTION_INVALID if n else 0
        if n == 5 and fg_same(token, b"close", 5):
            h.options |= OPTION_CLOSE
        elif n == 10 and fg_same(token, b"keep-alive", 10):
            h.options |= OPTION_KEEP_ALIVE
        elif n == 7 and fg_same(token, b"upgrade", 7):
            h.options |= OPTION_UPGRADE
        else:
            h.named += 1
            if h.named > MAX_NAMED:
                return FAULT_CONNECTION_TOO_MANY


cdef void name_hops(head *h, const char *buf) noexcept nogil:
    cdef const char *p
    cdef const char *end
    cdef const char *token = NULL
    cdef field *f
    cdef uint32_t i, k
    cdef uint8_t id
    cdef int n
    for i in range(h.nfields):
        if h.fields[i].id != F_CONNECTION:
            continue
        p = buf + h.fields[i].value
        end = p + h.fields[i].value_len
        while True:
            n = _element(&p, end, &token)
            if n <= 0:
                break
            if scan(token, token + n, &NAME_SET) != token + n:
                id = _unusual_id(token, n, _unusual(token, token + n))
            else:
                id = _name_id(token, n)
            if PROTECTED >> id & 1:
                continue
            for k in range(h.nfields):
                f = &h.fields[k]
                if f.id != id or f.name_len != n or f.flags & FIELD_HOP:
                    continue
                if same_ci(buf + f.name, token, n):
                    f.flags |= FIELD_HOP
                    h.flags |= HEAD_CONNECTION_NAMES
