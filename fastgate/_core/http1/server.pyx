"""server: client connections: accept, read heads, keep alive, write, close.

    state    waits for                    bytes                     end
    PROXY    a PROXY header               parse                     close
    HANDSHAKE  the TLS handshake          –                         close
    IDLE     a request                    → HEAD                    close
    HEAD     the rest of a head           parse                     close
    BUSY     its exchange                 sink body                 sink gone, or served as half-closed
    LINGER   what the client still sends  discarded, 256 KiB        close
    TUNNEL   bytes for the other side     sink body                 sink body (half-closed)

The table of deadlines is in deadlines.pyx; `down_timeout` here handles a deadline that passes.

A client that closes its side after its request is still served (the `half_close` setting). A client that
has gone is detected by a reset, by a failed write, or by a keep-alive probe.

When a head is complete, the exchange takes over its buffer (spans point into it until the exchange
ends). What follows the head in that buffer is the start of the body, or the next request; it is
read from there first. When the exchange ends, unread bytes become the connection's input again,
so pipelined requests are served in order, one at a time.

An idle connection owns no buffer and no exchange: it costs only the struct here and the kernel's
socket.
"""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memmove, memset

from fastgate._core.platform.buffer cimport (
    HEADROOM, buf_borrow, buf_data, buf_head, buf_len, buf_return,
    buf_room)
from fastgate._core.io.delivery cimport (
    TAKEN_ALL, TAKES_NOTHING, delivery_below, delivery_look, delivery_watch)
from fastgate._core.http1.parser cimport parse_request, parse_request_line
from fastgate._core.io.poller cimport poller_add, poller_add_listener, poller_remove
from fastgate._core.io.tls cimport tls_rest, tls_resumed, tls_serve, tls_version
from fastgate._core.io.transport cimport (
    conn_accept, conn_again, conn_blocked, conn_broken, conn_close, conn_dead, conn_discard, conn_expect_little, conn_finish,
    conn_flush, conn_give_up_after, conn_last, conn_may_owe, conn_more, conn_peek, conn_probe, conn_read_now,
    conn_read_start, conn_read_stop, conn_reading, conn_resets, conn_unsent)
from fastgate._core.reason cimport REQUEST_TIMEOUT
from fastgate._core.snapshot.snapshot cimport listener_rec
from fastgate._core.state cimport (
    BODY_MORE, DOWN_BUSY, DOWN_CLOSED, DOWN_HANDSHAKE, DOWN_HEAD, DOWN_IDLE, DOWN_LINGER, DOWN_PROXY, DOWN_TUNNEL,
    EX_ABORTED, EX_KEEP_ALIVE, EX_REFUSED, EX_RESPONSE_DONE, EX_TUNNEL, accepts, core_of, exchange_free, exchange_new, server_codec)
from fastgate._core.io.connection cimport KIND_DOWN
from fastgate._core.platform.sys cimport (
    ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, sockaddr_storage)
from fastgate._core.platform.text cimport fg_clear
from fastgate._core.io.timer cimport timer_set
from fastgate._core.tls.openssl cimport TLS1_3_VERSION
from fastgate._core.tls.tables cimport tls_listener
from fastgate._core.upstream.announced cimport announced_left
from fastgate._core.http1.entry cimport (
    entry_admit, entry_announced, entry_late, entry_leave, entry_peer, entry_read)
from fastgate._core.http1.handshakes cimport handshake_enter, handshake_leave, handshakes_full
from fastgate._core.http1.reader cimport read_expect_body, read_plain, read_skip, read_take, read_waiting
from fastgate._core.http1.writer cimport (
    write_data, write_end, write_interim, write_sent, write_start, write_verbatim)
from fastgate._core.http1.deadlines cimport (
    PASSES_CLOSE, PASSES_LATE, PASSES_NO_CLIENT, PASSES_NO_HEAD, PASSES_REST, PASSES_UNREAD, body_slow,
    down_passes, down_until)

cdef enum:
    ACCEPTS = 64              # per event
    PAUSE_NS = 50000000       # how long accepting pauses when descriptors or connections run out
    LINGER_BYTES = 262144
    HALF_CLOSE = 4            # a bit of snapshot_header.flags
    FIRST_REQUEST_NS = 1000000000      # for each step towards a first request, while the engine drains


# ---- accepting --------------------------------------------------------------------------

cdef uint32_t accepts_now(core *c, accepts *a) noexcept nogil:
    """How many connections to accept at this event: one, or more if events come one after the other.

    So no accept() is needed to learn that there are no more, which costs as much as a connection: if there
    are more, the next round has an event for them.
    """
    a.most = 2 * a.most if a.most != 0 and a.round + 1 == c.counters.polls else 1
    if a.most > ACCEPTS:
        a.most = ACCEPTS
    a.round = c.counters.polls
    return a.most


cdef void down_accepted(conn *listener) noexcept nogil:
    cdef core *c = core_of(listener)
    cdef sockaddr_storage peer
    cdef downstream *d
    cdef accepts *a = &c.accepted[listener - c.listeners]
    cdef int fd
    cdef uint32_t i
    for i in range(accepts_now(c, a)):
        if c.n_downs >= c.ref.snap.max_connections or descriptors_short(c):
            pause_accept(c)              # they wait in the kernel's queue, or for another worker
            return
        fd = conn_accept(listener, &peer)
        if fd < 0:
            if fd == -EMFILE or fd == -ENFILE or fd == -ENOBUFS or fd == -ENOMEM:
                pause_accept(c)
                return
            if fd == -ECONNABORTED or fd == -EINTR:
                continue
            a.most = 1
            return
        d = down_new(c, fd, &peer)
        if d is NULL:
            pause_accept(c)
            return
        d.listener = <uint8_t>(listener - c.listeners)
        c.counters.accepted += 1
        if not begin(c, d) or poller_add(&c.loop, &d.io) < 0:
            down_close(d)
            continue
        conn_read_now(&d.io)             # most clients send a request at once
        down_deadline(c, d)


cdef inline int begin(core *c, downstream *d) noexcept nogil:
    """What a new connection begins with: 0 if it cannot begin."""
    cdef const listener_rec *l = c.entries[d.listener]
    if l is not NULL and entry_announced(c, d, l):
        d.state = DOWN_PROXY
        return 1
    return begin_client(c, d)


cdef int begin_client(core *c, downstream *d) noexcept nogil:
    """The same, once it is known who the client is."""
    cdef const listener_rec *e = c.entries[d.listener]
    cdef tls_listener *l = c.tls_of[d.listener]
    if e is not NULL and not entry_admit(c, d, e):
        return 0
    if l is NULL:
        return 1
    if handshakes_full(c) and c.oldest_handshake is not NULL:
        c.counters.handshakes_dropped += 1
        down_close(c.oldest_handshake)
    if tls_serve(&d.io, c.tls, l) < 0:
        return 0
    handshake_enter(c, d)
    return 1


cdef void down_connected(conn *x, int error) noexcept nogil:
    """The handshake is over; without TLS now, if the client turned out to speak clear HTTP."""
    cdef downstream *d = <downstream *>x
    cdef core *c = core_of(&d.io)
    handshake_leave(c, d)
    d.state = DOWN_IDLE
    d.secure = x.tls is not NULL
    if d.secure:
        c.counters.handshakes[0][tls_version(x) == TLS1_3_VERSION][tls_resumed(x) != 0] += 1
        if x.tls.session.peer.n_asked:
            d.peer = &x.tls.session.peer
    first_deadline(c, d)


cdef inline int descriptors_short(core *c) noexcept nogil:
    """Whether one more client might leave no descriptor for its connection to an upstream.

    Each client needs two, except one that waits for its next request: it is closed if a descriptor is missing.
    """
    return 2 * (c.n_downs + 1) - c.n_waiting > c.descriptors


cdef int down_spare(core *c) noexcept nogil:
    cdef downstream *d = c.downs if c.n_waiting != 0 else NULL
    while d is not NULL:
        if d.state == DOWN_IDLE and d.requests != 0 and d.io.inb is NULL and not conn_peek(&d.io):
            down_close(d)
            return 1
        d = d.next
    return 0


cdef void pause_accept(core *c) noexcept nogil:
    cdef uint32_t i
    if not c.accepting:
        return
    c.accepting = 0
    for i in range(c.n_listeners):
        if c.listeners[i].fd >= 0:
            poller_remove(&c.loop, &c.listeners[i])
    timer_set(&c.loop, &c.pause, c.loop.now + PAUSE_NS)


cdef void resume_accept(core *c) noexcept nogil:
    cdef uint32_t i
    if c.accepting or c.draining or c.ref is NULL:
        return
    c.accepting = 1
    for i in range(c.n_listeners):
        if c.listeners[i].fd >= 0:
            poller_add_listener(&c.loop, &c.listeners[i])


cdef downstream *down_new(core *c, int fd, const sockaddr_storage *peer) noexcept nogil:
    cdef downstream *d = c.free_downs
    if d is not NULL:
        c.free_downs = d.next
    else:
        d = <downstream *>calloc(1, sizeof(downstream))
        if d is NULL:
            return NULL
    memset(d, 0, sizeof(downstream))
    d.io.fd = fd
    d.io.kind = KIND_DOWN
    d.io.loop = &c.loop
    d.codec = &CODEC
    entry_peer(d, peer)
    d.next = c.downs
    if d.next is not NULL:
        d.next.prev = d
    c.downs = d
    c.n_downs += 1
    return d


# ---- reading --------------------------------------------------------------------------------

cdef void down_data(conn *x, ssize_t n) noexcept nogil:
    cdef downstream *d = <downstream *>x
    cdef core *c = core_of(&d.io)
    if d.state == DOWN_IDLE or d.state == DOWN_HEAD:
        if n <= 0:
            down_close(d)
        else:
            read_head(c, d)
    elif d.state == DOWN_LINGER:
        if n > 0:
            d.lingered += <uint32_t>n
        if d.io.inb is not NULL:
            buf_return(&c.loop.bufs, d.io.inb)
            d.io.inb = NULL
        if n <= 0 or d.lingered > LINGER_BYTES:
            down_close(d)
    elif d.ex is NULL:
        if d.state == DOWN_PROXY:
            read_client(c, d, n)
        else:
            down_close(d)
    elif d.state == DOWN_BUSY:
        if n <= 0:
            c.sink.gone(d.ex)            # in the middle of its body
        elif body_slow(c, d):
            c.sink.late(d.ex)
        else:
            down_deadline(c, d)
            c.sink.body(d.ex)
    elif d.state == DOWN_TUNNEL:
        if n >= 0:
            c.sink.body(d.ex)
        else:
            c.sink.gone(d.ex)


cdef void read_client(core *c, downstream *d, ssize_t n) noexcept nogil:
    cdef int done = entry_read(c, d, n)
    if done == 0:
        return
    d.state = DOWN_IDLE
    if done < 0 or not begin_client(c, d):
        down_close(d)
        return
    first_deadline(c, d)
    if d.state == DOWN_IDLE and d.io.inb is not NULL:
        down_data(&d.io, buf_len(d.io.inb))     # the beginning of its request


cdef void read_head(core *c, downstream *d) noexcept nogil:
    cdef exchange *e = d.ex
    cdef buf *b = d.io.inb
    cdef buf *larger
    cdef int size
    cdef uint32_t length
    if b is NULL:
        return
    if e is NULL:
        e = exchange_new(c)
        if e is NULL:
            down_close(d)
            return
        e.down = d
        d.ex = e
        if d.requests != 0:
            c.n_waiting -= 1
        d.state = DOWN_HEAD
        d.head_started = c.loop.now           # when its bytes arrived, not when they were read
    e.base = buf_head(b)
    if parse_request_line(&e.req, e.base, buf_len(b), &c.request_caps) > 0:
        c.sink.line(e)
    size = parse_request(&e.req, e.base, buf_len(b), &c.request_caps)
    if size == 0:
        down_deadline(c, d)
        if buf_room(b) == 0:
            # It was pipelined, or the head is longer than a small buffer: make room.
            length = buf_len(b)
            if b.start > HEADROOM:
                memmove(buf_data(b) + HEADROOM, buf_head(b), length)
                b.start = HEADROOM
                b.end = HEADROOM + length
            else:
                larger = buf_borrow(&c.loop.bufs, <size_t>c.request_caps.head + 4096)
                if larger is NULL:
                    down_close(d)
                    return
                memcpy(buf_head(larger), buf_head(b), length)
                larger.end = larger.start + length
                buf_return(&c.loop.bufs, b)
                d.io.inb = larger
        return
    d.requests += 1
    d.state = DOWN_BUSY
    e.headbuf = b
    d.io.inb = NULL
    conn_read_stop(&d.io)
    timer_set(&c.loop, &d.io, 0)
    d.out.look_ns = 0
    if size < 0:
        c.counters.parse_errors += 1
        c.sink.head_bad(e, -size)
        return
    b.start += <uint32_t>size
    c.sink.head(e)


cdef void codec_read(exchange *e, int on) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    if on:
        if not conn_reading(&d.io):
            e.asked_ns = c.loop.now
            conn_read_start(&d.io)
            down_deadline(c, d)
        if read_waiting(e) is not NULL:
            conn_again(&d.io)
    elif conn_reading(&d.io):
        body_slow(c, d)                  # its time stops: now we wait for the upstream
        e.asked_ns = 0
        conn_read_stop(&d.io)
        down_deadline(c, d)


cdef void down_hup(conn *x) noexcept nogil:
    """The client closed its side while we do not read from it, or the connection is dead."""
    cdef downstream *d = <downstream *>x
    cdef core *c = core_of(&d.io)
    if (d.state != DOWN_BUSY and d.state != DOWN_TUNNEL) or d.ex is NULL:
        return
    if conn_dead(&d.io) or (d.state == DOWN_BUSY and not c.ref.snap.flags & HALF_CLOSE):
        c.sink.gone(d.ex)
    elif d.state == DOWN_BUSY and not d.half_closed:
        d.half_closed = 1
        # It may wait for its answer, or be gone: a probe makes the kernel find out which.
        conn_probe(&d.io)


# ---- writing --------------------------------------------------------------------------------

cdef int codec_flush(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef int done
    if e.flags & (EX_RESPONSE_DONE | EX_KEEP_ALIVE | EX_TUNNEL) == EX_RESPONSE_DONE:
        conn_last(&d.io)
    done = conn_flush(&d.io)
    if done == 0 and conn_blocked(&d.io):
        if d.out.look_ns == 0:
            delivery_watch(&c.loop, &d.out, c.ref.snap.write_ms)
            down_deadline(c, d)
    elif d.out.look_ns != 0:
        d.out.look_ns = 0
        down_deadline(c, d)
    return done


cdef void down_progress(conn *x) noexcept nogil:
    """A slow reader took part of what is queued."""
    cdef downstream *d = <downstream *>x
    unread(core_of(&d.io), d)


cdef void down_drained(conn *x) noexcept nogil:
    cdef downstream *d = <downstream *>x
    cdef core *c = core_of(&d.io)
    d.out.look_ns = 0
    if d.ex is not NULL and (d.state == DOWN_BUSY or d.state == DOWN_TUNNEL):
        down_deadline(c, d)
        c.sink.drained(d.ex)


# ---- time ---------------------------------------------------------------------------------------

cdef void down_deadline(core *c, downstream *d) noexcept nogil:
    timer_set(&c.loop, &d.io, down_until(d))


cdef inline void first_deadline(core *c, downstream *d) noexcept nogil:
    """It takes the next step towards its first request."""
    timer_set(&c.loop, &d.io, c.loop.now + FIRST_REQUEST_NS if c.draining else down_until(d))


cdef void down_drain(downstream *d) noexcept nogil:
    cdef core *c = core_of(&d.io)
    if d.state == DOWN_IDLE and d.requests:
        if not conn_peek(&d.io):
            down_close(d)
    elif d.state == DOWN_HANDSHAKE or d.state == DOWN_PROXY or (d.state == DOWN_IDLE and not conn_peek(&d.io)):
        first_deadline(c, d)


cdef void down_timeout(downstream *d) noexcept nogil:
    cdef core *c = core_of(&d.io)
    cdef int passes = down_passes(d)
    if passes == PASSES_UNREAD:
        unread(c, d)
    elif passes == PASSES_LATE:
        c.sink.late(d.ex)
    elif passes == PASSES_NO_HEAD:
        # Part of a head is here: answer the client. It can read the answer even if it keeps sending.
        d.state = DOWN_BUSY
        conn_read_stop(&d.io)
        d.ex.headbuf = d.io.inb
        d.io.inb = NULL
        d.ex.req.nfields = 0
        c.sink.head_bad(d.ex, REQUEST_TIMEOUT)
    elif passes == PASSES_REST:
        tls_rest(&d.io)
        down_deadline(c, d)
    elif passes == PASSES_CLOSE or passes == PASSES_NO_CLIENT:
        if passes == PASSES_NO_CLIENT and not c.draining:
            entry_late(c, d)
        down_close(d)


cdef void unread(core *c, downstream *d) noexcept nogil:
    """Check a client that has not read all of its answer: more time for it, or a reset."""
    cdef uint32_t ms = c.ref.snap.write_ms
    cdef int watched = d.out.look_ns != 0
    cdef int taking = delivery_look(&c.loop, &d.io, &d.out, ms)
    if d.state == DOWN_IDLE:
        if taking == TAKEN_ALL and not watched:
            down_close(d)                # idle for as long as is allowed
            return
        if taking != TAKES_NOTHING:
            down_deadline(c, d)
            return
        conn_resets(&d.io, 1)
        down_close(d)
    elif d.ex is not NULL and (d.state == DOWN_BUSY or d.state == DOWN_TUNNEL):
        if taking == TAKES_NOTHING or delivery_below(&c.loop, &d.out, c.ref.snap.min_rate):
            conn_resets(&d.io, 1)
            c.sink.unread(d.ex)
        else:
            down_deadline(c, d)


# ---- ending -------------------------------------------------------------------------------------

cdef void down_next(downstream *d, exchange *e) noexcept nogil:
    cdef core *c = core_of(&d.io)
    cdef buf *rest = e.headbuf
    d.ex = NULL
    d.state = DOWN_IDLE
    c.n_waiting += 1
    if rest is not NULL and rest.start != rest.end:
        e.headbuf = NULL
        if d.io.inb is not NULL:
            buf_return(&c.loop.bufs, d.io.inb)
        d.io.inb = rest
    exchange_free(c, e)
    if d.io.inb is not NULL and d.io.inb.start == d.io.inb.end:
        buf_return(&c.loop.bufs, d.io.inb)
        d.io.inb = NULL
    conn_expect_little(&d.io)
    down_deadline(c, d)
    conn_read_start(&d.io)
    if d.io.inb is not NULL:
        conn_again(&d.io)


cdef void down_close(downstream *d) noexcept nogil:
    cdef core *c = core_of(&d.io)
    cdef uint32_t ms
    if d.state == DOWN_CLOSED:
        return
    if d.state == DOWN_IDLE and d.requests != 0:
        c.n_waiting -= 1
    elif d.state == DOWN_HANDSHAKE:
        handshake_leave(c, d)
        c.counters.handshakes_failed[0] += not (d.io.tls is not NULL and d.io.tls.session.challenge)
    if d.counted:
        entry_leave(c, d)
    if c.n_announced:
        announced_left(c, d)
    d.state = DOWN_CLOSED
    if conn_may_owe(&d.io) and conn_unsent(&d.io):
        # The kernel keeps sending the rest of the last answer, but not forever.
        ms = c.ref.snap.write_ms
        conn_give_up_after(&d.io, ms)
    if d.ex is not NULL:
        exchange_free(c, d.ex)
        d.ex = NULL
    fg_clear(&d.key, sizeof(d.key))
    conn_close(&d.io)
    if c.unpin_at is d:
        c.unpin_at = d.next
    if d.prev is not NULL:
        d.prev.next = d.next
    else:
        c.downs = d.next
    if d.next is not NULL:
        d.next.prev = d.prev
    d.next = NULL
    d.prev = NULL
    c.n_downs -= 1
    c.counters.closed += 1
    d.io.timer_next = c.loop.graveyard
    c.loop.graveyard = &d.io


cdef void down_linger(downstream *d) noexcept nogil:
    """The whole answer is in the kernel. Closing with unread input would reset the connection, and
    could destroy the answer on its way. So: half-close, read the rest, close."""
    cdef core *c = core_of(&d.io)
    if d.ex is not NULL:
        exchange_free(c, d.ex)
        d.ex = NULL
    if d.io.inb is not NULL:
        buf_return(&c.loop.bufs, d.io.inb)
        d.io.inb = NULL
    d.state = DOWN_LINGER
    conn_read_stop(&d.io)           # nothing is left to read again
    if conn_finish(&d.io) != 0:
        down_close(d)
        return
    conn_discard(&d.io)
    down_deadline(c, d)
    conn_read_start(&d.io)


# ---- the codec ----------------------------------------------------------------------------------

cdef int codec_waits(const exchange *e) noexcept nogil:
    return read_waiting(e) is not NULL


cdef void codec_deadline(exchange *e) noexcept nogil:
    down_deadline(e.owner, e.down)


cdef void codec_release(exchange *e) noexcept nogil:
    cdef downstream *d = e.down
    if e.flags & EX_ABORTED:
        conn_broken(&d.io)
        down_close(d)
        return
    write_sent(e)
    if e.flags & EX_KEEP_ALIVE and not e.owner.draining and (e.body_state != BODY_MORE or read_skip(e)):
        down_next(d, e)
    elif e.flags & EX_TUNNEL:
        down_close(d)
    elif e.body_state == BODY_MORE or e.flags & EX_REFUSED or conn_more(&d.io) or read_waiting(e) is not NULL:
        down_linger(d)
    else:
        down_close(d)


cdef void codec_reset(exchange *e) noexcept nogil:
    conn_broken(&e.down.io)
    e.down.peer = NULL                   # it is the connection's
    conn_close(&e.down.io)


cdef server_codec CODEC
CODEC.expect_body = read_expect_body
CODEC.take = read_take
CODEC.plain = read_plain
CODEC.waits = codec_waits
CODEC.read = codec_read
CODEC.verbatim = write_verbatim
CODEC.interim = write_interim
CODEC.start = write_start
CODEC.data = write_data
CODEC.end = write_end
CODEC.flush = codec_flush
CODEC.deadline = codec_deadline
CODEC.release = codec_release
CODEC.reset = codec_reset


cdef const server_codec *server_http1() noexcept nogil:
    return &CODEC
