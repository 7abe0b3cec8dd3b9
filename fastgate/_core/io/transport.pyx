"""transport: bytes in and bytes out of one connection, and how it ends.

What an epoll edge reported (poller.pyx) is kept in `conn.io`:

    IO_READABLE   there may be something to read. Set by an edge, or when a read filled its buffer;
                  cleared by a short read: a short read means the socket is empty, so there is no
                  extra recv() that only returns EAGAIN. After IO_HUP a short read does not clear it:
                  the end itself is still to be read.
    IO_READING    the owner wants bytes. Without it, an edge is only noted.
    IO_BLOCKED    a write fell short; the next EPOLLOUT flushes the queue.

A reader that stops (back-pressure) and starts again with IO_READABLE set gets no new edge, so it is
put in the *ready list*, which a round handles after its events. The same list keeps reading fair: a
connection that always has more to read gets one buffer a turn.

IO_AGAIN means that bytes which were read before must be handled again, from the ready list. Until then
nothing is read after them: they may fill the buffer, and a reader that got new bytes first would handle
the old ones as well, and leave the flag set in a state that does not expect it.

    invariant: IO_AGAIN ⇒ IO_READING and IO_READY. conn_read_stop clears the flag.

**How a connection ends.** `conn_finish` ends it normally: everything queued was sent, then our side is
closed. A close after `conn_resets` breaks it off: the peer gets a reset, and so learns that
something is missing. This also works if the process is killed.
"""
from libc.string cimport memset

from fastgate._core.io.connection cimport (
    IO_AGAIN, IO_CLOSED, IO_CONNECTING, IO_HUP, IO_READY, IO_SHUT, IO_WRITES, event_loop)
from fastgate._core.io.timer cimport timer_remove
from fastgate._core.platform.buffer cimport (
    BUFFER_LARGE, BUFFER_SMALL, HEADROOM, TAILROOM, buf_borrow, buf_data, buf_head, buf_return,
    buf_room)
from fastgate._core.platform.sys cimport (
    EAGAIN, EINTR, ENOBUFS, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CTL_MOD, IPPROTO_TCP,
    MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, SHUT_WR, SIOCOUTQ, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SO_KEEPALIVE, SO_LINGER, TCP_KEEPCNT, TCP_KEEPIDLE,
    TCP_KEEPINTVL, TCP_USER_TIMEOUT, accept4, close, epoll_ctl, epoll_event, errno, ioctl, iovec, linger, msghdr, recv,
    send, sendmsg, setsockopt, shutdown, sockaddr, socklen_t)

cdef enum:
    IOVS = 16
    PROBE_S = 15              # seconds between two probes of a peer
    PROBES = 4                # unanswered ones before it counts as gone


cdef ssize_t conn_recv(conn *x) noexcept nogil:
    """One read into x.inb (borrowed if needed): > 0 bytes, 0 end, -errno; -EAGAIN: nothing to read."""
    cdef buf *b = x.inb
    cdef uint32_t room
    cdef ssize_t n
    if b is NULL:
        b = buf_borrow(&x.loop.bufs, (BUFFER_LARGE if x.io & IO_BULK else BUFFER_SMALL) - HEADROOM - TAILROOM)
        if b is NULL:
            return -ENOBUFS
        x.inb = b
    elif b.start == b.end:
        b.start = HEADROOM
        b.end = HEADROOM
    room = buf_room(b)
    if room == 0:
        return -ENOBUFS
    n = recv(x.fd, buf_data(b) + b.end, room, 0)
    if n > 0:
        b.end += <uint32_t>n
        if <uint32_t>n < room:
            if not x.io & IO_HUP:
                x.io &= ~IO_READABLE
        elif b.cap == BUFFER_SMALL and b.start == HEADROOM:
            x.io |= IO_BULK
        return n
    if n == 0:
        x.io = (x.io & ~IO_READABLE) | IO_EOF
    else:
        n = -errno
        if n == -EINTR:
            n = -EAGAIN                  # IO_READABLE stays: the ready list tries again
            conn_ready(x)
        elif n == -EAGAIN:
            x.io &= ~IO_READABLE
        else:
            x.io = (x.io & ~IO_READABLE) | IO_ERROR
    if b.start == b.end:
        buf_return(&x.loop.bufs, b)
        x.inb = NULL
    return n


cdef void conn_ready(conn *x) noexcept nogil:
    cdef event_loop *l = x.loop
    if x.io & (IO_READY | IO_CLOSED):
        return
    x.io |= IO_READY
    x.ready_next = NULL
    if l.ready_tail is NULL:
        l.ready_head = x
    else:
        l.ready_tail.ready_next = x
    l.ready_tail = x


cdef void conn_again(conn *x) noexcept nogil:
    x.io |= IO_AGAIN
    conn_ready(x)


cdef void conn_read_start(conn *x) noexcept nogil:
    x.io |= IO_READING
    if x.io & IO_READABLE:
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


cdef void blocked(conn *x) noexcept nogil:
    """The socket's buffer is full: wait for the edge that announces room."""
    cdef epoll_event event
    x.io |= IO_BLOCKED
    if not x.io & IO_WRITES:
        x.io |= IO_WRITES
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        event.data.ptr = x
        epoll_ctl(x.loop.epfd, EPOLL_CTL_MOD, x.fd, &event)


cdef int conn_write(conn *x) noexcept nogil:
    cdef iovec iov[IOVS]
    cdef msghdr msg
    cdef buf *b
    cdef ssize_t n
    cdef size_t want
    cdef int count
    if x.io & (IO_BLOCKED | IO_CONNECTING):
        return 0
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
                blocked(x)
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
            blocked(x)
            return 0
    return 1


cdef uint64_t conn_unsent(conn *x) noexcept nogil:
    cdef int kept = 0
    if x.fd < 0 or ioctl(x.fd, SIOCOUTQ, &kept) != 0 or kept < 0:
        kept = 0
    return x.out_bytes + <uint64_t>kept


cdef void conn_resets(conn *x, int on) noexcept nogil:
    cdef linger how
    how.l_onoff = on
    how.l_linger = 0
    if x.fd >= 0:
        setsockopt(x.fd, SOL_SOCKET, SO_LINGER, &how, sizeof(how))


cdef int conn_finish(conn *x) noexcept nogil:
    if x.io & (IO_SHUT | IO_CLOSED):
        return 0
    x.io |= IO_SHUT
    return 0 if shutdown(x.fd, SHUT_WR) == 0 else -errno


cdef int conn_peek(conn *x) noexcept nogil:
    cdef char byte
    return recv(x.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0


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


cdef void conn_close(conn *x) noexcept nogil:
    if x.io & IO_CLOSED:
        return
    x.io |= IO_CLOSED
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
