"""announced: PROXY headers to targets: whom a connection announces, and who may use it again.

With `proxy_protocol`, each connection to a target begins with a PROXY header, before TLS. It holds the client's address
and port, and the address and port that the client connected to. A client whose address came from a trusted proxy's
X-Forwarded-For has port 0, as its port is not known. Clients on Unix sockets and requests that Python handlers make have no
address: their header says so (UNKNOWN, LOCAL).

A target believes the header for as long as the connection lasts. So a connection is only used again for what it
announced, all of it compared. Idle connections are in the lists of their pools, as others are, and also in a hash
table by client:

    core.announced[hash(client, port)] ── announced ── announced ── ...
                                             │ up          │
                                         connection    connection       each in its pool's list of idle ones, too

When a client closes its connection, those that announced it are closed: no other client may use them. Where
several clients may be behind one announcement (port 0), they stay until they are too old.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from fastgate._core.io.proxy_header cimport PROXY_WRITTEN, proxied, put_proxy_header
from fastgate._core.io.socket_address cimport MAPPED, is_mapped
from fastgate._core.io.timer cimport timer_set
from fastgate._core.io.transport cimport conn_introduce, conn_local
from fastgate._core.shared.cells cimport hash_bytes
from fastgate._core.state cimport CALL_PYTHON, announced

cdef enum:
    BUCKETS = 1024


cdef void who_calls(const call *k, proxied *w) noexcept nogil:
    cdef const downstream *d
    memset(w, 0, sizeof(proxied))
    if k.flags & CALL_PYTHON or k.ex is NULL:
        return
    d = k.ex.down
    if memcmp(k.ex.client, d.address, 16) == 0:
        if d.text_len == 0:
            return                       # a Unix socket's peer
        w.source_port = d.port
    memcpy(w.source, k.ex.client, 16)
    w.announces = 1
    if not conn_local(&d.io, w.destination, &w.destination_port) and is_mapped(w.source):
        memcpy(w.destination, MAPPED, 12)     # at a Unix socket: 0.0.0.0, as the client's is an IPv4 address


cdef int announce(core *c, const call *k, upstream *u) noexcept nogil:
    cdef announced *a = <announced *>calloc(1, sizeof(announced))
    cdef char header[PROXY_WRITTEN]
    cdef char *end
    if a is NULL:
        return -1
    a.up = u
    u.client = a
    who_calls(k, &a.who)
    end = put_proxy_header(header, k.group.proxy_protocol, &a.who)
    return conn_introduce(&u.io, header, <uint32_t>(end - header))


# ---- idle connections -----------------------------------------------------------------------

cdef inline announced **bucket_of(core *c, const uint8_t *client, uint16_t port) noexcept nogil:
    return &c.announced[hash_bytes(<const char *>client, 16, port) & (BUCKETS - 1)]


cdef upstream *announced_find(core *c, const call *k, const pool *p) noexcept nogil:
    cdef proxied who
    cdef announced *a
    if c.n_announced == 0:
        return NULL
    who_calls(k, &who)
    a = bucket_of(c, who.source, who.source_port)[0]
    while a is not NULL:
        if a.up.home is p and a.up.pool_generation == p.generation and memcmp(&a.who, &who, sizeof(proxied)) == 0:
            return a.up
        a = a.next
    return NULL


cdef void announced_idle(core *c, upstream *u) noexcept nogil:
    cdef announced *a = u.client
    cdef announced **at
    if c.announced is NULL:
        c.announced = <announced **>calloc(BUCKETS, sizeof(announced *))
        if c.announced is NULL:
            return                       # it is not found, and gets too old
    at = bucket_of(c, a.who.source, a.who.source_port)
    a.prev = NULL
    a.next = at[0]
    if a.next is not NULL:
        a.next.prev = a
    at[0] = a
    c.n_announced += 1


cdef void announced_busy(core *c, upstream *u) noexcept nogil:
    cdef announced *a = u.client
    cdef announced **at
    if c.announced is NULL:
        return
    at = bucket_of(c, a.who.source, a.who.source_port)
    if a.prev is not NULL:
        a.prev.next = a.next
    elif at[0] is a:
        at[0] = a.next
    else:
        return                           # it was not put in
    if a.next is not NULL:
        a.next.prev = a.prev
    a.next = NULL
    a.prev = NULL
    c.n_announced -= 1


cdef void announced_left(core *c, const downstream *d) noexcept nogil:
    cdef announced *a
    if d.text_len == 0:
        return
    a = bucket_of(c, d.address, d.port)[0]
    while a is not NULL:
        if a.who.source_port == d.port and memcmp(a.who.source, d.address, 16) == 0:
            a.up.keep_ns = 0             # its deadline closes it
            timer_set(&c.loop, &a.up.io, c.loop.now)
        a = a.next


cdef void announced_forget(upstream *u) noexcept nogil:
    free(u.client)
    u.client = NULL


cdef void announced_free(core *c) noexcept nogil:
    free(c.announced)
    c.announced = NULL
