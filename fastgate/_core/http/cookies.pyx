"""cookies: the cookies of a request (RFC 6265, 4.2), found by name, without a copy.

A request may have several Cookie fields, and several cookies of one name. Names are compared exactly; what
has no "=" is not a cookie.
"""
from libc.string cimport memchr, memcmp

from fastgate._core.http.head cimport F_COOKIE, field, has_field


cdef inline int blank(char x) noexcept nogil:
    return x == 32 or x == 9


cdef const char *next_cookie(const char *base, const head *h, const char *name, uint32_t n, cookie_place *at,
                             uint32_t *length) noexcept nogil:
    cdef const field *f
    cdef const char *p
    cdef const char *end
    cdef const char *stop
    cdef const char *equals
    if at.field == 0:
        if not has_field(h, F_COOKIE):
            return NULL
        at.field = has_field(h, F_COOKIE) - 1
    while at.field < h.nfields:
        f = &h.fields[at.field]
        if f.id == F_COOKIE:
            end = base + f.value + f.value_len
            while at.offset < f.value_len:
                p = base + f.value + at.offset
                stop = <const char *>memchr(p, c';', end - p)
                if stop is NULL:
                    stop = end
                at.offset = <uint32_t>(stop - (base + f.value)) + 1
                while p < stop and blank(p[0]):
                    p += 1
                while stop > p and blank((stop - 1)[0]):
                    stop -= 1
                equals = <const char *>memchr(p, c'=', stop - p)
                if equals is not NULL and equals - p == n and memcmp(p, name, n) == 0:
                    length[0] = <uint32_t>(stop - equals - 1)
                    return equals + 1
        at.field += 1
        at.offset = 0
    return NULL
