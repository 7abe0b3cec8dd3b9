"""route_deadline: until when a request has to be over, by its route's `deadline`.

It counts from the first byte of the request and holds over everything: waiting for a decision, the body, all
attempts upstream, the answer. A tunnel has none. The connection's timer watches it (http1/deadlines.pyx).
"""
from libc.stdint cimport uint64_t

from fastgate._core.state cimport EX_ABORTED, EX_ENDED, EX_REFUSED, EX_TUNNEL, exchange

cdef inline uint64_t route_deadline(const exchange *e) noexcept nogil:
    """CLOCK_MONOTONIC ns; 0: none, or its refusal is on its way."""
    if e.policy is NULL or e.policy.deadline_ms == 0 \
            or e.flags & (EX_REFUSED | EX_ABORTED | EX_ENDED | EX_TUNNEL):
        return 0
    return e.started_ns + <uint64_t>e.policy.deadline_ms * 1000000


cdef inline int is_overdue(const exchange *e, uint64_t now) noexcept nogil:
    """Whether it has one, and it has passed."""
    cdef uint64_t at = route_deadline(e)
    return at != 0 and now >= at
