"""server: client connections: accept, read heads, keep alive, write, close."""
from libc.stdint cimport uint32_t

from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport core, downstream, exchange, server_codec
from fastgate._core.io.connection cimport conn

cdef void down_accepted(conn *listener) noexcept nogil
cdef void down_connected(conn *x, int error) noexcept nogil        # by TLS
cdef void down_data(conn *x, ssize_t n) noexcept nogil
cdef void down_drained(conn *x) noexcept nogil
cdef void down_progress(conn *x) noexcept nogil
cdef void down_hup(conn *x) noexcept nogil
cdef void down_timeout(downstream *d) noexcept nogil
cdef void down_close(downstream *d) noexcept nogil                # at once
cdef void down_drain(downstream *d) noexcept nogil
    # the engine stops: close it if it waits for a further request; give it little time for its first one
cdef void resume_accept(core *c) noexcept nogil
cdef void pause_accept(core *c) noexcept nogil
cdef int down_spare(core *c) noexcept nogil
    # closes a connection that waits for its next request, to free its descriptor; 0: there is none
cdef const server_codec *server_http1() noexcept nogil
