"""parser: the strict HTTP/1.1 head parser, for requests and responses. Rules: docs/http.md.

The caller owns the buffer and the `head`. A parse goes line by line:

    START ──(one empty line)──► BLANK ──request line──► FIELDS ──empty line──► DONE
      └────────────── request or status line ──────────────▲          any fault ► FAILED

Lines and fields are read in fields.pyx, targets in target.pyx, both directly into the same
`head`. This module makes one message of them: the first line and, at the empty line, the checks
across fields (Host is present and agrees with the target, framing, keep-alive, upgrade). A fault
is reported as soon as its line is complete.

A response goes through the same lines, with its own first line, its own framing rules (RFC 9112
6.3, by status and by the request's method), and one Reason for every fault. A head that was
refused or completed stays so: calling again gives the same result.
"""
from libc.stdint cimport int64_t, uint16_t
from libc.string cimport memchr, memcmp

from fastgate._core.platform.chars cimport (
    CH_DIGIT, CH_TOKEN, fg_scanner, fg_scanner_named, is_class, same_ci)
from fastgate._core.http.fields cimport (
    LINE_FAULT, LINE_MORE, OPTION_CLOSE, OPTION_KEEP_ALIVE, OPTION_PROTOCOL, OPTION_UPGRADE,
    OPTION_WEBSOCKET, fields_use_scanner, name_hops, read_fields, read_line)
from fastgate._core.reason cimport UPSTREAM_INVALID_RESPONSE
from fastgate._core.http.head cimport (
    FAULT_BLANK_LINES, FAULT_HOST_MISMATCH, FAULT_HOST_MISSING, FAULT_LINE_TOO_LONG, FAULT_METHOD,
    FAULT_REQUEST_LINE, FAULT_STATUS_CODE, FAULT_STATUS_LINE, FAULT_TARGET_MISSING,
    FAULT_UPGRADE_BODY, FAULT_VERSION_MALFORMED, FAULT_VERSION_MISSING, FAULT_VERSION_UNSUPPORTED,
    FRAMING_CHUNKED, FRAMING_CLOSE, FRAMING_LENGTH, FRAMING_NONE, F_HOST, F_TRANSFER_ENCODING,
    HEAD_EXPECT_CONTINUE, HEAD_KEEP_ALIVE, HEAD_UPGRADE_OTHER, HEAD_UPGRADE_WEBSOCKET,
    METHOD_CONNECT, METHOD_GET, METHOD_HEAD, fault_reason, field, method_of)
from fastgate._core.http.target cimport parse_target, target_use_scanner
from fastgate._core.http.uri cimport authority, parse_authority


cdef enum State:
    START = 0
    BLANK = 1                 # one empty line was skipped
    FIELDS = 2
    DONE = 3
    FAILED = 4

cdef enum:
    MAX_METHOD = 32           # octets


# ---- the request line -----------------------------------------------------------------
cdef int64_t _first_line(head *h, const char *buf, uint32_t length, const caps *c) noexcept nogil:
    """The request line's CR, after at most one empty line (RFC 9112 2.2)."""
    cdef int64_t end = read_line(h, buf, length, c.line, c.head, FAULT_LINE_TOO_LONG)
    cdef uint32_t begin
    if end == h.line:
        if h.state == BLANK:
            h.fault = FAULT_BLANK_LINES
            return LINE_FAULT
        h.state = BLANK
        h.line = 2
        h.scanned = 2
        return _first_line(h, buf, length, c)
    if end == LINE_FAULT and h.fault == FAULT_LINE_TOO_LONG:
        # a line that is all method has no target that could be too long
        begin = c.line if c.line < MAX_METHOD + 1 else MAX_METHOD + 1
        if memchr(buf + h.line, c" ", begin) == NULL:
            h.fault = FAULT_METHOD
    return end


cdef inline int _version(head *h, const char *p) noexcept nogil:
    """The eight octets of an HTTP version."""
    if memcmp(p, b"HTTP/1.1", 8) == 0:
        h.version = 1
    elif memcmp(p, b"HTTP/1.0", 8) == 0:
        h.version = 0
    elif (memcmp(p, b"HTTP/", 5) == 0 and is_class(p[5], CH_DIGIT) and p[6] == c"."
          and is_class(p[7], CH_DIGIT)):
        return FAULT_VERSION_UNSUPPORTED
    else:
        return FAULT_VERSION_MALFORMED
    return 0


cdef int _request_line(head *h, const char *buf, uint32_t end) noexcept nogil:
    cdef uint32_t i = h.line, last
    while i < end and is_class(buf[i], CH_TOKEN):
        i += 1
    h.method.off = h.line
    h.method.len = i - h.line
    if h.method.len == 0 or h.method.len > MAX_METHOD:
        return FAULT_METHOD
    if i == end or buf[i] != c" ":
        return FAULT_REQUEST_LINE if i == end else FAULT_METHOD
    h.method_id = method_of(buf + h.line, h.method.len)
    i += 1
    h.target.off = i
    if end - i < 9 or buf[end - 9] != c" " or memcmp(buf + end - 8, b"HTTP/1.", 7) != 0:
        # the rare ways to fail, to name the fault: the version is what follows the last space
        last = end
        while last > i and buf[last - 1] != c" ":
            last -= 1
        if last == i:
            if end - i >= 5 and memcmp(buf + i, b"HTTP/", 5) == 0:
                return FAULT_TARGET_MISSING
            return FAULT_VERSION_MISSING if i < end else FAULT_TARGET_MISSING
        if end - last != 8:
            return FAULT_VERSION_MALFORMED
    cdef int fault = _version(h, buf + end - 8)
    if fault:
        return fault
    h.target.len = end - 9 - i
    return parse_target(h, buf, i, end - 9)


# ---- whole heads ----------------------------------------------------------------------
cdef void _finish_connection(head *h, const char *buf) noexcept nogil:
    if h.named:
        name_hops(h, buf)
    if not h.options & OPTION_CLOSE and (h.version or h.options & OPTION_KEEP_ALIVE):
        h.flags |= HEAD_KEEP_ALIVE
    if h.version and h.options & OPTION_UPGRADE and h.options & (OPTION_WEBSOCKET | OPTION_PROTOCOL):
        if h.options & OPTION_PROTOCOL:
            h.flags |= HEAD_UPGRADE_OTHER
        else:
            h.flags |= HEAD_UPGRADE_WEBSOCKET


cdef int _refuse(head *h, int fault) noexcept nogil:
    h.state = FAILED
    h.fault = <uint16_t>fault
    return -fault_reason(fault)


cdef int _same_authority(head *h, const char *buf) noexcept nogil:
    """Whether Host agrees with an absolute-form target, taking the scheme's default port into account."""
    cdef authority a, b
    cdef int port = 443 if buf[h.authority.off - 4] | 0x20 == c"s" else 80
    cdef field *f = &h.fields[h.first[<int>F_HOST] - 1]
    parse_authority(buf + h.authority.off, h.authority.len, &a)
    parse_authority(buf + f.value, f.value_len, &b)
    if (a.port if a.port >= 0 else port) != (b.port if b.port >= 0 else port):
        return 0
    return a.host_len == b.host_len and same_ci(buf + h.authority.off, buf + f.value, a.host_len)


cdef int _finish_request(head *h, const char *buf) noexcept nogil:
    cdef authority a
    _finish_connection(h, buf)
    if not h.first[<int>F_HOST]:
        if h.version:
            return FAULT_HOST_MISSING
        if h.authority.len:
            parse_authority(buf + h.authority.off, h.authority.len, &a)
            h.host.off = h.authority.off
            h.host.len = a.host_len
            h.host_port = <uint16_t>a.port if a.port > 0 else 0
    elif h.authority.len and h.method_id != METHOD_CONNECT and not _same_authority(h, buf):
        return FAULT_HOST_MISMATCH
    if h.first[<int>F_TRANSFER_ENCODING]:
        h.framing = FRAMING_CHUNKED
    elif h.content_length >= 0:
        h.framing = FRAMING_LENGTH
    if h.version == 0:
        # RFC 9110 10.1.1: an expectation from an HTTP/1.0 client is ignored
        h.flags &= ~<uint32_t>HEAD_EXPECT_CONTINUE
    if h.flags & HEAD_UPGRADE_WEBSOCKET:
        if h.method_id != METHOD_GET:
            h.flags ^= HEAD_UPGRADE_WEBSOCKET | HEAD_UPGRADE_OTHER
        elif h.framing == FRAMING_CHUNKED or h.content_length > 0:
            return FAULT_UPGRADE_BODY
    return 0


cdef int parse_request_line(head *h, const char *buf, uint32_t length, const caps *c) noexcept nogil:
    cdef int64_t s
    cdef int fault
    if h.state >= FIELDS:
        return 0
    s = _first_line(h, buf, length, c)
    if s < 0:
        return 0 if s == LINE_MORE else _refuse(h, h.fault)
    fault = _request_line(h, buf, <uint32_t>s)
    if fault:
        return _refuse(h, fault)
    h.line = <uint32_t>s + 2
    h.scanned = h.line
    h.state = FIELDS
    return 1


cdef int parse_request(head *h, const char *buf, uint32_t length, const caps *c) noexcept nogil:
    cdef int64_t s
    cdef int fault
    if h.state < FIELDS:
        fault = parse_request_line(h, buf, length, c)
        if fault <= 0:
            return fault
    elif h.state != FIELDS:
        return <int>h.size if h.state == DONE else -fault_reason(h.fault)
    s = read_fields(h, buf, length, c, False)
    if s < 0:
        return PARSE_INCOMPLETE if s == LINE_MORE else _refuse(h, h.fault)
    fault = _finish_request(h, buf)
    if fault:
        return _refuse(h, fault)
    h.size = <uint32_t>s + 2
    h.state = DONE
    return <int>h.size


cdef int _status_line(head *h, const char *buf, uint32_t end) noexcept nogil:
    """HTTP-version SP 3DIGIT SP [reason]; without a reason, the second space may be missing."""
    cdef int fault
    cdef uint32_t i
    if end < 12 or buf[8] != c" " or (end > 12 and buf[12] != c" "):
        return FAULT_STATUS_LINE
    fault = _version(h, buf)
    if fault:
        return fault
    for i in range(9, 12):
        if not is_class(buf[i], CH_DIGIT):
            return FAULT_STATUS_CODE
        h.status = h.status * 10 + <uint8_t>buf[i] - 48
    if h.status < 100 or h.status > 599:
        return FAULT_STATUS_CODE
    h.reason.off = 13 if end > 12 else 12
    h.reason.len = end - h.reason.off
    return 0


cdef void _finish_response(head *h, const char *buf, uint8_t request_method) noexcept nogil:
    _finish_connection(h, buf)
    if (h.status < 200 or h.status == 204 or h.status == 304 or request_method == METHOD_HEAD
            or (request_method == METHOD_CONNECT and h.status < 300)):
        h.framing = FRAMING_NONE
    elif h.first[<int>F_TRANSFER_ENCODING]:
        h.framing = FRAMING_CHUNKED
    elif h.content_length >= 0:
        h.framing = FRAMING_LENGTH
    else:
        h.framing = FRAMING_CLOSE
        h.flags &= ~<uint32_t>HEAD_KEEP_ALIVE


cdef int parse_response(head *h, const char *buf, uint32_t length, const caps *c,
                        uint8_t request_method) noexcept nogil:
    cdef int64_t s
    cdef int fault = 0
    if h.state < FIELDS:
        s = read_line(h, buf, length, c.line, c.head, FAULT_LINE_TOO_LONG)
        if s == LINE_MORE:
            return PARSE_INCOMPLETE
        if s >= 0:
            fault = _status_line(h, buf, <uint32_t>s)
        if s < 0 or fault:
            _refuse(h, fault if fault else h.fault)
            return -UPSTREAM_INVALID_RESPONSE
        h.line = <uint32_t>s + 2
        h.scanned = h.line
        h.state = FIELDS
    elif h.state != FIELDS:
        return <int>h.size if h.state == DONE else -UPSTREAM_INVALID_RESPONSE
    s = read_fields(h, buf, length, c, True)
    if s == LINE_MORE:
        return PARSE_INCOMPLETE
    if s < 0:
        _refuse(h, h.fault)
        return -UPSTREAM_INVALID_RESPONSE
    _finish_response(h, buf, request_method)
    h.size = <uint32_t>s + 2
    h.state = DONE
    return <int>h.size


# ---- the scanner ----------------------------------------------------------------------
SCANNERS = ("avx2", "sse4.2", "neon", "word", "table")
"""From the fastest on. A processor can run some of them."""


cdef int use_fastest_scanner() except -1:
    cdef fg_scanner chosen
    for name in SCANNERS:
        chosen = fg_scanner_named(name.encode())
        if chosen != NULL:
            fields_use_scanner(chosen)
            target_use_scanner(chosen)
            return 0
    return 0


use_fastest_scanner()
