"""client_cert: client certificates: what a route requires of them, and what its upstream is told."""
from fastgate._core.snapshot.snapshot cimport ROUTE_CERTIFICATE_FORWARD
from fastgate._core.state cimport EX_CERTIFIED, exchange

cdef int judge_certificate(exchange *e) noexcept nogil
    # for a route with ROUTE_CERTIFICATES: 0, or the Reason

cdef inline int forwards_certificate(const exchange *e) noexcept nogil:
    return e.flags & EX_CERTIFIED and e.policy.flags & ROUTE_CERTIFICATE_FORWARD

cdef size_t certificate_size(const exchange *e) noexcept nogil
cdef char *put_certificate(char *p, const exchange *e) noexcept nogil
