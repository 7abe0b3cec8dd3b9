"""outer_loop: the event loop around the engine, in the engine's epoll set (see libuv.pyx).

When its descriptor is readable, or its next timer is due, `event_loop.outer_due` is set, and the engine
gives it a turn. The timer is a timerfd rather than a timeout of epoll_wait(), which would cost a kernel
timer for each wait. It is set again only if it would fire too late: a needless turn is cheaper.
"""
from fastgate._core.io.connection cimport KIND_OUTER, KIND_OUTER_TIMER
from fastgate._core.io.poller cimport poller_add_listener, poller_remove
from fastgate._core.platform.sys cimport close, errno, timerfd_new, timerfd_set


cdef int outer_init(event_loop *l) noexcept nogil:
    l.outer.kind = KIND_OUTER
    l.outer.fd = -1
    l.outer.loop = l
    l.outer_timer.kind = KIND_OUTER_TIMER
    l.outer_timer.loop = l
    l.outer_timer.fd = timerfd_new()
    if l.outer_timer.fd < 0:
        return -errno
    return poller_add_listener(l, &l.outer_timer)


cdef void outer_free(event_loop *l) noexcept nogil:
    if l.outer_timer.fd > 0:             # 0: outer_init was never called
        close(l.outer_timer.fd)
        l.outer_timer.fd = -1


cdef int outer_watch(event_loop *l, int fd) noexcept nogil:
    l.outer.fd = fd
    return poller_add_listener(l, &l.outer)


cdef void outer_leave(event_loop *l) noexcept nogil:
    poller_remove(l, &l.outer)
    l.outer.fd = -1


cdef void outer_timer_set(event_loop *l, uint64_t at) noexcept nogil:
    if l.outer_ns <= at and l.outer_ns > l.now:
        return
    if timerfd_set(l.outer_timer.fd, at) == 0:
        l.outer_ns = at
