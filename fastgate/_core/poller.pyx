"""poller: epoll, edge-triggered, one registration per socket for its whole life.

A socket is added once with EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET and never modified.
What an edge told is remembered in `conn.io`:

    IO_READABLE   set by an edge (or when a read filled its buffer), cleared by a short read.
                  A short read means the socket is empty, so there is no extra recv() that
                  only returns EAGAIN. After IO_HUP a short read does not clear it: the end
                  itself is still to be read.
    IO_READING    the owner wants bytes. Without it an edge is only remembered.
    IO_BLOCKED    a write fell short; the next EPOLLOUT flushes the queue.

A reader that stops (back-pressure) and starts again with IO_READABLE set gets no new edge,
so it is put in the *ready list*, which a round works off after its events. The same list
bounds unfairness: a connection that always has more to read gets one buffer a turn.

IO_AGAIN says that bytes which were read before are to be looked at once more, from the ready list. Until
then nothing is read after them: they may fill the buffer, and whoever gets new bytes first would
deal with the old ones as well, and leave the flag behind for a state that does not expect it.

    invariant: IO_AGAIN ⇒ IO_READING and IO_READY. Who stops reading takes the flag back.

A closed connection's memory stays until the round is over (graveyard): later events of the
same round may still point at it, and see IO_CLOSED.
"""
from libc.string cimport memset

from fastgate._core.buffer cimport (
    BUFFER_LARGE, BUFFER_SMALL, HEADROOM, TAILROOM, buf_borrow, buf_data, buf_head, buf_return,
    buf_room)
from fastgate._core.state cimport (
    IO_AGAIN, IO_BLOCKED, IO_BULK, IO_CLOSED, IO_CONNECTING, IO_EOF, IO_ERROR, IO_HUP, IO_READABLE, IO_READING, IO_SHUT,
    IO_READY, KIND_DOWN, KIND_LISTENER, KIND_TIMER, downstream, upstream)
from fastgate._core.sys cimport (
    AF_UNIX, EAGAIN, EINPROGRESS, EINTR, ENOBUFS, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN,
    EPOLLOUT, EPOLLRDHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, IPPROTO_TCP, MSG_NOSIGNAL,
    SHUT_WR, SIOCOUTQ, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_ERROR, SO_LINGER, TCP_NODELAY, close, connect,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, errno, getsockopt, ioctl, iovec, linger, msghdr, read, recv, send,
    sendmsg, setsockopt, shutdown, sockaddr, socket, socklen_t)
from fastgate._core.sys cimport monotonic_ns
from fastgate._core.timer cimport timer_remove

cdef enum:
    BATCH = 256               # events taken at once
    IOVS = 16


cdef int poller_init(core *c) noexcept nogil:
    cdef epoll_event event
    c.epfd = epoll_create1(EPOLL_CLOEXEC)
    if c.epfd < 0:
        return -errno
    return 0


cdef void poller_free(core *c) noexcept nogil:
    if c.epfd >= 0:
        close(c.epfd)
        c.epfd = -1


cdef int poller_add(core *c, conn *x) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = x
    if epoll_ctl(c.epfd, EPOLL_CTL_ADD, x.fd, &event) != 0:
        return -errno
    return 0


cdef int poller_add_listener(core *c, conn *x) noexcept nogil:
    cdef epoll_event event
    # Level-triggered: what one turn did not accept is announced again. EXCLUSIVE, because
    # a unix listener is one socket that all workers wait for.
    event.events = EPOLLIN
    if x.kind == KIND_LISTENER:
        event.events |= EPOLLEXCLUSIVE
    event.data.ptr = x
    if epoll_ctl(c.epfd, EPOLL_CTL_ADD, x.fd, &event) != 0:
        return -errno
    return 0


cdef void poller_remove(core *c, conn *x) noexcept nogil:
    epoll_ctl(c.epfd, EPOLL_CTL_DEL, x.fd, NULL)


cdef int poller_connect(core *c, conn *x, const void *addr, uint32_t length) noexcept nogil:
    cdef int one = 1, result
    cdef const sockaddr *sa = <const sockaddr *>addr
    x.fd = socket(sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if x.fd < 0:
        return -errno
    if sa.sa_family != AF_UNIX:
        setsockopt(x.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if connect(x.fd, sa, length) == 0:
        result = 1
    elif errno == EINPROGRESS:
        result = 0
        x.io |= IO_CONNECTING
    else:
        return -errno                    # a unix socket's full backlog comes here as EAGAIN
    one = poller_add(c, x)
    return one if one < 0 else result


cdef ssize_t receive(core *c, conn *x) noexcept nogil:
    """One read into x.inb (borrowed if need be): > 0 bytes, 0 end, -errno; -EAGAIN: nothing there."""
    cdef buf *b = x.inb
    cdef uint32_t room
    cdef ssize_t n
    if b is NULL:
        b = buf_borrow(&c.bufs, (BUFFER_LARGE if x.io & IO_BULK else BUFFER_SMALL) - HEADROOM - TAILROOM)
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
            n = -EAGAIN                  # IO_READABLE stays: tried again from the ready list
            poller_ready(c, x)
        elif n == -EAGAIN:
            x.io &= ~IO_READABLE
        else:
            x.io = (x.io & ~IO_READABLE) | IO_ERROR
    if b.start == b.end:
        buf_return(&c.bufs, b)
        x.inb = NULL
    return n


cdef void poller_ready(core *c, conn *x) noexcept nogil:
    if x.io & (IO_READY | IO_CLOSED):
        return
    x.io |= IO_READY
    x.ready_next = NULL
    if c.ready_tail is NULL:
        c.ready_head = x
    else:
        c.ready_tail.ready_next = x
    c.ready_tail = x


cdef void poller_again(core *c, conn *x) noexcept nogil:
    x.io |= IO_AGAIN
    poller_ready(c, x)


cdef void poller_read_start(core *c, conn *x) noexcept nogil:
    x.io |= IO_READING
    if x.io & IO_READABLE:
        poller_ready(c, x)


cdef void poller_read_stop(core *c, conn *x) noexcept nogil:
    x.io &= ~(IO_READING | IO_AGAIN)


cdef void poller_queue(core *c, conn *x, buf *b) noexcept nogil:
    b.next = NULL
    if x.out_tail is NULL:
        x.out_head = b
    else:
        x.out_tail.next = b
    x.out_tail = b
    x.out_bytes += b.end - b.start


cdef int poller_write(core *c, conn *x) noexcept nogil:
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
                x.io |= IO_BLOCKED
                return 0
            if errno == EINTR:
                continue
            x.io |= IO_ERROR
            return -errno
        x.out_bytes -= n
        x.out_taken += n
        if x.out_head is x.out_tail and <size_t>n == want:
            x.out_head = NULL            # one buffer, and it is gone: most answers are
            x.out_tail = NULL
            buf_return(&c.bufs, b)
            return 1
        want -= n
        while n > 0 or (x.out_head is not NULL and x.out_head.start == x.out_head.end):
            b = x.out_head
            if <size_t>n >= b.end - b.start:
                n -= b.end - b.start
                x.out_head = b.next
                if b.next is NULL:
                    x.out_tail = NULL
                buf_return(&c.bufs, b)
            else:
                b.start += <uint32_t>n
                n = 0
        if want > 0:
            # It took less than was offered: the socket's buffer is full, an edge will follow.
            x.io |= IO_BLOCKED
            return 0
    return 1


cdef uint64_t poller_unsent(conn *x) noexcept nogil:
    cdef int kept = 0
    if x.fd < 0 or ioctl(x.fd, SIOCOUTQ, &kept) != 0 or kept < 0:
        kept = 0
    return x.out_bytes + <uint64_t>kept


cdef void poller_resets(conn *x, int on) noexcept nogil:
    cdef linger how
    how.l_onoff = on
    how.l_linger = 0
    if x.fd >= 0:
        setsockopt(x.fd, SOL_SOCKET, SO_LINGER, &how, sizeof(how))


cdef void poller_shut(conn *x) noexcept nogil:
    if x.io & (IO_SHUT | IO_CLOSED):
        return
    x.io |= IO_SHUT
    shutdown(x.fd, SHUT_WR)


cdef void poller_close(core *c, conn *x) noexcept nogil:
    cdef buf *b
    if x.io & IO_CLOSED:
        return
    x.io |= IO_CLOSED
    timer_remove(c, x)
    x.deadline = 0
    if x.fd >= 0:
        close(x.fd)                      # the kernel takes it out of the epoll set
        x.fd = -1
    while x.out_head is not NULL:
        b = x.out_head
        x.out_head = b.next
        buf_return(&c.bufs, b)
    x.out_tail = NULL
    x.out_bytes = 0
    if x.inb is not NULL:
        buf_return(&c.bufs, x.inb)
        x.inb = NULL


cdef void connected(core *c, conn *x) noexcept nogil:
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    x.io &= ~IO_CONNECTING
    if getsockopt(x.fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0:
        error = errno
    c.sink.up_connected(<upstream *>x, error)


cdef void readable(core *c, conn *x) noexcept nogil:
    """Use up an edge: one read, one call of the sink; more from the ready list."""
    cdef ssize_t n
    if x.io & IO_AGAIN:
        return                           # what is here comes first; IO_READABLE stays
    n = receive(c, x)
    if n == -EAGAIN:
        return
    if x.kind == KIND_DOWN:
        c.sink.down_data(<downstream *>x, n)
    else:
        c.sink.up_data(<upstream *>x, n)
    if not x.io & IO_CLOSED and x.io & IO_READABLE and x.io & IO_READING:
        poller_ready(c, x)


cdef void drained(core *c, conn *x) noexcept nogil:
    cdef int done
    x.io &= ~IO_BLOCKED
    if x.out_head is NULL:
        return
    done = poller_flush(c, x)
    if done == 0:
        if x.kind == KIND_DOWN:
            c.sink.down_progress(<downstream *>x)
        else:
            c.sink.up_progress(<upstream *>x)
        return
    if done < 0 and x.kind == KIND_DOWN:
        c.sink.down_hup(<downstream *>x)
        return
    if x.kind == KIND_DOWN:
        c.sink.down_drained(<downstream *>x)
    else:
        c.sink.up_drained(<upstream *>x)


cdef void dispatch(core *c, conn *x, uint32_t events) noexcept nogil:
    cdef uint64_t expirations
    if x.io & IO_CLOSED:
        return
    if x.kind == KIND_LISTENER:
        c.sink.accepted(c, x)
        return
    if x.kind == KIND_TIMER:
        read(x.fd, &expirations, sizeof(expirations))
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        x.io |= IO_READABLE
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            x.io |= IO_HUP
        if events & EPOLLERR or (events & EPOLLHUP and not x.io & IO_SHUT):
            x.io |= IO_ERROR             # not one side closed, nor one after the other: it is dead
    if x.io & IO_CONNECTING:
        if events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
            connected(c, x)
        return
    if events & EPOLLOUT and x.io & IO_BLOCKED:
        drained(c, x)
        if x.io & IO_CLOSED:
            return
    if x.io & IO_READABLE:
        if x.io & IO_READING:
            readable(c, x)
        elif x.io & IO_HUP and x.kind == KIND_DOWN:
            c.sink.down_hup(<downstream *>x)


cdef int poller_round(core *c) noexcept nogil:
    cdef epoll_event events[BATCH]
    cdef conn *x
    cdef conn *last
    cdef int i, n = epoll_wait(c.epfd, events, BATCH, 0)
    c.now = monotonic_ns()
    for i in range(n):
        dispatch(c, <conn *>events[i].data.ptr, events[i].events)
    # Work off what stands in the ready list now; what is added meanwhile waits for the next round.
    last = c.ready_tail
    while c.ready_head is not NULL and last is not NULL:
        x = c.ready_head
        c.ready_head = x.ready_next
        if c.ready_head is NULL:
            c.ready_tail = NULL
        x.ready_next = NULL
        x.io &= ~IO_READY
        if not x.io & IO_CLOSED:
            if x.io & IO_AGAIN:
                x.io &= ~IO_AGAIN
                if x.kind == KIND_DOWN:
                    c.sink.down_data(<downstream *>x, 1)
                else:
                    c.sink.up_data(<upstream *>x, 1)
                if not x.io & IO_CLOSED and x.io & IO_READING and x.io & IO_READABLE:
                    poller_ready(c, x)
            elif x.io & IO_READING and x.io & IO_READABLE:
                readable(c, x)
            n += 1
        if x is last:
            break
    return n
