"""worker_counts: counting as a worker does, without a worker."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastgate._core.shared.counters cimport (
    count_outcome, counters_route, counters_worker, fg_count, observe)
from fastgate._core.shared.layout cimport BUCKETS, TOKEN_RESULTS, TOKEN_ROWS, histogram, route_counters, worker_counters
from fastgate._core.shared.segment cimport Segment

_WORDS = (
    "accepted", "closed", "requests", "refused", "upstream_connects",
    "upstream_connect_failures", "upstream_reused", "retries", "limiter_allowed",
    "limiter_refused", "quota_allowed", "quota_refused", "concurrency_refused", "ring_drops",
    "upcalls", "upcalls_rejected", "parse_errors", "tunnels", "polls", "ejections",
    "streams", "streams_rejected", None, "beyond_micros", "connections_refused",
    "connections_uncounted", "handshakes_refused", "handshakes_dropped", "bad_proxy_headers",
    "handshakes_client_1.2_full", "handshakes_client_1.2_resumed", "handshakes_client_1.3_full",
    "handshakes_client_1.3_resumed", "handshakes_upstream_1.2_full", "handshakes_upstream_1.2_resumed",
    "handshakes_upstream_1.3_full", "handshakes_upstream_1.3_resumed", "handshakes_client_failed",
    "handshakes_upstream_failed", *[None] * (TOKEN_ROWS * TOKEN_RESULTS), "queued", "queue_refused",
    "queue_timeouts",
)
"""The words of `worker_counters`, in their order; None: not a counter."""

WORKER_COUNTERS = tuple(name for name in _WORDS if name)
"""A worker's own counters."""


cdef _check(Segment segment, uint32_t worker):
    if worker >= segment.header.workers:
        raise IndexError(f"worker {worker} of {segment.header.workers}")


def count_request(Segment segment not None, uint32_t worker, uint32_t slot, uint32_t status, *,
                  uint32_t reason=0, uint64_t gateway_ns=0, uint64_t total_ns=0,
                  uint64_t upstream_ns=0, uint64_t bytes_in=0, uint64_t bytes_out=0, uint64_t delays=0,
                  uint64_t aborts=0, uint64_t validated=0, mirrored=(), uint64_t shed=0) -> None:
    """Count one request as a worker does. `upstream_ns` 0: no upstream took part."""
    _check(segment, worker)
    cdef route_counters *r = counters_route(segment.header, worker, slot)
    count_outcome(r, status, reason)
    observe(&r.gateway, gateway_ns)
    observe(&r.total, total_ns)
    if upstream_ns:
        observe(&r.upstream, upstream_ns)
    fg_count(&r.bytes_in, bytes_in)
    fg_count(&r.bytes_out, bytes_out)
    fg_count(&r.delays, delays)
    fg_count(&r.aborts, aborts)
    fg_count(&r.validated, validated)
    for result, count in enumerate(mirrored):
        fg_count(&r.mirrored[<int>result], count)
    fg_count(&r.shed, shed)


def count_worker(Segment segment not None, uint32_t worker, str name, uint64_t n=1) -> None:
    """Add n to one of a worker's own counters, by its name in `CountersSnapshot.workers`.

    "upcall_lag" observes n nanoseconds.
    """
    _check(segment, worker)
    cdef worker_counters *w = counters_worker(segment.header, worker)
    if name == "upcall_lag":
        observe(&w.upcall_lag, n)
        return
    if name not in WORKER_COUNTERS:
        raise KeyError(name)
    fg_count((<uint64_t *>w) + <int>_WORDS.index(name), n)


def bucket_of(uint64_t ns) -> int:
    """The histogram bucket that a duration of ns nanoseconds falls into."""
    cdef histogram h
    cdef int i
    memset(&h, 0, sizeof(h))
    observe(&h, ns)
    for i in range(BUCKETS):
        if h.buckets[i]:
            return i
    return -1
