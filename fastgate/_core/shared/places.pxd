"""places: requests in progress at targets, and those that wait for one of them (see places.pyx)."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.cells cimport mix_key
from fastgate._core.shared.layout cimport segment_header

cdef inline uint64_t place_key(uint64_t target) noexcept nogil:
    """Under which the requests at a target are counted. target: target_rec.identity."""
    return mix_key(target, 0x506c616365000001ull)


cdef inline uint64_t queue_key(uint64_t upstream) noexcept nogil:
    """Under which the requests that wait are counted. upstream: upstream_rec.identity."""
    return mix_key(upstream, 0x506c616365000002ull)


cdef inline uint64_t since_key(uint64_t upstream) noexcept nogil:
    """Under which a worker notes since when the first of its own waits."""
    return mix_key(upstream, 0x506c616365000003ull)


cdef uint64_t since_elsewhere(segment_header *s, uint32_t worker, uint64_t upstream, uint64_t after) noexcept nogil
    # Since when (CLOCK_MONOTONIC ns, later than `after`) the first one waits in the other workers; 0: none does.
