"""ending: how an exchange ends."""
from libc.stdint cimport uint32_t

from fastgate._core.state cimport call, exchange

cdef void send_last(exchange *e, int started) noexcept nogil
cdef void exchange_refuse(exchange *e, int reason) noexcept nogil
cdef void end_tunnel(exchange *e, int reason) noexcept nogil
cdef void wake(exchange *e, uint32_t bit) noexcept nogil
cdef void wake_forget(exchange *e) noexcept nogil
cdef void drop_calls(exchange *e) noexcept nogil
cdef void exchange_abort(exchange *e, int reason) noexcept nogil
cdef void exchange_gone(exchange *e) noexcept nogil
cdef void exchange_unread(exchange *e) noexcept nogil
cdef int call_handed_over(const call *k) noexcept nogil
cdef void exchange_cut(exchange *e) noexcept nogil
cdef void uncount_handler(exchange *e) noexcept nogil
    # its handler has finished or never ran: neither an upcall nor a stream any longer
cdef void finish(exchange *e) noexcept nogil
    # settle, log, and continue or close the connection
