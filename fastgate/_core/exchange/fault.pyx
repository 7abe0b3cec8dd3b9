"""fault: faults that are injected on purpose: delays, and refusals with a status of the route's choice.

They come when the caller is known, and before anything is counted: a request that is refused here gives
back what limits by address have taken, and costs nothing. A delay is a parked exchange (parking.pyx), which
goes on when its time is over. Delay and refusal are decided separately, each by its share; a request with
both is refused after the delay.
"""
from libc.stdint cimport uint64_t

from fastgate._core.exchange.admission cimport admit_undo
from fastgate._core.exchange.parking cimport park
from fastgate._core.platform.random cimport random64
from fastgate._core.reason cimport FAULT_INJECTED
from fastgate._core.shared.counters cimport counters_route, fg_count
from fastgate._core.shared.layout cimport route_counters
from fastgate._core.shared.log_ring cimport LOG_DELAYED
from fastgate._core.snapshot.predicates cimport predicates_hold
from fastgate._core.snapshot.snapshot cimport snap_traffic
from fastgate._core.snapshot.traffic cimport traffic_rec
from fastgate._core.state cimport STAGE_LIMITS, core


cdef inline bint drawn(core *c, uint64_t permille) noexcept nogil:
    return permille == 1000 or random64(c.random) % 1000 < permille


cdef int inject_fault(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef const traffic_rec *t = snap_traffic(e.snap, e.policy)
    cdef route_counters *counts
    cdef int reason = 0
    if t.fault_when.count and not predicates_hold(
            e.snap, t.fault_when, e.base, &e.req, e.path, e.path_len):
        return 0
    counts = counters_route(c.segment, c.worker, e.match.slot)
    if t.abort_status and drawn(c, t.abort_permille):
        reason = FAULT_INJECTED
        fg_count(&counts.aborts, 1)
    if t.delay_ns and drawn(c, t.delay_permille):
        fg_count(&counts.delays, 1)
        e.log_flags |= LOG_DELAYED
        park(e, STAGE_LIMITS, c.loop.now + t.delay_ns, reason)
        return -1
    if reason:
        admit_undo(c, e)
    return reason


cdef uint16_t fault_status(const exchange *e) noexcept nogil:
    return snap_traffic(e.snap, e.policy).abort_status
