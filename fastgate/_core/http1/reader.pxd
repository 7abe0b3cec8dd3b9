"""reader: HTTP/1.1 messages on their way in: see reader.pyx."""
from fastgate._core.platform.buffer cimport buf
from libc.stdint cimport uint32_t

from fastgate._core.state cimport call, exchange

cdef inline buf *read_waiting(const exchange *e) noexcept nogil:
    """Request bytes after the head that wait to be used (not taken over), or NULL."""
    if e.headbuf is not NULL and e.headbuf.start != e.headbuf.end:
        return e.headbuf
    if e.down.io.inb is not NULL and e.down.io.inb.start != e.down.io.inb.end:
        return e.down.io.inb
    return NULL

cdef int read_expect_body(exchange *e) noexcept nogil
cdef uint32_t read_plain(const exchange *e, call *k, char *p, uint32_t n) noexcept nogil
cdef buf *read_take(exchange *e, int verbatim, int *refused) noexcept nogil
cdef int read_skip(exchange *e) noexcept nogil

cdef int answer_head(call *k) noexcept nogil
cdef void answer_expect_body(call *k) noexcept nogil
cdef buf *answer_take(call *k, int verbatim, int *bad) noexcept nogil
cdef void answer_skip(call *k) noexcept nogil
cdef int answer_ends_with_connection(const call *k) noexcept nogil
