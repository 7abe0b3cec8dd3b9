"""handling: the C half of Python handlers, between an exchange and its upcall.

The body is collected (collecting.pyx), then the exchange is queued for `upcall`, which runs the
handler. The handler's operations on its exchange are implemented here.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_head
from fastgate._core.exchange.charging cimport charge_due
from fastgate._core.exchange.collecting cimport collect_begin, queue_for_python
from fastgate._core.exchange.ending cimport exchange_refuse, finish, uncount_handler, wake
from fastgate._core.exchange.forward cimport answer_from
from fastgate._core.exchange.intake cimport mark
from fastgate._core.shared.log_ring cimport LOG_UPCALL, PHASE_FILTER_REQUEST, PHASE_RELAY
from fastgate._core.io.transport cimport conn_drained
from fastgate._core.exchange.render cimport start_own
from fastgate._core.exchange.snapshot_ref cimport unpin
from fastgate._core.state cimport (
    CALL_PYTHON, EX_ABORTED, EX_COUNTED_STREAM, EX_HEAD_ONLY, EX_RESPONSE_DONE, EX_RESPONSE_STARTED,
    EX_SUSPENDED, WAKE_LATE, answer, core)
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.platform.text cimport fg_clear


cdef void begin_upcall(exchange *e) noexcept nogil:
    e.log_flags |= LOG_UPCALL
    if collect_begin(e):
        queue_upcall(e)


cdef void queue_upcall(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    c.counters.upcalls += 1
    if e.policy.timeout_ms and e.service is NULL:    # x402 applies its service's deadlines itself
        e.answer_by = c.loop.now + <uint64_t>e.policy.timeout_ms * 1000000
        e.down.codec.deadline(e)
    mark(e, PHASE_FILTER_REQUEST, monotonic_ns())
    queue_for_python(e)


cdef void upcall_late(exchange *e, int reason) noexcept nogil:
    """The handler is out of time: answer the client, and cancel the handler."""
    exchange_refuse(e, reason)
    wake(e, WAKE_LATE)


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
