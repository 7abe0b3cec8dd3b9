"""mirror: copies of requests for another service, whose answers nobody waits for (see mirror.pyx)."""
from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport exchange

cdef void mirror_begin(exchange *e) noexcept nogil
    # Of a route with ROUTE_MIRROR, once its request is on its way to the upstream, or about to be.
cdef void mirror_piece(exchange *e, const buf *b) noexcept nogil
    # While e.sub is its copy: a piece of the body, framed as the client sent it, passes to the upstream.
cdef void mirror_whole(exchange *e) noexcept nogil
    # Likewise: that was the last one.
