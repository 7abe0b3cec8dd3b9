"""split: which service gets a request of a route that has several (see split.pyx)."""
from fastgate._core.snapshot.traffic cimport split_rec
from fastgate._core.state cimport call, exchange

cdef void choose_service(exchange *e) noexcept nogil
    # Of a route with ROUTE_SPLIT: from now on, the exchange has the policy that the route has with the chosen
    # service, which has not this flag.
cdef void take_service(exchange *e, const split_rec *s) noexcept nogil
    # Choose this one.
cdef int chosen_early(const exchange *e) noexcept nogil
    # Whether the choice needs no caller.
cdef void count_choice(exchange *e, unsigned long long total, unsigned long long gateway) noexcept nogil
    # At the end, of an exchange with a split_row; nanoseconds.

# The cookie that an exchange with `split_sets` adds to its answer.
cdef int split_answer(exchange *e, const call *k) noexcept nogil          # StickyAnswer
cdef size_t split_cookie_size(exchange *e) noexcept nogil
cdef char *put_split_cookie(char *p, exchange *e, int secure) noexcept nogil
