"""sticky: cookies that name the target which answers a client."""
from fastgate._core.state cimport call, exchange

cdef void sticky_find(const exchange *e, call *k) noexcept nogil
    # the call's upstream has a sticky cookie: let the call know the target that the request names, if it does

cdef enum StickyAnswer:
    STICKY_NOT = 0            # the answer sets no cookie
    STICKY_SET = 1
    STICKY_PRIVATE = 2        # it does, and must say that it is private

cdef int cookie_allowed(exchange *e, const call *k) noexcept nogil        # StickyAnswer of any cookie that leads somewhere
cdef int sticky_answer(exchange *e, const call *k) noexcept nogil         # StickyAnswer
cdef size_t sticky_size(const call *k) noexcept nogil
cdef char *put_sticky(char *p, const call *k, int secure) noexcept nogil  # the line. secure: the client used https
