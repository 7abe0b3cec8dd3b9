"""max_forwards: OPTIONS and TRACE that must not be forwarded further (RFC 9110, 7.6.2)."""
from fastgate._core.state cimport core, exchange

cdef int last_hop(exchange *e) noexcept nogil
    # 0: it goes on; -1: it has been answered; else the Reason. Call it only if there is a Max-Forwards
