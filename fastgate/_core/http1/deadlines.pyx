"""deadlines: what a client's connection waits for, and until when: a table, and the function that reads it.

A client has a deadline for its body only while the body is read, not while its upstream takes nothing.
The minimum rate of senders uses the same clock (`body_slow`); the rate of readers is measured by what
they take while output is stuck (delivery). "Reset" means that what the kernel still holds is discarded,
and the client cannot mistake what it has for the whole answer. A route's `deadline` holds beside every row of BUSY.
"""
from libc.stdint cimport int64_t

from fastgate._core.io.deadline_table cimport deadline_row, deadline_table, row_for, table_of
from fastgate._core.io.delivery cimport SHOWN_NS
from fastgate._core.io.tls cimport tls_rested, tls_restless
from fastgate._core.io.transport cimport conn_blocked, conn_reading
from fastgate._core.platform.buffer cimport buf_len
from fastgate._core.route_deadline cimport is_overdue, route_deadline
from fastgate._core.snapshot.snapshot cimport snapshot_header
from fastgate._core.state cimport (
    DOWN_BUSY, DOWN_HANDSHAKE, DOWN_HEAD, DOWN_IDLE, DOWN_LINGER, DOWN_PROXY, DOWN_TUNNEL, EX_PARKED, EX_RESPONSE_STARTED,
    core_of, exchange)

cdef enum:
    LINGER_NS = 2000000000
    REST_NS = 1000000000

cdef enum Situation:
    ANY = 0
    NEW = 1                   # no request has come yet
    UNREAD = 2                # part of an answer is unread: reading is watched
    STUCK = 4                 # a write fell short
    READING = 8               # a body is waited for
    HANDLED = 16              # a handler has not answered, and has a deadline
    RESTLESS = 32             # its TLS has buffers
    PARKED = 64               # a decision has a deadline
    OVERDUE = 128             # the route's deadline for all of it has passed

cdef enum Deadline:
    HEAD_FROM_NOW = 1
    HEAD_FROM_FIRST_BYTE = 2
    LOOK = 3
    IDLE = 4
    BODY = 5
    ANSWER = 6
    LINGER = 7
    HANDSHAKE = 8
    REST = 9
    ROUTE = 10

cdef deadline_table TABLE
ROWS = table_of([
    (DOWN_PROXY, ANY, HANDSHAKE, PASSES_NO_CLIENT,
     "PROXY", "", "timeouts.handshake", "the connection", "", "close"),
    (DOWN_HANDSHAKE, ANY, HANDSHAKE, PASSES_CLOSE,
     "HANDSHAKE", "", "timeouts.handshake", "the connection, or its PROXY header's end", "", "close"),
    (DOWN_IDLE, NEW, HEAD_FROM_NOW, PASSES_CLOSE,
     "IDLE", "no request came yet", "timeouts.head", "the connection, or the end of what precedes it", "", "close"),
    (DOWN_IDLE, UNREAD, LOOK, PASSES_UNREAD,
     "IDLE", "part of an answer is unread", "timeouts.write", "timeouts.idle having passed", "each byte it takes",
     "reset"),
    (DOWN_IDLE, RESTLESS, REST, PASSES_REST,
     "IDLE", "TLS has buffers", "1 s", "the last answer", "", "free them"),
    (DOWN_IDLE, ANY, IDLE, PASSES_UNREAD,
     "IDLE", "", "timeouts.idle", "the last answer", "", "close"),
    (DOWN_HEAD, ANY, HEAD_FROM_FIRST_BYTE, PASSES_NO_HEAD,
     "HEAD", "", "timeouts.head", "its first byte", "", "408"),
    (DOWN_BUSY, OVERDUE, ROUTE, PASSES_LATE,
     "BUSY", "its route has a deadline", "its route's deadline", "the request's first byte", "",
     "504, or the answer breaks off"),
    (DOWN_BUSY, STUCK, LOOK, PASSES_UNREAD,
     "BUSY", "output is stuck", "timeouts.write", "output being stuck", "each byte it takes", "reset"),
    (DOWN_BUSY, PARKED, ANSWER, PASSES_LATE,
     "BUSY", "a decision is waited for", "that of the decision", "waiting for it", "", "go on, or refuse"),
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


cdef inline int rest_ends(const downstream *d) noexcept nogil:
    """Whether it may be idle for longer than its TLS keeps buffers."""
    return <uint64_t>core_of(&d.io).ref.snap.idle_ms * 1000000 > <uint64_t>REST_NS


cdef inline const deadline_row *row_of(const downstream *d) noexcept nogil:
    cdef int situation = (
        (d.requests == 0) * NEW | (d.out.look_ns != 0) * UNREAD | (conn_blocked(&d.io) != 0) * STUCK
        | (conn_reading(&d.io) != 0) * READING)
    if d.secure and d.state == DOWN_IDLE and tls_restless(&d.io) and rest_ends(d):
        situation |= RESTLESS
    if d.ex is not NULL and d.ex.answer_by and not d.ex.flags & EX_RESPONSE_STARTED:
        situation |= PARKED if d.ex.flags & EX_PARKED else HANDLED
    if d.state == DOWN_BUSY and d.ex is not NULL and is_overdue(d.ex, d.io.loop.now):
        situation |= OVERDUE
    return row_for(&TABLE, d.state, situation)


cdef uint64_t down_until(const downstream *d) noexcept nogil:
    cdef uint64_t at = until_by_row(d)
    cdef uint64_t whole = route_deadline(d.ex) if d.state == DOWN_BUSY and d.ex is not NULL else 0
    return whole if whole and (at == 0 or whole < at) else at


cdef inline uint64_t until_by_row(const downstream *d) noexcept nogil:
    cdef const deadline_row *r = row_of(d)
    cdef const snapshot_header *s = core_of(&d.io).ref.snap
    cdef uint64_t now = d.io.loop.now
    cdef uint64_t at
    if r.deadline == IDLE:
        # The time in which TLS kept its buffers is part of it.
        at = now + <uint64_t>s.idle_ms * 1000000
        return at - <uint64_t>REST_NS if d.secure and tls_rested(&d.io) and rest_ends(d) else at
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
    if r.deadline == REST:
        return now + <uint64_t>REST_NS
    if r.deadline == HANDSHAKE:
        return now + <uint64_t>s.handshake_ms * 1000000
    return now + LINGER_NS if r.deadline == LINGER else 0


cdef int down_passes(const downstream *d) noexcept nogil:
    return row_of(d).passes


cdef int body_slow(core *c, downstream *d) noexcept nogil:
    """Whether the client sends below the minimum rate. Only the time in which we waited for it counts.

    Each byte earns the time that it may take at that rate, so that fast pieces make up for pauses. The
    credit is capped at one pause of the full length between two pieces, or a large body would earn hours
    at a byte a second.
    """
    cdef exchange *e = d.ex
    cdef const snapshot_header *s = c.ref.snap
    cdef uint64_t seen = e.bytes_in, took
    cdef int64_t most
    if e.asked_ns == 0 or d.state != DOWN_BUSY or s.min_rate == 0:
        return 0
    if d.io.inb is not NULL:
        seen += buf_len(d.io.inb)
    took = c.loop.now - e.asked_ns if c.loop.now > e.asked_ns else 0
    e.asked_ns = c.loop.now
    e.asked_for_ns += took
    e.body_credit += <int64_t>((seen - e.body_seen) * 1000000000 // s.min_rate) - <int64_t>took
    e.body_seen = seen
    most = <int64_t>s.body_ms * 1000000
    if most < SHOWN_NS:
        most = SHOWN_NS
    if e.body_credit > most:
        e.body_credit = most
    return e.body_credit < 0 and e.asked_for_ns >= <uint64_t>SHOWN_NS
