"""handling: the C half of Python handlers, between an exchange and its upcall.

The body is collected, up to the route's cap; then the exchange is suspended and queued for
`upcall`, which runs the handler. The handler's operations on its exchange are implemented here.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.platform.buffer cimport (
    COLLECT_MOST, buf, buf_borrow, buf_data, buf_head, buf_len, buf_return, buf_room)
from fastgate._core.exchange.charging cimport charge_due
from fastgate._core.exchange.ending cimport exchange_refuse, finish, uncount_handler, wake
from fastgate._core.exchange.forward cimport answer_from, send_continue, take_request
from fastgate._core.exchange.intake cimport mark
from fastgate._core.shared.log_ring cimport LOG_UPCALL, PHASE_FILTER_REQUEST, PHASE_RELAY
from fastgate._core.io.transport cimport conn_drained
from fastgate._core.reason cimport BODY_TOO_LARGE, OVERLOADED, UPSTREAM_TIMEOUT
from fastgate._core.exchange.render cimport start_own
from fastgate._core.exchange.snapshot_ref cimport unpin
from fastgate._core.state cimport (
    BODY_MORE, CALL_PYTHON, EX_ABORTED, EX_AWAIT_BODY, EX_COUNTED_STREAM, EX_COUNTED_UPCALL,
    EX_ENDED, EX_HEAD_ONLY, EX_KEEP_ALIVE, EX_REFUSED, EX_RESPONSE_DONE, EX_RESPONSE_STARTED,
    EX_SUSPENDED, WAKE_LATE, answer, core, downstream)
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.platform.text cimport fg_clear


cdef void begin_upcall(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    if c.n_upcalls >= e.snap.max_upcalls:
        c.counters.upcalls_rejected += 1
        exchange_refuse(e, OVERLOADED)
        return
    c.n_upcalls += 1
    e.flags |= EX_COUNTED_UPCALL
    e.log_flags |= LOG_UPCALL
    if e.body_state == BODY_MORE:
        e.flags |= EX_AWAIT_BODY
        send_continue(e)
        collect_body(e)
    else:
        queue_upcall(e)


cdef void queue_upcall(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    c.counters.upcalls += 1
    e.flags = (e.flags | EX_SUSPENDED) & ~EX_AWAIT_BODY
    if e.policy.timeout_ms and e.service is NULL:    # x402 applies its service's deadlines itself
        e.answer_by = c.loop.now + <uint64_t>e.policy.timeout_ms * 1000000
        e.down.codec.deadline(e)
    mark(e, PHASE_FILTER_REQUEST, monotonic_ns())
    e.next = NULL
    if c.upcall_tail is NULL:
        c.upcall_head = e
    else:
        c.upcall_tail.next = e
    c.upcall_tail = e


cdef void upcall_late(exchange *e) noexcept nogil:
    """The handler is out of time: answer the client, and cancel the handler."""
    exchange_refuse(e, UPSTREAM_TIMEOUT)
    wake(e, WAKE_LATE)


cdef void collect_body(exchange *e) noexcept nogil:
    """A handler gets the whole body: collect it, up to the route's cap."""
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef buf *b
    cdef buf *larger
    cdef size_t need
    while e.body_state == BODY_MORE:
        b = take_request(e, 0)
        if d.ex is not e or e.flags & (EX_ENDED | EX_REFUSED):
            return
        if b is NULL:
            if e.body_state == BODY_MORE and not e.down.codec.waits(e):
                e.down.codec.read(e, 1)
                return
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
            return
        if buf_room(e.body) < buf_len(b):
            larger = buf_borrow(&c.loop.bufs, need * 2 if need < COLLECT_MOST // 2 else COLLECT_MOST)
            if larger is NULL:
                buf_return(&c.loop.bufs, b)
                exchange_refuse(e, OVERLOADED)
                return
            memcpy(buf_head(larger), buf_head(e.body), buf_len(e.body))
            larger.end = larger.start + buf_len(e.body)
            buf_return(&c.loop.bufs, e.body)
            e.body = larger
        memcpy(buf_data(e.body) + e.body.end, buf_head(b), buf_len(b))
        e.body.end += buf_len(b)
        buf_return(&c.loop.bufs, b)
    e.down.codec.read(e, 0)
    queue_upcall(e)


cdef int exchange_stream(exchange *e) noexcept nogil:
    """The answer becomes a stream: one more stream, one upcall less. 0; -1: there are too many."""
    cdef core *c = e.owner
    if c.n_streams >= e.snap.max_streams:
        c.counters.streams_rejected += 1
        return -1
    uncount_handler(e)
    e.flags |= EX_COUNTED_STREAM
    c.n_streams += 1
    c.counters.streams += 1
    return 0


cdef int exchange_start(exchange *e, uint32_t status, const char *fields, uint32_t fields_len,
                        int64_t length) noexcept nogil:
    """The head of a handler's answer. length < 0: not known. 0; -1: no memory."""
    cdef answer a
    if status == 204 or status == 304:
        e.flags |= EX_HEAD_ONLY
    e.status = <uint16_t>status
    mark(e, PHASE_RELAY, monotonic_ns())
    fg_clear(&a, sizeof(a))
    a.status = e.status
    a.length = length
    a.lines = fields
    a.lines_len = fields_len
    if start_own(e, &a) < 0:
        return -1
    e.flags |= EX_RESPONSE_STARTED
    if e.answer_by:
        e.down.codec.deadline(e)         # it has begun in time
    if e.hold is not NULL and status < 500:
        charge_due(e)
    return 0


cdef int exchange_write(exchange *e, const char *data, uint32_t length) noexcept nogil:
    """Body bytes of a handler's answer; written at once, as far as the kernel takes them.
    1: the queue is empty; 0: it is not; -1: the client is gone."""
    cdef buf *b
    if e.flags & EX_ABORTED:
        return -1
    if length and not e.flags & EX_HEAD_ONLY:
        b = buf_borrow(&e.owner.loop.bufs, length)
        if b is NULL:
            return -1
        memcpy(buf_head(b), data, length)
        b.end = b.start + length
        if e.down.codec.data(e, b) < 0:
            return -1
    return e.down.codec.flush(e)


cdef void exchange_complete(exchange *e) noexcept nogil:
    """The handler's answer is whole."""
    if e.flags & (EX_ABORTED | EX_RESPONSE_DONE):
        return
    e.flags |= EX_RESPONSE_DONE
    if e.down.codec.end(e) < 0 or e.down.codec.flush(e) < 0:
        e.flags |= EX_ABORTED


cdef void exchange_relay(exchange *e, call *k) noexcept nogil:
    """Relay the answer of a handler's call to the client, in C from now on."""
    k.flags &= ~CALL_PYTHON
    e.relaying = k
    e.upstream_ns += k.first_byte_ns - k.sent_ns
    answer_from(e, k)


cdef void exchange_release(exchange *e) noexcept nogil:
    """Python has finished with the exchange. An answer that is still being relayed needs no handler."""
    uncount_handler(e)
    e.flags &= ~EX_SUSPENDED
    if e.flags & EX_ABORTED:
        finish(e)
    elif e.flags & EX_RESPONSE_DONE and conn_drained(&e.down.io):
        finish(e)
    else:
        unpin(e.owner, e)
