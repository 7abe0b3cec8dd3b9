"""timer: deadlines of connections in a hashed wheel on one timerfd.

Ticks are 2^24 ns (about 17 ms) of CLOCK_MONOTONIC; the wheel has 4096 slots, 69 s. A
connection is in at most one slot, the one where it was put *at some time*; its deadline is a
plain word that may have moved since. So the common case, a deadline that moves later with
every request, costs one store. When the wheel reaches the slot, a connection whose deadline is
still ahead moves to its present slot, and one without a deadline is removed. A deadline beyond
the wheel's length simply passes a slot more than once.

    invariant: x.deadline != 0  ⇒  x is in a slot not later than its deadline's
    a closed connection is in no slot and is added to none: the graveyard uses its links
    a deadline fires at most one tick late, never early

A bitmap of occupied slots gives the next tick to wake for. The timerfd is set only if that is
earlier than its present time, so a busy worker makes hardly any timer system calls.
"""
from libc.stdlib cimport calloc, free

from fastgate._core.platform.checks cimport fg_check
from fastgate._core.platform.sys cimport close, monotonic_ns, timerfd_new, timerfd_set
from fastgate._core.io.connection cimport IO_CLOSED, WHEEL_SLOTS, wheel

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) noexcept nogil


cdef int timer_init(event_loop *l) noexcept nogil:
    l.timers = <wheel *>calloc(1, sizeof(wheel))
    if l.timers is NULL:
        return -1
    l.timerfd = timerfd_new()
    l.timers.tick = monotonic_ns() >> 24
    return 0 if l.timerfd >= 0 else -1


cdef void timer_free(event_loop *l) noexcept nogil:
    if l.timerfd >= 0:
        close(l.timerfd)
        l.timerfd = -1
    free(l.timers)
    l.timers = NULL


cdef void timer_insert(event_loop *l, conn *x) noexcept nogil:
    cdef wheel *w = l.timers
    cdef uint64_t tick = (x.deadline >> 24) + 1
    cdef uint64_t slot
    fg_check(not x.io & IO_CLOSED, b"a deadline for a closed connection")
    if x.io & IO_CLOSED:
        return                           # the graveyard uses its links
    if x.tick != 0:
        timer_remove(l, x)
    if tick <= w.tick:
        tick = w.tick + 1
    elif tick >= w.tick + WHEEL_SLOTS:
        tick = w.tick + WHEEL_SLOTS - 1
    slot = tick & (WHEEL_SLOTS - 1)
    x.tick = tick
    x.timer_prev = NULL
    x.timer_next = w.slots[slot]
    if x.timer_next is not NULL:
        x.timer_next.timer_prev = x
    w.slots[slot] = x
    w.bitmap[slot >> 6] |= 1ull << (slot & 63)
    if tick < w.armed_tick:
        w.sooner = 1


cdef void timer_remove(event_loop *l, conn *x) noexcept nogil:
    cdef wheel *w = l.timers
    cdef uint64_t slot = x.tick & (WHEEL_SLOTS - 1)
    if x.tick == 0:
        return
    if x.timer_prev is not NULL:
        x.timer_prev.timer_next = x.timer_next
    else:
        w.slots[slot] = x.timer_next
        if x.timer_next is NULL:
            w.bitmap[slot >> 6] &= ~(1ull << (slot & 63))
    if x.timer_next is not NULL:
        x.timer_next.timer_prev = x.timer_prev
    x.timer_prev = NULL
    x.timer_next = NULL
    x.tick = 0


cdef conn *timer_expired(event_loop *l) noexcept nogil:
    cdef wheel *w = l.timers
    cdef uint64_t now_tick = l.now >> 24
    cdef conn *x
    while w.tick < now_tick or w.slots[w.tick & (WHEEL_SLOTS - 1)] is not NULL:
        x = w.slots[w.tick & (WHEEL_SLOTS - 1)]
        while x is not NULL:
            timer_remove(l, x)
            if x.deadline != 0:
                if x.deadline <= l.now:
                    x.deadline = 0
                    return x
                timer_insert(l, x)       # always into a slot after this one
            x = w.slots[w.tick & (WHEEL_SLOTS - 1)]
        if w.tick >= now_tick:
            break
        w.tick += 1
    return NULL


cdef uint64_t next_tick(wheel *w) noexcept nogil:
    """The next occupied tick after w.tick; 0 if the wheel is empty."""
    cdef uint64_t slot = (w.tick + 1) & (WHEEL_SLOTS - 1)
    cdef uint64_t word, bits
    cdef int i
    word = slot >> 6
    bits = w.bitmap[word] & (~0ull << (slot & 63))
    for i in range(65):
        if bits != 0:
            slot = (word << 6) + __builtin_ctzll(bits)
            return w.tick + ((slot - w.tick) & (WHEEL_SLOTS - 1))
        word = (word + 1) & 63
        bits = w.bitmap[word]
    return 0


cdef void timer_arm(event_loop *l) noexcept nogil:
    cdef wheel *w = l.timers
    cdef uint64_t tick
    if w.armed_tick > w.tick and not w.sooner:
        return
    tick = next_tick(w)
    if tick == 0:
        return
    if timerfd_set(l.timerfd, tick << 24) == 0:
        w.armed_tick = tick
        w.sooner = 0
