"""request_head: the heads of requests to upstreams."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport call, exchange

cdef buf *render_request(exchange *e, call *k, uint32_t extra) noexcept nogil
    # the head for k.target, with room for `extra` more bytes
cdef uint64_t unbelieved(const exchange *e) noexcept nogil
    # fields of the request, by FieldName, that nobody behind the gateway is shown
cdef size_t passing_size(exchange *e) noexcept nogil
cdef char *put_passing(char *p, exchange *e) noexcept nogil
    # the fields of a request to an upstream, but Host and framing; at most passing_size bytes
cdef int64_t hops_left(exchange *e) noexcept nogil
    # Max-Forwards of an OPTIONS or TRACE; -1: none; -2: not a number
