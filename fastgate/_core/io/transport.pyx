"""transport: bytes in and bytes out of one connection, and how it ends.

What an epoll edge reported (poller.pyx) is kept in `conn.io`:

    IO_READABLE   there may be something to read. Set by an edge, cleared by a short read (raw.pyx).
    IO_HELD       there is something to read that the kernel no longer has (tls.pyx).
    IO_READING    the owner wants bytes. Without it, an edge is only noted.
    IO_BLOCKED    a write fell short; the next EPOLLOUT flushes the queue.

A reader that stops (back-pressure) and starts again with one of the first two set gets no new edge, so it is
put in the *ready list*, which a round handles after its events. The same list keeps reading fair: a
connection that always has more to read gets one buffer a turn.

IO_AGAIN means that bytes which were read before must be handled again, from the ready list. Until then
nothing is read after them: they may fill the buffer, and a reader that got new bytes first would handle
the old ones as well, and leave the flag set in a state that does not expect it.

    invariant: IO_AGAIN ⇒ IO_READING and IO_READY. conn_read_stop clears the flag.

**How a connection ends.** `conn_finish` ends it normally: everything queued was sent, then our side is
closed. A close after `conn_resets` breaks it off: the peer gets a reset, and so learns that
something is missing. This also works if the process is killed.

Over TLS, a normal end is a close_notify; a connection that breaks off ends without (`conn_broken`). Each
function here has its counterpart in tls.pyx.
"""
from libc.string cimport memset

from fastgate._core.io.connection cimport (
    IO_AGAIN, IO_CLOSED, IO_CONNECTING, IO_SHUT)
from fastgate._core.io.raw cimport (
    conn_inb, conn_inb_filled, conn_inb_unused, conn_ready, raw_blocked, raw_recv)
from fastgate._core.io.socket_address cimport socket_address
from fastgate._core.io.timer cimport timer_remove
from fastgate._core.io.tls cimport tls_close, tls_finish, tls_recv, tls_write
from fastgate._core.platform.buffer cimport buf_data, buf_head, buf_return, buf_room
from fastgate._core.platform.sys cimport (
    EAGAIN, EINTR, ENOBUFS, IPPROTO_TCP, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, SHUT_WR, SIOCOUTQ, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOL_SOCKET, SO_KEEPALIVE, SO_LINGER, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_USER_TIMEOUT,
    accept4, close, errno, getsockname, ioctl, iovec, linger, msghdr, recv, send, sendmsg, setsockopt, shutdown,
    sockaddr, socklen_t)

cdef enum:
    IOVS = 16
    PROBE_S = 15              # seconds between two probes of a peer
    PROBES = 4                # unanswered ones before it counts as gone


cdef ssize_t conn_recv(conn *x) noexcept nogil:
    """One read into x.inb (borrowed if needed): > 0 bytes, 0 end, -errno; -EAGAIN: nothing to read."""
    cdef buf *b
    cdef uint32_t room
    cdef ssize_t n
    if x.tls is not NULL:
        return tls_recv(x)
    b = conn_inb(x)
    if b is NULL:
        return -ENOBUFS
    room = buf_room(b)
    n = raw_recv(x, buf_data(b) + b.end, room)
    if n > 0:
        b.end += <uint32_t>n
        if <uint32_t>n == room:
            conn_inb_filled(x, b)
        return n
    if n == 0:
        x.io |= IO_EOF
    conn_inb_unused(x)
    return n


cdef void conn_again(conn *x) noexcept nogil:
    x.io |= IO_AGAIN
    conn_ready(x)


cdef void conn_read_start(conn *x) noexcept nogil:
    x.io |= IO_READING
    if x.io & (IO_READABLE | IO_HELD):
        conn_ready(x)


cdef void conn_read_now(conn *x) noexcept nogil:
    x.io |= IO_READABLE | IO_READING
    conn_ready(x)


cdef void conn_read_stop(conn *x) noexcept nogil:
    x.io &= ~(IO_READING | IO_AGAIN)


cdef void conn_queue(conn *x, buf *b) noexcept nogil:
    b.next = NULL
    if x.out_tail is NULL:
        x.out_head = b
    else:
        x.out_tail.next = b
    x.out_tail = b
    x.out_bytes += b.end - b.start


cdef int conn_write(conn *x) noexcept nogil:
    cdef iovec iov[IOVS]
    cdef msghdr msg
    cdef buf *b
    cdef ssize_t n
    cdef size_t want
    cdef int count
    if x.io & (IO_BLOCKED | IO_CONNECTING):
        return 0
    if x.tls is not NULL:
        return tls_write(x)
    while x.out_head is not NULL:
        b = x.out_head
        if b.next is NULL:
            want = b.end - b.start
            n = send(x.fd, buf_head(b), want, MSG_NOSIGNAL)
        else:
            count = 0
            want = 0
            while b is not NULL and count < IOVS:
                iov[count].iov_base = buf_head(b)
                iov[count].iov_len = b.end - b.start
                want += b.end - b.start
                count += 1
                b = b.next
            memset(&msg, 0, sizeof(msg))
            msg.msg_iov = iov
            msg.msg_iovlen = count
            n = sendmsg(x.fd, &msg, MSG_NOSIGNAL)
        if n < 0:
            if errno == EAGAIN:
                raw_blocked(x)
                return 0
            if errno == EINTR:
                continue
            x.io |= IO_ERROR
            return -errno
        x.out_bytes -= n
        x.out_taken += n
        if x.out_head is x.out_tail and <size_t>n == want:
            x.out_head = NULL            # the only buffer, and it is sent: the usual answer
            x.out_tail = NULL
            buf_return(&x.loop.bufs, b)
            return 1
        want -= n
        while n > 0 or (x.out_head is not NULL and x.out_head.start == x.out_head.end):
            b = x.out_head
            if <size_t>n >= b.end - b.start:
                n -= b.end - b.start
                x.out_head = b.next
                if b.next is NULL:
                    x.out_tail = NULL
                buf_return(&x.loop.bufs, b)
            else:
                b.start += <uint32_t>n
                n = 0
        if want > 0:
            # It took less than was offered: the socket's buffer is full, and an edge will follow.
            raw_blocked(x)
            return 0
    return 1


cdef uint64_t conn_unsent(conn *x) noexcept nogil:
    cdef int kept = 0
    if x.fd < 0 or ioctl(x.fd, SIOCOUTQ, &kept) != 0 or kept < 0:
        kept = 0
    return x.out_bytes + <uint64_t>kept


cdef void conn_resets(conn *x, int on) noexcept nogil:
    cdef linger how
    if x.tls is not NULL:
        x.tls.broken = on
    how.l_onoff = on
    how.l_linger = 0
    if x.fd >= 0:
        setsockopt(x.fd, SOL_SOCKET, SO_LINGER, &how, sizeof(how))


cdef int conn_finish(conn *x) noexcept nogil:
    if x.io & (IO_SHUT | IO_CLOSED):
        return 0
    x.io |= IO_SHUT
    if x.tls is not NULL and not tls_finish(x):
        return -EAGAIN
    return 0 if shutdown(x.fd, SHUT_WR) == 0 else -errno


cdef int conn_peek(conn *x) noexcept nogil:
    cdef char byte
    return x.io & IO_HELD or recv(x.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0


cdef void conn_probe(conn *x) noexcept nogil:
    cdef int on = 1, seconds = PROBE_S, probes = PROBES
    setsockopt(x.fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds))
    setsockopt(x.fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds))
    setsockopt(x.fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes))
    setsockopt(x.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))


cdef void conn_give_up_after(conn *x, uint32_t ms) noexcept nogil:
    setsockopt(x.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms))


cdef int conn_accept(conn *listener, sockaddr_storage *peer) noexcept nogil:
    cdef socklen_t length = sizeof(sockaddr_storage)
    cdef int fd = accept4(listener.fd, <sockaddr *>peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
    return fd if fd >= 0 else -errno


cdef int conn_introduce(conn *x, const char *p, uint32_t n) noexcept nogil:
    cdef ssize_t taken
    while True:
        taken = send(x.fd, p, n, MSG_NOSIGNAL | MSG_MORE)
        if taken >= 0 or errno != EINTR:
            break
    if taken != <ssize_t>n:
        return -1                        # a new socket has room for it
    x.out_taken += n
    return 0


cdef int conn_local(const conn *x, uint8_t *address, uint16_t *port) noexcept nogil:
    cdef sockaddr_storage ours
    cdef socklen_t length = sizeof(ours)
    if x.fd < 0 or getsockname(x.fd, <sockaddr *>&ours, &length) != 0:
        return 0
    return socket_address(&ours, address, port)


cdef void conn_close(conn *x) noexcept nogil:
    if x.io & IO_CLOSED:
        return
    x.io |= IO_CLOSED
    if x.tls is not NULL:
        tls_close(x)
    timer_remove(x.loop, x)
    x.deadline = 0
    if x.fd >= 0:
        close(x.fd)                      # the kernel removes it from the epoll set
        x.fd = -1
    conn_drop(x)
    if x.inb is not NULL:
        buf_return(&x.loop.bufs, x.inb)
        x.inb = NULL


cdef void conn_drop(conn *x) noexcept nogil:
    cdef buf *b
    while x.out_head is not NULL:
        b = x.out_head
        x.out_head = b.next
        buf_return(&x.loop.bufs, b)
    x.out_tail = NULL
    x.out_bytes = 0
