"""poller: the I/O back end. Operations are started; their completions come to `event_loop.on`.

This is the whole of what the rest of the engine knows of epoll: another back end (io_uring)
implements these functions and calls the same sinks.
"""
from libc.stdint cimport uint32_t

from fastgate._core.io.connection cimport conn, event_loop

cdef int poller_init(event_loop *l) noexcept nogil
cdef void poller_free(event_loop *l) noexcept nogil
cdef int poller_add(event_loop *l, conn *x) noexcept nogil              # a client's connection; 0, or -errno
cdef int poller_add_listener(event_loop *l, conn *x) noexcept nogil     # or a timer, or the event loop around us
cdef void poller_remove(event_loop *l, conn *x) noexcept nogil          # one of those; its descriptor stays open
cdef int poller_connect(event_loop *l, conn *x, const void *addr, uint32_t length) noexcept nogil
    # x.fd is made. 1: connected at once; 0: the connected sink follows; < 0: -errno
cdef int poller_wait(event_loop *l, int timeout) noexcept nogil
    # how many events are there; timeout: ms, 0: do not wait, -1: for as long as it takes. Sets l.now.
cdef int poller_round(event_loop *l, int n) noexcept nogil
    # deal with n events, and with the ready list; how much there was to do
