"""concurrency: in-flight counts, a table per worker, so that a dead worker's are dropped as a whole.

A worker first counts itself in (in its own table, which only it writes), then sums all workers'
tables; if the sum is over the limit, it takes itself out again. So the limit is never exceeded.
Theory: concurrency.pyx.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.layout cimport segment_header

cdef int concurrency_enter(segment_header *s, uint32_t worker, uint64_t key, uint64_t amount,
                           uint64_t *in_flight) noexcept nogil     # 1 entered, 0 refused
    # amount: the limit. *in_flight: how many are in flight in all workers, including this one if it entered.
cdef void concurrency_leave(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil
    # once for each time it entered
cdef int concurrency_room(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil
    # whether the key has a row, or half of the worker's rows are free
cdef uint64_t concurrency_count(segment_header *s, uint64_t key) noexcept nogil
    # in flight now, over all workers
cdef void concurrency_note(segment_header *s, uint32_t worker, uint64_t key, uint64_t word) noexcept nogil
    # let others read a word; 0 removes it. Nothing is counted under the key. Without a free row, nothing is noted.
cdef uint64_t concurrency_noted(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil
    # what a worker has noted; 0: nothing
cdef void concurrency_clear(segment_header *s, uint32_t worker) noexcept nogil
    # called by the supervisor when the worker is dead
