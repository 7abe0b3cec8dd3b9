"""https_only: requests without TLS at listeners that are for HTTPS."""
from fastgate._core.snapshot.router cimport route_keys
from fastgate._core.state cimport exchange

cdef int clear_at_https(exchange *e, const route_keys *ahead) noexcept nogil

cdef inline int https_only(exchange *e, const route_keys *ahead) noexcept nogil:
    """0 if the request may be served, else the Reason, or -1 when the exchange has been answered."""
    return 0 if e.snap.listeners.count == 0 or e.down.secure else clear_at_https(e, ahead)
