"""raw: one read or write of a socket, and what it tells about the socket."""
from libc.stdint cimport uint32_t

from fastgate._core.io.connection cimport (
    IO_BULK, IO_CLOSED, IO_ERROR, IO_HUP, IO_READABLE, IO_READY, conn, conn_list)
from fastgate._core.platform.buffer cimport (
    BUFFER_LARGE, BUFFER_SMALL, HEADROOM, TAILROOM, buf, buf_borrow, buf_return, buf_room)
from fastgate._core.platform.sys cimport EAGAIN, EINTR, errno, recv

cdef void raw_blocked(conn *x) noexcept nogil
    # the socket's buffer is full: wait for the edge that announces room
cdef int raw_dead(const conn *x) noexcept nogil                   # whether the peer has reset it, as far as the kernel knows
cdef ssize_t raw_send(conn *x, const char *p, size_t n) noexcept nogil
    # how much of it the kernel took; less than n: it is blocked; < 0: -errno

cdef inline void list_add(conn_list *l, conn *x) noexcept nogil:
    if x.io & (IO_READY | IO_CLOSED):
        return
    x.io |= IO_READY
    x.ready_next = NULL
    if l.tail is NULL:
        l.head = x
    else:
        l.tail.ready_next = x
    l.tail = x

cdef inline conn *list_take(conn_list *l) noexcept nogil:
    """The first one, of a list that is not empty."""
    cdef conn *x = l.head
    l.head = x.ready_next
    if l.head is NULL:
        l.tail = NULL
    x.ready_next = NULL
    x.io &= ~IO_READY
    return x

cdef inline void conn_ready(conn *x) noexcept nogil:
    """Check it again in the next turn."""
    list_add(&x.loop.ready, x)

cdef inline void conn_wait_turn(conn *x) noexcept nogil:
    """It is a client's handshake: take it further when those before it have been, and there is time."""
    list_add(&x.loop.turns, x)

cdef inline ssize_t raw_recv(conn *x, char *to, uint32_t room) noexcept nogil:
    """One read of the socket: > 0 bytes, 0 end, -errno; -EAGAIN: nothing to read."""
    cdef ssize_t n = recv(x.fd, to, room, 0)
    if n > 0:
        if <uint32_t>n < room and not x.io & IO_HUP:
            x.io &= ~IO_READABLE
        return n
    if n == 0:
        x.io &= ~IO_READABLE
        return 0
    n = -errno
    if n == -EINTR:
        conn_ready(x)                    # IO_READABLE stays: the ready list tries again
        return -EAGAIN
    x.io &= ~IO_READABLE
    if n != -EAGAIN:
        x.io |= IO_ERROR
    return n

cdef inline buf *conn_inb(conn *x) noexcept nogil:
    """The buffer to read into, with room at its end; NULL: none."""
    cdef buf *b = x.inb
    if b is NULL:
        b = buf_borrow(&x.loop.bufs, (BUFFER_LARGE if x.io & IO_BULK else BUFFER_SMALL) - HEADROOM - TAILROOM)
        x.inb = b
    elif b.start == b.end:
        b.start = HEADROOM
        b.end = HEADROOM
    elif buf_room(b) == 0:
        return NULL
    return b

cdef inline void conn_inb_filled(conn *x, buf *b) noexcept nogil:
    """A read has filled it: use a large one next time."""
    if b.cap == BUFFER_SMALL and b.start == HEADROOM:
        x.io |= IO_BULK

cdef inline void conn_inb_unused(conn *x) noexcept nogil:
    """Nothing was read: an empty buffer goes back."""
    if x.inb is not NULL and x.inb.start == x.inb.end:
        buf_return(&x.loop.bufs, x.inb)
        x.inb = NULL
