"""exchange: the phases of one request with its response, in order."""
from fastgate._core.state cimport exchange

cdef void exchange_line(exchange *e) noexcept nogil
cdef void exchange_head(exchange *e) noexcept nogil
cdef void exchange_head_bad(exchange *e, int reason) noexcept nogil
cdef void exchange_go_on(exchange *e, int reason) noexcept nogil
cdef void exchange_late(exchange *e) noexcept nogil
cdef void exchange_body(exchange *e) noexcept nogil
