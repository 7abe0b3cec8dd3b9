"""waiting: calls that wait for room at a target.

With `queue`, a call that finds no target with room waits until one has some, in order, for a limited time:

    call_start ─ wait_begin ─▶ CALL_WAIT ──┬── a place is free ──▶ admitted(0): on its way
                     │                     ├── its time is over ─▶ admitted(OVERLOADED)
                     │                     ├── none is healthy ──▶ admitted(NO_HEALTHY_TARGET)
                     └── the queue is full └── wait_leave: the client left

The queue is one, over all workers: its length is counted in the segment, exactly (shared/places.pyx). Each worker
has those of its own clients in a line. A place that is freed in a worker goes to the first of its line at the end of the
round. Places that others free are found by looking every millisecond, while anybody waits.

**Order.** Within a line, the first comes first. Between workers, a call that came more than FAIR_NS later lets the
older one have the place: it looks at what the others have noted. A worker that does not take its place, because it is
stopped or busy, is no longer waited for after HOLD_NS, until others wait in it.
"""
from libc.stdlib cimport calloc, free

from fastgate._core.io.ticker cimport ticker_close, ticker_open, ticker_set
from fastgate._core.reason cimport OVERLOADED
from fastgate._core.shared.concurrency cimport concurrency_enter, concurrency_leave, concurrency_note
from fastgate._core.shared.places cimport queue_key, since_elsewhere, since_key
from fastgate._core.state cimport CALL_WAIT
from fastgate._core.upstream.balance cimport has_room, select_target

cdef enum:
    LOOK_NS = 1000000         # between two looks at places that others may have freed
    FAIR_NS = 5000000
    HOLD_NS = 5000000


cdef line *line_of(const core *c, uint64_t identity) noexcept nogil:
    cdef line *l = (<waiting_room *>c.waiting).lines if c.waiting is not NULL else NULL
    while l is not NULL and l.identity != identity:
        l = l.next
    return l


cdef inline int goes_first(core *c, const line *l, uint64_t identity, uint64_t since) noexcept nogil:
    """Whether a call in another worker is older."""
    cdef uint64_t first
    if c.segment.workers == 1:
        return 0
    first = since_elsewhere(c.segment, c.worker, identity, l.ignored if l is not NULL else 0)
    return first != 0 and first + FAIR_NS < since


cdef int must_wait(core *c, const call *k) noexcept nogil:
    cdef line *l = line_of(c, k.group.identity)
    if l is not NULL and l.first is not NULL:
        return 1
    return goes_first(c, l, k.group.identity, c.loop.now)


cdef waiting_room *room_of(core *c, admitted_fn admitted) noexcept nogil:
    cdef waiting_room *r = <waiting_room *>c.waiting
    if r is NULL:
        r = <waiting_room *>calloc(1, sizeof(waiting_room))
        if r is NULL:
            return NULL
        if ticker_open(&c.loop, &r.ticker) < 0:
            free(r)
            return NULL
        r.admitted = admitted
        c.waiting = r
    return r


cdef line *line_for(core *c, waiting_room *r, uint64_t identity) noexcept nogil:
    cdef line *l = line_of(c, identity)
    if l is NULL:
        l = <line *>calloc(1, sizeof(line))
        if l is not NULL:
            l.identity = identity
            l.next = r.lines
            r.lines = l
    return l


cdef int wait_begin(core *c, call *k, admitted_fn admitted) noexcept nogil:
    cdef waiting_room *r = room_of(c, admitted)
    cdef line *l = line_for(c, r, k.group.identity) if r is not NULL else NULL
    cdef waiter *w = <waiter *>calloc(1, sizeof(waiter)) if l is not NULL else NULL
    cdef uint64_t waits = 0
    if w is NULL or not concurrency_enter(
            c.segment, c.worker, queue_key(l.identity), k.group.queue_max, &waits):
        free(w)
        c.counters.queue_refused += 1
        return 0
    w.k = k
    w.of = l
    w.since = c.loop.now
    w.until = c.loop.now + <uint64_t>k.group.queue_ms * 1000000
    w.prev = l.last
    if l.last is not NULL:
        l.last.next = w
    else:
        l.first = w
    l.last = w
    k.waiter = w
    k.state = CALL_WAIT
    c.n_waits += 1
    c.counters.queued += 1
    note(c, l)
    look_soon(c, r)
    return 1


cdef void note(core *c, line *l) noexcept nogil:
    cdef uint64_t since = l.first.since if l.first is not NULL else 0
    if since != l.noted:
        l.noted = since
        if c.segment.workers > 1:
            concurrency_note(c.segment, c.worker, since_key(l.identity), since)


cdef void wait_leave(core *c, call *k) noexcept nogil:
    cdef waiter *w = <waiter *>k.waiter
    cdef line *l
    if w is NULL:
        return
    l = w.of
    if w.prev is not NULL:
        w.prev.next = w.next
    else:
        l.first = w.next
    if w.next is not NULL:
        w.next.prev = w.prev
    else:
        l.last = w.prev
    k.waiter = NULL
    free(w)
    c.n_waits -= 1
    concurrency_leave(c.segment, c.worker, queue_key(l.identity))
    note(c, l)
    (<waiting_room *>c.waiting).freed = 1     # the next one may be the first now


cdef void place_free(core *c, uint64_t key) noexcept nogil:
    concurrency_leave(c.segment, c.worker, key)
    if c.n_waits != 0:
        (<waiting_room *>c.waiting).freed = 1


# ---- the rounds ---------------------------------------------------------------------------

cdef void look_soon(core *c, waiting_room *r) noexcept nogil:
    if r.ticks <= c.loop.now:
        r.ticks = c.loop.now + LOOK_NS
        ticker_set(&r.ticker, r.ticks)


cdef void waiting_round(core *c) noexcept nogil:
    cdef waiting_room *r = <waiting_room *>c.waiting
    cdef line *l
    if not r.freed and c.loop.now < r.ticks:
        return
    r.freed = 0
    l = r.lines
    while l is not NULL:
        serve(c, r, l)
        l = l.next
    if c.n_waits != 0:
        look_soon(c, r)


cdef void serve(core *c, waiting_room *r, line *l) noexcept nogil:
    """Let those at the head of a line go on, as far as there is room."""
    cdef call *k
    cdef int reason
    while l.first is not NULL:
        k = l.first.k
        if c.loop.now >= l.first.until:
            c.counters.queue_timeouts += 1
            reason = OVERLOADED
        else:
            if not has_room(c, k):
                l.held_ns = 0
                return
            if goes_first(c, l, l.identity, l.first.since) and held_back(c, l):
                return
            reason = select_target(c, k)
            if reason == OVERLOADED:
                return
        l.held_ns = 0
        wait_leave(c, k)
        r.admitted(c, k, reason)


cdef int held_back(core *c, line *l) noexcept nogil:
    """Whether to leave a place to an older one elsewhere: not for ever."""
    if l.held_ns == 0:
        l.held_ns = c.loop.now
    if c.loop.now < l.held_ns + HOLD_NS:
        return 1
    l.ignored = since_elsewhere(c.segment, c.worker, l.identity, l.ignored)
    return 0


cdef void waiting_free(core *c) noexcept nogil:
    cdef waiting_room *r = <waiting_room *>c.waiting
    cdef line *l
    cdef waiter *w
    if r is NULL:
        return
    while r.lines is not NULL:
        l = r.lines
        r.lines = l.next
        while l.first is not NULL:
            w = l.first
            l.first = w.next
            free(w)
        free(l)
    ticker_close(&r.ticker)
    free(r)
    c.waiting = NULL
