"""max_forwards: OPTIONS and TRACE that must not be forwarded further (RFC 9110, 7.6.2).

To find where a chain of proxies breaks, a client limits how many of them may forward its request. At 0
the gateway answers as if it were the origin: OPTIONS with the methods that the path allows, TRACE with the
request as it came, without its secrets (9.3.8): credentials and cookies. Otherwise `render` decrements it.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_data, buf_head, buf_len, buf_return
from fastgate._core.exchange.ending cimport send_last
from fastgate._core.http.head cimport (
    FAULT_MAX_FORWARDS, F_AUTHORIZATION, F_COOKIE, METHOD_CONNECT, METHOD_GET, METHOD_PATCH,
    METHOD_TRACE, head)
from fastgate._core.exchange.key_places cimport hide_keys, put_query
from fastgate._core.reason cimport MALFORMED_REQUEST, OVERLOADED
from fastgate._core.exchange.refusal cimport put_allow
from fastgate._core.exchange.render cimport put_fields, start_own
from fastgate._core.exchange.request_head cimport hops_left
from fastgate._core.snapshot.router cimport ROUTE_FOUND, route_find, route_match
from fastgate._core.snapshot.snapshot cimport NONE32, snap_auth, table_ref
from fastgate._core.platform.text cimport fg_clear, put, put_lit
from fastgate._core.http.lines cimport end_line, put_request_line
from fastgate._core.state cimport EX_HEAD_ONLY, answer


cdef int last_hop(exchange *e) noexcept nogil:
    cdef int64_t left = hops_left(e)
    if left == -2:
        e.fault = FAULT_MAX_FORWARDS
        return MALFORMED_REQUEST
    if left != 0:
        return 0
    return answer_trace(e) if e.req.method_id == METHOD_TRACE else answer_options(e)


cdef int answer_options(exchange *e) noexcept nogil:
    cdef char lines[256]
    cdef answer a
    fg_clear(&a, sizeof(a))
    a.status = 204
    a.length = -1
    a.lines = lines
    a.lines_len = <uint32_t>(put_allow(lines, methods_here(e)) - lines)
    e.status = 204
    e.flags |= EX_HEAD_ONLY
    send_last(e, start_own(e, &a))
    return -1


cdef uint64_t methods_here(exchange *e) noexcept nogil:
    """Bits (1 << Method) of the methods that some route takes at this host and path."""
    cdef head *h = &e.req
    cdef uint8_t asked = h.method_id, method
    cdef route_match found
    cdef uint64_t allowed = 0
    for method in range(METHOD_GET, METHOD_PATCH + 1):
        h.method_id = method
        if method != METHOD_CONNECT and route_find(
                e.snap, e.base + h.host.off, h.host.len, e.path, e.path_len, e.base, h, NULL, &found) == ROUTE_FOUND:
            allowed |= 1ull << method
    h.method_id = asked
    return allowed


cdef int answer_trace(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef head *h = &e.req
    cdef char lines[64]
    cdef answer a
    cdef table_ref none
    cdef char *p
    cdef char *target
    cdef buf *b = buf_borrow(&c.loop.bufs, 2 * <size_t>h.size + 32)
    if b is NULL:
        return OVERLOADED
    if e.policy.auth != NONE32:
        hide_keys(e, snap_auth(e.snap, e.policy.auth))
    none.count = 0
    none.off = 0
    # The target is assembled after the place where the message goes.
    target = buf_head(b) + h.size + 32
    p = put_query(put(target, e.base + h.path.off, h.path.len), e)
    p = put_request_line(buf_head(b), e.base + h.method.off, h.method.len, target, <uint32_t>(p - target), h.version)
    p = put_fields(p, e.base, h, 1ull << F_AUTHORIZATION | 1ull << F_COOKIE, e.snap, none)
    p = end_line(p)
    b.end = <uint32_t>(p - buf_data(b))
    fg_clear(&a, sizeof(a))
    a.status = 200
    a.lines = lines
    a.lines_len = <uint32_t>(end_line(put_lit(lines, "Content-Type: message/http")) - lines)
    a.body = buf_head(b)
    a.body_len = buf_len(b)
    a.length = a.body_len
    e.status = 200
    send_last(e, start_own(e, &a))
    buf_return(&c.loop.bufs, b)               # the exchange may have ended with it
    return -1
