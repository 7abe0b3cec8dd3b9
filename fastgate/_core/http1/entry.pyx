"""entry: what a client's connection passes before it may speak: a PROXY header, limits by address.

    accept ── peer in `proxy_protocol`? ──no──────────────────────┐
                     │ yes                                        ▼
                     └─▶ DOWN_PROXY: header ──▶ its client ──▶ limits ──▶ TLS, or the first request
                              │                                   │
                              └─ bad, cut, late: closed           └─ at a limit: reset

**The client** is who the header announces, for everything that follows: limits, logs, `X-Forwarded-For`, and
whether it is one of `trusted_proxies`. The proxy only passes bytes on, so the fields of a request are the
client's, and the proxy's own address says nothing about them.

**Limits.** A connection beyond one is reset before it costs anything: an answer would need a head to be read, and over
TLS a handshake, which is what a flood wants. Trusted proxies are exempt, since they speak for many clients, and so are
peers on Unix sockets, which have no address.

Connections are counted with the requests in progress (shared/concurrency.pyx), so a count ends with the connection, or
with its worker. A crowded table counts no further addresses, so that requests still find room in it; their
connections are let in.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, strlen

from fastgate._core.io.proxy_header cimport (
    PROXY_CUT, PROXY_LATE, parse_proxy_header, proxy_header)
from fastgate._core.io.socket_address cimport is_mapped, socket_address
from fastgate._core.io.transport cimport conn_resets
from fastgate._core.platform.buffer cimport buf, buf_head, buf_len, buf_return
from fastgate._core.platform.text cimport put_lit, put_uint
from fastgate._core.platform.sys cimport AF_INET6, inet_ntop
from fastgate._core.shared.cells cimport address_hash, decision, limit_key, mix_key
from fastgate._core.shared.concurrency cimport concurrency_enter, concurrency_leave, concurrency_room
from fastgate._core.shared.limiter cimport limiter_take
from fastgate._core.snapshot.addresses cimport address_matches
from fastgate._core.snapshot.snapshot cimport LISTENER_PROXY_UNIX, snap_listener

cdef enum:
    # Mixed with a listener's id, they identify its limits.
    CONNECTIONS = 1
    HANDSHAKES = 2


cdef const listener_rec *entry_of(const snapshot_header *s, uint64_t listener) noexcept nogil:
    cdef const listener_rec *l = snap_listener(s, listener)
    if l is NULL or not (
            l.proxies.count or l.flags & LISTENER_PROXY_UNIX or l.max_connections or l.handshake_ns):
        return NULL
    return l


# ---- the client's address ---------------------------------------------------------------

cdef void put_text(downstream *d) noexcept nogil:
    cdef char *p = d.text
    cdef uint32_t i
    if is_mapped(d.address):
        for i in range(12, 16):          # inet_ntop() takes ten times as long
            p = put_lit(put_uint(p, d.address[i]), ".")
        d.text_len = <uint8_t>(p - d.text - 1)
    else:
        inet_ntop(AF_INET6, d.address, d.text, sizeof(d.text))
        d.text_len = <uint8_t>strlen(d.text)


cdef void entry_peer(downstream *d, const sockaddr_storage *peer) noexcept nogil:
    if socket_address(peer, d.address, &d.port):
        put_text(d)


# ---- the PROXY header -------------------------------------------------------------------

cdef int entry_announced(core *c, const downstream *d, const listener_rec *l) noexcept nogil:
    if d.text_len == 0:
        return l.flags & LISTENER_PROXY_UNIX
    return address_matches(c.ref.snap, l.proxies, d.address)


cdef void bad_header(core *c, const downstream *d, int fault) noexcept nogil:
    """Count it, and note it for the log."""
    c.counters.bad_proxy_headers += 1
    c.bad_headers.count += 1
    c.bad_headers.fault = <uint8_t>fault
    c.bad_headers.listener = d.listener
    c.bad_headers.text_len = d.text_len
    memcpy(c.bad_headers.text, d.text, d.text_len)


cdef int entry_read(core *c, downstream *d, ssize_t n) noexcept nogil:
    cdef buf *b = d.io.inb
    cdef proxy_header h
    cdef int size
    if n <= 0:
        if b is not NULL:                # without a byte, it is only a look whether we accept
            bad_header(c, d, PROXY_CUT)
        return -1
    size = parse_proxy_header(&h, buf_head(b), buf_len(b))
    if size == 0:
        return 0
    if size < 0:
        bad_header(c, d, -size)
        return -1
    b.start += <uint32_t>size
    if b.start == b.end:
        buf_return(&c.loop.bufs, b)
        d.io.inb = NULL
    if h.announces:
        memcpy(d.address, h.source, 16)
        d.port = h.port
        put_text(d)
    return 1


cdef void entry_late(core *c, const downstream *d) noexcept nogil:
    bad_header(c, d, PROXY_LATE)


# ---- limits -----------------------------------------------------------------------------

cdef int connection_enters(core *c, downstream *d, uint64_t key, uint32_t most) noexcept nogil:
    cdef uint64_t open = 0
    if not concurrency_room(c.segment, c.worker, key):
        c.counters.connections_uncounted += 1
        return 1
    if not concurrency_enter(c.segment, c.worker, key, most, &open):
        c.counters.connections_refused += 1
        return 0
    d.counted = key
    return 1


cdef int entry_admit(core *c, downstream *d, const listener_rec *l) noexcept nogil:
    cdef const snapshot_header *s = c.ref.snap
    cdef uint64_t who
    cdef decision seen
    cdef int admitted = 1
    if d.text_len == 0 or address_matches(s, s.trusted_proxies, d.address):
        return 1
    who = address_hash(d.address)
    if l.max_connections:
        admitted = connection_enters(
            c, d, limit_key(mix_key(l.id, CONNECTIONS), who, 0, 0, 0, 0, 0), l.max_connections)
    if admitted and l.handshake_ns:
        admitted = limiter_take(
            &c.limiter, limit_key(mix_key(l.id, HANDSHAKES), who, 0, 0, 0, 0, 0), c.loop.now,
            l.handshake_ns, l.handshake_tolerance_ns, 1, &seen)
        c.counters.handshakes_refused += not admitted
    if not admitted:
        conn_resets(&d.io, 1)            # the kernel keeps nothing of it
    return admitted


cdef void entry_leave(core *c, downstream *d) noexcept nogil:
    concurrency_leave(c.segment, c.worker, d.counted)
    d.counted = 0
