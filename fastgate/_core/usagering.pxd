"""usagering: how a worker hands usage records to control. Theory: usagering.pyx."""
from libc.stdint cimport uint64_t

from fastgate._core.moneymap cimport money_record, till

cdef int ring_publish(till *t, const money_record *r) noexcept nogil
    # copies the record into the ring; 0: the ring is full, nothing happened
cdef money_record *usage_reserve(till *t) noexcept nogil
    # A record without money to fill, with its id set and all else zero; NULL: there is no room at
    # all (counted). Until usage_commit nothing else may be done with this till.
cdef void usage_commit(till *t, money_record *r) noexcept nogil
