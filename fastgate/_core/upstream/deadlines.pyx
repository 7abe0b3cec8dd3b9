"""deadlines: what an upstream connection waits for, and until when: a table, and the function that reads it.

"Taken" means acknowledged by the target's kernel. This is checked (delivery) while output is stuck, and
when first_byte has passed: a target that is still reading a long request gets its time from the last byte.
While the client takes nothing of its answer, or has not sent the rest of its body, the client has a
deadline, and the target has none.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.io.deadline_table cimport deadline_row, deadline_table, row_for, table_of
from fastgate._core.io.delivery cimport TAKES_NOTHING, delivery_look, delivery_watch
from fastgate._core.io.timer cimport timer_set
from fastgate._core.io.tls cimport tls_rested, tls_restless
from fastgate._core.io.transport cimport conn_drained, conn_reading, conn_unsent
from fastgate._core.state cimport (
    CALL_BODY, CALL_CONNECT, CALL_NONE, CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND, CALL_TUNNEL, call)

cdef enum Situation:
    ANY = 0
    STUCK = 1                 # the request is not all taken: its delivery is watched
    SENT = 2                  # the request is complete
    READING = 4               # the client takes what comes
    RESTLESS = 16             # its TLS has buffers
    LAST = 8                  # of a tunnel: the target has ended, and the client has everything

cdef enum Deadline:
    CONNECT = 1
    LOOK = 2
    FIRST_BYTE = 3
    IDLE = 4
    KEEPALIVE = 5
    REST = 6

cdef enum:
    REST_NS = 1000000000

cdef deadline_table TABLE
ROWS = table_of([
    (CALL_CONNECT, ANY, CONNECT, PASSES_CONNECT,
     "CONNECT", "", "connect, which includes the TLS handshake", "the attempt", "", "retry, else 502"),
    (CALL_SEND, STUCK, LOOK, PASSES_SENT,
     "SEND", "the request is not all taken", "write", "output being stuck", "each byte it takes", "504"),
    (CALL_SEND, SENT, FIRST_BYTE, PASSES_SENT,
     "SEND", "", "first_byte", "the last byte taken", "", "504"),
    (CALL_BODY, READING, IDLE, PASSES_BROKEN,
     "BODY", "", "idle", "the head", "each piece, either way", "broken off"),
    (CALL_TUNNEL, READING, IDLE, PASSES_END,
     "TUNNEL", "", "idle", "the head", "each piece, either way", "end"),
    (CALL_TUNNEL, LAST, IDLE, PASSES_END,
     "TUNNEL", "the target has ended", "idle", "its end", "each piece", "end"),
    (CALL_NONE, RESTLESS, REST, PASSES_REST,
     "POOLED", "TLS has buffers", "1 s", "the last answer", "", "free them"),
    (CALL_NONE, ANY, KEEPALIVE, PASSES_CLOSE,
     "POOLED", "", "keepalive.idle", "the last answer", "", "close"),
], &TABLE)
"""Rows as texts. The first row of a state that applies is used. A state without one waits forever."""


cdef inline const deadline_row *row_of(const upstream *u) noexcept nogil:
    cdef const call *k = u.k
    cdef int situation
    if k is NULL:
        return row_for(
            &TABLE, CALL_NONE, RESTLESS if tls_restless(&u.io) and u.keep_ns > <uint64_t>REST_NS else ANY)
    situation = (
        (u.out.look_ns != 0) * STUCK | (k.flags & CALL_REQUEST_DONE != 0) * SENT
        | (conn_reading(&u.io) != 0) * READING)
    if k.state == CALL_TUNNEL and k.flags & CALL_RESPONSE_DONE and conn_drained(&k.ex.down.io):
        situation |= LAST
    return row_for(&TABLE, k.state, situation)


cdef void up_deadline(core *c, upstream *u) noexcept nogil:
    cdef const deadline_row *r = row_of(u)
    cdef call *k = u.k
    cdef uint64_t at = 0
    if r.deadline == KEEPALIVE:
        at = c.loop.now + u.keep_ns
        if tls_rested(&u.io) and u.keep_ns > <uint64_t>REST_NS:
            at -= <uint64_t>REST_NS
    elif r.deadline == FIRST_BYTE:
        k.whole_ns = c.loop.now
        at = c.loop.now + <uint64_t>k.first_byte_ms * 1000000
    elif r.deadline == IDLE:
        at = c.loop.now + <uint64_t>k.idle_ms * 1000000
    elif r.deadline == REST:
        at = c.loop.now + <uint64_t>REST_NS
    elif r.deadline == LOOK:
        at = u.out.look_ns
    elif r.deadline == CONNECT:
        at = c.loop.now + <uint64_t>k.group.connect_ms * 1000000
    timer_set(&c.loop, &u.io, at)


cdef int up_passes(const upstream *u) noexcept nogil:
    return row_of(u).passes


cdef int still_reads(core *c, upstream *u) noexcept nogil:
    cdef uint32_t ms = u.k.group.write_ms
    if u.out.look_ns == 0:
        if conn_unsent(&u.io) == 0:
            return 0
        delivery_watch(&c.loop, &u.out, ms)
    if delivery_look(&c.loop, &u.io, &u.out, ms) == TAKES_NOTHING:
        return 0
    up_deadline(c, u)
    return 1
