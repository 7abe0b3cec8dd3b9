"""admission: whether the caller may: address lists, limits. Who calls: authentication.pyx.

The order, and what remains after a refusal:

    1 admit_address   limits that count by address alone (with route or service). They protect
                      the steps that follow, so an exchange that is refused later for its
                      credential keeps what it took here
    2 authenticate    credential → consumer, account and plan
    3 admit           the route's other limits, then the plan's. The first limit that refuses
                      ends the exchange, and everything taken before (in 1 as well) is given
                      back: a request refused by a limit uses up nothing

If the consumer has its own numbers for a limit, those apply (`in_force`).

All state is in the shared segment. No state here belongs to one worker.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.http.head cimport field, named
from fastgate._core.shared.cells cimport address_hash, hash_bytes, limit_key, mix_key
from fastgate._core.shared.concurrency cimport concurrency_enter, concurrency_leave
from fastgate._core.shared.consumer_row cimport OVERRIDES, limit_override
from fastgate._core.shared.limiter cimport limiter_give_back, limiter_take
from fastgate._core.shared.quota cimport quota_give_back, quota_take
from fastgate._core.reason cimport (
    CONCURRENCY_LIMITED, QUOTA_EXHAUSTED, QUOTA_EXHAUSTED_UPGRADE, RATE_LIMITED)
from fastgate._core.snapshot.addresses cimport address_matches
from fastgate._core.snapshot.snapshot cimport (
    BY_ADDRESS, BY_CONSUMER, BY_CREDENTIAL, BY_HEADER, BY_PLAN, BY_ROUTE, BY_SERVICE,
    LIMIT_CONCURRENCY, LIMIT_OFFER_UPGRADE, LIMIT_QUOTA, LIMIT_RATE, address_rule,
    snap_str, snap_table, str_ref)
from fastgate._core.state cimport MAX_TAKEN


# ---- addresses ----------------------------------------------------------------------------

cdef int address_allowed(exchange *e, table_ref rules) noexcept nogil:
    cdef const address_rule *r = <const address_rule *>snap_table(e.snap, rules)
    cdef int hit = address_matches(e.snap, rules, e.client)
    cdef uint32_t i
    if hit:
        return r[hit - 1].allow
    for i in range(rules.count):
        if r[i].allow:
            return 0                     # a list that allows some addresses denies the rest
    return 1


# ---- limits ---------------------------------------------------------------------------------

cdef uint64_t header_values(exchange *e, const limit_rec *l) noexcept nogil:
    """A hash of the values of the fields that the limit counts by. A missing field counts as a value, too."""
    cdef const str_ref *names = <const str_ref *>snap_table(e.snap, l.headers)
    cdef const field *f
    cdef uint64_t all = 0, one
    cdef uint32_t i, n
    if e.base is NULL:
        return e.owner.loop.now          # a dry run has no fields: a value that no request has
    for n in range(l.headers.count):
        one = 0
        for i in range(e.req.nfields):
            f = &e.req.fields[i]
            if named(e.base, f, snap_str(e.snap, names[n]), names[n].len):
                one = mix_key(one, hash_bytes(e.base + f.value, f.value_len, 0))
        all = mix_key(all, one)
    return all


cdef uint64_t key_of(exchange *e, const limit_rec *l) noexcept nogil:
    cdef uint32_t scope = l.scope
    return limit_key(
        mix_key(l.identity, header_values(e, l)) if scope & BY_HEADER else l.identity,
        address_hash(e.client) if scope & BY_ADDRESS else 0,
        e.route.identity if scope & BY_ROUTE else 0,
        e.consumer.identity if scope & BY_CONSUMER and e.has_consumer else 0,
        plan_identity(e) if scope & BY_PLAN else 0,
        e.service.identity if scope & BY_SERVICE and e.service is not NULL else 0,
        e.credential if scope & BY_CREDENTIAL and e.has_consumer else 0)


cdef const plan_rec *plan_of(exchange *e) noexcept nogil:
    cdef const plan_rec *p
    if not e.has_consumer or e.consumer.plan >= e.snap.plans.count:
        return NULL
    p = <const plan_rec *>snap_table(e.snap, e.snap.plans) + e.consumer.plan
    return p if p.name.len != 0 else NULL


cdef uint64_t plan_identity(exchange *e) noexcept nogil:
    cdef const plan_rec *p = plan_of(e)
    return p.identity if p is not NULL else 0


cdef void admit_undo(core *c, exchange *e) noexcept nogil:
    cdef const limit_rec *l
    cdef uint32_t i
    for i in range(e.ntaken):
        l = e.took[i].limit
        if l.kind == LIMIT_RATE:
            limiter_give_back(&c.limiter, e.took[i].key, e.took[i].interval_ns, 1)
        elif l.kind == LIMIT_QUOTA:
            quota_give_back(&c.quota, e.took[i].key, l.period, (<int64_t>c.loop.now + c.window_offset) // 1000000000, 1)
        else:
            concurrency_leave(c.segment, c.worker, e.took[i].key)
    e.ntaken = 0


cdef const limit_rec *in_force(exchange *e, const limit_rec *l, limit_rec *room) noexcept nogil:
    cdef const limit_override *own = e.overrides
    cdef uint32_t i
    if own is NULL or l.override_key == 0:
        return l
    for i in range(OVERRIDES):
        if own[i].key == l.override_key:
            room[0] = l[0]
            room.amount = own[i].amount
            room.interval_ns = own[i].interval_ns
            room.tolerance_ns = own[i].tolerance_ns
            if l.kind == LIMIT_RATE:
                # The time of a token was rounded up to a nanosecond; subtract what that added.
                room.window_s = max((own[i].tolerance_ns - own[i].amount + 999999999) // 1000000000, <uint64_t>1)
            room.policy.len = 0          # its text has the limit's own numbers
            return room
    return l


cdef inline void note_tightest(exchange *e, const limit_rec *l, const limit_rec *with_own, const decision *d) noexcept nogil:
    e.tightest = l
    if with_own is not l:
        e.own = with_own[0]
        e.tightest = &e.own
    e.seen = d[0]


cdef int limit_take(core *c, exchange *e, const limit_rec *configured, decision *d) noexcept nogil:
    cdef limit_rec own
    cdef const limit_rec *l = in_force(e, configured, &own)
    cdef uint64_t key = key_of(e, l), in_flight = 0
    cdef int passed, reason
    cdef int64_t unix_s
    if l.kind == LIMIT_RATE:
        passed = limiter_take(&c.limiter, key, c.loop.now, l.interval_ns, l.tolerance_ns, 1, d)
        reason = RATE_LIMITED
        if passed:
            c.counters.limiter_allowed += 1
        else:
            c.counters.limiter_refused += 1
        d.resets_at = <uint64_t>((<int64_t>c.loop.now + c.unix_offset) // 1000000000) + (
            d.reset_s if passed else d.retry_s)
    elif l.kind == LIMIT_QUOTA:
        unix_s = (<int64_t>c.loop.now + c.window_offset) // 1000000000
        passed = quota_take(&c.quota, key, l.period, unix_s, l.amount, 1, d)
        reason = QUOTA_EXHAUSTED_UPGRADE if l.flags & LIMIT_OFFER_UPGRADE else QUOTA_EXHAUSTED
        if passed:
            c.counters.quota_allowed += 1
        else:
            c.counters.quota_refused += 1
    else:
        passed = concurrency_enter(c.segment, c.worker, key, l.amount, &in_flight)
        reason = CONCURRENCY_LIMITED
        d.used = in_flight
        d.remaining = l.amount - in_flight if in_flight < l.amount else 0
        d.reset_s = 1
        d.retry_s = 1
        d.resets_at = <uint64_t>((<int64_t>c.loop.now + c.unix_offset) // 1000000000) + 1
        if not passed:
            c.counters.concurrency_refused += 1
    if not passed:
        note_tightest(e, configured, l, d)
        admit_undo(c, e)
        return reason
    if e.ntaken < MAX_TAKEN:
        e.took[e.ntaken].limit = configured
        e.took[e.ntaken].key = key
        e.took[e.ntaken].interval_ns = l.interval_ns
        e.ntaken += 1
    if l.kind != LIMIT_CONCURRENCY and (e.tightest is NULL or d.remaining < e.seen.remaining):
        note_tightest(e, configured, l, d)
    return 0


cdef int by_address_alone(const limit_rec *l) noexcept nogil:
    # A client can write anything into a header, so headers are not counted before the key is checked.
    return l.scope & BY_ADDRESS and not l.scope & (BY_CONSUMER | BY_PLAN | BY_CREDENTIAL | BY_HEADER)


cdef int admit_address(core *c, exchange *e) noexcept nogil:
    cdef const limit_rec *l = <const limit_rec *>snap_table(e.snap, e.policy.limits)
    cdef decision d
    cdef uint32_t i
    cdef int reason
    for i in range(e.policy.limits.count):
        if by_address_alone(&l[i]):
            reason = limit_take(c, e, &l[i], &d)
            if reason != 0:
                return reason
    return 0


cdef int admit(core *c, exchange *e) noexcept nogil:
    cdef const limit_rec *l = <const limit_rec *>snap_table(e.snap, e.policy.limits)
    cdef const plan_rec *p
    cdef decision d
    cdef uint32_t i
    cdef int reason
    for i in range(e.policy.limits.count):
        if not by_address_alone(&l[i]):
            reason = limit_take(c, e, &l[i], &d)
            if reason != 0:
                return reason
    p = plan_of(e)
    if p is not NULL:
        l = <const limit_rec *>snap_table(e.snap, p.limits)
        for i in range(p.limits.count):
            reason = limit_take(c, e, &l[i], &d)
            if reason != 0:
                return reason
    return 0


cdef void admit_settle(core *c, exchange *e, int failed) noexcept nogil:
    """At the end: the exchange leaves its concurrency limits; if it failed, it counts against no quota."""
    cdef const limit_rec *l
    cdef uint32_t i
    for i in range(e.ntaken):
        l = e.took[i].limit
        if l.kind == LIMIT_CONCURRENCY:
            concurrency_leave(c.segment, c.worker, e.took[i].key)
        elif l.kind == LIMIT_QUOTA and failed:
            quota_give_back(&c.quota, e.took[i].key, l.period, e.started_unix_ns // 1000000000, 1)
    e.ntaken = 0
