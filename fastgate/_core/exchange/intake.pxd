"""intake: what every exchange needs from a request's head."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.state cimport exchange

cdef void begin(exchange *e) noexcept nogil
cdef void read_ids(exchange *e) noexcept nogil
cdef void client_address(exchange *e) noexcept nogil
cdef int canonical_path(exchange *e) noexcept nogil
cdef int seen_via(exchange *e) noexcept nogil

cdef inline void mark(exchange *e, int phase, uint64_t now) noexcept nogil:
    e.phase = <uint8_t>phase
    e.phase_us[phase] = <uint32_t>((now - e.started_ns) // 1000) if now > e.started_ns else 0
