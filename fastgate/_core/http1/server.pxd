"""server: clients' connections: accept, read heads, keep alive, write, close."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport call, core, downstream, exchange
from fastgate._core.io.connection cimport conn

cdef void down_accepted(conn *listener) noexcept nogil
cdef void down_data(conn *x, ssize_t n) noexcept nogil
cdef void down_drained(conn *x) noexcept nogil
cdef void down_progress(conn *x) noexcept nogil
cdef void down_hup(conn *x) noexcept nogil
cdef void down_timeout(downstream *d) noexcept nogil
cdef void down_deadline(core *c, downstream *d) noexcept nogil
    # set the deadline of the state it is in; call when that, or what is waited for, has changed

cdef void down_send(downstream *d, buf *b) noexcept nogil         # queue; down_flush writes
cdef int down_flush(downstream *d) noexcept nogil                 # like conn_flush
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
