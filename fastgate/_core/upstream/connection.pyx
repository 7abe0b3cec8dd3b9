"""connection: connections to targets: opened, begun, closed.

    TCP or Unix socket ── PROXY header, if the upstream has `proxy_protocol` ── TLS handshake ── requests

TLS is prepared before the connection is made, so that a keyring without its profile costs no connection. With a PROXY
header it is prepared after that was sent: once a connection has TLS, all its bytes are encrypted.
"""
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset, strncpy

from fastgate._core.http1.client cimport client_http1
from fastgate._core.http1.server cimport down_spare
from fastgate._core.io.connection cimport KIND_UP
from fastgate._core.io.poller cimport poller_connect
from fastgate._core.io.tls cimport tls_begin, tls_call, tls_take_session
from fastgate._core.io.transport cimport conn_close
from fastgate._core.platform.sys cimport EMFILE
from fastgate._core.reason cimport OVERLOADED, UPSTREAM_CONNECT_FAILED, UPSTREAM_TLS_FAILED
from fastgate._core.snapshot.snapshot cimport snap_str, snapshot_header, str_ref
from fastgate._core.state cimport UP_CLOSED, UP_CONNECTING, UP_IDLE, tls_failures
from fastgate._core.tls.choice cimport upstream_of
from fastgate._core.tls.faults cimport TLS_NOT_CONFIGURED
from fastgate._core.tls.tables cimport tls_upstream
from fastgate._core.upstream.announced cimport announce, announced_forget
from fastgate._core.upstream.call_error cimport (
    RETRY_ANY, RETRY_NEVER, SIDE_OURS, SIDE_UPSTREAM, connect_error, error_of)
from fastgate._core.upstream.pool cimport pool_keep_session, pool_oldest, pool_session, pool_unlink

cdef enum:
    HOST_MOST = 255           # characters of a target's host


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
    u.io.loop = &c.loop
    u.codec = client_http1()
    c.n_ups += 1
    return u


cdef int up_open(core *c, call *k, pool *p, upstream **opened, call_error *error) noexcept nogil:
    cdef upstream *u = up_new(c)
    cdef int result
    opened[0] = u
    if u is NULL:
        error[0] = error_of(OVERLOADED, SIDE_OURS, RETRY_NEVER)
        return -1
    u.pool_generation = p.generation
    u.home = p
    u.state = UP_CONNECTING
    u.requests = 1
    if k.target.tls != 0 and k.group.proxy_protocol == 0 and not begin_tls(c, k, u, error):
        upstream_close(c, u)
        return -1
    c.counters.upstream_connects += 1
    result = poller_connect(&c.loop, &u.io, k.target.sockaddr, k.target.sockaddr_len)
    if result == -EMFILE and free_descriptor(c):
        result = poller_connect(&c.loop, &u.io, k.target.sockaddr, k.target.sockaddr_len)
    if result < 0:
        c.counters.upstream_connect_failures += 1
        error[0] = connect_error(-result)
    elif result == 1 and up_greets(k, u):
        result = up_greet(c, k, u, error)
    if result < 0:
        upstream_close(c, u)
        return -1
    return result


cdef int up_greet(core *c, call *k, upstream *u, call_error *error) noexcept nogil:
    if announce(c, k, u) < 0:
        c.counters.upstream_connect_failures += 1
        error[0] = error_of(UPSTREAM_CONNECT_FAILED, SIDE_UPSTREAM, RETRY_ANY)
        return -1
    if k.target.tls == 0:
        return 1
    if not begin_tls(c, k, u, error):
        return -1
    tls_begin(&u.io)
    return 0


cdef int begin_tls(core *c, call *k, upstream *u, call_error *error) noexcept nogil:
    """Let the new connection use its target's TLS. 1, or 0: the keyring does not have what is needed."""
    cdef tls_upstream *profile = upstream_of(c.tls, k.target.tls) if c.tls is not NULL else NULL
    cdef char host[HOST_MOST + 1]
    cdef uint32_t n = k.target.host.len
    if profile is not NULL and n <= HOST_MOST:
        memcpy(host, snap_str(k.snap, k.target.host), n)
        host[n] = 0
        u.keyring = c.keyrings
        if tls_call(&u.io, c.tls, profile, host, pool_session(c, u.home)) == 0:
            return 1
    up_tls_failed(c, k, TLS_NOT_CONFIGURED, b"the keyring has nothing about it")
    error[0] = error_of(UPSTREAM_TLS_FAILED, SIDE_OURS, RETRY_NEVER)
    return 0


cdef void up_tls_failed(core *c, call *k, int fault, const char *why) noexcept nogil:
    cdef tls_failures *f = &c.failed_tls
    f.count += 1
    name_of(f.upstream, sizeof(f.upstream), k.snap, k.group.name)
    name_of(f.target, sizeof(f.target), k.snap, k.target.name)
    strncpy(f.why, why, sizeof(f.why) - 1)
    k.tls_fault = <uint16_t>fault


cdef void name_of(char *to, size_t room, const snapshot_header *s, str_ref name) noexcept nogil:
    cdef size_t n = name.len if name.len < room else room - 1
    memcpy(to, snap_str(s, name), n)
    to[n] = 0


cdef int free_descriptor(core *c) noexcept nogil:
    """Close an unused connection: to an upstream or, if there is none, of a client."""
    cdef upstream *u = pool_oldest(c)
    if u is not NULL:
        upstream_close(c, u)
        return 1
    return down_spare(c)


cdef void up_keep_session(core *c, upstream *u) noexcept nogil:
    if (u.io.tls is not NULL and u.home is not NULL and u.pool_generation == u.home.generation
            and u.keyring == c.keyrings):
        pool_keep_session(c, u.home, tls_take_session(&u.io))


cdef void upstream_close(core *c, upstream *u) noexcept nogil:
    if u.state == UP_CLOSED:
        return
    if u.state == UP_IDLE:
        pool_unlink(c, u)
    u.state = UP_CLOSED
    u.k = NULL
    up_keep_session(c, u)
    if u.client is not NULL:
        announced_forget(u)
    conn_close(&u.io)
    c.n_ups -= 1
    u.io.timer_next = c.loop.graveyard
    c.loop.graveyard = &u.io
