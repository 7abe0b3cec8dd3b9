"""tls: bytes in and out of a connection through libssl."""
from fastgate._core.io.connection cimport conn, event_loop
from fastgate._core.tls.openssl cimport SSL_SESSION
from fastgate._core.tls.tables cimport tls_listener, tls_ring, tls_upstream

# ---- the beginning ------------------------------------------------------------------------
# 0, or -1: no memory, or its context cannot be made. Then its first event, or tls_begin, starts the handshake.
cdef int tls_serve(conn *x, tls_ring *r, tls_listener *l) noexcept nogil
    # what inb has is the beginning of the handshake
cdef int tls_call(conn *x, tls_ring *r, tls_upstream *u, const char *host, SSL_SESSION *session) noexcept nogil
    # host: the target's, zero-terminated. session: to be resumed, taken over; NULL: none
cdef void tls_begin(conn *x) noexcept nogil               # an upstream's connection is there: greet it

# ---- bytes: called by transport ---------------------------------------------------------------
cdef ssize_t tls_recv(conn *x) noexcept nogil
cdef int tls_write(conn *x) noexcept nogil
cdef int tls_finish(conn *x) noexcept nogil               # send close_notify; 0: it did not fit
cdef void tls_close(conn *x) noexcept nogil               # before the descriptor is closed

# ---- facts ----------------------------------------------------------------------------------------
cdef void tls_rest(conn *x) noexcept nogil                # free libssl's buffers: it will not be used for a while

cdef inline int tls_restless(const conn *x) noexcept nogil:
    """Whether libssl has buffers for it."""
    return x.tls is not NULL and not x.tls.rested

cdef inline int tls_rested(const conn *x) noexcept nogil:
    return x.tls is not NULL and x.tls.rested

cdef int tls_version(const conn *x) noexcept nogil        # 0x0303, 0x0304
cdef int tls_resumed(const conn *x) noexcept nogil
cdef SSL_SESSION *tls_take_session(conn *x) noexcept nogil     # for the next connection; NULL: none came
cdef int tls_fault(const conn *x) noexcept nogil          # of a handshake that failed: TlsFault
cdef const char *tls_why_failed(const conn *x) noexcept nogil  # the same in words; "": not known
cdef void tls_forget_errors() noexcept nogil              # those that other users of libssl left in this thread
cdef void tls_free_scratch(event_loop *l) noexcept nogil
