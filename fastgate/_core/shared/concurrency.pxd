"""concurrency: in-flight counts, a table per worker, so that a dead worker's are dropped whole.

A worker counts itself in first (its own table, it is the only writer), then sums all
workers' tables; over the limit, it takes itself out again: never more than the limit run.
The theory stands in concurrency.pyx.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.layout cimport segment_header

cdef int concurrency_enter(segment_header *s, uint32_t worker, uint64_t key, uint64_t amount,
                           uint64_t *in_flight) noexcept nogil     # 1 entered, 0 refused
    # amount: the limit. *in_flight: how many run, over all workers; with this one when it entered.
cdef void concurrency_leave(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil
    # once for each time it entered
cdef uint64_t concurrency_count(segment_header *s, uint64_t key) noexcept nogil
    # in flight now, over all workers
cdef void concurrency_clear(segment_header *s, uint32_t worker) noexcept nogil
    # by the supervisor, when the worker is dead
