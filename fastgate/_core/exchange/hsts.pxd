"""hsts: Strict-Transport-Security (RFC 6797), which browsers take as: use nothing but HTTPS for this host.

A listener that has it sends it with every answer over TLS, in place of what the upstream or the handler says
about it. If the route has a header rule for this field, the rule alone decides.
"""
from libc.stdint cimport uint64_t

from fastgate._core.exchange.listeners cimport listener_of
from fastgate._core.http.head cimport F_STRICT_TRANSPORT_SECURITY
from fastgate._core.snapshot.snapshot cimport listener_rec, str_ref
from fastgate._core.state cimport exchange

cdef str_ref hsts_line(exchange *e) noexcept nogil

cdef inline str_ref hsts_of(exchange *e) noexcept nogil:
    """The line that this exchange's answer gets; len 0: none."""
    cdef str_ref none
    if e.down.secure and e.snap.listeners.count != 0:
        return hsts_line(e)
    none.off = none.len = 0
    return none

cdef inline uint64_t hsts_drop(exchange *e) noexcept nogil:
    """The fields, by FieldName, that the line replaces."""
    return 1ull << F_STRICT_TRANSPORT_SECURITY if e.down.secure and hsts_of(e).len else 0
