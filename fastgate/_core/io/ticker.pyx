"""ticker: a timer of its own, for what cannot wait for a tick of the wheel (17 ms).

Its event only ends the wait of the round: who set it looks at the time in each round.
"""
from fastgate._core.io.connection cimport KIND_TIMER
from fastgate._core.io.poller cimport poller_add_listener
from fastgate._core.platform.sys cimport close, timerfd_new, timerfd_set


cdef int ticker_open(event_loop *l, conn *x) noexcept nogil:
    x.kind = KIND_TIMER
    x.loop = l
    x.fd = timerfd_new()
    if x.fd < 0:
        return -1
    if poller_add_listener(l, x) < 0:
        ticker_close(x)
        return -1
    return 0


cdef void ticker_set(conn *x, uint64_t ns) noexcept nogil:
    timerfd_set(x.fd, ns)


cdef void ticker_close(conn *x) noexcept nogil:
    if x.fd >= 0:
        close(x.fd)
    x.fd = -1
