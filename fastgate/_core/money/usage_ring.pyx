"""usage_ring: usage records between a worker and the ledger.

    worker's area     ring_head: total published         ring_tail: in the ledger
    +-----------+-----------+--------------------------------------------+
    | record 0  | record 1  | ...  position p is at p & (count - 1)       |
    +-----------+-----------+--------------------------------------------+

The worker publishes a record by one release store of `ring_head`: before the store it does not
exist, after it it is complete. Control may read the records between tail and head any number of
times, and moves `ring_tail` only when the ledger has them on disk. So a record is seen at least
once, even if processes are killed, and the ledger takes it once, by its id.

**The id** is {boot, area, sequence}. It is drawn before anything else is done with a hold or record, and
recorded in the area's head before it is used, so it is never given twice, not even by a worker's
successor. It is the same in the hold table and in the ring.

**A full ring loses nothing.** The record of a hold stays in its row, PARKED; a record without money takes
a free row instead. Control drains parked rows together with the ring, and frees them when the ledger has
them. Only if the rows are used up as well is a record without money dropped, and counted; a hold is then
refused before anything is served.

A record's own `word` is its position + 1. If it differs (the machine lost power, and the file has a
newer head than records), the record is counted as damaged and ignored.
"""
from libc.string cimport memcpy, memset

from fastgate._core.platform.atomics cimport fg_load, fg_prefetch_write, fg_store
from fastgate._core.money.layout cimport (
    HOLD_PARKED, NUMBER_BITS, next_sequence, number_record, row_take)


cdef inline money_record *_room(area_view *t) noexcept nogil:
    cdef uint64_t head = t.head.ring_head
    if t.ring is NULL or head - fg_load(&t.head.ring_tail) > t.ring_mask:
        return NULL
    return t.ring + (head & t.ring_mask)


cdef inline void _commit(area_view *t, money_record *r) noexcept nogil:
    cdef uint64_t head = t.head.ring_head + 1
    r.word = head
    fg_store(&t.head.ring_head, head)
    # The next record's two lines are in control's cache or in memory: prefetching saves the next
    # request 300 cycles.
    r = t.ring + (head & t.ring_mask)
    fg_prefetch_write(r)
    fg_prefetch_write(<char *>r + 64)


cdef int ring_publish(area_view *t, const money_record *r) noexcept nogil:
    cdef money_record *to = _room(t)
    if to is NULL:
        return 0
    memcpy(to, r, sizeof(money_record))
    _commit(t, to)
    return 1


cdef money_record *usage_reserve(area_view *t) noexcept nogil:
    cdef money_record *r = _room(t)
    if r is NULL:
        r = row_take(t)
        if r is NULL:
            fg_store(&t.head.dropped, t.head.dropped + 1)
            return NULL
    # The row's word does not change: for all others, the row is free until the commit.
    memset(<char *>r + sizeof(uint64_t), 0, sizeof(money_record) - sizeof(uint64_t))
    number_record(t, r, next_sequence(t))
    return r


cdef void usage_commit(area_view *t, money_record *r) noexcept nogil:
    if t.ring is not NULL and t.ring <= r <= t.ring + t.ring_mask:
        _commit(t, r)
        return
    fg_store(&r.word, (r.number & ((<uint64_t>1 << NUMBER_BITS) - 1)) << 8 | HOLD_PARKED)
    fg_store(&t.head.parked, t.head.parked + 1)
