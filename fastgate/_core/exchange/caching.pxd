"""caching: what answers say to caches (RFC 9111), and what is added so that shared ones do not store them."""
from libc.stdint cimport uint32_t

from fastgate._core.http.head cimport head
from fastgate._core.state cimport exchange

cdef enum Caching:
    CACHES_SHARED = 1         # shared caches may store it
    CACHES_PRIVATE = 2        # they may not

# An answer with these fields, together with those of the route's rules and of a handler. Positions in h count from base.
cdef int caching_of(const exchange *e, const char *base, const head *h) noexcept nogil
    # Caching bits; 0: the answer does not say
cdef int keep_private(const exchange *e, const char *base, const head *h) noexcept nogil
    # whether `private` must be added to a paid answer, so that no shared cache serves to others what
    # this caller paid for

cdef int says(const char *value, uint32_t length, const char *word, uint32_t n) noexcept nogil
    # whether a word, given in lower case, occurs in a value
