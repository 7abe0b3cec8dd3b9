"""tls: bytes in and out of a connection through libssl. No thread, no socket of libssl's: its BIO is memory.

    in    socket ─recv─▶ received ─BIO─▶ SSL_read ─▶ inb
    out   queue ─▶ SSL_write ─BIO─▶ out ─send─▶ socket

`received` and `out` belong to the loop: between two calls, nothing is left in them. Received bytes that inb
had no room for move to `held`, and encrypted ones that the socket had no room for to the front of the queue.
A call never receives more than inb has room for, and while encrypted bytes wait, nothing more is encrypted.
Reading goes on in the meantime: a client may upload before it reads.

    IO_HELD        libssl can give more without another read of the socket: bytes are held or decrypted,
                   or an end is known that was not reported yet
    IO_SEALED      the queue's first buffer is encrypted
    IO_HANDSHAKE   until SSL_do_handshake is done; then the owner's `connected` sink is called

**Ends.** Only close_notify is an end (0). A bare end of the TCP stream is -ECONNRESET: what came before may
be incomplete. A normal close sends close_notify; one after `conn_broken` does not. After `conn_last` it goes out
with what is queued: sent at the close, it may find no room in the socket.

**Errors.** libssl's queue of errors belongs to the thread, so Python's ssl may leave some in it, and SSL_get_error
would take them for a connection's. The queue is emptied before each round, and after each error of ours.

**Handshakes.** Clients' take turns, since private keys take long: see poller.pyx. If a client's first byte is a
letter, it speaks clear HTTP: the connection goes on without TLS, and its exchange explains the mistake.
"""
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastgate._core.io.connection cimport (
    IO_CLOSED, IO_EOF, IO_ERROR, IO_HANDSHAKE, IO_HELD, IO_READABLE, IO_READING, IO_SEALED, IO_SHUT,
    KIND_UP, tls_scratch, tls_state)
from fastgate._core.io.raw cimport (
    conn_inb, conn_inb_filled, conn_inb_unused, conn_ready, raw_dead, raw_recv, raw_send)
from fastgate._core.io.tls_bio cimport OUT, tls_bio_new
from fastgate._core.platform.buffer cimport (
    buf, buf_borrow, buf_data, buf_head, buf_len, buf_return, buf_room)
from fastgate._core.platform.sys cimport EAGAIN, ECONNRESET, ENOBUFS, EPROTO
from fastgate._core.tls.choice cimport base_context
from fastgate._core.tls.contexts cimport upstream_context
from fastgate._core.tls.faults cimport (
    TLS_CERTIFICATE_NOT_PINNED, TLS_CLOSED_BY_PEER, TLS_NOT_SPOKEN, fault_of_chain, fault_of_error)
from fastgate._core.tls.openssl cimport (
    BIO, ERR_clear_error, ERR_peek_error, ERR_reason_error_string, SSL, SSL_CTX,
    SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_SESSION_free, SSL_SESSION_is_resumable,
    SSL_do_handshake, SSL_free, SSL_free_buffers, SSL_get0_param, SSL_get_error, SSL_get_verify_result, SSL_new,
    SSL_pending, SSL_read, SSL_session_reused, SSL_set1_host, SSL_set_accept_state, SSL_set_app_data, SSL_set_bio,
    SSL_set_connect_state, SSL_set_hostflags, SSL_set_session, SSL_set_tlsext_host_name, SSL_shutdown, SSL_version,
    SSL_write, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_VERIFY_PARAM_set1_ip_asc, X509_V_OK,
    X509_verify_cert_error_string)
from fastgate._core.tls.peer cimport peer_forget, peer_learn, peer_pinned
from fastgate._core.tls.tables cimport tls_session

cdef enum:
    RECORD = 16384            # bytes of data in a record, at most
    RECEIVED = 65536          # the size of tls_scratch.received
    OVERHEAD = 512            # of a record, and of what libssl may add to it (replies to updates of keys)
    KEY_UPDATES_MOST = 100    # without data
    FIRST = 8192              # bytes to read before it is known that a client speaks TLS


# ---- what libssl wrote -----------------------------------------------------------------------

cdef int emit(conn *x) noexcept nogil:
    """Send what libssl wrote, after what waits already. 1: all of it; 0: the rest waits; -1: it failed."""
    cdef tls_scratch *w = x.loop.tls
    cdef uint32_t n = w.out_len
    cdef ssize_t taken = 0
    if n == 0:
        return 1
    w.out_len = 0
    if not x.io & IO_SEALED:
        taken = raw_send(x, w.out, n)
        if taken == <ssize_t>n:
            return 1
        if taken < 0:
            return -1
    return 0 if seal(x, w.out + taken, n - <uint32_t>taken) else -1


cdef int seal(conn *x, const char *p, uint32_t n) noexcept nogil:
    """Let encrypted bytes wait: in the queue's first buffer, before all that is not encrypted. 1, or 0."""
    cdef buf *first = x.out_head if x.io & IO_SEALED else NULL
    cdef buf *b = first
    if b is NULL or buf_room(b) < n:
        b = buf_borrow(&x.loop.bufs, n + (buf_len(first) if first is not NULL else 0))
        if b is NULL:
            return 0
        b.next = x.out_head
        if first is not NULL:
            memcpy(buf_head(b), buf_head(first), buf_len(first))
            b.end += buf_len(first)
            b.next = first.next
            buf_return(&x.loop.bufs, first)
        x.out_head = b
        if b.next is NULL:
            x.out_tail = b
        x.io |= IO_SEALED
    memcpy(buf_data(b) + b.end, p, n)
    b.end += n
    x.out_bytes += n
    return 1


# ---- opening --------------------------------------------------------------------------------------

cdef tls_state *state_new(conn *x, tls_ring *r, SSL_CTX *ctx) noexcept nogil:
    cdef tls_state *t
    cdef BIO *bio
    if ctx is NULL:
        return NULL
    if x.loop.tls is NULL:
        x.loop.tls = <tls_scratch *>malloc(sizeof(tls_scratch))
        if x.loop.tls is NULL:
            return NULL
        x.loop.tls.out_len = 0
    t = <tls_state *>calloc(1, sizeof(tls_state))
    if t is NULL:
        return NULL
    t.loop = x.loop
    t.session.ssl = SSL_new(ctx)
    bio = tls_bio_new(t)
    if t.session.ssl is NULL or bio is NULL:
        SSL_free(t.session.ssl)
        free(t)
        ERR_clear_error()
        return NULL
    SSL_set_bio(t.session.ssl, bio, bio)
    SSL_set_app_data(t.session.ssl, &t.session)
    t.session.ring = r
    r.refs += 1
    x.tls = t
    x.io |= IO_HANDSHAKE
    return t


cdef int tls_serve(conn *x, tls_ring *r, tls_listener *l) noexcept nogil:
    cdef tls_state *t = state_new(x, r, base_context(r, l))
    if t is NULL:
        return -1
    t.server = 1
    t.session.listener = l
    t.session.context = &r.contexts[l.base]
    SSL_set_accept_state(t.session.ssl)
    if x.inb is not NULL:
        t.held = x.inb
        t.in_at = buf_head(x.inb)
        t.in_left = buf_len(x.inb)
        x.inb = NULL
        x.io |= IO_HELD
    return 0


cdef int tls_call(conn *x, tls_ring *r, tls_upstream *u, const char *host, SSL_SESSION *session) noexcept nogil:
    cdef tls_state *t = state_new(x, r, upstream_context(r, u))
    cdef const char *name = u.name if u.name is not NULL else host
    cdef SSL *ssl
    cdef int named
    if t is NULL:
        SSL_SESSION_free(session)
        return -1
    ssl = t.session.ssl
    t.session.upstream = u
    SSL_set_connect_state(ssl)
    # An address is no name for SNI (RFC 6066), and certificates have it elsewhere.
    named = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) != 1
    if named:
        SSL_set_tlsext_host_name(ssl, name)
        SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
        SSL_set1_host(ssl, name)
    if session is not NULL:
        if SSL_SESSION_is_resumable(session):
            SSL_set_session(ssl, session)
        SSL_SESSION_free(session)
    ERR_clear_error()
    return 0


cdef void tls_begin(conn *x) noexcept nogil:
    x.io |= IO_READING
    if handshake(x, 0) != -EAGAIN:
        x.tls.failed = 1                 # reported by the next turn, as any other failure is
        x.io |= IO_HELD
        conn_ready(x)


# ---- the handshake ----------------------------------------------------------------------------------

cdef void handshake_over(conn *x) noexcept nogil:
    cdef tls_session *s = &x.tls.session
    x.io &= ~IO_HANDSHAKE
    if s.ring is not NULL:
        s.ring.refs -= 1
        s.ring = NULL
    s.context = NULL
    s.listener = NULL


cdef int go_on_clear(conn *x) noexcept nogil:
    """A client speaks clear HTTP: what it sent becomes the connection's input. 1, or 0: no buffer."""
    cdef buf *b = conn_inb(x)
    if b is NULL or buf_room(b) < x.tls.in_left:
        return 0
    memcpy(buf_data(b) + b.end, x.tls.in_at, x.tls.in_left)
    b.end += x.tls.in_left
    handshake_over(x)
    state_free(x)
    return 1


cdef ssize_t handshake(conn *x, int receives) noexcept nogil:
    """Take the handshake further. 1: it is done; -EAGAIN: more is needed; < 0: it failed."""
    cdef tls_state *t = x.tls
    cdef ssize_t n
    cdef int result, error
    if receives and t.in_left == 0:
        n = raw_recv(x, x.loop.tls.received, RECEIVED if t.begun else FIRST)
        if n <= 0:
            t.fault = TLS_CLOSED_BY_PEER
            return n if n < 0 else -ECONNRESET
        t.in_at = x.loop.tls.received
        t.in_left = <uint32_t>n
    if t.in_left and not t.begun:
        if t.server and (t.in_at[0] | 0x20) >= 97 and (t.in_at[0] | 0x20) <= 122:
            return 1 if go_on_clear(x) else -ENOBUFS
        t.begun = 1
    if t.server and t.in_left and raw_dead(x):
        return -ECONNRESET               # the client has gone: no step for it
    result = SSL_do_handshake(t.session.ssl)
    error = 0 if result == 1 else SSL_get_error(t.session.ssl, result)
    if emit(x) < 0:
        error = -1
    if error == SSL_ERROR_WANT_READ:
        if t.held is not NULL:
            hold(x)                      # what came before TLS began is used up
        if x.io & IO_READABLE:
            conn_ready(x)
        return -EAGAIN
    if error != 0:
        t.error = ERR_peek_error()
        ERR_clear_error()
        t.fault = <uint16_t>fault_of_chain(SSL_get_verify_result(t.session.ssl))
        if t.fault == 0:
            t.fault = <uint16_t>fault_of_error(t.error)
        return -EPROTO
    if t.session.challenge:
        return -ECONNRESET               # an authority has seen what it wanted to see
    if t.session.peer.n_asked:
        peer_learn(&t.session)
    if t.session.upstream is not NULL and not peer_pinned(&t.session):
        t.fault = TLS_CERTIFICATE_NOT_PINNED
        return -EPROTO
    return 1


cdef ssize_t greet(conn *x) noexcept nogil:
    """Take the handshake further, and tell the owner when it is over. -EAGAIN: nothing to read yet; as conn_recv."""
    cdef ssize_t n = -EPROTO if x.tls.failed else handshake(x, 1)
    if n == -EAGAIN:
        return n
    if n < 0:
        x.io = (x.io & ~(IO_READABLE | IO_HELD)) | IO_ERROR
        if x.kind == KIND_UP:
            x.loop.on[x.kind].connected(x, EPROTO)
            return -EAGAIN
        return n
    if x.tls is not NULL:
        handshake_over(x)
        hold(x)                          # what came after its end
    x.loop.on[x.kind].connected(x, 0)
    if x.io & IO_CLOSED:
        return -EAGAIN
    if x.tls is NULL:
        return buf_len(x.inb)            # clear after all
    return decrypt(x) if x.io & IO_READING and x.io & (IO_READABLE | IO_HELD) else -EAGAIN


# ---- reading ------------------------------------------------------------------------------------------

cdef void hold(conn *x) noexcept nogil:
    """Keep what libssl has not read yet, and note whether there is more without a read of the socket."""
    cdef tls_state *t = x.tls
    cdef buf *b = t.held
    if t.in_left == 0:
        if b is not NULL:
            buf_return(&x.loop.bufs, b)
            t.held = NULL
    elif b is not NULL:
        b.start = <uint32_t>(t.in_at - buf_data(b))
    else:
        b = buf_borrow(&x.loop.bufs, t.in_left)
        if b is NULL:
            t.failed = 1
            t.in_left = 0
        else:
            memcpy(buf_head(b), t.in_at, t.in_left)
            b.end += t.in_left
            t.held = b
            t.in_at = buf_head(b)
    if t.in_left or t.ended or t.failed or SSL_pending(t.session.ssl):
        x.io |= IO_HELD
    else:
        x.io &= ~IO_HELD


cdef ssize_t end_of(conn *x) noexcept nogil:
    """Report an end that is known: 0, or -ECONNRESET."""
    x.io &= ~(IO_READABLE | IO_HELD)
    conn_inb_unused(x)
    if x.tls.failed:
        x.tls.broken = 1
        return -ECONNRESET
    x.io |= IO_EOF
    return 0


cdef ssize_t decrypt(conn *x) noexcept nogil:
    cdef tls_state *t = x.tls
    cdef buf *b
    cdef uint32_t room
    cdef ssize_t n, got = 0
    cdef int result, error
    if t.ended or t.failed:
        return end_of(x)
    b = conn_inb(x)
    if b is NULL:
        return -ENOBUFS
    room = buf_room(b)
    if t.in_left == 0 and not x.io & IO_HELD:
        n = raw_recv(x, x.loop.tls.received, room if room < RECEIVED else RECEIVED)
        if n == 0:
            t.failed = 1                 # without close_notify
            return end_of(x)
        if n < 0:
            conn_inb_unused(x)
            return n
        t.in_at = x.loop.tls.received
        t.in_left = <uint32_t>n
    while room:
        result = SSL_read(t.session.ssl, buf_data(b) + b.end, <int>room)
        if result > 0:
            b.end += <uint32_t>result
            room -= <uint32_t>result
            got += result
            t.session.key_updates = 0
            continue
        error = SSL_get_error(t.session.ssl, result)
        if error == SSL_ERROR_ZERO_RETURN:
            t.ended = 1
        elif error != SSL_ERROR_WANT_READ or t.session.key_updates > KEY_UPDATES_MOST:
            t.failed = 1
            ERR_clear_error()
        break
    t.rested = 0
    if emit(x) < 0:
        t.failed = 1
    hold(x)
    if got:
        if room == 0:
            conn_inb_filled(x, b)
        return got
    if t.ended or t.failed:
        return end_of(x)
    conn_inb_unused(x)
    if x.io & IO_READABLE:
        conn_ready(x)                    # part of a record: the rest may be here
    return -EAGAIN


cdef ssize_t discard(conn *x) noexcept nogil:
    cdef ssize_t n
    x.io &= ~IO_HELD
    if x.tls.ended or x.tls.failed:
        return 0
    n = raw_recv(x, x.loop.tls.received, RECEIVED)
    if n == 0:
        x.io |= IO_EOF
    return n


cdef ssize_t tls_recv(conn *x) noexcept nogil:
    if x.io & IO_HANDSHAKE:
        return greet(x)
    if x.tls.discards:
        return discard(x)
    return decrypt(x)


# ---- writing ------------------------------------------------------------------------------------------

cdef void consumed(conn *x, size_t n) noexcept nogil:
    """So many bytes of the queue are encrypted, or, if they were, sent."""
    cdef buf *b
    x.out_bytes -= n
    while x.out_head is not NULL and (n or x.out_head.start == x.out_head.end):
        b = x.out_head
        if n >= buf_len(b):
            n -= buf_len(b)
            x.out_head = b.next
            if b.next is NULL:
                x.out_tail = NULL
            buf_return(&x.loop.bufs, b)
        else:
            b.start += <uint32_t>n
            n = 0


cdef const char *next_record(conn *x, int *n) noexcept nogil:
    """The data of the next record: the queue's first buffer, or several that fit into one record together."""
    cdef buf *b = x.out_head
    cdef char *to = x.loop.tls.gathered
    cdef uint32_t length = 0, piece
    if b.next is NULL or buf_len(b) >= RECORD:
        n[0] = <int>(buf_len(b) if buf_len(b) < RECORD else RECORD)
        return buf_head(b)
    while b is not NULL and length < RECORD:
        piece = buf_len(b) if buf_len(b) < RECORD - length else RECORD - length
        memcpy(to + length, buf_head(b), piece)
        length += piece
        b = b.next
    n[0] = <int>length
    return to


cdef int send_sealed(conn *x) noexcept nogil:
    """1: nothing waits any longer; 0: the socket is full; < 0: -errno."""
    cdef buf *b = x.out_head
    cdef ssize_t n
    if not x.io & IO_SEALED:
        return 1
    n = raw_send(x, buf_head(b), buf_len(b))
    if n < 0:
        return <int>n
    if <uint32_t>n == buf_len(b):
        x.io &= ~IO_SEALED
    consumed(x, n)
    return not x.io & IO_SEALED


cdef int tls_write(conn *x) noexcept nogil:
    cdef tls_state *t = x.tls
    cdef tls_scratch *w = x.loop.tls
    cdef const char *p
    cdef int n, result, done = send_sealed(x)
    if done <= 0:
        return done
    if x.io & IO_HANDSHAKE:
        return 0
    while x.out_head is not NULL:
        while x.out_head is not NULL and w.out_len + RECORD + OVERHEAD <= OUT:
            p = next_record(x, &n)
            result = SSL_write(t.session.ssl, p, n) if n else 0
            if n and result <= 0:
                ERR_clear_error()
                w.out_len = 0
                t.failed = 1
                x.io |= IO_ERROR
                return -EPROTO
            consumed(x, result)
        t.rested = 0
        if t.last and x.out_head is NULL:
            notify(x)
        result = emit(x)
        if result < 0:
            return -EPROTO
        if result == 0:
            return 0
    return 1


# ---- ends ----------------------------------------------------------------------------------------------

cdef void notify(conn *x) noexcept nogil:
    """Write close_notify."""
    if not x.tls.notified:
        x.tls.notified = 1
        SSL_shutdown(x.tls.session.ssl)
        ERR_clear_error()


cdef int tls_finish(conn *x) noexcept nogil:
    if x.io & (IO_ERROR | IO_HANDSHAKE) or x.tls.failed:
        return 1
    notify(x)
    return emit(x) == 1


cdef void state_free(conn *x) noexcept nogil:
    cdef tls_state *t = x.tls
    x.tls = NULL
    peer_forget(&t.session)
    SSL_free(t.session.ssl)
    ERR_clear_error()
    if t.held is not NULL:
        buf_return(&x.loop.bufs, t.held)
    x.io &= ~(IO_HELD | IO_SEALED)
    free(t)


cdef void tls_close(conn *x) noexcept nogil:
    cdef tls_state *t = x.tls
    if x.io & IO_HANDSHAKE:
        handshake_over(x)
    elif not (t.broken or t.failed or x.out_head is not NULL or x.io & (IO_ERROR | IO_SEALED | IO_SHUT)):
        notify(x)                        # before SSL_free, which would make its session useless otherwise
        emit(x)
    state_free(x)


# ---- facts ----------------------------------------------------------------------------------------------

cdef void tls_rest(conn *x) noexcept nogil:
    x.tls.rested = 1
    SSL_free_buffers(x.tls.session.ssl)


cdef int tls_version(const conn *x) noexcept nogil:
    return SSL_version(x.tls.session.ssl)


cdef int tls_resumed(const conn *x) noexcept nogil:
    return SSL_session_reused(x.tls.session.ssl)


cdef SSL_SESSION *tls_take_session(conn *x) noexcept nogil:
    cdef SSL_SESSION *session = x.tls.session.fresh
    x.tls.session.fresh = NULL
    return session


cdef int tls_fault(const conn *x) noexcept nogil:
    return x.tls.fault


cdef const char *tls_why_failed(const conn *x) noexcept nogil:
    cdef long verified = SSL_get_verify_result(x.tls.session.ssl)
    cdef const char *text
    if x.tls.fault == TLS_CERTIFICATE_NOT_PINNED:
        return b"no certificate of its chain has one of the pinned keys"
    if x.tls.fault == TLS_CLOSED_BY_PEER:
        return b"it closed the connection during the handshake"
    if x.tls.fault == TLS_NOT_SPOKEN:
        return b"it does not speak TLS"
    if verified != X509_V_OK:
        return X509_verify_cert_error_string(verified)
    text = ERR_reason_error_string(x.tls.error)
    if text is NULL:
        return b""
    return text


cdef void tls_forget_errors() noexcept nogil:
    if ERR_peek_error() != 0:
        ERR_clear_error()


cdef void tls_free_scratch(event_loop *l) noexcept nogil:
    free(l.tls)
    l.tls = NULL
