"""target: the request target, in the four forms of RFC 9112 3.2.

    origin      /path?query              any method but CONNECT
    absolute    http://host/path?query   the same; http and https only, no userinfo
    asterisk    *                        OPTIONS only
    authority   host:port                CONNECT only, which takes no other form

Every octet is checked. Allowed raw in a path: what RFC 3986 allows there, and "[", "]", "|", which
browsers do not escape. Allowed raw in a query: the same and, for the same reason, "{", "}", "^", "`"
and backslash. "%" must begin an escape of two digits other than "%00". A fragment, whitespace,
quotes, "<", ">", control characters and anything that is not ASCII are refused.

At the same time the path is classified, so that a plain path is used as it is and only the
others go through normalize_path: HEAD_PATH_NEEDS_NORMALIZING for "//", "%", backslash, "." and
".." segments (also with parameters); in addition HEAD_HAS_ENCODED_SLASH for %2f, %5c and backslash.

`path` always begins with "/". If the target has no path (asterisk, authority, absolute form without
one), it is one octet borrowed from "://" or from the "/" of "HTTP/1.1". OPTIONS in absolute form with
neither path nor query means the asterisk (RFC 9112 3.2.4).
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from fastgate._core.platform.chars cimport (
    CH_PATH, CH_QUERY, CH_UNRESERVED, fg_cset, fg_cset_make, fg_hex, fg_same, fg_scanner_named,
    is_class)
from fastgate._core.http.head cimport (
    FAULT_TARGET_AUTHORITY, FAULT_TARGET_CHARACTER, FAULT_TARGET_ESCAPE, FAULT_TARGET_FORM,
    FAULT_TARGET_FRAGMENT, FAULT_TARGET_MISSING, FAULT_TARGET_NON_ASCII, FAULT_TARGET_NUL,
    FAULT_TARGET_SCHEME, FAULT_TARGET_SPACE, FAULT_TARGET_USERINFO, HEAD_HAS_ENCODED_SLASH,
    HEAD_PATH_NEEDS_NORMALIZING, METHOD_CONNECT, METHOD_OPTIONS, TARGET_ABSOLUTE, TARGET_ASTERISK,
    TARGET_AUTHORITY)
from fastgate._core.http.uri cimport AUTHORITY_USERINFO, authority, parse_authority

cdef fg_scanner scan = fg_scanner_named("table")
cdef fg_cset QUERY_SET

if not fg_cset_make(&QUERY_SET, CH_QUERY):
    raise SystemError("a character class does not fit the vector scanners")


cdef void target_use_scanner(fg_scanner scanner) noexcept nogil:
    global scan
    scan = scanner


cdef int parse_target(head *h, const char *buf, uint32_t i, uint32_t end) noexcept nogil:
    """The four forms of RFC 9112 3.2. buf[end] is a space, buf[end + 5] the "/" of the HTTP version."""
    cdef uint32_t begin
    if i == end:
        return FAULT_TARGET_MISSING
    if h.method_id == METHOD_CONNECT:
        h.form = TARGET_AUTHORITY
        h.path.off = end + 5
        h.path.len = 1
        return _target_authority(h, buf, i, end)
    if buf[i] == c"/":
        return _path(h, buf, i, end)
    if buf[i] == c"*" and end - i == 1:
        if h.method_id != METHOD_OPTIONS:
            return FAULT_TARGET_FORM
        h.form = TARGET_ASTERISK
        h.path.off = end + 5
        h.path.len = 1
        return 0
    begin = i
    while i < end and buf[i] != c":" and buf[i] != c"/" and buf[i] != c"?":
        i += 1
    if end - i < 3 or memcmp(buf + i, b"://", 3) != 0:
        # no scheme and no slash at the start: report an invalid octet, if there is one
        while begin < end and is_class(buf[begin], CH_QUERY):
            begin += 1
        return FAULT_TARGET_FORM if begin == end else _bad_octet(buf[begin])
    if not ((i - begin == 4 and fg_same(buf + begin, b"http", 4))
            or (i - begin == 5 and fg_same(buf + begin, b"https", 5))):
        return FAULT_TARGET_SCHEME
    h.form = TARGET_ABSOLUTE
    begin = i + 3
    i = begin
    while i < end and buf[i] != c"/" and buf[i] != c"?" and buf[i] != c"#":
        i += 1
    cdef int fault = _target_authority(h, buf, begin, i)
    if fault:
        return fault
    if i < end and buf[i] == c"/":
        return _path(h, buf, i, end)
    # No path: use the "/" of "://". OPTIONS without a query means the asterisk.
    fault = _path(h, buf, i, end)
    h.path.off = begin - 1
    h.path.len = 1
    if h.method_id == METHOD_OPTIONS and not h.has_query:
        h.form = TARGET_ASTERISK
    return fault


cdef int _target_authority(head *h, const char *buf, uint32_t i, uint32_t end) noexcept nogil:
    cdef authority a
    cdef int rc = parse_authority(buf + i, end - i, &a)
    if rc == AUTHORITY_USERINFO:
        return FAULT_TARGET_USERINFO
    if rc < 0 or (h.form == TARGET_AUTHORITY and a.port < 0):
        return FAULT_TARGET_AUTHORITY
    h.authority.off = i
    h.authority.len = end - i
    return 0


cdef int _bad_octet(char c) noexcept nogil:
    """The fault for an octet that no target may contain."""
    if c == c"#":
        return FAULT_TARGET_FRAGMENT
    if c == c" ":
        return FAULT_TARGET_SPACE
    return FAULT_TARGET_NON_ASCII if <uint8_t>c >= 0x80 else FAULT_TARGET_CHARACTER


cdef inline bint _dot_segment(const char *p, const char *end) noexcept nogil:
    """Whether the segment at p (which starts with a dot) is "." or "..", perhaps with
    parameters. Escapes need no check: they require normalizing anyway."""
    p += 1
    if p < end and p[0] == c".":
        p += 1
    return p == end or p[0] == c"/" or p[0] == c";" or p[0] == c"?"


cdef int _path(head *h, const char *buf, uint32_t offset, uint32_t limit) noexcept nogil:
    """Path and query of an origin-form target, checked octet by octet."""
    cdef const char *p = buf + offset
    cdef const char *end = buf + limit
    cdef uint32_t flags = 0
    cdef uint8_t value
    h.path.off = offset
    while True:
        # The space after the target is in no class, so it ends this loop at the latest.
        while is_class(p[0], CH_UNRESERVED):
            p += 1
        if p == end:
            break
        if is_class(p[0], CH_PATH):
            if p[0] == c"/" and p + 1 < end:
                if p[1] == c"/" or (p[1] == c"." and _dot_segment(p + 1, end)):
                    flags |= HEAD_PATH_NEEDS_NORMALIZING
            p += 1
        elif p[0] == c"%":
            if end - p < 3 or (fg_hex(<uint8_t>p[1]) | fg_hex(<uint8_t>p[2])) == 0xff:
                return FAULT_TARGET_ESCAPE
            value = <uint8_t>((fg_hex(<uint8_t>p[1]) << 4) | fg_hex(<uint8_t>p[2]))
            if value == 0:
                return FAULT_TARGET_NUL
            flags |= HEAD_PATH_NEEDS_NORMALIZING
            if value == c"/" or value == c"\\":
                flags |= HEAD_HAS_ENCODED_SLASH
            p += 3
        elif p[0] == c"\\":
            flags |= HEAD_PATH_NEEDS_NORMALIZING | HEAD_HAS_ENCODED_SLASH
            p += 1
        elif p[0] == c"?":
            break
        else:
            return _bad_octet(p[0])
    h.flags |= flags
    h.path.len = <uint32_t>(p - buf) - offset
    if p == end:
        return 0
    p += 1
    h.has_query = 1
    h.query.off = <uint32_t>(p - buf)
    h.query.len = <uint32_t>(end - p)
    while True:
        p = scan(p, end, &QUERY_SET)
        if p == end:
            return 0
        if p[0] != c"%":
            return _bad_octet(p[0])
        if end - p < 3 or (fg_hex(<uint8_t>p[1]) | fg_hex(<uint8_t>p[2])) == 0xff:
            return FAULT_TARGET_ESCAPE
        if p[1] == c"0" and p[2] == c"0":
            return FAULT_TARGET_NUL
        p += 3
