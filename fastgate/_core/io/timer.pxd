"""timer: deadlines of connections in a hashed wheel on one timerfd."""
from libc.stdint cimport uint64_t

from fastgate._core.io.connection cimport conn, event_loop

cdef int timer_init(event_loop *l) noexcept nogil
cdef void timer_free(event_loop *l) noexcept nogil
cdef void timer_insert(event_loop *l, conn *x) noexcept nogil
cdef void timer_remove(event_loop *l, conn *x) noexcept nogil
cdef conn *timer_expired(event_loop *l) noexcept nogil
    # The next connection whose deadline has passed (removed from the wheel), or NULL
cdef void timer_arm(event_loop *l) noexcept nogil
    # Set the timerfd for the next occupied slot; call this at the end of a round

cdef inline void timer_set(event_loop *l, conn *x, uint64_t deadline) noexcept nogil:
    """Give x a deadline, CLOCK_MONOTONIC ns; 0 removes it. Moving a deadline later costs one store."""
    x.deadline = deadline
    if deadline != 0 and (x.tick == 0 or x.tick > (deadline >> 24) + 1):
        timer_insert(l, x)
