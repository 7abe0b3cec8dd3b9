"""upstream: calls: connect or reuse, send, read the answer; retry, time out, give up.

A call's life:

    state      what is awaited            deadline        data             end / error
    CONNECT    the connection             connect_ms      –                retry, else connect failed
    SEND       the final response head    first_byte_ms   parse; 1xx stay  retry if that is safe, else reset
    BODY       the rest of the body       idle_ms         sink call_body   done (close-delimited) or truncated
    TUNNEL     bytes, both ways           idle_ms         sink call_body   done
    DONE, FAILED: the connection has been let go

Retrying (on another target, `attempts` in all) is safe when nothing can have happened: the connection was never made; or the
request is idempotent, its body can be replayed, and not one byte of an answer came. A
connection from the pool that turns out to have been closed by the upstream meanwhile
(`stale`) is replaced once without counting as a retry.

A response's end must be known before a connection is pooled again: bytes beyond it, a
`Connection: close`, or a request that was not wholly sent mean that it is closed instead.
"""
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastgate._core.buffer cimport HEADROOM, buf_head, buf_len, buf_return
from fastgate._core.http1 cimport (
    CHUNK_END, FRAMING_CHUNKED, FRAMING_CLOSE, FRAMING_LENGTH, FRAMING_NONE, HEAD_KEEP_ALIVE, chunk_decode,
    chunk_relay, chunk_reset, head_reset, parse_response)
from fastgate._core.poller cimport (
    poller_again, poller_close, poller_connect, poller_flush, poller_queue, poller_read_start,
    poller_read_stop)
from fastgate._core.pool cimport (
    pool_earn, pool_failed, pool_may_retry, pool_of, pool_put, pool_select, pool_succeeded, pool_take,
    pool_unlink)
from fastgate._core.reason cimport (
    OVERLOADED, RESPONSE_TRUNCATED, UPSTREAM_CONNECT_FAILED, UPSTREAM_INVALID_RESPONSE, UPSTREAM_RESET,
    UPSTREAM_TIMEOUT)
from fastgate._core.state cimport (
    CALL_BODY, CALL_CLOSE_AFTER, CALL_CONNECT, CALL_COUNTED, CALL_DONE, CALL_FAILED, CALL_FRESH,
    CALL_IDEMPOTENT, CALL_REPLAYABLE, CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND, CALL_SENT,
    CALL_TRUNCATED, CALL_TUNNEL, CALL_UPGRADE, IO_CLOSED, IO_EOF, IO_READABLE, IO_READING, KIND_UP, UP_BUSY,
    UP_CLOSED, UP_CONNECTING, UP_IDLE, pool)
from fastgate._core.sys cimport EMFILE, ENFILE, monotonic_ns
from fastgate._core.timer cimport timer_set

cdef enum:
    MAX_INTERIM = 16


# ---- connections ------------------------------------------------------------------------

cdef upstream *up_new(core *c) noexcept nogil:
    cdef upstream *u = c.free_ups
    if u is not NULL:
        c.free_ups = u.next
    else:
        u = <upstream *>calloc(1, sizeof(upstream))
        if u is NULL:
            return NULL
    memset(u, 0, sizeof(upstream))
    u.io.kind = KIND_UP
    u.io.fd = -1
    u.io.owner = c
    c.n_ups += 1
    return u


cdef void upstream_close(core *c, upstream *u) noexcept nogil:
    if u.state == UP_CLOSED:
        return
    if u.state == UP_IDLE:
        pool_unlink(c, u)
    u.state = UP_CLOSED
    u.k = NULL
    poller_close(c, &u.io)
    c.n_ups -= 1
    u.io.timer_next = c.graveyard
    c.graveyard = &u.io


cdef void detach(core *c, call *k) noexcept nogil:
    """The call and its connection part; the connection's fate is the caller's business."""
    cdef upstream *u = k.up
    if k.flags & CALL_COUNTED:
        k.flags &= ~CALL_COUNTED
        if u is not NULL and u.home is not NULL and u.home.active > 0 and u.pool_generation == u.home.generation:
            u.home.active -= 1
    if u is not NULL:
        u.k = NULL
        k.up = NULL


# ---- starting ---------------------------------------------------------------------------

cdef int call_start(core *c, call *k) noexcept nogil:
    cdef int reason
    k.attempts = 0
    k.tried = 0
    k.flags &= ~(CALL_SENT | CALL_FRESH)
    reason = attempt(c, k)
    while reason == UPSTREAM_CONNECT_FAILED and may_retry(c, k, 0):
        reason = attempt(c, k)
    if reason != 0:
        k.state = CALL_FAILED
    elif k.attempts == 1:
        pool_earn(c, k)
    return reason


cdef int may_retry(core *c, call *k, int sent) noexcept nogil:
    """Another attempt? One that never reached a target adds no load, so it costs no budget."""
    cdef uint32_t most = k.service.attempts if k.service is not NULL else 2
    if k.attempts >= most or not k.flags & CALL_REPLAYABLE or (sent and not pool_may_retry(c, k)):
        return 0
    c.counters.retries += 1
    return 1


cdef int attempt(core *c, call *k) noexcept nogil:
    """One try: choose a target, take or open a connection, queue the request."""
    cdef upstream *u = NULL
    cdef pool *p
    cdef int result
    if not k.flags & CALL_FRESH:
        result = pool_select(c, k)
        if result != 0:
            return result
        k.attempts += 1
    p = pool_of(c, k.target)
    if not k.flags & CALL_FRESH:
        u = pool_take(c, p)
        while u is not NULL and u.pool_generation != p.generation:
            upstream_close(c, u)         # the slot had another owner: this one leads elsewhere
            u = pool_take(c, p)
    if u is not NULL:
        c.counters.upstream_reused += 1
        u.reused = 1
        u.requests += 1
        bind(k, u, p)
        return begin_send(c, k)
    u = up_new(c)
    if u is NULL:
        return OVERLOADED
    u.pool_generation = p.generation
    u.home = p
    u.state = UP_CONNECTING
    u.requests = 1
    c.counters.upstream_connects += 1
    result = poller_connect(c, &u.io, k.target.sockaddr, k.target.sockaddr_len)
    if result < 0:
        c.counters.upstream_connect_failures += 1
        upstream_close(c, u)
        if result == -EMFILE or result == -ENFILE:
            return OVERLOADED            # our own shortage, not the target's fault
        pool_failed(c, k)
        return UPSTREAM_CONNECT_FAILED
    bind(k, u, p)
    if result == 1:
        u.state = UP_BUSY
        return begin_send(c, k)
    k.state = CALL_CONNECT
    timer_set(c, &u.io, c.now + <uint64_t>k.group.connect_ms * 1000000)
    return 0


cdef void bind(call *k, upstream *u, pool *p) noexcept nogil:
    k.up = u
    u.k = k
    u.home = p
    k.flags |= CALL_COUNTED
    p.active += 1


cdef int begin_send(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef int done
    k.state = CALL_SEND
    k.interims = 0
    head_reset(&k.resp)
    if c.sink.call_render(k) < 0:
        detach(c, k)
        upstream_close(c, u)
        return OVERLOADED
    k.sent_ns = monotonic_ns()
    timer_set(c, &u.io, k.sent_ns + <uint64_t>k.first_byte_ms * 1000000)
    poller_read_start(c, &u.io)
    done = poller_flush(c, &u.io)
    if done < 0:
        if u.reused and not k.flags & CALL_FRESH and k.flags & CALL_REPLAYABLE:
            # The kernel refused the very first byte: a pooled connection that had died.
            detach(c, k)
            upstream_close(c, u)
            k.flags |= CALL_FRESH
            return attempt(c, k)
        detach(c, k)
        upstream_close(c, u)
        pool_failed(c, k)
        return UPSTREAM_CONNECT_FAILED if not k.flags & CALL_SENT else UPSTREAM_RESET
    k.flags |= CALL_SENT
    return 0


cdef void up_connected(upstream *u, int error) noexcept nogil:
    cdef core *c = u.io.owner
    cdef call *k = u.k
    cdef int reason
    if error != 0:
        c.counters.upstream_connect_failures += 1
        broken(c, k, UPSTREAM_CONNECT_FAILED)
        return
    u.state = UP_BUSY
    reason = begin_send(c, k)
    if reason != 0:
        k.state = CALL_FAILED
        c.sink.call_failed(k, reason)
    elif k.up is not NULL and not k.flags & CALL_REQUEST_DONE:
        c.sink.call_writable(k)


cdef void broken(core *c, call *k, int reason) noexcept nogil:
    """The connection failed before a final head came: try again, or say so."""
    cdef upstream *u = k.up
    cdef int stale = u.reused and k.state == CALL_SEND and reason == UPSTREAM_RESET and u.io.inb is NULL
    cdef int untouched = k.state == CALL_CONNECT
    cdef int safe = untouched or (k.flags & CALL_IDEMPOTENT and reason == UPSTREAM_RESET and k.interims == 0)
    detach(c, k)
    upstream_close(c, u)
    if not stale:
        pool_failed(c, k)
    if safe and k.flags & CALL_REPLAYABLE:
        if stale and not k.flags & CALL_FRESH:
            k.flags |= CALL_FRESH
            reason = attempt(c, k)
            k.flags &= ~CALL_FRESH
        elif not may_retry(c, k, not untouched):
            k.state = CALL_FAILED
            c.sink.call_failed(k, reason)
            return
        else:
            reason = attempt(c, k)
        while reason == UPSTREAM_CONNECT_FAILED and may_retry(c, k, 0):
            reason = attempt(c, k)
        if reason == 0:
            if k.state == CALL_SEND and not k.flags & CALL_REQUEST_DONE:
                c.sink.call_writable(k)
            return
    k.state = CALL_FAILED
    c.sink.call_failed(k, reason)


# ---- reading the answer -----------------------------------------------------------------

cdef void up_data(upstream *u, ssize_t n) noexcept nogil:
    cdef core *c = u.io.owner
    cdef call *k = u.k
    if k is NULL:
        upstream_close(c, u)                   # idle: the upstream closed it, or spoke unasked
        return
    if k.state == CALL_SEND:
        if n > 0:
            if u.io.inb is not NULL:
                read_head(c, k)
        else:
            broken(c, k, UPSTREAM_RESET)
    elif k.state == CALL_BODY or k.state == CALL_TUNNEL:
        if n > 0:
            timer_set(c, &u.io, c.now + <uint64_t>k.idle_ms * 1000000)
            c.sink.call_body(k)
        elif n == 0 and (k.resp.framing == FRAMING_CLOSE or k.state == CALL_TUNNEL):
            k.flags |= CALL_RESPONSE_DONE | CALL_CLOSE_AFTER
            c.sink.call_body(k)
        else:
            k.flags |= CALL_TRUNCATED | CALL_CLOSE_AFTER
            fail(c, k, RESPONSE_TRUNCATED)
    else:
        upstream_close(c, u)


cdef void fail(core *c, call *k, int reason) noexcept nogil:
    cdef upstream *u = k.up
    k.state = CALL_FAILED
    if u is not NULL:
        detach(c, k)
        upstream_close(c, u)
    c.sink.call_failed(k, reason)


cdef void read_head(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef int size
    cdef uint16_t status
    while True:
        k.resp_base = buf_head(u.io.inb)
        size = parse_response(&k.resp, k.resp_base, buf_len(u.io.inb), &c.response_caps, k.method_id)
        if size == 0:
            return                       # the caps see to it that the buffer never fills first
        if size < 0:
            pool_failed(c, k)
            fail(c, k, UPSTREAM_INVALID_RESPONSE)
            return
        status = k.resp.status
        if status >= 200:
            break
        if status == 101:
            if not k.flags & CALL_UPGRADE:
                fail(c, k, UPSTREAM_INVALID_RESPONSE)
                return
            break
        k.interims += 1
        if k.interims > MAX_INTERIM:
            fail(c, k, UPSTREAM_INVALID_RESPONSE)
            return
        if status == 103:
            c.sink.call_interim(k)
            if k.up is not u:
                return
        u.io.inb.start += size
        head_reset(&k.resp)
        if buf_len(u.io.inb) == 0:
            buf_return(&c.bufs, u.io.inb)
            u.io.inb = NULL
            return
    k.first_byte_ns = c.now if c.now > k.sent_ns else k.sent_ns
    pool_succeeded(c, k, k.first_byte_ns - k.sent_ns)
    if status >= 500 and k.group.eject_after != 0 and status != 501 and status != 505:
        pool_failed(c, k)
    u.io.inb.start += size
    timer_set(c, &u.io, c.now + <uint64_t>k.idle_ms * 1000000)
    if not k.resp.flags & HEAD_KEEP_ALIVE:
        k.flags |= CALL_CLOSE_AFTER
    if status == 101:
        k.state = CALL_TUNNEL
        k.flags |= CALL_CLOSE_AFTER
    else:
        k.state = CALL_BODY
        if k.resp.framing == FRAMING_LENGTH:
            k.resp_remaining = <uint64_t>k.resp.content_length
            if k.resp_remaining == 0:
                k.flags |= CALL_RESPONSE_DONE
        elif k.resp.framing == FRAMING_CHUNKED:
            chunk_reset(&k.resp_chunks)
        elif k.resp.framing == FRAMING_NONE:
            k.flags |= CALL_RESPONSE_DONE
    if k.flags & CALL_RESPONSE_DONE and buf_len(u.io.inb) != 0:
        k.flags |= CALL_CLOSE_AFTER      # bytes after the end: never pooled
    c.sink.call_head(k)


cdef buf *call_take(core *c, call *k, int decode) noexcept nogil:
    cdef upstream *u = k.up
    cdef buf *b
    cdef uint32_t length, consumed, out_len
    cdef int result
    if u is NULL or u.io.inb is NULL or k.flags & CALL_RESPONSE_DONE and k.state != CALL_TUNNEL \
            and k.resp.framing != FRAMING_CLOSE:
        return NULL
    b = u.io.inb
    length = buf_len(b)
    if length == 0:
        return NULL
    u.io.inb = NULL
    if k.state == CALL_TUNNEL or k.resp.framing == FRAMING_CLOSE:
        return b
    if k.resp.framing == FRAMING_LENGTH:
        if length > k.resp_remaining:
            b.end = b.start + <uint32_t>k.resp_remaining
            length = <uint32_t>k.resp_remaining
            k.flags |= CALL_CLOSE_AFTER
        k.resp_remaining -= length
        if k.resp_remaining == 0:
            k.flags |= CALL_RESPONSE_DONE
        return b
    if decode:
        result = chunk_decode(&k.resp_chunks, buf_head(b), length, &consumed, &out_len)
    else:
        result = chunk_relay(&k.resp_chunks, buf_head(b), length, &consumed, &out_len)
    if result < 0:
        buf_return(&c.bufs, b)
        k.flags |= CALL_TRUNCATED | CALL_CLOSE_AFTER
        fail(c, k, RESPONSE_TRUNCATED)
        return NULL
    if result == CHUNK_END:
        k.flags |= CALL_RESPONSE_DONE
        if consumed < length:
            k.flags |= CALL_CLOSE_AFTER
    b.end = b.start + out_len
    if out_len == 0:
        buf_return(&c.bufs, b)
        return NULL
    return b


cdef void call_read(core *c, call *k, int on) noexcept nogil:
    cdef upstream *u = k.up
    if u is NULL:
        return
    if on:
        if not u.io.io & IO_READING:
            timer_set(c, &u.io, c.now + <uint64_t>k.idle_ms * 1000000)
            poller_read_start(c, &u.io)
            if u.io.inb is not NULL and buf_len(u.io.inb) != 0:
                poller_again(c, &u.io)
    elif u.io.io & IO_READING:
        timer_set(c, &u.io, 0)           # now it is the reader of the answer who is waited for
        poller_read_stop(c, &u.io)


# ---- sending ----------------------------------------------------------------------------

cdef void call_queue(core *c, call *k, buf *b) noexcept nogil:
    poller_queue(c, &k.up.io, b)


cdef int call_flush(core *c, call *k) noexcept nogil:
    return poller_flush(c, &k.up.io)


cdef void up_drained(upstream *u) noexcept nogil:
    cdef core *c = u.io.owner
    if u.k is not NULL and (not u.k.flags & CALL_REQUEST_DONE or u.k.state == CALL_TUNNEL):
        c.sink.call_writable(u.k)


cdef void up_timeout(upstream *u) noexcept nogil:
    cdef core *c = u.io.owner
    cdef call *k = u.k
    if k is NULL:
        upstream_close(c, u)                   # idle for long enough
        return
    if k.state == CALL_CONNECT:
        c.counters.upstream_connect_failures += 1
        broken(c, k, UPSTREAM_CONNECT_FAILED)
    elif k.state == CALL_SEND:
        pool_failed(c, k)
        fail(c, k, UPSTREAM_TIMEOUT)
    else:
        fail(c, k, UPSTREAM_TIMEOUT if k.state != CALL_TUNNEL else 0)


# ---- ending -----------------------------------------------------------------------------

cdef void call_end(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef upstream *victim
    cdef uint32_t keep = k.group.keepalive_max
    cdef uint64_t idle_ns = <uint64_t>k.group.keepalive_idle_ms * 1000000
    k.state = CALL_DONE
    if u is NULL:
        return
    detach(c, k)
    if (k.flags & (CALL_CLOSE_AFTER | CALL_REQUEST_DONE | CALL_RESPONSE_DONE)) != (
            CALL_REQUEST_DONE | CALL_RESPONSE_DONE) or u.io.out_head is not NULL or u.io.io & IO_EOF:
        upstream_close(c, u)
        return
    if u.io.inb is not NULL:
        buf_return(&c.bufs, u.io.inb)
        u.io.inb = NULL
    poller_read_stop(c, &u.io)           # what was to be looked at again is gone
    u.reused = 0
    victim = pool_put(c, u.home, u, keep)
    if victim is not NULL:
        upstream_close(c, victim)
        if victim is u:
            return
    timer_set(c, &u.io, c.now + idle_ns)
    poller_read_start(c, &u.io)


cdef void call_abort(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    k.state = CALL_DONE
    if u is not NULL:
        detach(c, k)
        upstream_close(c, u)
