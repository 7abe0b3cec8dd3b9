"""timer: deadlines of connections in a hashed wheel on one timerfd."""
from libc.stdint cimport uint64_t

from fastgate._core.io.connection cimport conn, event_loop

cdef int timer_init(event_loop *l) noexcept nogil
cdef void timer_free(event_loop *l) noexcept nogil
cdef void timer_insert(event_loop *l, conn *x) noexcept nogil
cdef void timer_remove(event_loop *l, conn *x) noexcept nogil
cdef conn *timer_expired(event_loop *l) noexcept nogil
    # the next connection whose deadline has passed (taken out of the wheel), or NULL
cdef void timer_arm(event_loop *l) noexcept nogil
    # set the timerfd for the next occupied slot; call when a round is done

cdef inline void timer_set(event_loop *l, conn *x, uint64_t deadline) noexcept nogil:
    """Give x a deadline, CLOCK_MONOTONIC ns; 0 takes it away. Later ones cost one store."""
    x.deadline = deadline
    if deadline != 0 and (x.tick == 0 or x.tick > (deadline >> 24) + 1):
        timer_insert(l, x)
