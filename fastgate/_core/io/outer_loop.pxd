"""outer_loop: the event loop around the engine, in the engine's epoll set."""
from libc.stdint cimport uint64_t

from fastgate._core.io.connection cimport event_loop

cdef int outer_init(event_loop *l) noexcept nogil              # 0, or -errno
cdef void outer_free(event_loop *l) noexcept nogil
cdef int outer_watch(event_loop *l, int fd) noexcept nogil     # the loop's own epoll descriptor; 0, or -errno
cdef void outer_leave(event_loop *l) noexcept nogil            # stop watching it
cdef void outer_timer_set(event_loop *l, uint64_t at) noexcept nogil
    # The loop has something to do at this time, CLOCK_MONOTONIC ns
