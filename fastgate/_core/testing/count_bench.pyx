"""count_bench: what counting one request costs."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.counters cimport count_outcome, counters_route, fg_count, observe
from fastgate._core.shared.layout cimport route_counters
from fastgate._core.shared.segment cimport Segment


def bench_count(Segment segment not None, uint32_t slot, uint64_t n) -> None:
    """Count n requests on worker 0, in C: what one request's counting costs, times n."""
    cdef uint64_t i
    cdef route_counters *r
    with nogil:
        for i in range(n):
            r = counters_route(segment.header, 0, slot)
            count_outcome(r, 200, 0)
            observe(&r.gateway, i & 0xFFFFF)
            observe(&r.total, i & 0xFFFFFF)
            observe(&r.upstream, i & 0xFFFFFF)
            fg_count(&r.bytes_in, 500)
            fg_count(&r.bytes_out, 900)
