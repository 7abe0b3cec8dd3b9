"""call: calls to upstreams: connect or reuse, send, read the answer; retry, time out, give up."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.platform.buffer cimport buf

from fastgate._core.state cimport call, core, upstream
from fastgate._core.io.connection cimport conn

cdef int call_start(core *c, call *k) noexcept nogil
    # k has snap, service or group set. 0: on its way; else the Reason why not (no sink is called)
cdef void call_queue(core *c, call *k, buf *b) noexcept nogil     # request body bytes
cdef int call_flush(core *c, call *k) noexcept nogil              # like conn_flush
cdef void call_bad(core *c, call *k) noexcept nogil               # what came is not a valid body: fails, through the sink
cdef inline buf *call_take(core *c, call *k, int verbatim) noexcept nogil:
    """The body bytes that are here, as a buffer that the caller owns; NULL: none yet.

    verbatim 1: with the framing it came in (canonical); 0: the data alone. Sets CALL_RESPONSE_DONE,
    or CALL_FAILED with its reason through the sink.
    """
    cdef buf *b
    cdef int bad = 0
    if k.up is NULL or k.up.io.inb is NULL:
        return NULL
    b = k.up.codec.take(k, verbatim, &bad)
    if bad:
        call_bad(c, k)
    return b
cdef void call_read(core *c, call *k, int on) noexcept nogil      # back-pressure
cdef void call_end(core *c, call *k) noexcept nogil               # release the connection: pool or close it
cdef void call_abort(core *c, call *k) noexcept nogil             # close the connection in any state
cdef void up_connected(conn *x, int error) noexcept nogil
cdef void up_data(conn *x, ssize_t n) noexcept nogil
cdef void up_drained(conn *x) noexcept nogil
cdef void up_progress(conn *x) noexcept nogil
cdef void up_timeout(upstream *u) noexcept nogil
