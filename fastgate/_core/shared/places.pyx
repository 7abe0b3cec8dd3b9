"""places: requests in progress at targets, and those that wait for one of them, over all workers.

An upstream with `max_connections` gives each of its targets so many places. A request takes one when its
target is chosen, and frees it when its answer ends. Places and the requests in the queue are counts of
concurrency.pyx: never above the limit, and those of a worker that died are dropped with its table.

Each worker also notes since when the first request in its part of the queue has waited. The others read
it, and let older requests go first (upstream/waiting.pyx).
"""
from fastgate._core.shared.concurrency cimport concurrency_count, concurrency_noted
from fastgate._core.shared.segment cimport Segment


cdef uint64_t since_elsewhere(segment_header *s, uint32_t worker, uint64_t upstream, uint64_t after) noexcept nogil:
    cdef uint64_t key = since_key(upstream), since, first = 0
    cdef uint32_t w
    for w in range(s.workers):
        if w != worker:
            since = concurrency_noted(s, w, key)
            if since > after and (first == 0 or since < first):
                first = since
    return first


# ---- the border -----------------------------------------------------------------------------

def in_progress(Segment segment not None, uint64_t target):
    """Requests that have a place at a target. target: its `identity` in the snapshot."""
    return concurrency_count(segment.header, place_key(target))


def waiting(Segment segment not None, uint64_t upstream):
    """Requests that wait for a place. upstream: its `identity` in the snapshot."""
    return concurrency_count(segment.header, queue_key(upstream))


def key_of_places(uint64_t target):
    """The key that the places of a target are counted under, for tests that take one themselves."""
    return place_key(target)
