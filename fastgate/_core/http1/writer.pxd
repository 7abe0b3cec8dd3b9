"""writer: HTTP/1.1 messages on their way out: see writer.pyx."""
from fastgate._core.io.transport cimport conn_resets
from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport answer, call, exchange, outgoing

cdef enum Out:                # exchange.out
    OUT_NOTHING = 0
    OUT_CHUNKED = 1
    OUT_CLOSE = 2

cdef inline void write_sent(exchange *e) noexcept nogil:
    """The whole answer is in the kernel."""
    if e.out == OUT_CLOSE:
        conn_resets(&e.down.io, 0)       # complete: it ends normally

cdef void write_interim(exchange *e, const answer *a) noexcept nogil
cdef int write_start(exchange *e, const answer *a) noexcept nogil
cdef int write_data(exchange *e, buf *b) noexcept nogil
cdef int write_end(exchange *e) noexcept nogil
cdef int write_verbatim(const exchange *e, const call *k) noexcept nogil
cdef int write_request(call *k, const outgoing *o) noexcept nogil
