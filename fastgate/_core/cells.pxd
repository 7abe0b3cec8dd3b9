"""cells: a lock-free table of {key, state} double words in shared memory.

What limiter and quota keep their state in. A cell is 16 bytes, changed as a whole by one
compare-and-swap, so a key's cell can be reclaimed for another key without a lock.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef struct cell:
    uint64_t key              # 0: empty
    uint64_t state

cdef struct cells:            # a view; lives in the process, points into the segment
    cell *base
    uint64_t mask             # count - 1
    uint64_t full             # how often no cell could be had (fail open), for metrics

cdef struct decision:
    uint64_t remaining        # requests left now
    uint64_t used
    uint64_t reset_s          # seconds until the limit is whole again (rate) or the window ends (quota)
    uint64_t retry_s          # refused: whole seconds until a retry can succeed, >= 1
    uint64_t resets_at        # Unix time, seconds

cdef uint64_t mix_key(uint64_t a, uint64_t b) noexcept nogil   # never 0
cdef uint64_t hash_bytes(const void *p, uint32_t length, uint64_t seed) noexcept nogil
    # Same answer in every process and over restarts (quotas are persisted by it).
