"""downstream: clients' connections: accept, read heads, keep alive, write, close."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.buffer cimport buf
from fastgate._core.state cimport call, conn, core, downstream, exchange

cdef void down_accepted(core *c, conn *listener) noexcept nogil
cdef void down_data(downstream *d, ssize_t n) noexcept nogil
cdef void down_drained(downstream *d) noexcept nogil
cdef void down_progress(downstream *d) noexcept nogil
cdef void down_hup(downstream *d) noexcept nogil
cdef void down_timeout(downstream *d) noexcept nogil
cdef void down_deadline(core *c, downstream *d) noexcept nogil
    # set the deadline of the state it is in; call when that, or what is waited for, has changed

cdef void down_send(downstream *d, buf *b) noexcept nogil         # queue; down_flush writes
cdef int down_flush(downstream *d) noexcept nogil                 # like poller_flush
cdef buf *down_body(downstream *d, exchange *e) noexcept nogil
    # request bytes after the head that wait to be used (not taken over), or NULL
cdef void down_read(downstream *d, int on) noexcept nogil
cdef void down_next(downstream *d, exchange *e) noexcept nogil    # the exchange is over; keep the connection
cdef void down_close(downstream *d) noexcept nogil                # at once
cdef void down_linger(downstream *d) noexcept nogil               # half-close, read off, then close
cdef void resume_accept(core *c) noexcept nogil
cdef void pause_accept(core *c) noexcept nogil
cdef exchange *exchange_new(core *c) noexcept nogil
cdef void exchange_free(core *c, exchange *e) noexcept nogil
cdef void call_free(core *c, call *k) noexcept nogil
cdef int down_spare(core *c) noexcept nogil
    # closes a connection that waits for its next request, for the sake of its descriptor; 0: there is none
cdef int down_speaks(downstream *d) noexcept nogil
