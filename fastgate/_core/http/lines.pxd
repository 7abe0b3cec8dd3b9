"""lines: fields as lines, `Name: value` and a line end, which is how they are kept until a codec writes a head.

HTTP/1.1 sends such lines as they are. Code that writes or copies fields uses `end_line`, so it need not
know how a version of HTTP puts them on the wire.
"""
from libc.stdint cimport uint32_t

from fastgate._core.http.head cimport HTTP_1_0
from fastgate._core.platform.text cimport put, put_lit

cdef inline char *end_line(char *p) noexcept nogil:
    p[0] = 13
    p[1] = 10
    return p + 2

cdef inline char *put_line(char *p, const char *name, uint32_t name_len, const char *value,
                           uint32_t value_len) noexcept nogil:
    """A whole line; `name` with its colon and space."""
    p = put(p, name, name_len)
    p = put(p, value, value_len)
    return end_line(p)

cdef inline char *put_request_line(char *p, const char *method, uint32_t method_len, const char *target,
                                   uint32_t target_len, int version) noexcept nogil:
    """The first line of a request as text (message/http), whatever version it came in."""
    p = put(p, method, method_len)
    p = put_lit(p, " ")
    p = put(p, target, target_len)
    p = put_lit(p, " HTTP/1.0" if version == HTTP_1_0 else " HTTP/1.1")
    return end_line(p)
