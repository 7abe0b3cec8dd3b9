"""cookies: the cookies of a request."""
from libc.stdint cimport uint32_t

from fastgate._core.http.head cimport head

cdef struct cookie_place:     # how far a search is; zero it to begin
    uint32_t field
    uint32_t offset           # in that field's value

cdef const char *next_cookie(const char *base, const head *h, const char *name, uint32_t n, cookie_place *at,
                             uint32_t *length) noexcept nogil
    # The value of the next cookie with this name, as it was sent, and its length; NULL: there is none.
