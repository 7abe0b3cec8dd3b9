"""pool: which target takes a call, and the idle connections to each.

A worker has one pool per target slot (a slot stays with its target over reloads, so a reload
closes no connection). Idle connections are kept last in, first out: the warmest is used, the
oldest age out.

Selection looks at the targets that are *usable*: resolved, not found unhealthy by the active
checks, not ejected, not tried yet for this call, with room under `max_connections`.

    round_robin         smooth weighted: each target's credit grows by its weight, the
                        richest is chosen and pays the sum
    least_connections   fewest calls in progress per weight
    p2c_ewma            two at random; the lower EWMA of time to first byte × (calls + 1)
    hash                rendezvous: the highest of hash(key, target) × weight

When every target that is left is only *ejected* (by failures seen in traffic), the ejection is
set aside: some answer may come, and refusing for certain is no better. A verdict of the
active checks is not set aside: `no_healthy_target`.

Ejections and verdicts stand in the shared segment: what one worker learns, all know.
"""
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastgate._core.atomics cimport fg_add, fg_load, fg_store
from fastgate._core.cells cimport mix_key
from fastgate._core.reason cimport NO_HEALTHY_TARGET, OVERLOADED
from fastgate._core.render cimport random64
from fastgate._core.shm cimport segment_header
from fastgate._core.snapshot cimport (
    BALANCE_HASH, BALANCE_LEAST_CONNECTIONS, BALANCE_P2C_EWMA, snap_table, upstream_rec)
from fastgate._core.state cimport MAX_POOLS, UP_BUSY, UP_IDLE

cdef enum:
    RETRY_COST = 1000         # the budget counts thousandths of a retry
    RETRY_START = 3000        # a fresh pool may retry three times before it has earned it
    RETRY_MOST = 20000


cdef int pool_init(core *c) noexcept nogil:
    c.pools = <pool *>calloc(MAX_POOLS, sizeof(pool))
    return 0 if c.pools is not NULL else -1


cdef void pool_free(core *c) noexcept nogil:
    free(c.pools)
    c.pools = NULL


cdef inline target_row *row_of(core *c, const target_rec *t) noexcept nogil:
    return <target_row *>(<char *>c.segment + c.segment.targets_off) + (t.slot % c.segment.targets_count)


cdef pool *pool_of(core *c, const target_rec *t) noexcept nogil:
    cdef pool *p = c.pools + (t.slot & (MAX_POOLS - 1))
    if p.identity != t.identity:
        # The slot has a new owner. Connections of the old one find their pool's generation
        # changed when they come home, and are closed.
        p.generation += 1
        p.identity = t.identity
        p.current = 0
        p.ewma_ns = 0
        p.active = 0
        p.retry_credit = RETRY_START
    return p


cdef enum:
    USABLE = 0
    EJECTED = 1
    FULL = 2
    UNUSABLE = 3


cdef int judge(core *c, const upstream_rec *g, const target_rec *t) noexcept nogil:
    cdef target_row *row = row_of(c, t)
    cdef pool *p
    if t.sockaddr_len == 0:
        return UNUSABLE
    if fg_load(&row.identity) == t.identity:
        if fg_load(&row.health) == 2:
            return UNUSABLE
        if fg_load(&row.ejected_until_ns) > c.now:
            return EJECTED
    if g.max_connections != 0:
        p = pool_of(c, t)
        if p.active >= g.max_connections:
            return FULL
    return USABLE


cdef double weigh(core *c, const upstream_rec *g, const target_rec *t, uint64_t key) noexcept nogil:
    """The score by which `choose` picks: the lowest wins."""
    cdef pool *p = pool_of(c, t)
    cdef uint64_t h
    if g.balance == BALANCE_LEAST_CONNECTIONS:
        return <double>(p.active + 1) / t.weight
    if g.balance == BALANCE_P2C_EWMA:
        return <double>(p.ewma_ns + 1) * (p.active + 1) / t.weight
    # Rendezvous: a uniform number in (0, 1) for each pair of key and target, scaled by weight.
    h = mix_key(key, t.identity) >> 11
    return (1.0 - <double>h / 9007199254740992.0) / t.weight


cdef inline const target_rec *target_at(call *k, uint32_t i) noexcept nogil:
    return <const target_rec *>snap_table(k.snap, k.group.targets) + i


cdef int choose(core *c, call *k, int worst) noexcept nogil:
    """Index of the target among those whose judgement is at most `worst`; -1: none."""
    cdef const upstream_rec *g = k.group
    cdef const target_rec *t
    cdef const target_rec *best_t = NULL
    cdef pool *p
    cdef int best = -1, seen = 0
    cdef uint32_t i, start = 0, n = g.targets.count
    cdef int64_t total = 0, best_credit = 0
    cdef double score, best_score = 0
    cdef uint32_t first, second
    if g.balance == BALANCE_P2C_EWMA and n > 2:
        # Two at random. If neither can be used, all are looked at.
        first = <uint32_t>(random64(c) % n)
        second = <uint32_t>(random64(c) % (n - 1))
        if second >= first:
            second += 1
        for i in range(n):
            if i != first and i != second:
                continue
            t = target_at(k, i)
            if (i < 64 and k.tried >> i & 1) or judge(c, g, t) > worst:
                continue
            score = weigh(c, g, t, 0)
            if best < 0 or score < best_score:
                best = i
                best_score = score
        if best >= 0:
            return best
    if g.balance == BALANCE_LEAST_CONNECTIONS and n > 1:
        start = <uint32_t>(random64(c) % n)   # so that equals take turns
    for seen in range(<int>n):
        i = (start + seen) % n
        t = target_at(k, i)
        if (i < 64 and k.tried >> i & 1) or judge(c, g, t) > worst:
            continue
        if g.balance == BALANCE_LEAST_CONNECTIONS or g.balance == BALANCE_P2C_EWMA or g.balance == BALANCE_HASH:
            score = weigh(c, g, t, k.hash)
            if best < 0 or score < best_score:
                best = i
                best_score = score
        else:
            p = pool_of(c, t)
            p.current += t.weight
            total += t.weight
            if best < 0 or p.current > best_credit:
                best = i
                best_t = t
                best_credit = p.current
    if best_t is not NULL:
        pool_of(c, best_t).current -= total
    return best


cdef int pool_select(core *c, call *k) noexcept nogil:
    cdef const upstream_rec *g = k.group
    cdef int i
    cdef uint32_t j
    if g.targets.count == 1 and g.max_connections == 0 and k.tried == 0:
        i = 0
        if judge(c, g, target_at(k, 0)) > EJECTED:
            return NO_HEALTHY_TARGET
    else:
        i = choose(c, k, USABLE)
        if i < 0:
            i = choose(c, k, EJECTED)
        if i < 0 and k.tried != 0:
            k.tried = 0                  # all were tried: begin again
            i = choose(c, k, EJECTED)
        if i < 0:
            for j in range(g.targets.count):
                if judge(c, g, target_at(k, j)) == FULL:
                    return OVERLOADED
            return NO_HEALTHY_TARGET
    if i < 64:
        k.tried |= 1ull << i
    k.target = target_at(k, i)
    return 0


cdef upstream *pool_take(core *c, pool *p) noexcept nogil:
    cdef upstream *u = p.idle
    if u is not NULL:
        pool_unlink(c, u)
    return u


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
    p.idle_count += 1
    c.n_idle += 1
    return victim


cdef void claim(target_row *row, const target_rec *t) noexcept nogil:
    """Make the shared row this target's. Two that do it at once write the same."""
    if fg_load(&row.identity) != t.identity:
        fg_store(&row.health, 0)
        fg_store(&row.failures, 0)
        fg_store(&row.ejected_until_ns, 0)
        fg_store(&row.ejections, 0)
        fg_store(&row.identity, t.identity)


cdef void pool_failed(core *c, call *k) noexcept nogil:
    cdef target_row *row = row_of(c, k.target)
    cdef uint64_t times
    if k.group.eject_after == 0:
        return
    claim(row, k.target)
    if fg_add(&row.failures, 1) + 1 < k.group.eject_after:
        return
    fg_store(&row.failures, 0)
    if fg_load(&row.ejected_until_ns) > c.now:
        return
    times = fg_add(&row.ejections, 1) + 1
    if times > 10:
        times = 10                       # each ejection in a row lasts longer, up to ten times
    fg_store(&row.ejected_until_ns, c.now + times * k.group.eject_ms * 1000000ull)
    c.counters.ejections += 1


cdef void pool_succeeded(core *c, call *k, uint64_t first_byte_ns) noexcept nogil:
    cdef target_row *row = row_of(c, k.target)
    cdef pool *p = pool_of(c, k.target)
    if row.failures != 0 and fg_load(&row.identity) == k.target.identity:
        fg_store(&row.failures, 0)
    if row.ejections != 0 and row.ejected_until_ns < c.now and fg_load(&row.identity) == k.target.identity:
        fg_store(&row.ejections, 0)
    if p.ewma_ns == 0:
        p.ewma_ns = first_byte_ns
    else:
        p.ewma_ns = p.ewma_ns - (p.ewma_ns >> 3) + (first_byte_ns >> 3)


cdef int pool_may_retry(core *c, call *k) noexcept nogil:
    cdef pool *p = pool_of(c, target_at(k, 0))   # the budget is the upstream's: its first target keeps it
    if p.retry_credit < RETRY_COST:
        return 0
    p.retry_credit -= RETRY_COST
    return 1


cdef void pool_earn(core *c, call *k) noexcept nogil:
    """A first attempt earns the budget's share of a retry."""
    cdef pool *p = pool_of(c, target_at(k, 0))
    p.retry_credit += k.service.retry_budget if k.service is not NULL else 200
    if p.retry_credit > RETRY_MOST:
        p.retry_credit = RETRY_MOST
