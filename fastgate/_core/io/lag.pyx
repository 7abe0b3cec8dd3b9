"""lag: how long the events that a loop takes have waited for it.

epoll does not say when an event became ready, but the times at which waits return bound it. A wait that returns
fewer events than it can has taken all there were. So

    a wait that slept, or found nothing        nothing has waited: 0
    the last wait took all there were          they became ready after it returned
    it may have left some (a backlog)          after the moment from which as many events were taken as the
                                               epoll set has members: epoll returns the oldest first, and
                                               each member once

The bound is the length of the last round, with the Python code in it, if each round takes all that is ready. A worker
can be busy all the time without any lag that matters.

**The mean.** One long round (a garbage collection, a handler that computes) makes those wait who come meanwhile, but
it is over when it is noticed. So what decides is a mean over the time, of about the last WINDOW_NS: each round counts
by its length, at most a quarter. A single stall reaches a mark if it is four times as long; stalls of half a second
together do if they are a little longer than the mark. Time in which nothing waited counts in full: after WINDOW_NS of
sleep nothing is left. A worker without events is not woken for this: its next event finds the time of the sleep.

A wait that takes less than SLEPT_NS is not taken for a sleep: it copies up to 256 events. Only a wait that may block
costs a second look at the clock.
"""
cdef enum:
    WINDOW_NS = 100000000
    SLEPT_NS = 100000


cdef void lag_start(loop_lag *g, uint32_t on, uint64_t now) noexcept nogil:
    if g.on == on:
        return
    g.on = on
    g.full = 0
    g.mean_ns = 0
    g.returned_ns = now


cdef void lag_round(loop_lag *g, uint64_t before, uint64_t now, uint32_t n, uint64_t members) noexcept nogil:
    cdef double weight = <double>(now - g.returned_ns) * (1.0 / WINDOW_NS)
    cdef double most = 0.25
    if n == 0 or g.unknown or (before != 0 and now - before > SLEPT_NS):
        g.unknown = 0
        g.oldest_ns = now
        g.mark_ns = now
        g.taken = 0
        most = 1
    elif not g.full:
        g.oldest_ns = g.returned_ns
        g.mark_ns = now
        g.taken = 0
    else:
        if g.taken >= members:
            g.oldest_ns = g.mark_ns
            g.mark_ns = g.returned_ns
            g.taken = 0
        g.taken += n
    if weight > most:
        weight = most
    g.mean_ns += (<double>(now - g.oldest_ns) - g.mean_ns) * weight
    g.returned_ns = now
