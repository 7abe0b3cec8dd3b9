"""cors: cross-origin requests: what is said to browsers."""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.http1 cimport span
from fastgate._core.state cimport exchange

cdef int is_preflight(exchange *e) noexcept nogil
cdef span asked_method(exchange *e, uint8_t *method_id) noexcept nogil
cdef char *put_cors(char *p, exchange *e) noexcept nogil         # for an answer, not a preflight
cdef char *put_preflight(char *p, exchange *e) noexcept nogil
