"""connection: connections to targets: opened, begun, closed."""
from fastgate._core.state cimport call, core, pool, upstream
from fastgate._core.upstream.call_error cimport call_error

cdef int up_open(core *c, call *k, pool *p, upstream **opened, call_error *error) noexcept nogil
    # A new connection to the call's target. 1: it can be used; 0: up_connected follows; -1: `error` is why not
cdef int up_greet(core *c, call *k, upstream *u, call_error *error) noexcept nogil
    # The TCP connection is there, and its target expects a PROXY header first. Returns as up_open; does not close it
cdef void up_tls_failed(core *c, call *k, int fault, const char *why) noexcept nogil
    # Note what was wrong with a handshake: for the worker's log, and for the access log if no other target is left.
cdef void up_keep_session(core *c, upstream *u) noexcept nogil
    # What its target gave for resuming the TLS session: another connection may use it.
cdef void upstream_close(core *c, upstream *u) noexcept nogil    # at once

cdef inline int up_greets(const call *k, const upstream *u) noexcept nogil:
    """Whether a connection that was just made still has to begin with a PROXY header."""
    return k.group.proxy_protocol != 0 and u.client is NULL
