"""deadlines: what a client's connection waits for, and until when: a table, and the function that reads it.

A client has a deadline for its body only while the body is read, not while its upstream takes nothing.
The minimum rate of senders uses the same clock (`body_slow`); the rate of readers is measured by what
they take while output is stuck (delivery). "Reset" means that what the kernel still holds is discarded,
and the client cannot mistake what it has for the whole answer.
"""
from fastgate._core.io.deadline_table cimport deadline_row, deadline_table, row_for, table_of
from fastgate._core.io.transport cimport conn_blocked, conn_reading
from fastgate._core.snapshot.snapshot cimport snapshot_header
from fastgate._core.state cimport (
    DOWN_BUSY, DOWN_HEAD, DOWN_IDLE, DOWN_LINGER, DOWN_TUNNEL, EX_RESPONSE_STARTED, core_of)

cdef enum:
    LINGER_NS = 2000000000

cdef enum Situation:
    ANY = 0
    NEW = 1                   # no request has come yet
    UNREAD = 2                # part of an answer is unread: reading is watched
    STUCK = 4                 # a write fell short
    READING = 8               # a body is waited for
    HANDLED = 16              # a handler has not answered, and has a deadline

cdef enum Deadline:
    HEAD_FROM_NOW = 1
    HEAD_FROM_FIRST_BYTE = 2
    LOOK = 3
    IDLE = 4
    BODY = 5
    ANSWER = 6
    LINGER = 7

cdef deadline_table TABLE
ROWS = table_of([
    (DOWN_IDLE, NEW, HEAD_FROM_NOW, PASSES_CLOSE,
     "IDLE", "no request came yet", "timeouts.head", "the connection", "", "close"),
    (DOWN_IDLE, UNREAD, LOOK, PASSES_UNREAD,
     "IDLE", "part of an answer is unread", "timeouts.write", "timeouts.idle having passed", "each byte it takes",
     "reset"),
    (DOWN_IDLE, ANY, IDLE, PASSES_UNREAD,
     "IDLE", "", "timeouts.idle", "the last answer", "", "close"),
    (DOWN_HEAD, ANY, HEAD_FROM_FIRST_BYTE, PASSES_NO_HEAD,
     "HEAD", "", "timeouts.head", "its first byte", "", "408"),
    (DOWN_BUSY, STUCK, LOOK, PASSES_UNREAD,
     "BUSY", "output is stuck", "timeouts.write", "output being stuck", "each byte it takes", "reset"),
    (DOWN_BUSY, READING, BODY, PASSES_LATE,
     "BUSY", "a body is waited for", "timeouts.body", "reading", "each piece", "408"),
    (DOWN_BUSY, HANDLED, ANSWER, PASSES_LATE,
     "BUSY", "a handler has not answered", "its route's timeout", "the body's last byte", "", "504"),
    (DOWN_TUNNEL, STUCK, LOOK, PASSES_UNREAD,
     "TUNNEL", "output is stuck", "timeouts.write", "output being stuck", "each byte it takes", "reset"),
    (DOWN_LINGER, ANY, LINGER, PASSES_CLOSE,
     "LINGER", "", "2 s", "the answer's end", "", "close"),
], &TABLE)
"""Rows as texts. The first row of a state that applies is used. A state without one waits forever."""


cdef inline const deadline_row *row_of(const downstream *d) noexcept nogil:
    cdef int situation = (
        (d.requests == 0) * NEW | (d.out.look_ns != 0) * UNREAD | (conn_blocked(&d.io) != 0) * STUCK
        | (conn_reading(&d.io) != 0) * READING)
    if d.ex is not NULL and d.ex.answer_by and not d.ex.flags & EX_RESPONSE_STARTED:
        situation |= HANDLED
    return row_for(&TABLE, d.state, situation)


cdef uint64_t down_until(const downstream *d) noexcept nogil:
    cdef const deadline_row *r = row_of(d)
    cdef const snapshot_header *s = core_of(&d.io).ref.snap
    cdef uint64_t now = d.io.loop.now
    if r.deadline == IDLE:
        return now + <uint64_t>s.idle_ms * 1000000
    if r.deadline == HEAD_FROM_NOW:
        return now + <uint64_t>s.head_ms * 1000000
    if r.deadline == HEAD_FROM_FIRST_BYTE:
        return d.head_started + <uint64_t>s.head_ms * 1000000
    if r.deadline == LOOK:
        return d.out.look_ns
    if r.deadline == BODY:
        return now + <uint64_t>s.body_ms * 1000000
    if r.deadline == ANSWER:
        return d.ex.answer_by
    return now + LINGER_NS if r.deadline == LINGER else 0


cdef int down_passes(const downstream *d) noexcept nogil:
    return row_of(d).passes
