"""timer: deadlines of connections in a hashed wheel on one timerfd."""
from libc.stdint cimport uint64_t

from fastgate._core.state cimport conn, core

cdef int timer_init(core *c) noexcept nogil
cdef void timer_free(core *c) noexcept nogil
cdef void timer_insert(core *c, conn *x) noexcept nogil
cdef void timer_remove(core *c, conn *x) noexcept nogil
cdef conn *timer_expired(core *c) noexcept nogil
    # the next connection whose deadline has passed (taken out of the wheel), or NULL
cdef void timer_arm(core *c) noexcept nogil
    # set the timerfd for the next occupied slot; call when a round is done

cdef inline void timer_set(core *c, conn *x, uint64_t deadline) noexcept nogil:
    """Give x a deadline, CLOCK_MONOTONIC ns; 0 takes it away. Later ones cost one store."""
    x.deadline = deadline
    if deadline != 0 and (x.tick == 0 or x.tick > (deadline >> 24) + 1):
        timer_insert(c, x)
