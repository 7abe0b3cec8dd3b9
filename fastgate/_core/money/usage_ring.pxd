"""usage_ring: how a worker passes usage records to control. Theory: usage_ring.pyx."""
from libc.stdint cimport uint64_t

from fastgate._core.money.layout cimport money_record, area_view

cdef int ring_publish(area_view *t, const money_record *r) noexcept nogil
    # copies the record into the ring; 0: the ring is full, nothing happened
cdef money_record *usage_reserve(area_view *t) noexcept nogil
    # A record without money to fill, with its id set and everything else zero; NULL: there is no room at
    # all (counted). Nothing else may be done with this view until usage_commit.
cdef void usage_commit(area_view *t, money_record *r) noexcept nogil
