"""maintenance: routes that are closed for a while."""
from libc.stdint cimport uint32_t

from fastgate._core.snapshot.snapshot cimport str_ref
from fastgate._core.state cimport exchange

cdef int closed_for_maintenance(exchange *e) noexcept nogil       # 0, or a Reason. Of a route with ROUTE_MAINTENANCE
cdef uint32_t maintenance_wait(const exchange *e) noexcept nogil  # seconds until the caller should try again
cdef str_ref maintenance_message(const exchange *e) noexcept nogil    # what its operator says; len 0: nothing
