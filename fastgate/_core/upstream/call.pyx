"""call: calls to upstreams: connect or reuse, send, read the answer; retry, time out, give up.

A call's life:

    state      what is awaited            data             end / error
    WAIT       room at a target           –                overloaded
    CONNECT    the connection             –                retry, else connect failed
    SEND       the final response head    parse; 1xx stay  retry if that is safe, else reset
    BODY       the rest of the body       sink call_body   done (close-delimited) or truncated
    TUNNEL     bytes, both ways           sink call_body   half-closed: the other way goes on
    DONE, FAILED: the connection has been released

The table of deadlines is in deadlines.pyx; `up_timeout` here handles a deadline that passes.

One loop makes all retries, `run`. Each failure before the final head becomes a `call_error` (see
call_error.pyx), which holds the side that failed and whether the request may be sent again; `next_try`
at the head of the loop counts every turn and decides. A request is sent again only while its body can be
sent from its start: it came with the head, or none of it has been taken from the client yet. A pooled
connection that the upstream had already closed (`stale`) counts neither as an attempt nor as a failure:
once for each chosen target, the same target is tried over a new connection. Only the first target is waited for.

An answer's end must be known before a connection is pooled again: after bytes beyond it, a
`Connection: close`, or a request that was not sent completely, it is closed instead.
"""
from libc.stdint cimport uint16_t

from fastgate._core.platform.buffer cimport buf_len, buf_return
from fastgate._core.upstream.announced cimport announced_find
from fastgate._core.upstream.balance cimport place_again, select_target
from fastgate._core.upstream.call_error cimport (
    RETRY_ANY, RETRY_IDEMPOTENT, RETRY_NEVER, SIDE_OURS, SIDE_UPSTREAM, call_error, connect_error, error_of, reset_error)
from fastgate._core.upstream.connection cimport (
    up_greet, up_greets, up_keep_session, up_open, up_tls_failed, upstream_close)
from fastgate._core.io.delivery cimport delivery_look, delivery_watch
from fastgate._core.http.head cimport HEAD_UPGRADE_WEBSOCKET, head_reset
from fastgate._core.io.tls cimport tls_fault, tls_rest, tls_resumed, tls_version, tls_why_failed
from fastgate._core.io.transport cimport (
    conn_again, conn_broken, conn_drained, conn_ended, conn_expect_little, conn_flush, conn_held, conn_queue,
    conn_read_start, conn_read_stop, conn_reading)
from fastgate._core.upstream.pool cimport (
    pool_affords, pool_drop_sessions, pool_earn, pool_failed, pool_of, pool_put, pool_spend, pool_succeeded, pool_take,
    pool_timed, pool_unlink)
from fastgate._core.reason cimport (
    OVERLOADED, RESPONSE_TRUNCATED, UPSTREAM_CONNECT_FAILED, UPSTREAM_INVALID_RESPONSE, UPSTREAM_RESET,
    UPSTREAM_TIMEOUT, UPSTREAM_TLS_FAILED)
from fastgate._core.upstream.waiting cimport must_wait, place_free, wait_begin, wait_leave
from fastgate._core.state cimport (
    CALL_BODY, CALL_CLOSE_AFTER, CALL_CONNECT, CALL_COUNTED, CALL_DONE, CALL_FAILED, CALL_FRESH,
    CALL_GOOD, CALL_IDEMPOTENT, CALL_REPLAYABLE, CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND,
    CALL_TRUNCATED, CALL_TUNNEL, CALL_UPGRADE, UP_BUSY, core_of, pool)
from fastgate._core.snapshot.snapshot cimport status_in
from fastgate._core.tls.faults cimport TLS_CLOSED_BY_PEER
from fastgate._core.tls.openssl cimport TLS1_3_VERSION
from fastgate._core.platform.sys cimport EPROTO, monotonic_ns
from fastgate._core.upstream.deadlines cimport (
    PASSES_BROKEN, PASSES_CLOSE, PASSES_CONNECT, PASSES_END, PASSES_REST, PASSES_SENT, still_reads, up_deadline,
    up_passes)

cdef enum:
    MAX_INTERIM = 16
    PER_ATTEMPT = CALL_REQUEST_DONE | CALL_RESPONSE_DONE | CALL_CLOSE_AFTER | CALL_TRUNCATED | CALL_GOOD

cdef enum NextTry:
    GIVE_UP = 0
    TRY = 1
    WAIT = 2


# ---- connections ------------------------------------------------------------------------

cdef void detach(core *c, call *k) noexcept nogil:
    """Separate the call from its connection; the caller decides what becomes of the connection."""
    cdef upstream *u = k.up
    if k.flags & CALL_COUNTED:
        k.flags &= ~CALL_COUNTED
        if u is not NULL and u.home is not NULL and u.home.active > 0 and u.pool_generation == u.home.generation:
            u.home.active -= 1
    if u is not NULL:
        if u.place:
            place_free(c, u.place)
            u.place = 0
        u.k = NULL
        k.up = NULL


cdef void cut(core *c, call *k) noexcept nogil:
    """Separate the call from its connection, and close the connection."""
    cdef upstream *u = k.up
    detach(c, k)
    conn_broken(&u.io)
    upstream_close(c, u)


# ---- trying -----------------------------------------------------------------------------

cdef int call_start(core *c, call *k) noexcept nogil:
    cdef call_error error = error_of(0, SIDE_OURS, RETRY_NEVER)
    k.attempts = 0
    k.turns = 0
    k.tried = 0
    k.flags &= ~CALL_FRESH
    pool_earn(c, k)
    if run(c, k, &error):
        return 0
    k.state = CALL_FAILED
    return error.reason


cdef int run(core *c, call *k, call_error *error) noexcept nogil:
    """The loop of tries. Not 0: the call is on its way, or waits; 0: `error` is the reason why not.

    On entry, `error` is the reason why the last try failed. If an answer's status is to be retried, k.up still
    has that answer: it is discarded only when there is another target; otherwise it stays the answer.
    """
    cdef int next = next_try(c, k, error)
    while next == TRY:
        if k.up is not NULL:
            discard(c, k)
        if attempt(c, k, error):
            return 1
        next = next_try(c, k, error)
    return next


cdef int next_try(core *c, call *k, call_error *error) noexcept nogil:
    """Whether to try (again), and which target: k.target. NextTry."""
    cdef uint32_t most = k.service.attempts if k.service is not NULL else 2
    cdef int reason
    if k.turns >= 2 * most:
        return GIVE_UP                   # each chosen target, and a new connection to each
    k.turns += 1
    if k.attempts != 0:
        if not k.flags & CALL_REPLAYABLE or error.retryable == RETRY_NEVER or (
                error.retryable == RETRY_IDEMPOTENT and not k.flags & CALL_IDEMPOTENT):
            return GIVE_UP
        if error.stale and not k.flags & CALL_FRESH and place_again(c, k):
            k.flags |= CALL_FRESH
            return TRY
        # A try that reached no target put no load on any: the next one costs no retry credit.
        if k.attempts >= most or (error.retryable == RETRY_IDEMPOTENT and not pool_affords(c, k)):
            return GIVE_UP
    reason = OVERLOADED
    if k.attempts != 0 or k.group.queue_max == 0 or not must_wait(c, k):
        reason = select_target(c, k)
    if reason != 0:
        if k.attempts == 0:
            if reason == OVERLOADED and k.group.queue_max and wait_begin(c, k, call_admitted):
                return WAIT
            error.reason = <uint16_t>reason
        return GIVE_UP
    if k.attempts != 0:
        c.counters.retries += 1
        if error.retryable == RETRY_IDEMPOTENT:
            pool_spend(c, k)
    k.attempts += 1
    k.flags &= ~CALL_FRESH
    return TRY


cdef void call_admitted(core *c, call *k, int reason) noexcept nogil:
    """It has waited for k.target, or in vain."""
    cdef call_error error = error_of(<uint16_t>reason, SIDE_OURS, RETRY_NEVER)
    if reason == 0:
        k.attempts = 1
        if attempt(c, k, &error):
            go_on(c, k)
        else:
            try_again(c, k, error)
        return
    k.state = CALL_FAILED
    c.sink.call_failed(k, reason)


cdef int attempt(core *c, call *k, call_error *error) noexcept nogil:
    """One try at the chosen target: take or open a connection, queue the request. Returns as `run`."""
    cdef upstream *u = NULL
    cdef pool *p = pool_of(c, k.target)
    cdef int result
    k.flags &= ~PER_ATTEMPT
    k.tls_fault = 0
    if not k.flags & CALL_FRESH:
        u = pooled(c, k, p)
    if u is not NULL:
        c.counters.upstream_reused += 1
        u.reused = 1
        u.requests += 1
        bind(k, u, p)
        return begin_send(c, k, error)
    result = up_open(c, k, p, &u, error)
    if result < 0:
        if k.place:
            place_free(c, k.place)
            k.place = 0
        if error.side == SIDE_UPSTREAM:
            pool_failed(c, k)
        return 0
    bind(k, u, p)
    if result == 1:
        u.state = UP_BUSY
        return begin_send(c, k, error)
    k.state = CALL_CONNECT
    up_deadline(c, u)
    return 1


cdef inline upstream *pooled(core *c, const call *k, pool *p) noexcept nogil:
    """An idle connection that the call may use; NULL: there is none."""
    cdef upstream *u
    if k.group.proxy_protocol:
        u = announced_find(c, k, p)
        if u is not NULL:
            pool_unlink(c, u)
        return u
    u = pool_take(c, p)
    while u is not NULL and u.pool_generation != p.generation:
        upstream_close(c, u)             # the slot had another owner: this connection leads elsewhere
        u = pool_take(c, p)
    return u


cdef void bind(call *k, upstream *u, pool *p) noexcept nogil:
    k.up = u
    u.k = k
    u.home = p
    u.place = k.place
    k.place = 0
    k.flags |= CALL_COUNTED
    p.active += 1


cdef int begin_send(core *c, call *k, call_error *error) noexcept nogil:
    cdef upstream *u = k.up
    cdef uint64_t taken
    k.state = CALL_SEND
    k.interims = 0
    head_reset(&k.resp)
    if c.sink.call_render(k) < 0:
        cut(c, k)
        error[0] = error_of(OVERLOADED, SIDE_OURS, RETRY_NEVER)
        return 0
    k.sent_ns = monotonic_ns()
    k.whole_ns = 0
    u.out.look_ns = 0
    conn_read_start(&u.io)
    taken = u.io.out_taken
    if call_flush(c, k) < 0:
        if u.io.out_taken == taken:
            error[0] = error_of(UPSTREAM_CONNECT_FAILED, SIDE_UPSTREAM, RETRY_ANY)
            error.stale = u.reused
        else:
            error[0] = error_of(UPSTREAM_RESET, SIDE_UPSTREAM, RETRY_IDEMPOTENT)
        cut(c, k)
        if not error.stale:
            pool_failed(c, k)
        return 0
    return 1


cdef void up_connected(conn *x, int error) noexcept nogil:
    cdef upstream *u = <upstream *>x
    cdef core *c = core_of(&u.io)
    cdef call *k = u.k
    cdef call_error why
    cdef int result
    if k is NULL:
        upstream_close(c, u)
        return
    if error != 0:
        c.counters.upstream_connect_failures += 1
        if u.io.tls is not NULL and error == EPROTO:
            c.counters.handshakes_failed[1] += 1
            up_tls_failed(c, k, tls_fault(&u.io), tls_why_failed(&u.io))
            # A peer that hangs up may be about to restart: only what it says or shows is a matter of trust.
            broken(c, k, error_of(
                UPSTREAM_CONNECT_FAILED if k.tls_fault == TLS_CLOSED_BY_PEER else UPSTREAM_TLS_FAILED,
                SIDE_UPSTREAM, RETRY_ANY))
        else:
            broken(c, k, connect_error(error))
        return
    if up_greets(k, u):
        result = up_greet(c, k, u, &why)
        if result <= 0:
            if result < 0:
                broken(c, k, why)
            return
    if u.io.tls is not NULL:
        c.counters.handshakes[1][tls_version(x) == TLS1_3_VERSION][tls_resumed(x) != 0] += 1
    u.state = UP_BUSY
    if begin_send(c, k, &why):
        go_on(c, k)
    else:
        try_again(c, k, why)


cdef void broken(core *c, call *k, call_error error) noexcept nogil:
    """The connection failed before a final head came."""
    if error.reason == UPSTREAM_TLS_FAILED:
        pool_drop_sessions(c, k.up.home)
    cut(c, k)
    if error.side == SIDE_UPSTREAM and not error.stale:
        pool_failed(c, k)
    try_again(c, k, error)


cdef void try_again(core *c, call *k, call_error error) noexcept nogil:
    """Continue, or fail with the reason."""
    if run(c, k, &error):
        go_on(c, k)
    else:
        k.state = CALL_FAILED
        c.sink.call_failed(k, error.reason)


cdef void go_on(core *c, call *k) noexcept nogil:
    """The head is on its way: the body may follow."""
    if k.state == CALL_SEND and not k.flags & CALL_REQUEST_DONE:
        c.sink.call_writable(k)


# ---- reading the answer -----------------------------------------------------------------

cdef void up_data(conn *x, ssize_t n) noexcept nogil:
    cdef upstream *u = <upstream *>x
    cdef core *c = core_of(&u.io)
    cdef call *k = u.k
    if k is NULL:
        upstream_close(c, u)                   # idle: the upstream closed it, or sent bytes without a request
        return
    if k.state == CALL_SEND:
        if n > 0:
            if u.io.inb is not NULL:
                read_head(c, k)
        else:
            broken(c, k, reset_error(k))
    elif k.state == CALL_BODY or k.state == CALL_TUNNEL:
        if n > 0:
            up_deadline(c, u)
            c.sink.call_body(k)
        elif n == 0 and (k.state == CALL_TUNNEL or u.codec.ends_with_connection(k)):
            k.flags |= CALL_RESPONSE_DONE | CALL_CLOSE_AFTER
            c.sink.call_body(k)
        else:
            k.flags |= CALL_TRUNCATED | CALL_CLOSE_AFTER
            fail(c, k, RESPONSE_TRUNCATED)
    else:
        upstream_close(c, u)


cdef inline void succeeded(core *c, call *k) noexcept nogil:
    """The target did well: its answer was good, and if that ended early, it was not the target's fault."""
    if k.flags & CALL_GOOD:
        k.flags &= ~CALL_GOOD
        pool_succeeded(c, k)


cdef void fail(core *c, call *k, int reason) noexcept nogil:
    """A failure after the head: no retry is possible."""
    if k.state != CALL_TUNNEL and k.flags & CALL_GOOD:
        pool_failed(c, k)                # otherwise its head was a failure, which has been counted
    k.flags &= ~CALL_GOOD
    k.state = CALL_FAILED
    if k.up is not NULL:
        cut(c, k)
    c.sink.call_failed(k, reason)


cdef void read_head(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef int size
    cdef uint16_t status
    cdef call_error error
    while True:
        size = u.codec.head(k)
        if size == 0:
            return
        if size < 0:
            broken(c, k, error_of(UPSTREAM_INVALID_RESPONSE, SIDE_UPSTREAM, RETRY_NEVER))
            return
        status = k.resp.status
        if status >= 200:
            break
        if status == 101:
            if not (k.flags & CALL_UPGRADE and k.resp.flags & HEAD_UPGRADE_WEBSOCKET):
                broken(c, k, error_of(UPSTREAM_INVALID_RESPONSE, SIDE_UPSTREAM, RETRY_NEVER))
                return
            break
        k.interims += 1
        if k.interims > MAX_INTERIM:
            broken(c, k, error_of(UPSTREAM_INVALID_RESPONSE, SIDE_UPSTREAM, RETRY_NEVER))
            return
        if status == 103:
            c.sink.call_interim(k)
            if u.k is not k:
                return                   # the call ended in the sink, and its memory is gone
        u.io.inb.start += size
        head_reset(&k.resp)
        if buf_len(u.io.inb) == 0:
            buf_return(&c.loop.bufs, u.io.inb)
            u.io.inb = NULL
            return
    k.first_byte_ns = c.loop.now if c.loop.now > k.sent_ns else k.sent_ns
    if status_in(k.group.eject_statuses, status):
        pool_failed(c, k)
    else:
        k.flags |= CALL_GOOD
        if status < 500:                 # a fast error does not make a target fast
            pool_timed(c, k, k.first_byte_ns - (k.whole_ns if k.whole_ns > k.sent_ns else k.sent_ns))
    u.io.inb.start += size
    if status == 101:
        succeeded(c, k)
        k.state = CALL_TUNNEL
        k.flags |= CALL_CLOSE_AFTER
    else:
        k.state = CALL_BODY
        u.codec.expect_body(k)
    if k.service is not NULL and status_in(k.service.retry_statuses, status) and k.interims == 0:
        succeeded(c, k)                  # while k.target is still the one that answered
        error = error_of(0, SIDE_UPSTREAM, RETRY_IDEMPOTENT)
        if run(c, k, &error):
            go_on(c, k)
            return
        if k.up is NULL:
            k.state = CALL_FAILED
            c.sink.call_failed(k, error.reason)
            return
    c.sink.call_head(k)
    if u.k is not NULL:                  # else the answer was here as a whole
        up_deadline(c, u)


cdef void discard(core *c, call *k) noexcept nogil:
    """Discard an answer that is not passed on. Its connection is kept if all of the answer is here already."""
    k.up.codec.skip(k)
    call_end(c, k)


cdef void call_bad(core *c, call *k) noexcept nogil:
    k.flags |= CALL_TRUNCATED | CALL_CLOSE_AFTER
    fail(c, k, UPSTREAM_INVALID_RESPONSE)


cdef void call_read(core *c, call *k, int on) noexcept nogil:
    cdef upstream *u = k.up if k is not NULL else NULL
    if u is NULL:
        return
    if on:
        if not conn_reading(&u.io):
            conn_read_start(&u.io)
            up_deadline(c, u)
            if u.io.inb is not NULL and buf_len(u.io.inb) != 0:
                conn_again(&u.io)
    elif conn_reading(&u.io):
        conn_read_stop(&u.io)
        up_deadline(c, u)                # none: now we wait for the reader of the answer


# ---- sending ----------------------------------------------------------------------------

cdef void call_queue(core *c, call *k, buf *b) noexcept nogil:
    conn_queue(&k.up.io, b)


cdef int call_flush(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef int done = conn_flush(&u.io)
    if done == 1:
        u.out.look_ns = 0
    elif u.out.look_ns == 0:
        delivery_watch(&c.loop, &u.out, k.group.write_ms)
    up_deadline(c, u)
    return done


cdef void up_progress(conn *x) noexcept nogil:
    """It took part of what is queued."""
    cdef upstream *u = <upstream *>x
    cdef core *c = core_of(&u.io)
    if u.k is not NULL:
        delivery_look(&c.loop, &u.io, &u.out, u.k.group.write_ms)
        up_deadline(c, u)


cdef void up_drained(conn *x) noexcept nogil:
    cdef upstream *u = <upstream *>x
    cdef core *c = core_of(&u.io)
    u.out.look_ns = 0
    if u.k is not NULL:
        up_deadline(c, u)
    if u.k is not NULL and (not u.k.flags & CALL_REQUEST_DONE or u.k.state == CALL_TUNNEL):
        c.sink.call_writable(u.k)


cdef void up_timeout(upstream *u) noexcept nogil:
    cdef core *c = core_of(&u.io)
    cdef call *k = u.k
    cdef int passes = up_passes(u)
    if passes == PASSES_CLOSE:
        upstream_close(c, u)
    elif passes == PASSES_REST:
        tls_rest(&u.io)
        up_deadline(c, u)
    elif passes == PASSES_CONNECT:
        c.counters.upstream_connect_failures += 1
        broken(c, k, error_of(UPSTREAM_CONNECT_FAILED, SIDE_UPSTREAM, RETRY_ANY))
    elif passes == PASSES_SENT:
        if not still_reads(c, u):
            broken(c, k, error_of(UPSTREAM_TIMEOUT, SIDE_UPSTREAM, RETRY_NEVER))
    elif passes == PASSES_BROKEN:
        fail(c, k, UPSTREAM_TIMEOUT)
    elif passes == PASSES_END:
        fail(c, k, 0)


# ---- ending -----------------------------------------------------------------------------

cdef void call_end(core *c, call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef upstream *victim
    cdef uint32_t keep = k.group.keepalive_max
    k.state = CALL_DONE
    succeeded(c, k)
    if u is NULL:
        return
    detach(c, k)
    if (k.flags & (CALL_CLOSE_AFTER | CALL_REQUEST_DONE | CALL_RESPONSE_DONE)) != (
            CALL_REQUEST_DONE | CALL_RESPONSE_DONE) or not conn_drained(&u.io) or conn_ended(&u.io) or conn_held(&u.io):
        upstream_close(c, u)
        return
    up_keep_session(c, u)
    if u.io.inb is not NULL:
        buf_return(&c.loop.bufs, u.io.inb)
        u.io.inb = NULL
    conn_read_stop(&u.io)           # nothing is left to read again
    u.reused = 0
    u.keep_ns = <uint64_t>k.group.keepalive_idle_ms * 1000000
    conn_expect_little(&u.io)
    victim = pool_put(c, u.home, u, keep)
    if victim is not NULL:
        upstream_close(c, victim)
        if victim is u:
            return
    up_deadline(c, u)
    conn_read_start(&u.io)


cdef void call_abort(core *c, call *k) noexcept nogil:
    k.state = CALL_DONE
    succeeded(c, k)
    if k.waiter is not NULL:
        wait_leave(c, k)
    if k.up is not NULL:
        cut(c, k)
