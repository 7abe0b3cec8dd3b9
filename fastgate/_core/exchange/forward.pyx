"""forward: the exchange's request to an upstream, and the way back of the answer.

The two directions are independent. Request bytes go

    downstream.inb ─ pump_request ─► upstream's queue     stops while the queue is not empty

and response bytes

    upstream.inb ─ pump_response ─► downstream's queue    stops while the queue is not empty

To stop means not to read; the queue's `drained` sink resumes reading. So each direction holds at
most one buffer, and the slower side sets the pace. After a 101 it is a tunnel (tunnel.pyx).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_head, buf_len, buf_return
from fastgate._core.shared.cells cimport address_hash, hash_bytes
from fastgate._core.exchange.charging cimport charge_due
from fastgate._core.exchange.collecting cimport drop_body
from fastgate._core.exchange.ending cimport (
    drop_calls, end_tunnel, exchange_abort, exchange_gone, exchange_refuse, finish, wake)
from fastgate._core.http.head cimport (
    METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_TRACE, field, head,
    named)
from fastgate._core.exchange.intake cimport mark
from fastgate._core.shared.log_ring cimport (
    LOG_UPSTREAM_REUSED, PHASE_FILTER_RESPONSE, PHASE_FORWARD)
from fastgate._core.reason cimport NO_ROUTE, OVERLOADED, TUNNEL_CLOSED, UPSTREAM_CONNECT_FAILED, UPSTREAM_TLS_FAILED
from fastgate._core.exchange.mirror cimport mirror_begin, mirror_piece, mirror_whole
from fastgate._core.exchange.render cimport send_interim, start_response
from fastgate._core.exchange.request_head cimport send_made, send_request
from fastgate._core.exchange.snapshot_ref cimport unpin
from fastgate._core.exchange.sticky cimport sticky_find
from fastgate._core.exchange.taking cimport send_continue, take_request
from fastgate._core.snapshot.snapshot cimport (
    HASH_BY_CONSUMER, HASH_BY_HEADER, HASH_BY_PATH, ROUTE_MIRROR, snap_str, snap_upstream)
from fastgate._core.state cimport (
    BODY_MORE, BODY_NONE, CALL_CONNECT, CALL_FAILED, CALL_IDEMPOTENT, CALL_PYTHON, CALL_REPLAYABLE,
    CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND, CALL_SUB, CALL_UPGRADE, CALL_WAIT, EX_CONTINUE_DUE, EX_HEAD_ONLY,
    EX_RESPONSE_DONE, EX_RESPONSE_STARTED, EX_SUSPENDED, EX_TUNNEL, EX_VERBATIM,
    WAKE_CALL, WAKE_DONE, WAKE_WRITABLE, core, downstream)
from fastgate._core.exchange.subrequest cimport sub_failed, sub_got_body, sub_got_head
from fastgate._core.exchange.tunnel cimport begin_tunnel, tunnel_down, tunnel_down_drained, tunnel_up_drained
from fastgate._core.upstream.call cimport (
    call_abort, call_end, call_flush, call_queue, call_read, call_start, call_take)


cdef enum:
    INLINE_BODY = 4096        # response bytes up to this are put after the head, in its buffer


cdef uint64_t IDEMPOTENT = (
    1ull << METHOD_GET | 1ull << METHOD_HEAD | 1ull << METHOD_PUT | 1ull << METHOD_DELETE
    | 1ull << METHOD_OPTIONS | 1ull << METHOD_TRACE)


cdef uint64_t hash_key(exchange *e) noexcept nogil:
    cdef const field *f
    cdef uint32_t i
    cdef const char *name
    cdef uint32_t by = e.main.group.hash_by
    if by == HASH_BY_CONSUMER and e.has_consumer:
        return e.consumer.identity
    if by == HASH_BY_PATH:
        return hash_bytes(e.path, e.path_len, 0)
    if by == HASH_BY_HEADER:
        name = snap_str(e.snap, e.main.group.hash_header)
        for i in range(e.req.nfields):
            f = &e.req.fields[i]
            if named(e.base, f, name, e.main.group.hash_header.len):
                return hash_bytes(e.base + f.value, f.value_len, 0)
    return address_hash(e.client)


cdef void begin_proxy(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef call *k = &e.main
    cdef int reason
    if e.service is NULL:
        exchange_refuse(e, NO_ROUTE)     # cannot happen: a route has a service, a handler or an answer
        return
    k.owner = c
    k.ex = e
    k.snap = e.snap
    k.service = e.service
    k.group = snap_upstream(e.snap, e.service.upstream)
    k.method_id = e.req.method_id
    k.first_byte_ms = e.policy.timeout_ms if e.policy.timeout_ms else e.service.first_byte_ms
    k.idle_ms = e.policy.idle_ms if e.policy.idle_ms else e.service.idle_ms
    if IDEMPOTENT >> k.method_id & 1:
        k.flags |= CALL_IDEMPOTENT
    k.flags |= CALL_REPLAYABLE           # until part of a body that did not come whole is consumed
    if e.upgrading:
        k.flags |= CALL_UPGRADE
    if k.group.balance == 3:
        k.hash = hash_key(e)
    if k.group.sticky.count:
        sticky_find(e, k)
    e.relaying = k
    reason = call_start(c, k)
    if reason != 0:
        refuse(e, k, reason)
        return
    if e.policy.flags & ROUTE_MIRROR:
        mirror_begin(e)
    if e.body_state == BODY_MORE and (k.state == CALL_SEND or k.state == CALL_WAIT):
        pump_request(e)


cdef void refuse(exchange *e, const call *k, int reason) noexcept nogil:
    """There is no answer to forward."""
    if reason == UPSTREAM_TLS_FAILED or reason == UPSTREAM_CONNECT_FAILED:
        e.fault = k.tls_fault            # of the last try
    exchange_refuse(e, reason)


cdef int call_must_render(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & (CALL_PYTHON | CALL_SUB):
        if send_made(k) < 0:
            return -1
        k.flags |= CALL_REQUEST_DONE
        return 0
    if k.first_byte_ns:                  # it was answered, and is now retried elsewhere
        e.upstream_ns += k.first_byte_ns - k.sent_ns
        k.first_byte_ns = 0
    if send_request(e, k) < 0:
        return -1
    if e.body_state == BODY_NONE:
        k.flags |= CALL_REQUEST_DONE
    e.attempts = k.attempts
    e.log_flags = (e.log_flags | LOG_UPSTREAM_REUSED) if k.up.reused else (e.log_flags & ~LOG_UPSTREAM_REUSED)
    return 0


cdef void pump_request(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef call *k = &e.main
    cdef buf *b
    cdef int done
    if e.body_state != BODY_MORE or (k.up is NULL and k.state != CALL_WAIT):
        return
    if k.state == CALL_CONNECT or k.state == CALL_WAIT:
        e.down.codec.read(e, 0)             # it waits, or is retried elsewhere: call_can_write resumes
        return
    send_continue(e)
    while True:
        b = take_request(e, 1)
        if d.ex is not e or e.relaying is not k:
            return                       # refused in take_request
        if b is not NULL:
            k.flags &= ~CALL_REPLAYABLE
            if k.up is NULL:
                buf_return(&c.loop.bufs, b)
                return
            if e.sub is not NULL:
                mirror_piece(e, b)
            call_queue(c, k, b)
        elif e.body_state == BODY_MORE:
            if e.down.codec.waits(e):
                continue                 # only framing was consumed
            break
        if e.body_state == BODY_NONE:
            k.flags |= CALL_REQUEST_DONE
            e.down.codec.read(e, 0)
        done = call_flush(c, k)
        if e.sub is not NULL and e.body_state == BODY_NONE:
            mirror_whole(e)
        if done < 0:
            # The upstream takes no more for now. It may have answered already: reading its answer, or
            # its end, will settle that.
            e.down.codec.read(e, 0)
            return
        if e.body_state == BODY_NONE:
            if e.flags & EX_RESPONSE_DONE and k.flags & CALL_RESPONSE_DONE:
                call_end(c, k)
            return
        if done == 0:
            e.down.codec.read(e, 0)         # the rest follows when the queue is empty
            return
    e.down.codec.read(e, 1)


cdef void call_can_write(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & (CALL_PYTHON | CALL_SUB):
        return
    if e.flags & EX_TUNNEL:
        tunnel_up_drained(e)
    elif e.body_state == BODY_MORE:
        pump_request(e)


cdef void call_got_interim(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & (CALL_PYTHON | CALL_SUB) or e.flags & EX_RESPONSE_STARTED:
        return
    send_interim(e, k)
    if e.down.codec.flush(e) < 0:
        exchange_gone(e)


cdef void call_got_head(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    if k.flags & CALL_SUB:
        sub_got_head(k)
        return
    if k.flags & CALL_PYTHON:
        # Python reads it later, so the head is kept.
        b = buf_borrow(&k.owner.loop.bufs, k.resp.size)
        if b is NULL:
            call_abort(k.owner, k)
            k.state = CALL_FAILED
        else:
            memcpy(buf_head(b), k.resp_base, k.resp.size)
            k.py_head = b
            k.resp_base = buf_head(b)
            call_read(k.owner, k, 0)
        wake(e, WAKE_CALL)
        return
    e.upstream_ns += k.first_byte_ns - k.sent_ns
    mark(e, PHASE_FORWARD, k.sent_ns)
    answer_from(e, k)


cdef void answer_from(exchange *e, call *k) noexcept nogil:
    """Filter the answer's head, send it, and send the body after it."""
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef head *r = &k.resp
    cdef buf *body = NULL
    cdef int result, joined = 0
    mark(e, PHASE_FILTER_RESPONSE, k.first_byte_ns)
    e.status = r.status
    if r.status == 101:
        begin_tunnel(e, k)
        return
    if r.status == 204 or r.status == 304:
        e.flags |= EX_HEAD_ONLY
    if not e.flags & EX_HEAD_ONLY:
        if d.codec.verbatim(e, k):
            e.flags |= EX_VERBATIM
        # The body bytes that came with the head are read before the head is sent: if invalid, it is a 502.
        body = call_take(c, k, e.flags & EX_VERBATIM)
        if d.ex is not e or e.relaying is not k:
            if body is not NULL:
                buf_return(&c.loop.bufs, body)
            return
    if body is not NULL and r.content_length >= 0 and buf_len(body) <= INLINE_BODY:
        # A short body, or its beginning, is sent in one piece with the head.
        joined = 1
        result = start_response(e, k, buf_head(body), buf_len(body))
        buf_return(&c.loop.bufs, body)
    else:
        result = start_response(e, k, NULL, 0)
    if result == 0 and body is not NULL and not joined:
        result = d.codec.data(e, body)
    if result < 0:
        drop_calls(e)
        exchange_abort(e, OVERLOADED)
        return
    e.flags |= EX_RESPONSE_STARTED
    e.flags &= ~EX_CONTINUE_DUE
    if e.hold is not NULL and e.status < 500:
        charge_due(e)
    if e.body is not NULL and not e.flags & EX_SUSPENDED:
        drop_body(e)
    unpin(c, e)                          # its snapshot may have been replaced while it waited
    pump_response(e, k)


cdef void pump_response(exchange *e, call *k) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef buf *b = NULL
    cdef int done
    if k.up is not NULL and k.up.io.inb is not NULL:
        b = call_take(c, k, e.flags & EX_VERBATIM)
    if d.ex is not e or e.relaying is not k:
        if b is not NULL:
            buf_return(&c.loop.bufs, b)
        return                           # it failed in between, which was handled there
    if b is not NULL and d.codec.data(e, b) < 0:
        exchange_abort(e, OVERLOADED)
        return
    if k.flags & CALL_RESPONSE_DONE:
        if d.codec.end(e) < 0:
            exchange_abort(e, OVERLOADED)
            return
        e.flags |= EX_RESPONSE_DONE
        if k.flags & CALL_REQUEST_DONE or e.body_state == BODY_NONE:
            call_end(c, k)
    done = d.codec.flush(e)
    if done < 0:
        exchange_gone(e)
    elif e.flags & EX_RESPONSE_DONE:
        if done == 1:
            finish(e)
        else:
            call_read(c, k, 0)
    else:
        call_read(c, k, done)


cdef void call_got_body(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & CALL_SUB:
        sub_got_body(k)
    elif k.flags & CALL_PYTHON:
        call_read(k.owner, k, 0)
        wake(e, WAKE_CALL)
    elif e.flags & EX_TUNNEL:
        tunnel_down(e)
    else:
        pump_response(e, k)


cdef void call_has_failed(call *k, int reason) noexcept nogil:
    cdef exchange *e = k.ex
    k.failure = <uint16_t>reason
    if k.flags & CALL_SUB:
        sub_failed(k, reason)
    elif k.flags & CALL_PYTHON:
        wake(e, WAKE_CALL)
    elif e.flags & EX_TUNNEL:
        end_tunnel(e, TUNNEL_CLOSED)
    elif e.flags & EX_RESPONSE_STARTED:
        exchange_abort(e, reason)
    else:
        if k.sent_ns:
            mark(e, PHASE_FORWARD, k.sent_ns)
        refuse(e, k, reason)


cdef void exchange_drained(exchange *e) noexcept nogil:
    cdef call *k = e.relaying
    if e.flags & EX_TUNNEL:
        tunnel_down_drained(e)
    elif e.flags & EX_RESPONSE_DONE:
        if e.flags & EX_SUSPENDED:
            wake(e, WAKE_DONE)
        else:
            finish(e)
    elif e.flags & EX_SUSPENDED:
        wake(e, WAKE_WRITABLE)
    elif k is not NULL and e.flags & EX_RESPONSE_STARTED:
        call_read(e.owner, k, 1)
