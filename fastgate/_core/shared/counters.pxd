"""counters: what each worker counts, in its own rows of the segment (single writer).

The area at `counters_at` of a worker: one worker_counters, then route_rows route_counters.
Drawing, slots and invariants: see counters.pyx.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.layout cimport histogram, route_counters, segment_header, worker_counters

cdef extern from *:
    """
    #ifndef FASTGATE_COUNT
    #define FASTGATE_COUNT
    #include <stdint.h>
    /* One writer, any readers: a word is never seen half-written, and no bus lock is needed. */
    static inline void fg_count(uint64_t *p, uint64_t n) {
        __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
    }
    /* Bits needed to write n: 0 for 0, 1 for 1, 2 for 2 and 3, ... */
    static inline uint32_t fg_bit_length(uint64_t n) { return n ? 64 - __builtin_clzll(n) : 0; }
    #endif
    """
    void fg_count(uint64_t *p, uint64_t n) noexcept nogil
    uint32_t fg_bit_length(uint64_t n) noexcept nogil

cdef worker_counters *counters_worker(segment_header *s, uint32_t worker) noexcept nogil
cdef route_counters *counters_route(segment_header *s, uint32_t worker, uint32_t slot) noexcept nogil
    # a slot past the rows: the "other" row
cdef void count_outcome(route_counters *r, uint32_t status, uint32_t reason) noexcept nogil
cdef void observe(histogram *h, uint64_t ns) noexcept nogil
