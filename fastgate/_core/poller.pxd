"""poller: the I/O back end. Operations are started; their completions come to `core.sink`.

This is the whole of what the rest of the engine knows of epoll: another back end (io_uring)
implements these functions and calls the same sinks.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.buffer cimport buf
from fastgate._core.state cimport conn, core

cdef int poller_init(core *c) noexcept nogil
cdef void poller_free(core *c) noexcept nogil
cdef int poller_add(core *c, conn *x) noexcept nogil              # 0, or -errno
cdef int poller_add_listener(core *c, conn *x) noexcept nogil
cdef void poller_remove(core *c, conn *x) noexcept nogil          # a listener; its descriptor stays open
cdef int poller_connect(core *c, conn *x, const void *addr, uint32_t length) noexcept nogil
    # x.fd is made. 1: connected at once; 0: up_connected will tell; < 0: -errno
cdef void poller_read_start(core *c, conn *x) noexcept nogil
cdef void poller_read_stop(core *c, conn *x) noexcept nogil
cdef void poller_ready(core *c, conn *x) noexcept nogil           # look at it again in the next turn
cdef void poller_again(core *c, conn *x) noexcept nogil           # call its data sink (n = 1) for what inb holds
cdef void poller_queue(core *c, conn *x, buf *b) noexcept nogil   # takes b over; does not write yet
cdef int poller_write(core *c, conn *x) noexcept nogil            # poller_flush, of a queue that holds something
cdef uint64_t poller_unsent(conn *x) noexcept nogil               # bytes the peer has not taken yet, ours and the kernel's
cdef void poller_resets(conn *x, int on) noexcept nogil           # whether its close is a reset, which throws away what is unsent
cdef void poller_shut(conn *x) noexcept nogil                     # we send no more, and go on reading
cdef void poller_close(core *c, conn *x) noexcept nogil           # closes; frees queue and buffer; memory is freed after the round
cdef int poller_round(core *c) noexcept nogil                     # wait 0, dispatch; how many events

cdef inline int poller_flush(core *c, conn *x) noexcept nogil:
    """Write what is queued. 1: the queue is empty; 0: the rest follows, then the drained sink; < 0: -errno."""
    return 1 if x.out_head is NULL else poller_write(c, x)
