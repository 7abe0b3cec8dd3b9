"""pool: the idle connections to each target, and what is known of the target.

A worker has one pool per target slot (a target keeps its slot when the configuration is reloaded, so a
reload closes no connection). Idle connections are kept last in, first out: the most recent one is used,
and the oldest age out. Which target takes a call is decided in balance.pyx.

Ejections and verdicts are in the shared segment: what one worker learns, all workers know.

    in turn ── `eject_after` failures in a row, within `eject_within` ──▶ ejected for `eject_ms`
       ▲                                                                        │
       └── success ── first request after it ◀──────────────────────────────────┘
                            └── failure ──▶ ejected again, for 2, 3, ... 10 times as long
"""
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free


from fastgate._core.platform.atomics cimport fg_add, fg_load, fg_store
from fastgate._core.snapshot.snapshot cimport snap_table, upstream_rec
from fastgate._core.upstream.announced cimport announced_busy, announced_free, announced_idle
from fastgate._core.state cimport MAX_POOLS, SESSIONS, UP_BUSY, UP_IDLE, pool_sessions
from fastgate._core.tls.openssl cimport (
    SSL_SESSION_free, SSL_SESSION_get_protocol_version, SSL_SESSION_get_time, SSL_SESSION_get_timeout,
    SSL_SESSION_is_resumable, SSL_SESSION_up_ref, TLS1_3_VERSION)

cdef enum:
    RETRY_COST = 1000         # the budget is counted in thousandths of a retry
    RETRY_START = 3000        # a new pool may retry three times before it has earned any
    RETRY_MOST = 20000


cdef int pool_init(core *c) noexcept nogil:
    c.pools = <pool *>calloc(MAX_POOLS, sizeof(pool))
    c.sessions = <pool_sessions *>calloc(MAX_POOLS, sizeof(pool_sessions))
    return 0 if c.pools is not NULL and c.sessions is not NULL else -1


cdef void pool_free(core *c) noexcept nogil:
    cdef uint32_t i
    if c.sessions is not NULL:
        pool_forget_sessions(c)
    free(c.sessions)
    c.sessions = NULL
    free(c.pools)
    c.pools = NULL
    announced_free(c)


cdef void pool_forget_sessions(core *c) noexcept nogil:
    cdef uint32_t i
    for i in range(MAX_POOLS):
        forget_sessions(&c.sessions[i])


cdef void forget_sessions(pool_sessions *s) noexcept nogil:
    cdef uint32_t i
    for i in range(SESSIONS):
        SSL_SESSION_free(s.kept[i])
        s.kept[i] = NULL


cdef SSL_SESSION *pool_session(core *c, pool *p) noexcept nogil:
    cdef pool_sessions *s = &c.sessions[p - c.pools]
    cdef SSL_SESSION *session
    cdef int64_t now = (<int64_t>c.loop.now + c.unix_offset) // 1000000000
    cdef uint32_t i
    for i in range(SESSIONS):
        session = s.kept[SESSIONS - 1 - i]
        if session is NULL:
            continue
        if not SSL_SESSION_is_resumable(session) or (
                SSL_SESSION_get_time(session) + SSL_SESSION_get_timeout(session) < now):
            s.kept[SESSIONS - 1 - i] = NULL
            SSL_SESSION_free(session)
        elif SSL_SESSION_get_protocol_version(session) < TLS1_3_VERSION:
            SSL_SESSION_up_ref(session)          # a target that resumes it does not send another
            return session
        else:
            s.kept[SESSIONS - 1 - i] = NULL
            return session
    return NULL


cdef void pool_keep_session(core *c, pool *p, SSL_SESSION *session) noexcept nogil:
    cdef pool_sessions *s = &c.sessions[p - c.pools]
    cdef uint32_t i
    if session is NULL:
        return
    SSL_SESSION_free(s.kept[0])
    for i in range(SESSIONS - 1):
        s.kept[i] = s.kept[i + 1]
    s.kept[SESSIONS - 1] = session


cdef void pool_drop_sessions(core *c, pool *p) noexcept nogil:
    forget_sessions(&c.sessions[p - c.pools])


cdef pool *pool_new_owner(core *c, pool *p, const target_rec *t) noexcept nogil:
    """The pool's slot has a new owner. Connections of the old one find that their pool's generation has changed
    when they return, and are closed."""
    p.generation += 1
    p.identity = t.pool
    pool_drop_sessions(c, p)
    p.current = 0
    p.ewma_ns = 0
    p.sampled_ns = 0
    p.active = 0
    p.retry_credit = RETRY_START
    return p


cdef upstream *pool_take(core *c, pool *p) noexcept nogil:
    cdef upstream *u = p.idle
    if u is not NULL:
        pool_unlink(c, u)
    return u


cdef upstream *pool_oldest(core *c) noexcept nogil:
    cdef uint32_t i
    if c.n_idle != 0:
        for i in range(MAX_POOLS):
            if c.pools[i].oldest is not NULL:
                return c.pools[i].oldest
    return NULL


cdef void pool_unlink(core *c, upstream *u) noexcept nogil:
    cdef pool *p = u.home
    if u.prev is not NULL:
        u.prev.next = u.next
    else:
        p.idle = u.next
    if u.next is not NULL:
        u.next.prev = u.prev
    else:
        p.oldest = u.prev
    u.next = NULL
    u.prev = NULL
    if u.client is not NULL:
        announced_busy(c, u)
    u.state = UP_BUSY
    p.idle_count -= 1
    c.n_idle -= 1


cdef upstream *pool_put(core *c, pool *p, upstream *u, uint32_t keep) noexcept nogil:
    cdef upstream *victim = NULL
    if u.pool_generation != p.generation or keep == 0:
        return u
    if p.idle_count >= keep:
        victim = p.oldest
        pool_unlink(c, victim)
    u.state = UP_IDLE
    u.prev = NULL
    u.next = p.idle
    if u.next is not NULL:
        u.next.prev = u
    else:
        p.oldest = u
    p.idle = u
    if u.client is not NULL:
        announced_idle(c, u)
    p.idle_count += 1
    c.n_idle += 1
    return victim


cdef void claim(target_row *row, const target_rec *t) noexcept nogil:
    """Make the shared row this target's. Two workers that do it at once write the same."""
    if fg_load(&row.identity) != t.identity:
        fg_store(&row.health, 0)
        fg_store(&row.failures, 0)
        fg_store(&row.ejected_until_ns, 0)
        fg_store(&row.ejections, 0)
        fg_store(&row.failing_since_ns, 0)
        fg_store(&row.ejected, 0)
        fg_store(&row.started_ns, 0)
        fg_store(&row.identity, t.identity)


cdef void pool_failed(core *c, call *k) noexcept nogil:
    cdef target_row *row = row_of(c, k.target)
    cdef const upstream_rec *g = k.group
    cdef uint64_t times
    if g.eject_after == 0:
        return
    if fg_load(&row.identity) != k.target.identity and c.ref is not NULL and k.snap != c.ref.snap:
        return                           # the target was removed, and its row may have a new owner
    claim(row, k.target)
    if fg_load(&row.ejected_until_ns) > c.loop.now:
        return                           # it was asked before, or because no other was left
    if fg_load(&row.failures) == 0 or c.loop.now > fg_load(&row.failing_since_ns) + g.eject_within_ms * 1000000ull:
        fg_store(&row.failures, 0)
        fg_store(&row.failing_since_ns, c.loop.now)
    # After an ejection, the first request shows whether it lasted long enough.
    if fg_add(&row.failures, 1) + 1 < g.eject_after and fg_load(&row.ejections) == 0:
        return
    fg_store(&row.failures, 0)
    times = fg_add(&row.ejections, 1) + 1
    if times > 10:
        times = 10
    fg_store(&row.ejected_until_ns, c.loop.now + times * g.eject_ms * 1000000ull)
    fg_add(&row.ejected, 1)
    c.counters.ejections += 1


cdef void pool_succeeded(core *c, call *k) noexcept nogil:
    cdef target_row *row = row_of(c, k.target)
    if row.failures != 0 and fg_load(&row.identity) == k.target.identity:
        fg_store(&row.failures, 0)
    if row.ejections != 0 and row.ejected_until_ns < c.loop.now and fg_load(&row.identity) == k.target.identity:
        fg_store(&row.ejections, 0)


cdef void pool_timed(core *c, call *k, uint64_t first_byte_ns) noexcept nogil:
    cdef pool *p = c.pools + (k.target.slot & (MAX_POOLS - 1))
    if first_byte_ns == 0 or p.identity != k.target.pool:
        return
    if p.ewma_ns == 0 or c.loop.now >= p.sampled_ns + <uint64_t>HALF_LIFE_NS:
        p.ewma_ns = first_byte_ns
    else:
        p.ewma_ns = p.ewma_ns - (p.ewma_ns >> 3) + (first_byte_ns >> 3)
    p.sampled_ns = c.loop.now


# ---- the retry budget -------------------------------------------------------------------

cdef inline const target_rec *first_of(call *k) noexcept nogil:
    return <const target_rec *>snap_table(k.snap, k.group.targets)


cdef inline uint32_t share_of(call *k) noexcept nogil:
    """Thousandths of a retry that a request earns."""
    return k.service.retry_budget if k.service is not NULL else 200


cdef void pool_earn(core *c, call *k) noexcept nogil:
    cdef pool *p = pool_of(c, first_of(k))
    p.retry_credit += share_of(k)
    if p.retry_credit > RETRY_MOST:
        p.retry_credit = RETRY_MOST


cdef int pool_affords(core *c, call *k) noexcept nogil:
    return share_of(k) != 0 and pool_of(c, first_of(k)).retry_credit >= RETRY_COST


cdef void pool_spend(core *c, call *k) noexcept nogil:
    pool_of(c, first_of(k)).retry_credit -= RETRY_COST
