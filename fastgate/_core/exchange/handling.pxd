"""handling: the C half of Python handlers."""
from libc.stdint cimport int64_t, uint32_t

from fastgate._core.state cimport call, exchange

cdef void begin_upcall(exchange *e) noexcept nogil
cdef void queue_upcall(exchange *e) noexcept nogil                # the body is collected
cdef void upcall_late(exchange *e, int reason) noexcept nogil
cdef int exchange_stream(exchange *e) noexcept nogil
    # 0: counted as a stream from now on; -1: there are too many
cdef int exchange_start(exchange *e, uint32_t status, const char *fields, uint32_t fields_len,
                        int64_t length) noexcept nogil
    # 0, or -1: no memory
cdef int exchange_write(exchange *e, const char *data, uint32_t length) noexcept nogil
    # 1: the queue is empty; 0: it is not; -1: the client is gone
cdef void exchange_complete(exchange *e) noexcept nogil
cdef void exchange_relay(exchange *e, call *k) noexcept nogil
cdef void exchange_release(exchange *e) noexcept nogil
