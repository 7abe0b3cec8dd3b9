"""maintenance: routes that are closed for a while.

This is decided before anything else about a route, so nothing is counted, looked up or charged. Requests
from some addresses may pass, for whoever works on the route.
"""
from fastgate._core.reason cimport MAINTENANCE
from fastgate._core.snapshot.addresses cimport address_matches
from fastgate._core.snapshot.snapshot cimport ROUTE_MAINTENANCE, snap_traffic
from fastgate._core.snapshot.traffic cimport traffic_rec


cdef inline bint closed(const exchange *e) noexcept nogil:
    return e.policy is not NULL and e.policy.flags & ROUTE_MAINTENANCE


cdef int closed_for_maintenance(exchange *e) noexcept nogil:
    cdef const traffic_rec *t = snap_traffic(e.snap, e.policy)
    if t.maintenance_allow.count and address_matches(e.snap, t.maintenance_allow, e.client):
        return 0
    return MAINTENANCE


cdef uint32_t maintenance_wait(const exchange *e) noexcept nogil:
    return snap_traffic(e.snap, e.policy).maintenance_wait_s if closed(e) else 1


cdef str_ref maintenance_message(const exchange *e) noexcept nogil:
    cdef str_ref none = str_ref(off=0, len=0)
    return snap_traffic(e.snap, e.policy).maintenance_message if closed(e) else none
