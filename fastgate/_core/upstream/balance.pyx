"""balance: which target takes a call.

Selection considers the *usable* targets: resolved, not found unhealthy by the active checks, not
ejected, not yet tried for this call, and with room under `max_connections`. Among them are those of the
first *tier*, the lowest `priority` (SRV).

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
not ignored: `no_healthy_target`. Where requests can wait for a target that is full, they do that instead.

**Slow start.** With `slow_start`, the weight of a target that became usable grows linearly, from a hundredth to the
whole, over that time. It counts from `started_ns` of the target's row, which control sets when the target is new or
healthy again, or from the end of its ejection. Both are in the segment, so all workers see the same weight, also after a
reload. Policies only compare weights with each other: targets that start together have their usual shares.
"""
from libc.math cimport log
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.platform.atomics cimport fg_load
from fastgate._core.platform.random cimport random64
from fastgate._core.reason cimport NO_HEALTHY_TARGET, OVERLOADED
from fastgate._core.shared.cells cimport mix_key
from fastgate._core.shared.concurrency cimport concurrency_count, concurrency_enter
from fastgate._core.shared.layout cimport target_row
from fastgate._core.shared.places cimport place_key
from fastgate._core.snapshot.snapshot cimport (
    BALANCE_HASH, BALANCE_LEAST_CONNECTIONS, BALANCE_P2C_EWMA, snap_table, target_rec, upstream_rec)
from fastgate._core.state cimport pool
from fastgate._core.upstream.pool cimport HALF_LIFE_NS, pool_of, row_of

cdef enum:
    PARTS = 1024              # of a weight of 1
    FIRST_PARTS = 10          # with which a slow start begins

# Clearly faster: in two thirds of the time, and by a millisecond. A smaller difference is noise.
cdef double CLEARLY = 2.0 / 3.0
cdef double CLEARLY_NS = 1000000.0

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) noexcept nogil


cdef enum:
    USABLE = 0
    EJECTED = 1
    FULL = 2
    UNUSABLE = 3


cdef int judge(core *c, const upstream_rec *g, const target_rec *t) noexcept nogil:
    cdef target_row *row = row_of(c, t)
    if t.sockaddr_len == 0:
        return UNUSABLE
    if fg_load(&row.identity) == t.identity:
        if fg_load(&row.health) == 2:
            return UNUSABLE
        if fg_load(&row.ejected_until_ns) > c.loop.now:
            return EJECTED
    if g.max_connections != 0 and concurrency_count(c.segment, place_key(t.identity)) >= g.max_connections:
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


# ---- slow start -----------------------------------------------------------------------------

cdef uint64_t starting_weight(core *c, const upstream_rec *g, const target_rec *t) noexcept nogil:
    cdef target_row *row = row_of(c, t)
    cdef uint64_t since, back, whole = <uint64_t>g.slow_start_ms * 1000000
    if fg_load(&row.identity) != t.identity:
        return <uint64_t>t.weight * PARTS
    since = fg_load(&row.started_ns)
    back = fg_load(&row.ejected_until_ns)
    if since < back <= c.loop.now:
        since = back
    if since == 0 or since + whole <= c.loop.now:
        return <uint64_t>t.weight * PARTS
    since = c.loop.now - since if since < c.loop.now else 0
    return t.weight * (FIRST_PARTS + (PARTS - FIRST_PARTS) * since // whole)


cdef inline uint64_t weight_of(core *c, const call *k, const target_rec *t) noexcept nogil:
    """Its weight now, in parts of which a whole weight of 1 has PARTS."""
    if k.group.slow_start_ms == 0:
        return <uint64_t>t.weight * PARTS
    return starting_weight(c, k.group, t)


cdef uint64_t behind(core *c, call *k, uint64_t mask) noexcept nogil:
    """Those that have less of their weight than others."""
    cdef const target_rec *t
    cdef uint64_t parts, most = 0, found = 0, rest = mask
    cdef int i
    while rest:
        i = __builtin_ctzll(rest)
        rest &= rest - 1
        t = target_at(k, i)
        parts = weight_of(c, k, t) // t.weight
        if parts > most:
            most = parts
            found = mask & ((1ull << i) - 1)     # all before it
        elif parts < most:
            found |= 1ull << i
    return found


# ---- the policies ---------------------------------------------------------------------------

cdef int by_turns(core *c, call *k, uint64_t mask) noexcept nogil:
    """Smooth weighted round robin among these targets, of which there is at least one."""
    cdef const target_rec *t
    cdef pool *p
    cdef pool *chosen = NULL
    cdef int64_t weight, total = 0
    cdef int i, best = -1
    while mask:
        i = __builtin_ctzll(mask)
        mask &= mask - 1
        t = target_at(k, i)
        p = pool_of(c, t)
        weight = <int64_t>weight_of(c, k, t)
        p.current += weight
        total += weight
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


cdef int by_load(core *c, call *k, uint64_t mask) noexcept nogil:
    """Those that start slowly get a request only when it is their turn: with nothing to do, they are always among the
    least busy."""
    cdef uint64_t slow = behind(c, k, mask) if k.group.slow_start_ms else 0
    cdef int i
    if slow:
        i = by_turns(c, k, mask)
        if slow >> i & 1 and least_busy(c, k, (mask & ~slow) | 1ull << i) >> i & 1:
            return i
        mask &= ~slow
    return by_turns(c, k, least_busy(c, k, mask))


cdef int by_hash(core *c, call *k, uint64_t mask) noexcept nogil:
    """Weighted rendezvous: the same key finds the same target as long as that is usable."""
    cdef const target_rec *t
    cdef double score, least = 0
    cdef int i, best = -1
    while mask:
        i = __builtin_ctzll(mask)
        mask &= mask - 1
        t = target_at(k, i)
        score = -log(<double>((mix_key(k.hash, t.identity) >> 11) + 1) / 9007199254740992.0) / weight_of(c, k, t)
        if best < 0 or score < least:
            best = i
            least = score
    return best


cdef inline uint64_t half_lives(core *c, const pool *p) noexcept nogil:
    return (c.loop.now - p.sampled_ns) // <uint64_t>HALF_LIFE_NS if c.loop.now > p.sampled_ns else 0


cdef double cost(core *c, const call *k, const target_rec *t, double mean) noexcept nogil:
    """How long an answer takes, times the load; 0: not known. mean: of the weights."""
    cdef pool *p = pool_of(c, t)
    cdef uint64_t age
    if p.active == 0:                    # with calls in progress, a sample will follow
        age = half_lives(c, p)
        return <double>(p.ewma_ns >> age if age < 64 else 0)
    return <double>p.ewma_ns * (1.0 + p.active * mean / weight_of(c, k, t))


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
        total += weight_of(c, k, target_at(k, __builtin_ctzll(rest)))
        rest &= rest - 1
        count += 1
    drawn = <int64_t>(random64(c.random) % total)
    while drawn >= 0:
        second = __builtin_ctzll(others)
        others &= others - 1
        drawn -= <int64_t>weight_of(c, k, target_at(k, second))
    mean = <double>(total + weight_of(c, k, target_at(k, first))) / count
    ours = cost(c, k, target_at(k, first), mean)
    theirs = cost(c, k, target_at(k, second), mean)
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
        return by_load(c, k, mask)
    return by_turns(c, k, mask)


# ---- places ---------------------------------------------------------------------------------

cdef int take_place(core *c, call *k, const target_rec *t) noexcept nogil:
    cdef uint64_t taken = 0
    if k.group.max_connections == 0:
        return 1
    if not concurrency_enter(c.segment, c.worker, place_key(t.identity), k.group.max_connections, &taken):
        return 0
    k.place = place_key(t.identity)
    return 1


cdef int place_again(core *c, call *k) noexcept nogil:
    return take_place(c, k, k.target)


cdef int has_full(core *c, call *k) noexcept nogil:
    cdef uint32_t i
    for i in range(k.group.targets.count):
        if judge(c, k.group, target_at(k, i)) == FULL:
            return 1
    return 0


cdef int has_room(core *c, call *k) noexcept nogil:
    return usable(c, k, USABLE) != 0 or not has_full(c, k)


cdef uint64_t candidates(core *c, call *k, uint64_t without) noexcept nogil:
    cdef uint64_t mask = usable(c, k, USABLE) & ~without
    if mask == 0 and not (k.group.queue_max and k.attempts == 0 and (without or has_full(c, k))):
        mask = usable(c, k, EJECTED) & ~without
    return mask


cdef uint64_t foremost(call *k, uint64_t mask) noexcept nogil:
    """Those of the lowest priority number."""
    cdef uint64_t found = 0, rest = mask
    cdef uint32_t lowest = 0, priority
    cdef int i
    while rest:
        i = __builtin_ctzll(rest)
        rest &= rest - 1
        priority = target_at(k, i).priority
        if found == 0 or priority < lowest:
            lowest = priority
            found = 0
        if priority == lowest:
            found |= 1ull << i
    return found


cdef int choose_among(core *c, call *k) noexcept nogil:
    """Choose one of several, or one that may be full: sets k.target. 0, or a Reason."""
    cdef uint64_t mask, full = 0
    cdef uint32_t i
    while True:
        mask = candidates(c, k, full)
        if mask == 0 and k.tried != 0:
            k.tried = 0                  # all were tried: start again
            mask = candidates(c, k, full)
        if mask == 0:
            return OVERLOADED if full or has_full(c, k) else NO_HEALTHY_TARGET
        if k.sticky and mask >> (k.sticky - 1) & 1:
            i = k.sticky - 1             # the client stays with it
        else:
            i = choose(c, k, foremost(k, mask) if k.group.tiers else mask)
        if take_place(c, k, target_at(k, i)):
            k.target = target_at(k, i)
            k.tried |= 1ull << i
            return 0
        full |= 1ull << i                # another worker was faster, or it is ejected, and full


cdef int select_target(core *c, call *k) noexcept nogil:
    cdef const upstream_rec *g = k.group
    if g.targets.count != 1 or g.max_connections != 0 or k.tried != 0:
        return choose_among(c, k)
    if judge(c, g, target_at(k, 0)) > EJECTED:
        return NO_HEALTHY_TARGET
    k.target = target_at(k, 0)
    k.tried = 1
    return 0
