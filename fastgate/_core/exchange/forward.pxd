"""forward: the exchange's request to an upstream, and the answer's way back."""
from fastgate._core.state cimport call, exchange

cdef void begin_proxy(exchange *e) noexcept nogil
cdef int call_must_render(call *k) noexcept nogil
cdef void pump_request(exchange *e) noexcept nogil
cdef void call_can_write(call *k) noexcept nogil
cdef void call_got_interim(call *k) noexcept nogil
cdef void call_got_head(call *k) noexcept nogil
cdef void answer_from(exchange *e, call *k) noexcept nogil
cdef void call_got_body(call *k) noexcept nogil
cdef void call_has_failed(call *k, int reason) noexcept nogil
cdef void exchange_drained(exchange *e) noexcept nogil
