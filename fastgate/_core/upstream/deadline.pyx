"""deadline: what an upstream connection waits for, and until when.

`up_deadline` sets them, and `up_timeout` (call.pyx) ends them. Of those of one state, the first that
applies:

    state    while                            deadline       starts with           restarts with           when it passes
    CONNECT                                   connect_ms     the attempt           –                       retry, else 502
    SEND     the request is not all taken     write_ms       output being stuck    each byte it takes      504
    SEND     the client's body is waited for  – (the client's body_ms)
    SEND                                      first_byte_ms  the last byte taken   –                       504
    BODY     the client takes nothing         – (the client's write_ms)
    BODY                                      idle_ms        the head              each piece, either way  broken off
    TUNNEL   the client takes nothing         – (the client's write_ms)
    TUNNEL   (also once one side has ended)   idle_ms        the head              each piece, either way  end
    (idle)                                    keepalive.idle the last answer       –                       close

"Taken" is what the target's kernel has acknowledged. It is asked for (delivery) while output is stuck, and
when first_byte_ms has passed: a target still reading a long request then is given its time from the last byte.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.io.delivery cimport TAKES_NOTHING, delivery_look, delivery_watch
from fastgate._core.io.transport cimport conn_drained, conn_reading, conn_unsent
from fastgate._core.state cimport (
    CALL_CONNECT, CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND, CALL_TUNNEL, call)
from fastgate._core.io.timer cimport timer_set


cdef void up_deadline(core *c, upstream *u) noexcept nogil:
    """As the table says."""
    cdef call *k = u.k
    cdef uint64_t at = 0
    if k.state == CALL_CONNECT:
        at = c.loop.now + <uint64_t>k.group.connect_ms * 1000000
    elif k.state == CALL_SEND:
        if u.out.look_ns:
            at = u.out.look_ns
        elif k.flags & CALL_REQUEST_DONE:
            k.whole_ns = c.loop.now
            at = c.loop.now + <uint64_t>k.first_byte_ms * 1000000
    elif conn_reading(&u.io) or (
            # The upstream has ended, and the client has all: now the client is waited for.
            k.state == CALL_TUNNEL and k.flags & CALL_RESPONSE_DONE and conn_drained(&k.ex.down.io)):
        at = c.loop.now + <uint64_t>k.idle_ms * 1000000
    timer_set(&c.loop, &u.io, at)


cdef int still_reads(core *c, upstream *u) noexcept nogil:
    """Whether the target is not through with the request yet, or got through just now: more time for it."""
    cdef uint32_t ms = u.k.group.write_ms
    if u.out.look_ns == 0:
        if conn_unsent(&u.io) == 0:
            return 0
        delivery_watch(&c.loop, &u.out, ms)
    if delivery_look(&c.loop, &u.io, &u.out, ms) == TAKES_NOTHING:
        return 0
    up_deadline(c, u)
    return 1
