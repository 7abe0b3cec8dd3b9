"""call_error: why a call to an upstream failed, whose fault it was, and whether it may be sent again.

    what happened                                         may be sent again      counts against the target
    no connection could be made, or it refused the        any request            yes
      request's first byte
    the connection broke before any byte of an answer     idempotent requests    yes
    a status of `retries.statuses`                        idempotent requests    as `eject.statuses` sets
    part of an answer, an invalid one, or none in time    none                   yes
    no memory, no descriptor                              none                   no
    no local port                                         any request            no

`call` acts on it, in its one loop.
"""
from fastgate._core.reason cimport OVERLOADED, UPSTREAM_CONNECT_FAILED, UPSTREAM_RESET
from fastgate._core.platform.sys cimport EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC


cdef call_error connect_error(int number) noexcept nogil:
    if number == EMFILE or number == ENFILE or number == ENOBUFS or number == ENOMEM or number == ENOSPC:
        return error_of(OVERLOADED, SIDE_OURS, RETRY_NEVER)
    if number == EADDRNOTAVAIL:
        # Local ports run out for each target separately: another one may still be reached.
        return error_of(UPSTREAM_CONNECT_FAILED, SIDE_OURS, RETRY_ANY)
    return error_of(UPSTREAM_CONNECT_FAILED, SIDE_UPSTREAM, RETRY_ANY)


cdef call_error reset_error(const call *k) noexcept nogil:
    cdef call_error error = error_of(UPSTREAM_RESET, SIDE_UPSTREAM, RETRY_NEVER)
    if k.up.io.inb is NULL and k.interims == 0:
        error.retryable = RETRY_IDEMPOTENT
        error.stale = k.up.reused
    return error
