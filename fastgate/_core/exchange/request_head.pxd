"""request_head: requests to upstreams: target, Host and fields, for the codec to write."""
from libc.stdint cimport int64_t, uint64_t

from fastgate._core.snapshot.snapshot cimport str_ref
from fastgate._core.state cimport call, exchange

cdef int send_request(exchange *e, call *k) noexcept nogil
    # queue the head for k.target, and the body if it came whole. 0; -1: no memory
cdef int send_made(call *k) noexcept nogil
    # the same for a request that a handler made
cdef char *put_target(char *p, exchange *e, str_ref base) noexcept nogil
    # Path and query after the route's rewrite, following a target's base path; at most
    # target_size bytes plus those of the base
cdef size_t target_size(exchange *e) noexcept nogil
cdef char *put_forwarded(char *p, exchange *e) noexcept nogil
    # X-Forwarded-For, -Proto and -Host
cdef char *put_trace(char *p, exchange *e) noexcept nogil
    # traceparent
cdef uint64_t unbelieved(const exchange *e) noexcept nogil
    # Fields of the request, by FieldName, that are never shown to anything behind the gateway
cdef size_t passing_size(exchange *e) noexcept nogil
cdef char *put_passing(char *p, exchange *e) noexcept nogil
    # The fields of a request to an upstream, except Host and framing; at most passing_size bytes
cdef int64_t hops_left(exchange *e) noexcept nogil
    # Max-Forwards of an OPTIONS or TRACE; -1: none; -2: not a number
