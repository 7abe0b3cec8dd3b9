"""shedding: requests that are refused because the worker has too much to do.

The load is the larger of two shares: the lag of the loop (io/lag.pyx) and the bytes of borrowed buffers, each of
its mark. Routes of low importance are refused from a load of 1 on, those of normal importance from 2 on, those of
high importance never: they have no ROUTE_SHED. This is decided when the route is known, before its caller is, so
that a refusal costs as little as possible: nothing is counted, looked up or charged. Requests that are in progress
go on.
"""
from fastgate._core.platform.buffer cimport buffers_bytes
from fastgate._core.reason cimport OVERLOADED
from fastgate._core.shared.counters cimport counters_route, fg_count
from fastgate._core.snapshot.snapshot cimport ROUTE_SHED_FIRST, snapshot_header


cdef int shed(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef const snapshot_header *s = e.snap
    cdef uint64_t times = 1 if e.policy.flags & ROUTE_SHED_FIRST else 2
    if (s.shed_lag_ns == 0 or c.loop.lag.mean_ns < <double>(s.shed_lag_ns * times)) \
            and (s.shed_buffers == 0 or buffers_bytes(&c.loop.bufs) < s.shed_buffers * times):
        return 0
    fg_count(&counters_route(c.segment, c.worker, e.match.slot).shed, 1)
    return OVERLOADED


cdef uint64_t load_permille(const core *c) noexcept nogil:
    cdef const snapshot_header *s
    cdef uint64_t lag = 0, bytes = 0
    if c.ref is NULL:
        return 0
    s = c.ref.snap
    if s.shed_lag_ns != 0:
        lag = <uint64_t>(c.loop.lag.mean_ns * 1000.0 / <double>s.shed_lag_ns)
    if s.shed_buffers != 0:
        bytes = buffers_bytes(&c.loop.bufs) * 1000 // s.shed_buffers
    return lag if lag > bytes else bytes
