"""tunnel: what follows a 101: bytes in both directions, until both sides have ended."""
from fastgate._core.state cimport call, exchange

cdef void begin_tunnel(exchange *e, call *k) noexcept nogil
cdef void tunnel_up(exchange *e) noexcept nogil
    # the client sent bytes, or its end
cdef void tunnel_up_drained(exchange *e) noexcept nogil
cdef void tunnel_down(exchange *e) noexcept nogil
    # the upstream sent bytes, or its end
cdef void tunnel_down_drained(exchange *e) noexcept nogil
