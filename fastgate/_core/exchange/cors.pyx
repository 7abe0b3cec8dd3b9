"""cors: cross-origin requests: what browsers are allowed (the Fetch standard's CORS protocol).

The gateway answers a preflight (OPTIONS with Origin and Access-Control-Request-Method) itself, by the
policy of the route that takes the requested method. A preflight is not counted against limits and needs
no credential, since browsers send none. Every other answer on such a route, including refusals, tells the
browser whether the origin may read it; so does a 405 on its path. Refusals before the path is known, or
on a path without a route (400, 404, 431), cannot. Access-Control-* fields from an upstream or a handler
are dropped by `render`: two answers would contradict each other, and browsers would refuse both.
"""
from libc.string cimport memcmp

from fastgate._core.http.head cimport (
    F_ACCESS_CONTROL_REQUEST_METHOD, F_ORIGIN, METHOD_OPTIONS, field, field_of, has_field,
    method_of, named)
from fastgate._core.snapshot.snapshot cimport snap_str, snapshot_header, str_ref
from fastgate._core.platform.text cimport put, put_lit, put_uint
from fastgate._core.http.lines cimport end_line


cdef int is_preflight(exchange *e) noexcept nogil:
    return e.req.method_id == METHOD_OPTIONS and has_field(&e.req, F_ACCESS_CONTROL_REQUEST_METHOD) \
        and has_field(&e.req, F_ORIGIN)


cdef span asked_method(exchange *e, uint8_t *method_id) noexcept nogil:
    """The method that a preflight asks for, in the form that the router takes."""
    cdef const field *f = field_of(&e.req, F_ACCESS_CONTROL_REQUEST_METHOD)
    cdef span method
    method.off = f.value
    method.len = f.value_len
    method_id[0] = method_of(e.base + f.value, f.value_len)
    return method


cdef char *put_cors(char *p, exchange *e) noexcept nogil:
    """Write the fields of an answer (not a preflight's) on a route with CORS."""
    cdef const snapshot_header *s = e.snap
    cdef const cors_rec *r = cors_of(e)
    cdef const field *f
    if any_origin(r):
        # Sent without an Origin, too: a cache may reuse this answer for a request that has one.
        p = put_origin(p, r, NULL, 0)
    else:
        p = put_vary(p, r)
        if not has_field(&e.req, F_ORIGIN):
            return p
        f = field_of(&e.req, F_ORIGIN)
        if not origin_allowed(e, r, e.base + f.value, f.value_len):
            return p
        p = put_origin(p, r, e.base + f.value, f.value_len)
    if r.expose_headers.len:
        p = put_lit(p, "Access-Control-Expose-Headers: ")
        p = put(p, snap_str(s, r.expose_headers), r.expose_headers.len)
        p = end_line(p)
    return p


cdef int origin_allowed(exchange *e, const cors_rec *r, const char *origin, uint32_t n) noexcept nogil:
    cdef const str_ref *o = <const str_ref *>snap_table(e.snap, r.origins)
    cdef uint32_t i
    if r.flags & 2 or r.origins.count == 0:
        return 1
    for i in range(r.origins.count):
        if o[i].len == n and memcmp(snap_str(e.snap, o[i]), origin, n) == 0:
            return 1
    return 0


cdef inline int any_origin(const cors_rec *r) noexcept nogil:
    """Whether all origins get the same answer: "*"."""
    return (r.flags & 2 or r.origins.count == 0) and not r.flags & 1


cdef char *put_vary(char *p, const cors_rec *r) noexcept nogil:
    """Sent on every answer, so that a cache gives an origin only what was meant for it."""
    return p if any_origin(r) else end_line(put_lit(p, "Vary: Origin"))


cdef char *put_origin(char *p, const cors_rec *r, const char *origin, uint32_t n) noexcept nogil:
    if any_origin(r):
        return end_line(put_lit(p, "Access-Control-Allow-Origin: *"))
    p = put_lit(p, "Access-Control-Allow-Origin: ")
    p = put(p, origin, n)
    p = end_line(p)
    if r.flags & 1:
        p = end_line(put_lit(p, "Access-Control-Allow-Credentials: true"))
    return p


cdef char *put_preflight(char *p, exchange *e) noexcept nogil:
    """Write the fields of a preflight's answer; none if the origin is not allowed."""
    cdef const snapshot_header *s = e.snap
    cdef const cors_rec *r = cors_of(e)
    cdef const field *f = field_of(&e.req, F_ORIGIN)
    cdef const field *g
    cdef uint32_t i
    p = put_vary(p, r)
    if not origin_allowed(e, r, e.base + f.value, f.value_len):
        return p
    p = put_origin(p, r, e.base + f.value, f.value_len)
    if r.allow_methods.len:
        p = put_lit(p, "Access-Control-Allow-Methods: ")
        p = put(p, snap_str(s, r.allow_methods), r.allow_methods.len)
        p = end_line(p)
    if r.allow_headers.len:
        p = put_lit(p, "Access-Control-Allow-Headers: ")
        p = put(p, snap_str(s, r.allow_headers), r.allow_headers.len)
        p = end_line(p)
    else:
        for i in range(e.req.nfields):
            g = &e.req.fields[i]
            if named(e.base, g, b"access-control-request-headers", 30):
                p = put_lit(p, "Access-Control-Allow-Headers: ")
                p = put(p, e.base + g.value, g.value_len)
                p = end_line(p)
                break
    if r.max_age:
        p = put_lit(p, "Access-Control-Max-Age: ")
        p = put_uint(p, r.max_age)
        p = end_line(p)
    return p
