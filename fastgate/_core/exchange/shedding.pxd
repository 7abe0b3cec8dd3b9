"""shedding: requests that are refused because the worker has too much to do."""
from libc.stdint cimport uint64_t

from fastgate._core.state cimport core, exchange

cdef int shed(exchange *e) noexcept nogil        # 0, or a Reason. Of a route with ROUTE_SHED
cdef uint64_t load_permille(const core *c) noexcept nogil    # the worker's load, in thousandths; 0 without marks
