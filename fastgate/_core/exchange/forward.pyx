"""forward: the exchange's request to an upstream, and the answer's way back.

The two directions are independent. Request bytes go

    downstream.inb ─ pump_request ─► upstream's queue     stops when the queue does not empty

and response bytes

    upstream.inb ─ pump_response ─► downstream's queue    stops when the queue does not empty

Stopping is not reading; the queue's `drained` sink starts it again. So at most one buffer a
direction is held, and the slower side sets the pace. After a 101 it is a tunnel (tunnel.pyx).
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.platform.buffer cimport HEADROOM, buf_borrow, buf_data, buf_head, buf_len, buf_return
from fastgate._core.shared.cells cimport address_hash, hash_bytes
from fastgate._core.exchange.charging cimport charge_due
from fastgate._core.http1.server cimport down_body, down_flush, down_read, down_send
from fastgate._core.exchange.ending cimport (
    connection_out, drop_calls, end_tunnel, exchange_abort, exchange_gone, exchange_refuse, finish,
    wake)
from fastgate._core.http.head cimport (
    FRAMING_CHUNKED, FRAMING_CLOSE, FRAMING_LENGTH, METHOD_DELETE, METHOD_GET, METHOD_HEAD,
    METHOD_OPTIONS, METHOD_PUT, METHOD_TRACE, field, head, named)
from fastgate._core.http1.chunked cimport CHUNK_END, chunk_decode, chunk_relay
from fastgate._core.exchange.intake cimport mark
from fastgate._core.shared.log_ring cimport (
    LOG_UPSTREAM_REUSED, PHASE_FILTER_RESPONSE, PHASE_FORWARD)
from fastgate._core.io.transport cimport conn_resets
from fastgate._core.reason cimport BODY_TOO_LARGE, INTERNAL_ERROR, NO_ROUTE, OVERLOADED, TUNNEL_CLOSED
from fastgate._core.exchange.render cimport render_interim, render_response
from fastgate._core.exchange.request_head cimport render_request
from fastgate._core.exchange.snapshot_ref cimport unpin
from fastgate._core.snapshot.snapshot cimport (
    HASH_BY_CONSUMER, HASH_BY_HEADER, HASH_BY_PATH, snap_str, snap_upstream)
from fastgate._core.state cimport (
    BODY_MORE, BODY_NONE, CALL_CONNECT, CALL_FAILED, CALL_IDEMPOTENT, CALL_PYTHON, CALL_REPLAYABLE,
    CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND, CALL_UPGRADE, EX_CHUNK_OUT, EX_CLOSE_OUT,
    EX_CONTINUE_DUE, EX_DECODE, EX_HEAD_ONLY, EX_KEEP_ALIVE, EX_RESPONSE_DONE, EX_RESPONSE_STARTED,
    EX_SUSPENDED, EX_TUNNEL, WAKE_CALL, WAKE_DONE, WAKE_WRITABLE, core, downstream)
from fastgate._core.platform.text cimport put, put_lit
from fastgate._core.exchange.tunnel cimport begin_tunnel, tunnel_down, tunnel_down_drained, tunnel_up_drained
from fastgate._core.upstream.call cimport (
    call_abort, call_end, call_flush, call_queue, call_read, call_start, call_take)


cdef enum:
    INLINE_BODY = 4096        # response bytes up to this are put behind the head in its buffer


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
        exchange_refuse(e, NO_ROUTE)     # never: a route has a service, a handler or an answer
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
    k.flags |= CALL_REPLAYABLE           # until some of a body that did not come whole is taken
    if e.upgrading:
        k.flags |= CALL_UPGRADE
    if k.group.balance == 3:
        k.hash = hash_key(e)
    e.relaying = k
    reason = call_start(c, k)
    if reason != 0:
        exchange_refuse(e, reason)
    elif e.body_state == BODY_MORE and k.state == CALL_SEND:
        pump_request(e)


cdef int render_python(call *k) noexcept nogil:
    """A handler's request, with the chosen target's Host where the handler named none."""
    cdef const char *request = buf_head(k.py_request)
    cdef const char *authority = snap_str(k.snap, k.target.authority)
    cdef uint32_t rest = buf_len(k.py_request) - k.py_line
    cdef char *p
    cdef buf *b = buf_borrow(&k.owner.loop.bufs, <size_t>buf_len(k.py_request) + k.target.authority.len + 8)
    if b is NULL:
        return -1
    p = buf_head(b)
    if k.py_line:
        p = put(p, request, k.py_line)
        p = put_lit(p, "Host: ")
        p = put(p, authority, k.target.authority.len)
        p = put_lit(p, "\r\n")
    p = put(p, request + k.py_line, rest)
    b.end = <uint32_t>(p - buf_data(b))
    k.flags |= CALL_REQUEST_DONE
    call_queue(k.owner, k, b)
    return 0


cdef int call_must_render(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    cdef uint32_t inlined
    if k.flags & CALL_PYTHON:
        return render_python(k)
    if k.first_byte_ns:                  # it was answered, and is asked for again elsewhere
        e.upstream_ns += k.first_byte_ns - k.sent_ns
        k.first_byte_ns = 0
    inlined = e.inline_len
    b = render_request(e, k, inlined)
    if b is NULL:
        return -1
    if inlined:
        memcpy(buf_data(b) + b.end, e.inline_body, inlined)
        b.end += inlined
    if e.body_state == BODY_NONE:
        k.flags |= CALL_REQUEST_DONE
    call_queue(k.owner, k, b)
    e.attempts = k.attempts
    e.log_flags = (e.log_flags | LOG_UPSTREAM_REUSED) if k.up.reused else (e.log_flags & ~LOG_UPSTREAM_REUSED)
    return 0


cdef buf *take_request(exchange *e, int decode) noexcept nogil:
    """The next piece of the request's body, as a buffer of its own; NULL: none now. Ends
    body_state, or refuses: then e may have ended, and is no longer its connection's."""
    cdef downstream *d = e.down
    cdef buf *b = down_body(d, e)
    cdef buf *out
    cdef uint32_t length, consumed, produced
    cdef int result
    if b is NULL:
        return NULL
    length = buf_len(b)
    if e.req.framing == FRAMING_LENGTH:
        consumed = length if length < e.body_left else <uint32_t>e.body_left
        produced = consumed
        e.body_left -= consumed
        if e.body_left == 0:
            e.body_state = BODY_NONE
    else:
        if decode:
            result = chunk_decode(&e.body_chunks, buf_head(b), length, &consumed, &produced)
        else:
            result = chunk_relay(&e.body_chunks, buf_head(b), length, &consumed, &produced)
        if result < 0:
            e.flags &= ~EX_KEEP_ALIVE
            exchange_refuse(e, -result)
            return NULL
        if result == CHUNK_END:
            e.body_state = BODY_NONE
        if e.policy.body_cap and e.body_chunks.total > e.policy.body_cap:
            e.flags &= ~EX_KEEP_ALIVE
            exchange_refuse(e, BODY_TOO_LARGE)
            return NULL
    e.bytes_in += consumed
    if b is d.io.inb and consumed == length:
        d.io.inb = NULL                  # goes over whole
        b.end = b.start + produced
        out = b
    else:
        out = buf_borrow(&e.owner.loop.bufs, produced)
        if out is NULL:
            exchange_abort(e, OVERLOADED)
            return NULL
        memcpy(buf_head(out), buf_head(b), produced)
        out.end = out.start + produced
        b.start += consumed
    if produced == 0:
        buf_return(&e.owner.loop.bufs, out)
        return NULL
    return out


cdef void send_continue(exchange *e) noexcept nogil:
    cdef buf *b
    if e.flags & EX_CONTINUE_DUE and not e.flags & EX_RESPONSE_STARTED:
        e.flags &= ~EX_CONTINUE_DUE
        b = buf_borrow(&e.owner.loop.bufs, 32)
        if b is not NULL:
            memcpy(buf_head(b), b"HTTP/1.1 100 Continue\r\n\r\n", 25)
            b.end = b.start + 25
            down_send(e.down, b)
            down_flush(e.down)


cdef void pump_request(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef call *k = &e.main
    cdef buf *b
    cdef int done
    if k.up is NULL or e.body_state != BODY_MORE:
        return
    if k.state == CALL_CONNECT:
        down_read(e.down, 0)             # it is tried again elsewhere: call_can_write goes on
        return
    send_continue(e)
    while True:
        b = take_request(e, 0)
        if d.ex is not e or e.relaying is not k:
            return                       # refused meanwhile
        if b is not NULL:
            k.flags &= ~CALL_REPLAYABLE
            if k.up is NULL:
                buf_return(&c.loop.bufs, b)
                return
            call_queue(c, k, b)
        elif e.body_state == BODY_MORE:
            if down_body(e.down, e) is not NULL:
                continue                 # only framing was consumed
            break
        if e.body_state == BODY_NONE:
            k.flags |= CALL_REQUEST_DONE
            down_read(e.down, 0)
        done = call_flush(c, k)
        if done < 0:
            # The upstream takes no more. It may have answered already: its answer, or its
            # end, will be read and settle the matter.
            down_read(e.down, 0)
            return
        if e.body_state == BODY_NONE:
            if e.flags & EX_RESPONSE_DONE and k.flags & CALL_RESPONSE_DONE:
                call_end(c, k)
            return
        if done == 0:
            down_read(e.down, 0)         # the rest when the queue is empty
            return
    down_read(e.down, 1)


cdef void call_can_write(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & CALL_PYTHON:
        return
    if e.flags & EX_TUNNEL:
        tunnel_up_drained(e)
    elif e.body_state == BODY_MORE:
        pump_request(e)


cdef void call_got_interim(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    if k.flags & CALL_PYTHON or e.req.minor == 0 or e.flags & EX_RESPONSE_STARTED:
        return
    b = render_interim(e, k)
    if b is not NULL:
        down_send(e.down, b)
        if down_flush(e.down) < 0:
            exchange_gone(e)


cdef void call_got_head(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    if k.flags & CALL_PYTHON:
        # Python looks at it later: the head is kept.
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
    """Filter the answer's head, send it, and let the body follow."""
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef head *r = &k.resp
    cdef buf *b
    cdef buf *body = NULL
    cdef int out
    mark(e, PHASE_FILTER_RESPONSE, k.first_byte_ns)
    e.status = r.status
    if r.status == 101:
        begin_tunnel(e, k)
        return
    if r.status == 204 or r.status == 304:
        e.flags |= EX_HEAD_ONLY
    if not e.flags & EX_HEAD_ONLY:
        if r.framing == FRAMING_CLOSE:
            if e.req.minor == 1:
                e.flags |= EX_CHUNK_OUT
            else:
                e.flags |= EX_CLOSE_OUT
        elif r.framing == FRAMING_CHUNKED and e.req.minor == 0:
            e.flags |= EX_CLOSE_OUT | EX_DECODE
        elif r.framing == FRAMING_CHUNKED:
            e.flags |= EX_CHUNK_OUT      # the head says chunked; the chunks pass as they come
    elif r.framing == FRAMING_CHUNKED or (e.req.method_id == METHOD_HEAD and r.content_length < 0):
        pass
    out = connection_out(e)
    b = render_response(e, k, out, INLINE_BODY)
    if b is NULL:
        drop_calls(e)
        exchange_abort(e, OVERLOADED)
        return
    if not e.flags & EX_HEAD_ONLY and r.framing == FRAMING_CHUNKED:
        # What came with the head is read before the head goes out: if it is bad, that is a 502.
        body = call_take(c, k, e.flags & EX_DECODE)
        if d.ex is not e or e.relaying is not k:
            buf_return(&c.loop.bufs, b)
            return
    e.flags |= EX_RESPONSE_STARTED
    e.flags &= ~EX_CONTINUE_DUE
    if e.flags & EX_CLOSE_OUT:
        conn_resets(&e.down.io, 1)     # until it is whole: its end is the connection's
    if e.hold is not NULL and e.status < 500:
        charge_due(e)
    if r.framing == FRAMING_LENGTH and k.up is not NULL and k.up.io.inb is not NULL \
            and buf_len(k.up.io.inb) <= INLINE_BODY:
        # A short body, or its beginning, goes out in one piece with the head.
        body = call_take(c, k, 0)
        if body is not NULL:
            memcpy(buf_data(b) + b.end, buf_head(body), buf_len(body))
            b.end += buf_len(body)
            buf_return(&c.loop.bufs, body)
            body = NULL
    e.bytes_out += buf_len(b)
    down_send(e.down, b)
    if body is not NULL:
        e.bytes_out += buf_len(body)
        down_send(e.down, body)
    unpin(c, e)                          # its snapshot may have been replaced meanwhile
    pump_response(e, k)


cdef buf *wrap_chunk(buf *b) noexcept nogil:
    """Write the size line before and the CRLF behind the bytes, into the buffer's rooms."""
    cdef char *p = buf_head(b)
    cdef uint32_t n = buf_len(b), v = n
    p -= 1
    p[0] = 10
    p -= 1
    p[0] = 13
    while True:
        p -= 1
        p[0] = b"0123456789abcdef"[v & 15]
        v >>= 4
        if v == 0:
            break
    buf_data(b)[b.end] = 13
    buf_data(b)[b.end + 1] = 10
    b.end += 2
    b.start = <uint32_t>(p - buf_data(b))
    return b


cdef int queue_literal(exchange *e, const char *text, uint32_t n) noexcept nogil:
    cdef buf *b = buf_borrow(&e.owner.loop.bufs, n)
    if b is NULL:
        return -1
    memcpy(buf_head(b), text, n)
    b.end = b.start + n
    e.bytes_out += n
    down_send(e.down, b)
    return 0


cdef void pump_response(exchange *e, call *k) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef buf *b = NULL
    cdef int done
    if k.up is not NULL and k.up.io.inb is not NULL:
        b = call_take(c, k, e.flags & EX_DECODE)
    if d.ex is not e or e.relaying is not k:
        if b is not NULL:
            buf_return(&c.loop.bufs, b)
        return                           # it failed meanwhile, and that has been dealt with
    if b is not NULL:
        if k.resp.framing == FRAMING_CLOSE and e.flags & EX_CHUNK_OUT:
            if b.start < HEADROOM:       # never: reads leave the headroom alone
                buf_return(&c.loop.bufs, b)
                exchange_abort(e, INTERNAL_ERROR)
                return
            b = wrap_chunk(b)
        e.bytes_out += buf_len(b)
        down_send(e.down, b)
    if k.flags & CALL_RESPONSE_DONE:
        if k.resp.framing == FRAMING_CLOSE and e.flags & EX_CHUNK_OUT:
            if queue_literal(e, b"0\r\n\r\n", 5) < 0:
                exchange_abort(e, OVERLOADED)
                return
        e.flags |= EX_RESPONSE_DONE
        if k.flags & CALL_REQUEST_DONE or e.body_state == BODY_NONE:
            call_end(c, k)
    done = down_flush(e.down)
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
    if k.flags & CALL_PYTHON:
        call_read(k.owner, k, 0)
        wake(e, WAKE_CALL)
    elif e.flags & EX_TUNNEL:
        tunnel_down(e)
    else:
        pump_response(e, k)


cdef void call_has_failed(call *k, int reason) noexcept nogil:
    cdef exchange *e = k.ex
    k.failure = <uint16_t>reason
    if k.flags & CALL_PYTHON:
        wake(e, WAKE_CALL)
    elif e.flags & EX_TUNNEL:
        end_tunnel(e, TUNNEL_CLOSED)
    elif e.flags & EX_RESPONSE_STARTED:
        exchange_abort(e, reason)
    else:
        if k.sent_ns:
            mark(e, PHASE_FORWARD, k.sent_ns)
        exchange_refuse(e, reason)


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
