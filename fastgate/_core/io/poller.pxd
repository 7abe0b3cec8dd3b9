"""poller: the I/O back end. It starts operations and reports their completion to `event_loop.on`.

This is all that the rest of the engine knows about epoll: another back end (io_uring) would
implement these functions and call the same sinks.
"""
from libc.stdint cimport uint32_t

from fastgate._core.io.connection cimport conn, event_loop

cdef int poller_init(event_loop *l) noexcept nogil
cdef void poller_free(event_loop *l) noexcept nogil
cdef int poller_add(event_loop *l, conn *x) noexcept nogil              # a client's connection; 0, or -errno
cdef int poller_add_listener(event_loop *l, conn *x) noexcept nogil     # also for a timer, or the event loop around us
cdef void poller_remove(event_loop *l, conn *x) noexcept nogil          # one of those; its descriptor stays open
cdef int poller_connect(event_loop *l, conn *x, const void *addr, uint32_t length) noexcept nogil
    # Creates x.fd. 1: connected at once; 0: the connected sink follows, with TLS after the handshake; < 0: -errno
cdef int poller_wait(event_loop *l, int timeout) noexcept nogil
    # Returns how many events there are. timeout: ms, 0: do not wait, -1: no limit. Sets l.now.
cdef int poller_round(event_loop *l, int n) noexcept nogil
    # Handle n events and the ready list; returns how much there was to do
