"""exchange: the phase machine of one request with its response."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.buffer cimport buf
from fastgate._core.state cimport call, core, exchange, snapref

# sinks
cdef void exchange_head(exchange *e) noexcept nogil
cdef void exchange_head_bad(exchange *e, int reason) noexcept nogil
cdef void exchange_body(exchange *e) noexcept nogil
cdef void exchange_drained(exchange *e) noexcept nogil
cdef void exchange_gone(exchange *e) noexcept nogil
cdef void call_got_head(call *k) noexcept nogil
cdef void call_got_interim(call *k) noexcept nogil
cdef void call_got_body(call *k) noexcept nogil
cdef void call_has_failed(call *k, int reason) noexcept nogil
cdef void call_can_write(call *k) noexcept nogil
cdef int call_must_render(call *k) noexcept nogil

# for upcall: what a Python handler does to its exchange
cdef void exchange_refuse(exchange *e, int reason) noexcept nogil
cdef void exchange_abort(exchange *e, int reason) noexcept nogil
cdef int exchange_start(exchange *e, uint32_t status, const char *fields, uint32_t fields_len,
                        int64_t length) noexcept nogil
cdef int exchange_write(exchange *e, const char *data, uint32_t length) noexcept nogil
cdef void exchange_complete(exchange *e) noexcept nogil
cdef void exchange_relay(exchange *e, call *k) noexcept nogil
cdef void exchange_release(exchange *e) noexcept nogil
cdef void snapref_release(core *c, snapref *r) noexcept nogil
