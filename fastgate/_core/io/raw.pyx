"""raw: one read or write of a socket, and what it tells about the socket.

    IO_READABLE   cleared by a short read: a short read means the socket is empty, so there is no extra
                  recv() that only returns EAGAIN. After IO_HUP a short read does not clear it: the end
                  itself is still to be read.
    IO_BLOCKED    set by a short write; the next EPOLLOUT clears it.
"""
from fastgate._core.io.connection cimport IO_BLOCKED, IO_ERROR, IO_WRITES
from fastgate._core.platform.sys cimport (
    EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CTL_MOD, MSG_NOSIGNAL, SOL_SOCKET, SO_ERROR, epoll_ctl, epoll_event,
    getsockopt, send, socklen_t)


cdef void raw_blocked(conn *x) noexcept nogil:
    cdef epoll_event event
    x.io |= IO_BLOCKED
    if not x.io & IO_WRITES:
        x.io |= IO_WRITES
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        event.data.ptr = x
        epoll_ctl(x.loop.epfd, EPOLL_CTL_MOD, x.fd, &event)


cdef int raw_dead(const conn *x) noexcept nogil:
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    return x.io & IO_ERROR or getsockopt(x.fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 or error != 0


cdef ssize_t raw_send(conn *x, const char *p, size_t n) noexcept nogil:
    cdef ssize_t taken
    while True:
        taken = send(x.fd, p, n, MSG_NOSIGNAL)
        if taken >= 0:
            break
        if errno == EAGAIN:
            taken = 0
            break
        if errno != EINTR:
            x.io |= IO_ERROR
            return -errno
    x.out_taken += taken
    if <size_t>taken < n:
        raw_blocked(x)
    return taken
