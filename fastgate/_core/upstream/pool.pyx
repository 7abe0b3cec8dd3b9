"""pool: which target takes a call, and the idle connections to each.

A worker has one pool per target slot (a target keeps its slot when the configuration is reloaded, so a
reload closes no connection). Idle connections are kept last in, first out: the most recent one is used,
and the oldest age out.

Selection considers the *usable* targets: resolved, not found unhealthy by the active checks, not
ejected, not yet tried for this call, and with room under `max_connections`.

    round_robin         smooth weighted: each target's credit grows by its weight, the one with
                        the most credit is chosen and pays the sum
    least_connections   round robin among those with the fewest calls in progress per weight
    p2c_ewma            round robin, but another target, drawn at random by weight, takes the turn
                        if it is clearly faster: EWMA of the time to the head × load
    hash                weighted rendezvous: -ln(u) / weight, with u in (0, 1] from hash(key, target),
                        is exponentially distributed with rate weight. The probability that a
                        target has the smallest of these numbers is proportional to its weight

So if nothing else distinguishes targets, each policy gives them shares by weight.

If every target that is left is only *ejected* (because of failures in traffic), the ejection is
ignored: an answer may come, and a certain refusal is no better. A verdict of the active checks is
not ignored: `no_healthy_target`.

Ejections and verdicts are in the shared segment: what one worker learns, all workers know.

    in turn ── `eject_after` failures in a row, within `eject_within` ──▶ ejected for `eject_ms`
       ▲                                                                        │
       └── success ── first request after it ◀──────────────────────────────────┘
                            └── failure ──▶ ejected again, for 2, 3, ... 10 times as long
"""
from libc.math cimport log
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free


from fastgate._core.platform.atomics cimport fg_add, fg_load, fg_store
from fastgate._core.shared.cells cimport mix_key
from fastgate._core.reason cimport NO_HEALTHY_TARGET, OVERLOADED
from fastgate._core.platform.random cimport random64

from fastgate._core.snapshot.snapshot cimport (
    BALANCE_HASH, BALANCE_LEAST_CONNECTIONS, BALANCE_P2C_EWMA, snap_table, upstream_rec)
from fastgate._core.state cimport MAX_POOLS, UP_BUSY, UP_IDLE

cdef enum:
    RETRY_COST = 1000         # the budget is counted in thousandths of a retry
    RETRY_START = 3000        # a new pool may retry three times before it has earned any
    RETRY_MOST = 20000


# A target that is passed over gives no samples. Each time this period passes, what is known of it counts
# half, until it is chosen again.
cdef uint64_t HALF_LIFE_NS = 1000000000
# Clearly faster: in two thirds of the time, and by a millisecond. A smaller difference is noise.
cdef double CLEARLY = 2.0 / 3.0
cdef double CLEARLY_NS = 1000000.0

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) noexcept nogil


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
        # The slot has a new owner. Connections of the old one find that their pool's generation has changed
        # when they return, and are closed.
        p.generation += 1
        p.identity = t.identity
        p.current = 0
        p.ewma_ns = 0
        p.sampled_ns = 0
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
        if fg_load(&row.ejected_until_ns) > c.loop.now:
            return EJECTED
    if g.max_connections != 0:
        p = pool_of(c, t)
        if p.active >= g.max_connections:
            return FULL
    return USABLE


cdef inline const target_rec *target_at(call *k, uint32_t i) noexcept nogil:
    return <const target_rec *>snap_table(k.snap, k.group.targets) + i


cdef uint64_t usable(core *c, call *k, int worst) noexcept nogil:
    """Bits of the targets not tried yet whose judgement is at most `worst`. The compiler allows 64 targets."""
    cdef uint64_t mask = 0
    cdef uint32_t i
    for i in range(k.group.targets.count):
        if not k.tried >> i & 1 and judge(c, k.group, target_at(k, i)) <= worst:
            mask |= 1ull << i
    return mask


cdef int by_turns(core *c, call *k, uint64_t mask) noexcept nogil:
    """Smooth weighted round robin among these targets, of which there is at least one."""
    cdef const target_rec *t
    cdef pool *p
    cdef pool *chosen = NULL
    cdef int64_t total = 0
    cdef int i, best = -1
    while mask:
        i = __builtin_ctzll(mask)
        mask &= mask - 1
        t = target_at(k, i)
        p = pool_of(c, t)
        p.current += t.weight
        total += t.weight
        if chosen is NULL or p.current > chosen.current:
            chosen = p
            best = i
    chosen.current -= total
    return best


cdef uint64_t least_busy(core *c, call *k, uint64_t mask) noexcept nogil:
    """Those with the fewest calls in progress per weight."""
    cdef const target_rec *t
    cdef uint64_t busy, least = 0, weight = 0, found = 0
    cdef int i
    while mask:
        i = __builtin_ctzll(mask)
        mask &= mask - 1
        t = target_at(k, i)
        busy = pool_of(c, t).active
        if found == 0 or busy * weight < least * t.weight:
            least = busy
            weight = t.weight
            found = 0
        if busy * weight == least * t.weight:
            found |= 1ull << i
    return found


cdef int by_hash(core *c, call *k, uint64_t mask) noexcept nogil:
    """Weighted rendezvous: the same key finds the same target as long as that is usable."""
    cdef const target_rec *t
    cdef double score, least = 0
    cdef int i, best = -1
    while mask:
        i = __builtin_ctzll(mask)
        mask &= mask - 1
        t = target_at(k, i)
        score = -log(<double>((mix_key(k.hash, t.identity) >> 11) + 1) / 9007199254740992.0) / t.weight
        if best < 0 or score < least:
            best = i
            least = score
    return best


cdef inline uint64_t half_lives(core *c, const pool *p) noexcept nogil:
    return (c.loop.now - p.sampled_ns) // HALF_LIFE_NS if c.loop.now > p.sampled_ns else 0


cdef double cost(core *c, const target_rec *t, double mean) noexcept nogil:
    """How long an answer takes, times the load; 0: not known. mean: of the weights."""
    cdef pool *p = pool_of(c, t)
    cdef uint64_t age
    if p.active == 0:                    # with calls in progress, a sample will follow
        age = half_lives(c, p)
        return <double>(p.ewma_ns >> age if age < 64 else 0)
    return <double>p.ewma_ns * (1.0 + p.active * mean / t.weight)


cdef int by_speed(core *c, call *k, uint64_t mask) noexcept nogil:
    """Power of two choices: the target whose turn it is, and another one drawn at random by weight."""
    cdef int first = by_turns(c, k, mask), second = first
    cdef uint64_t others = mask & ~(1ull << first), rest = others
    cdef uint64_t total = 0
    cdef int64_t drawn
    cdef int count = 1
    cdef double mean, ours, theirs
    if others == 0:
        return first
    while rest:
        total += target_at(k, __builtin_ctzll(rest)).weight
        rest &= rest - 1
        count += 1
    drawn = <int64_t>(random64(c.random) % total)
    while drawn >= 0:
        second = __builtin_ctzll(others)
        others &= others - 1
        drawn -= target_at(k, second).weight
    mean = <double>(total + target_at(k, first).weight) / count
    ours = cost(c, target_at(k, first), mean)
    theirs = cost(c, target_at(k, second), mean)
    if theirs != 0 and theirs < ours * CLEARLY and theirs < ours - CLEARLY_NS:
        return second
    return first


cdef int choose(core *c, call *k, uint64_t mask) noexcept nogil:
    """Index of the target, by the upstream's balancing policy."""
    cdef uint32_t balance = k.group.balance
    if balance == BALANCE_HASH:
        return by_hash(c, k, mask)
    if balance == BALANCE_P2C_EWMA:
        return by_speed(c, k, mask)
    if balance == BALANCE_LEAST_CONNECTIONS:
        mask = least_busy(c, k, mask)
    return by_turns(c, k, mask)


cdef int pool_select(core *c, call *k) noexcept nogil:
    cdef const upstream_rec *g = k.group
    cdef uint64_t mask
    cdef uint32_t i
    if g.targets.count == 1 and g.max_connections == 0 and k.tried == 0:
        i = 0
        if judge(c, g, target_at(k, 0)) > EJECTED:
            return NO_HEALTHY_TARGET
    else:
        mask = usable(c, k, USABLE)
        if mask == 0:
            mask = usable(c, k, EJECTED)
        if mask == 0 and k.tried != 0:
            k.tried = 0                  # all were tried: start again
            mask = usable(c, k, USABLE)
            if mask == 0:
                mask = usable(c, k, EJECTED)
        if mask == 0:
            for i in range(g.targets.count):
                if judge(c, g, target_at(k, i)) == FULL:
                    return OVERLOADED
            return NO_HEALTHY_TARGET
        i = choose(c, k, mask)
    k.tried |= 1ull << i
    k.target = target_at(k, i)
    return 0


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
    """Make the shared row this target's. Two workers that do it at once write the same."""
    if fg_load(&row.identity) != t.identity:
        fg_store(&row.health, 0)
        fg_store(&row.failures, 0)
        fg_store(&row.ejected_until_ns, 0)
        fg_store(&row.ejections, 0)
        fg_store(&row.failing_since_ns, 0)
        fg_store(&row.ejected, 0)
        fg_store(&row.identity, t.identity)


cdef void pool_failed(core *c, call *k) noexcept nogil:
    cdef target_row *row = row_of(c, k.target)
    cdef const upstream_rec *g = k.group
    cdef uint64_t times
    if g.eject_after == 0:
        return
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
    cdef pool *p
    if first_byte_ns == 0:
        return
    p = pool_of(c, k.target)
    if p.ewma_ns == 0 or c.loop.now >= p.sampled_ns + HALF_LIFE_NS:
        p.ewma_ns = first_byte_ns
    else:
        p.ewma_ns = p.ewma_ns - (p.ewma_ns >> 3) + (first_byte_ns >> 3)
    p.sampled_ns = c.loop.now


# ---- the retry budget -------------------------------------------------------------------

cdef inline uint32_t share_of(call *k) noexcept nogil:
    """Thousandths of a retry that a request earns."""
    return k.service.retry_budget if k.service is not NULL else 200


cdef void pool_earn(core *c, call *k) noexcept nogil:
    cdef pool *p = pool_of(c, target_at(k, 0))
    p.retry_credit += share_of(k)
    if p.retry_credit > RETRY_MOST:
        p.retry_credit = RETRY_MOST


cdef int pool_affords(core *c, call *k) noexcept nogil:
    return share_of(k) != 0 and pool_of(c, target_at(k, 0)).retry_credit >= RETRY_COST


cdef void pool_spend(core *c, call *k) noexcept nogil:
    pool_of(c, target_at(k, 0)).retry_credit -= RETRY_COST
