"""poller: epoll, edge-triggered, one registration per socket for its whole life.

A socket is added once, edge-triggered. A client's is added without EPOLLOUT, which would be an event at
once: the first write that falls short adds it (transport.pyx). What an edge reported is kept in
`conn.io`, and used up by reads and writes: see transport.pyx.

A closed connection's memory stays until the round is over (graveyard): later events of the
same round may still point to it, and find IO_CLOSED.

**Turns.** A step of a client's TLS handshake costs 20 µs to 1 ms. These steps come last in a round, in the order
in which the clients' bytes came, and for TURNS_NS: a flood of handshakes delays established connections by no
more than that, and honest handshakes by those before them. A client that has gone costs no step.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.io.connection cimport (
    EVENTS, IO_AGAIN, IO_BLOCKED, IO_CLOSED, IO_CONNECTING, IO_ERROR, IO_HELD, IO_HUP, IO_READABLE, IO_READING,
    IO_SHUT, IO_WRITES, KINDS, KIND_DOWN, KIND_OUTER, KIND_LISTENER, IO_HANDSHAKE)
from fastgate._core.io.raw cimport conn_ready, conn_wait_turn, list_take
from fastgate._core.io.tls cimport tls_begin, tls_forget_errors
from fastgate._core.io.transport cimport conn_flush, conn_recv
from fastgate._core.platform.sys cimport (
    AF_UNIX, EAGAIN, EINPROGRESS, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLOUT,
    EPOLLRDHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOCK_STREAM, SOL_SOCKET, SO_ERROR, TCP_NODELAY, close, connect, epoll_create1, epoll_ctl,
    epoll_event, epoll_wait, errno, getsockopt, monotonic_ns, read, setsockopt, sockaddr, socket,
    socklen_t)

cdef enum:
    TURNS_NS = 200000         # of one round


cdef int poller_init(event_loop *l) noexcept nogil:
    l.epfd = epoll_create1(EPOLL_CLOEXEC)
    if l.epfd < 0:
        return -errno
    return 0


cdef void poller_free(event_loop *l) noexcept nogil:
    if l.epfd >= 0:
        close(l.epfd)
        l.epfd = -1


cdef int add(event_loop *l, conn *x, uint32_t events) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.ptr = x
    if epoll_ctl(l.epfd, EPOLL_CTL_ADD, x.fd, &event) != 0:
        return -errno
    return 0


cdef int poller_add(event_loop *l, conn *x) noexcept nogil:
    return add(l, x, EPOLLIN | EPOLLRDHUP | EPOLLET)


cdef int poller_add_listener(event_loop *l, conn *x) noexcept nogil:
    # Level-triggered: what one turn did not accept is announced again. EXCLUSIVE because
    # all workers wait for a unix listener, which is one socket.
    return add(l, x, EPOLLIN | EPOLLEXCLUSIVE if x.kind == KIND_LISTENER else EPOLLIN)


cdef void poller_remove(event_loop *l, conn *x) noexcept nogil:
    epoll_ctl(l.epfd, EPOLL_CTL_DEL, x.fd, NULL)


cdef int poller_connect(event_loop *l, conn *x, const void *addr, uint32_t length) noexcept nogil:
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
        return -errno                    # EAGAIN: a unix socket's backlog is full
    x.io |= IO_WRITES
    one = add(l, x, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)
    if one < 0:
        return one
    if result == 1 and x.tls is not NULL:
        tls_begin(x)
        return 0
    return result


cdef void connected(event_loop *l, conn *x) noexcept nogil:
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    x.io &= ~IO_CONNECTING
    if getsockopt(x.fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0:
        error = errno
    if error == 0 and x.tls is not NULL:
        tls_begin(x)
        return
    l.on[x.kind].connected(x, error)


cdef void readable(event_loop *l, conn *x) noexcept nogil:
    """Use up an edge: one read, one call of the sink; the ready list does the rest."""
    if not x.io & (IO_AGAIN | IO_HANDSHAKE):
        receive(l, x)
    elif not x.io & IO_AGAIN:            # else the bytes here come first; IO_READABLE stays
        if x.kind == KIND_DOWN and not x.io & IO_ERROR:
            conn_wait_turn(x)
        else:
            receive(l, x)


cdef inline void receive(event_loop *l, conn *x) noexcept nogil:
    cdef ssize_t n = conn_recv(x)
    if n == -EAGAIN:
        return
    l.on[x.kind].data(x, n)
    if not x.io & IO_CLOSED and x.io & (IO_READABLE | IO_HELD) and x.io & IO_READING:
        conn_ready(x)


cdef void drained(event_loop *l, conn *x) noexcept nogil:
    cdef int done
    x.io &= ~IO_BLOCKED
    if x.out_head is NULL:
        return
    done = conn_flush(x)
    if x.io & IO_HANDSHAKE:
        return                           # nobody waits for it; a failure is found by the next read
    if done == 0:
        l.on[x.kind].progress(x)
    elif done < 0 and x.kind == KIND_DOWN:
        l.on[x.kind].hup(x)
    else:
        l.on[x.kind].drained(x)


cdef void dispatch_other(event_loop *l, conn *x) noexcept nogil:
    """Handle an event of something other than a peer."""
    cdef uint64_t expirations
    if x.kind == KIND_LISTENER:
        l.accepted(x)
    elif x.kind != KIND_OUTER:
        read(x.fd, &expirations, sizeof(expirations))
    if x.kind >= KIND_OUTER:
        l.outer_due = 1


cdef void dispatch(event_loop *l, conn *x, uint32_t events) noexcept nogil:
    if x.io & IO_CLOSED:
        return
    if x.kind >= KINDS:
        dispatch_other(l, x)
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        x.io |= IO_READABLE
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            x.io |= IO_HUP
        if events & EPOLLERR or (events & EPOLLHUP and not x.io & IO_SHUT):
            x.io |= IO_ERROR             # not just one side closed: it is dead
    if x.io & IO_CONNECTING:
        if events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
            connected(l, x)
        return
    if events & EPOLLOUT and x.io & IO_BLOCKED:
        drained(l, x)
        if x.io & IO_CLOSED:
            return
    if x.io & IO_READABLE:
        if x.io & IO_READING:
            readable(l, x)
        elif x.io & IO_HUP and x.kind == KIND_DOWN:
            l.on[x.kind].hup(x)


cdef int take_turns(event_loop *l) noexcept nogil:
    """Take handshakes further while there is time, at least one. Returns how many."""
    cdef uint64_t until = monotonic_ns() + TURNS_NS
    cdef conn *x
    cdef int n = 0
    while l.turns.head is not NULL:
        x = list_take(&l.turns)
        if x.io & IO_CLOSED or not x.io & IO_READING or not x.io & (IO_READABLE | IO_HELD):
            continue
        receive(l, x)
        n += 1
        if monotonic_ns() >= until:
            break
    return n


cdef int poller_wait(event_loop *l, int timeout) noexcept nogil:
    cdef int n = epoll_wait(l.epfd, l.events, EVENTS, timeout)
    l.now = monotonic_ns()
    if l.tls is not NULL:
        tls_forget_errors()
    return n if n > 0 else 0             # EINTR: the event loop around us handles signals


cdef int poller_round(event_loop *l, int n) noexcept nogil:
    cdef conn *x
    cdef conn *last
    cdef int i
    for i in range(n):
        dispatch(l, <conn *>l.events[i].data.ptr, l.events[i].events)
    # Handle what is in the ready list now; what is added in the process waits for the next round.
    last = l.ready.tail
    while l.ready.head is not NULL and last is not NULL:
        x = list_take(&l.ready)
        if not x.io & IO_CLOSED:
            if x.io & IO_AGAIN:
                x.io &= ~IO_AGAIN
                l.on[x.kind].data(x, 1)
                if not x.io & IO_CLOSED and x.io & IO_READING and x.io & (IO_READABLE | IO_HELD):
                    conn_ready(x)
            elif x.io & IO_READING and x.io & (IO_READABLE | IO_HELD):
                readable(l, x)
            n += 1
        if x is last:
            break
    if l.turns.head is not NULL:
        n += take_turns(l)
    return n
