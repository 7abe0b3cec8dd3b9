"""rounds: the poll loop of an engine.

    one round = wait → dispatch → ready list → deadlines → calls that wait → free what was closed

No Python runs in a round. What Python has to do is put into queues (`for_python`), which the engine
empties between two rounds.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free

from fastgate._core.exchange.shedding cimport load_permille
from fastgate._core.exchange.subrequest cimport subs_reuse
from fastgate._core.exchange.snapshot_ref cimport unpin_some
from fastgate._core.http1.server cimport down_timeout, resume_accept
from fastgate._core.io.connection cimport EVENTS, KIND_DOWN, KIND_UP, conn
from fastgate._core.io.lag cimport lag_round
from fastgate._core.io.poller cimport poller_round, poller_wait
from fastgate._core.io.timer cimport timer_arm, timer_expired
from fastgate._core.io.transport cimport conn_ready_listed
from fastgate._core.platform.checks cimport FG_KEEPS, fg_poison
from fastgate._core.platform.sys cimport boottime_ns, monotonic_ns, realtime_ns
from fastgate._core.shared.clock cimport window_offset
from fastgate._core.state cimport downstream, upstream
from fastgate._core.upstream.call cimport up_timeout
from fastgate._core.upstream.waiting cimport waiting_round

cdef enum:
    ROUNDS = 64
    ROUND_NS = 1000000
    OWN = 3                   # members of the epoll set that are neither peers nor listeners


cdef void rounds(core *c) noexcept nogil:
    cdef int i, n
    cdef uint64_t start = 0
    for i in range(ROUNDS):
        n = one_round(c, 0)
        if i == 0:
            start = c.loop.now
        # One event is light traffic. Another poll costs less than a turn of the event loop only if it is
        # likely to find something.
        if (n <= 1 and c.loop.ready.head is NULL and c.loop.turns.head is NULL) or c.loop.now - start > ROUND_NS or for_python(c):
            break
    finish_rounds(c)


cdef int one_round(core *c, int timeout) noexcept nogil:
    cdef uint64_t before = monotonic_ns() if timeout != 0 and c.loop.lag.on else 0
    cdef int n = poller_wait(&c.loop, timeout)
    if c.loop.lag.on:
        lag_round(&c.loop.lag, before, c.loop.now, n, <uint64_t>c.n_downs + c.n_ups + c.n_listeners + OWN)
        c.loop.lag.full = n == EVENTS
    c.counters.polls += 1
    if c.loop.now - c.offset_read > 1000000000:
        c.offset_read = c.loop.now
        c.unix_offset = realtime_ns() - <int64_t>c.loop.now
        read_window_clock(c)
    n = poller_round(&c.loop, n)
    expire(c)
    if c.n_waits != 0:
        waiting_round(c)
    if c.loop.graveyard is not NULL:
        bury(c, 0)
    return n


cdef void finish_rounds(core *c) noexcept nogil:
    if c.unpin_at is not NULL:
        unpin_some(c)
    if c.ended_subs is not NULL:
        subs_reuse(c)
    timer_arm(&c.loop)
    publish(c)


cdef void read_window_clock(core *c) noexcept nogil:
    cdef uint64_t boot = boottime_ns()
    cdef int64_t now = <int64_t>boot + window_offset(c.segment, realtime_ns(), boot)
    c.window_offset = now - <int64_t>monotonic_ns()


cdef void expire(core *c) noexcept nogil:
    cdef conn *x = timer_expired(&c.loop)
    while x is not NULL:
        if x.kind == KIND_DOWN:
            down_timeout(<downstream *>x)
        elif x.kind == KIND_UP:
            up_timeout(<upstream *>x)
        else:
            resume_accept(c)
        x = timer_expired(&c.loop)


cdef void bury(core *c, int all) noexcept nogil:
    cdef conn *x = c.loop.graveyard
    cdef conn *following
    c.loop.graveyard = NULL
    while x is not NULL:
        following = x.timer_next
        if conn_ready_listed(x) and not all:
            x.timer_next = c.loop.graveyard
            c.loop.graveyard = x
        elif not FG_KEEPS:
            free(x)                      # both kinds start with a conn
        elif x.kind == KIND_DOWN:
            fg_poison(x, sizeof(downstream))
            (<downstream *>x).next = c.free_downs
            c.free_downs = <downstream *>x
        else:
            fg_poison(x, sizeof(upstream))
            (<upstream *>x).next = c.free_ups
            c.free_ups = <upstream *>x
        x = following


cdef void publish(core *c) noexcept nogil:
    """The worker's row: plain stores, this worker is the only writer."""
    c.row.connections = c.n_downs
    c.row.in_flight = c.n_exchanges
    c.row.upstream_idle = c.n_idle
    c.row.upcalls = c.n_upcalls
    c.row.streams = c.n_streams
    c.row.load_permille = load_permille(c)
