"""cors: cross-origin requests: what is said to browsers (the Fetch standard's CORS protocol).

A preflight (OPTIONS with Origin and Access-Control-Request-Method) is answered by the gateway, as
the route of the method that it asks for says; it is not counted against limits and needs no
credential, since browsers send none. Every other answer on such a route, refusals too, tells the
origin whether it may read it; so does a 405 on its path. What is refused before a path is known, or
where no route has it (400, 404, 431), cannot. What an upstream or a handler says about it itself (Access-Control-*)
is left out by `render`: two answers would contradict each other, and browsers then refuse both.
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
    """The method that a preflight asks for, as the router wants it."""
    cdef const field *f = field_of(&e.req, F_ACCESS_CONTROL_REQUEST_METHOD)
    cdef span method
    method.off = f.value
    method.len = f.value_len
    method_id[0] = method_of(e.base + f.value, f.value_len)
    return method


cdef char *put_cors(char *p, exchange *e) noexcept nogil:
    """For an answer (not a preflight) on a route with CORS."""
    cdef const snapshot_header *s = e.snap
    cdef const cors_rec *r = cors_of(e)
    cdef const field *f
    if any_origin(r):
        # To a request without Origin too: a cache may keep this answer for one that has it.
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
    """Whether every origin is answered the same: "*"."""
    return (r.flags & 2 or r.origins.count == 0) and not r.flags & 1


cdef char *put_vary(char *p, const cors_rec *r) noexcept nogil:
    """On every answer, so that a cache gives one origin nothing that was meant for another, or for none."""
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
    """What a preflight is told: nothing, when the origin is not allowed."""
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
