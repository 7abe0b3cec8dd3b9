"""fault: faults that are injected on purpose."""
from libc.stdint cimport uint16_t

from fastgate._core.state cimport exchange

cdef int inject_fault(exchange *e) noexcept nogil
    # Of a route with ROUTE_FAULT. 0: nothing more than what was noted; a Reason; -1: it is parked.
cdef uint16_t fault_status(const exchange *e) noexcept nogil
    # The status of a refusal for FAULT_INJECTED.
