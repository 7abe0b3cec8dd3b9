"""collecting: requests on their way to Python: counted, their bodies collected, queued.

    collect_begin ─┬─ the body is here ──────────────────────┬─▶ queue_for_python ─▶ handlers/tasks
                   └─ collect_body, each time more has come ─┘

A handler and a validation get the whole body. It is collected in one buffer, up to the route's cap. From
its first byte on, the exchange counts as one of the upcalls of its worker, so `caps.upcalls` also bounds
how many bodies are collected at the same time.

While it is queued, the exchange is suspended: if its client leaves, it is only marked as aborted, and ended
when its turn comes.
"""
from libc.string cimport memcpy

from fastgate._core.exchange.ending cimport exchange_refuse
from fastgate._core.exchange.taking cimport send_continue, take_request
from fastgate._core.platform.buffer cimport (
    COLLECT_MOST, buf, buf_borrow, buf_data, buf_head, buf_len, buf_return, buf_room)
from fastgate._core.reason cimport BODY_TOO_LARGE, OVERLOADED
from fastgate._core.state cimport (
    BODY_MORE, EX_AWAIT_BODY, EX_COUNTED_UPCALL, EX_ENDED, EX_KEEP_ALIVE, EX_REFUSED, EX_SUSPENDED, core, downstream)


cdef int collect_begin(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    if c.n_upcalls >= e.snap.max_upcalls:
        c.counters.upcalls_rejected += 1
        exchange_refuse(e, OVERLOADED)
        return 0
    c.n_upcalls += 1
    e.flags |= EX_COUNTED_UPCALL
    if e.body_state != BODY_MORE:
        return 1
    e.flags |= EX_AWAIT_BODY
    send_continue(e)
    return collect_body(e)


cdef int collect_body(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef buf *b
    cdef buf *larger
    cdef size_t need
    while e.body_state == BODY_MORE:
        b = take_request(e, 0)
        if d.ex is not e or e.flags & (EX_ENDED | EX_REFUSED):
            return 0
        if b is NULL:
            if e.body_state == BODY_MORE and not e.down.codec.waits(e):
                e.down.codec.read(e, 1)
                return 0
            continue
        if e.body is NULL:
            e.body = b
            continue
        need = <size_t>buf_len(e.body) + buf_len(b)
        if need > COLLECT_MOST:
            # The compiler rejects a larger cap; this is a second check.
            buf_return(&c.loop.bufs, b)
            e.flags &= ~EX_KEEP_ALIVE
            exchange_refuse(e, BODY_TOO_LARGE)
            return 0
        if buf_room(e.body) < buf_len(b):
            larger = buf_borrow(&c.loop.bufs, need * 2 if need < COLLECT_MOST // 2 else COLLECT_MOST)
            if larger is NULL:
                buf_return(&c.loop.bufs, b)
                exchange_refuse(e, OVERLOADED)
                return 0
            memcpy(buf_head(larger), buf_head(e.body), buf_len(e.body))
            larger.end = larger.start + buf_len(e.body)
            buf_return(&c.loop.bufs, e.body)
            e.body = larger
        memcpy(buf_data(e.body) + e.body.end, buf_head(b), buf_len(b))
        e.body.end += buf_len(b)
        buf_return(&c.loop.bufs, b)
    e.down.codec.read(e, 0)
    e.flags &= ~EX_AWAIT_BODY
    return 1


cdef void queue_for_python(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    e.flags |= EX_SUSPENDED
    e.next = NULL
    if c.upcall_tail is NULL:
        c.upcall_head = e
    else:
        c.upcall_tail.next = e
    c.upcall_tail = e


cdef void drop_body(exchange *e) noexcept nogil:
    e.inline_len = 0
    buf_return(&e.owner.loop.bufs, e.body)
    e.body = NULL
