"""handshakes: clients' TLS handshakes in progress, the oldest first (see handshakes.pyx)."""
from fastgate._core.state cimport core, downstream

cdef void handshake_enter(core *c, downstream *d) noexcept nogil     # sets its state
cdef void handshake_leave(core *c, downstream *d) noexcept nogil     # it is done, or has failed
cdef int handshakes_full(core *c) noexcept nogil                     # whether one more is too many (caps.handshakes)
