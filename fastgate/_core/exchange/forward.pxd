"""forward: the exchange's request to an upstream, and the answer's way back."""
from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport call, exchange

cdef void begin_proxy(exchange *e) noexcept nogil
cdef int call_must_render(call *k) noexcept nogil
cdef buf *take_request(exchange *e, int verbatim) noexcept nogil
    # the next piece of the body, in a buffer of its own; NULL: none yet
cdef void send_continue(exchange *e) noexcept nogil
cdef void pump_request(exchange *e) noexcept nogil
cdef void call_can_write(call *k) noexcept nogil
cdef void call_got_interim(call *k) noexcept nogil
cdef void call_got_head(call *k) noexcept nogil
cdef void answer_from(exchange *e, call *k) noexcept nogil
cdef void call_got_body(call *k) noexcept nogil
cdef void call_has_failed(call *k, int reason) noexcept nogil
cdef void exchange_drained(exchange *e) noexcept nogil
