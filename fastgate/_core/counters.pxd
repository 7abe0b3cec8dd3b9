"""counters: what each worker counts, in its own rows of the segment (single writer).

The area at `counters_at` of a worker: one worker_counters, then route_rows route_counters.
Drawing, slots and invariants: see counters.pyx.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shm cimport segment_header

cdef enum:
    OUTCOMES = 128            # 0..127: see outcome_index
    BUCKETS = 28              # histogram: bucket i counts durations < 2^i * 16 microseconds; last: the rest

cdef struct histogram:
    uint64_t buckets[BUCKETS]
    uint64_t sum_ns
    uint64_t count

cdef struct route_counters:
    uint64_t outcomes[OUTCOMES]   # REASON_NONE range: by status (status_slot); else 64 + compact reason
    histogram gateway             # accept of the head → last byte handed to the kernel, less upstream
    histogram total
    histogram upstream            # request sent → response head
    uint64_t bytes_in
    uint64_t bytes_out

cdef struct worker_counters:
    uint64_t accepted
    uint64_t closed
    uint64_t requests
    uint64_t refused
    uint64_t upstream_connects
    uint64_t upstream_connect_failures
    uint64_t upstream_reused
    uint64_t retries
    uint64_t limiter_allowed
    uint64_t limiter_refused
    uint64_t quota_allowed
    uint64_t quota_refused
    uint64_t concurrency_refused
    uint64_t ring_drops
    uint64_t upcalls
    uint64_t upcalls_rejected
    uint64_t parse_errors
    uint64_t tunnels
    uint64_t polls
    uint64_t ejections
    uint64_t streams
    uint64_t streams_rejected
    uint64_t rows_used            # route rows below this one may hold counts (kept by counters_route)
    uint64_t beyond_micros        # price of what handlers reported beyond what they had held for
    uint64_t reserved[8]
    histogram upcall_lag          # how long each step of a handler kept the worker from polling

cdef extern from *:
    """
    #ifndef FASTGATE_COUNT
    #define FASTGATE_COUNT
    #include <stdint.h>
    /* One writer, any readers: the word is never seen half-written, and no bus lock is paid. */
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
