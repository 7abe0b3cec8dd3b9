"""limiter: token buckets as theoretical arrival times (GCRA) in `cells`.

Times are nanoseconds of CLOCK_MONOTONIC. Theory: limiter.pyx.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.cells cimport cells, decision

cdef int limiter_take(cells *t, uint64_t key, uint64_t now_ns, uint64_t interval_ns,
                      uint64_t tolerance_ns, uint64_t cost, decision *d) noexcept nogil
    # 1: taken; 0: refused, nothing consumed. now_ns: CLOCK_MONOTONIC. If the table is full, it allows and counts that.
cdef void limiter_give_back(cells *t, uint64_t key, uint64_t interval_ns, uint64_t cost) noexcept nogil
cdef void limiter_peek(const cells *t, uint64_t key, uint64_t now_ns, uint64_t interval_ns,
                       uint64_t tolerance_ns, decision *d) noexcept nogil
