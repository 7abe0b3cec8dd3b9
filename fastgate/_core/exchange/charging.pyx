"""charging: what a request costs, and how it is paid for: access, spending limits, holds.

Three moments of an exchange:

    authenticate   charge_access: may the account call at all? Its row in shared memory holds the
                   reason if not (suspended, past due, ...). So does its subscription to the
                   service, which also names the plan that applies. An account without a row is
                   refused: its rules are not loaded yet.
    hold           charge_open: the price is found, counted against the spending limits, and
                   held on the wallet. A step that refuses gives back what was counted before.
    settle         charge_settle: if an answer was served, the hold is captured and the usage
                   record published. Otherwise the hold is released, and the counts are given back.

The price of a request comes from the caller's plan, if the plan prices requests: from the step that the
request's number in its calendar period (UTC) falls into. Otherwise the route sets the price; otherwise the
request is free. Requests are counted by account in the same cells as quotas, and so is spending, in micro-units.

Only a handler knows the units of meters. They are held for and captured separately, each meter with a
hold and a usage record of its own (`units_*`; metering.pyx).

Between `charge_due` (the answer's head goes out) and the settlement the hold is marked as owed. So if a
worker is killed in between, what was relayed is charged for, and nothing else. holds.pyx explains how
that stays exact.
"""
from libc.string cimport memcpy

from fastgate._core.platform.atomics cimport fg_load, fg_load32
from fastgate._core.shared.cells cimport decision, limit_key
from fastgate._core.shared.consumer_row cimport cap_micros, cap_period
from fastgate._core.money.holds cimport (
    MONEY_MOST, hold_capture, hold_due, hold_open, hold_pending, hold_release, usage_fill, usage_what, usage_who)
from fastgate._core.shared.quota cimport quota_give_back, quota_peek, quota_take
from fastgate._core.reason cimport (
    ACCOUNT_NOT_LOADED, HOLD_IN_FLIGHT, INSUFFICIENT_BALANCE, OVERLOADED, PAYMENT_REQUIRED, SPENDING_LIMIT_REACHED)
from fastgate._core.snapshot.snapshot cimport (
    NONE32, PLAN_ABANDONED_FREE, ROUTE_ABANDONED_FREE, plan_rec, price_step, snap_table)
from fastgate._core.state cimport EX_METERED, SPENDER_ACCOUNT, SPENDER_CONSUMER, SPENDER_KEY
from fastgate._core.money.usage_ring cimport usage_commit, usage_reserve
from fastgate._core.money.wallet cimport access_word, account_of, subscription_of, wallet_index
from fastgate._core.shared.layout cimport ACCOUNT_LIMITS, account_row, subscription

# More requests than any period has.
cdef uint64_t COUNT_MOST = <uint64_t>1 << 34

# In spent.period: money is counted, not requests.
cdef uint64_t SPENT_MONEY = 1 << 8

if SPENDING_LIMITS != 2 + ACCOUNT_LIMITS:
    raise AssertionError("a request meets other spending limits than there are")

# Mixed into the key of a spending cell, with the Spender and its identity.
cdef uint64_t SPENDING = 0x9f3b1c5a7d2e4f61


cdef inline uint64_t count_key(uint64_t what, uint64_t who) noexcept nogil:
    return limit_key(what, 0, 0, who, 0, 0, 0)


def spending_key(kind: str, identity: int) -> int:
    """The cell that counts what an "account", "consumer" or "credential" has spent in a period."""
    cdef uint64_t who = identity
    if kind == "account":
        return count_key(SPENDING + SPENDER_ACCOUNT, who)
    if kind == "consumer":
        return count_key(SPENDING + SPENDER_CONSUMER, who)
    if kind == "credential":
        return count_key(SPENDING + SPENDER_KEY, who)
    raise ValueError(f"{kind!r}: account, consumer or credential")


# ---- access ---------------------------------------------------------------------------------

cdef int charge_access(core *c, exchange *e) noexcept nogil:
    cdef account_row *row
    cdef const subscription *s
    cdef const plan_rec *p
    cdef uint64_t word
    cdef uint32_t plan, access
    if e.consumer.account == 0 or c.money is NULL:
        return 0                         # no account pays, or nothing here costs money
    row = account_of(c.segment, e.consumer.account_slot)
    if row is NULL or row.identity != e.consumer.account:
        return ACCOUNT_NOT_LOADED        # the account's rules are not loaded yet
    e.account = row
    access = <uint32_t>(fg_load(&row.access) & 0xffff)
    if access != 0:
        return <int>access
    s = subscription_of(row, e.service.slot if e.service is not NULL else NONE32)
    if s is NULL:
        return 0
    word = access_word(s)
    access = <uint32_t>(word & 0xffff)
    plan = fg_load32(&s.plan)
    if access != 0:
        e.access_ended = <uint32_t>(word >> 32)
    if plan != e.consumer.plan and plan < e.snap.plans.count:
        p = <const plan_rec *>snap_table(e.snap, e.snap.plans) + plan
        e.consumer.plan = plan
        e.consumer.plan_len = <uint8_t>(p.name.len if p.name.len <= sizeof(e.consumer.plan_name) else 0)
        memcpy(e.consumer.plan_name, <const char *>e.snap + p.name.off, e.consumer.plan_len)
    return <int>access


# ---- counting -------------------------------------------------------------------------------

cdef int64_t unix_now(core *c) noexcept nogil:
    return (<int64_t>c.loop.now + c.window_offset) // 1000000000


cdef int count(core *c, exchange *e, uint64_t key, uint8_t period, uint64_t amount, uint64_t cost,
               decision *d) noexcept nogil:
    """Take from a cell, and note it so that it can be given back."""
    cdef int64_t now = unix_now(c)
    if not quota_take(&c.quota, key, period, now, amount, cost, d):
        return 0
    if e.nspent < MAX_SPENT:
        e.spent[e.nspent].key = key
        e.spent[e.nspent].cost = cost
        e.spent[e.nspent].period = period
        e.spent[e.nspent].unix_s = now
        e.nspent += 1
    return 1


cdef inline uint64_t payer_of(exchange *e) noexcept nogil:
    """Who a plan's requests and units are counted for: the account, else the consumer."""
    return e.account.identity if e.account is not NULL else e.consumer.identity


cdef inline void give_back(core *c, const spent *s, uint64_t cost) noexcept nogil:
    quota_give_back(&c.quota, s.key, <uint8_t>(s.period & 0xff), s.unix_s, cost)


cdef void uncount(core *c, exchange *e) noexcept nogil:
    uncount_from(c, e, 0)


cdef void uncount_money(core *c, exchange *e, uint64_t micros) noexcept nogil:
    """Give this much of what was counted back to each spending limit, which settles those counts."""
    cdef uint32_t i, kept = 0
    for i in range(e.nspent):
        if e.spent[i].period & SPENT_MONEY:
            if micros:
                give_back(c, &e.spent[i], micros)
        else:
            e.spent[kept] = e.spent[i]
            kept += 1
    e.nspent = kept


cdef void spending_limit_of(exchange *e, uint32_t i, spending_limit *out) noexcept nogil:
    if i == 0:
        out.spender = SPENDER_KEY
        out.identity = e.credential
        out.cap = e.key_spending
    elif i == 1:
        out.spender = SPENDER_CONSUMER
        out.identity = e.consumer.identity
        out.cap = e.consumer.spending
    else:
        out.spender = SPENDER_ACCOUNT
        out.identity = e.account.identity + (i - 2)
        out.cap = fg_load(&e.account.limits[i - 2])


cdef uint64_t spending_cell(const spending_limit *l) noexcept nogil:
    return count_key(SPENDING + l.spender, l.identity)


cdef int spend(core *c, exchange *e, const spending_limit *l, uint64_t micros) noexcept nogil:
    """Count against one spending limit. 1; 0: it refuses."""
    cdef decision d
    cdef uint32_t at = e.nspent
    cdef uint64_t limit = cap_micros(l.cap)
    if count(c, e, spending_cell(l), cap_period(l.cap), limit, micros, &d):
        if e.nspent > at:
            e.spent[at].period |= SPENT_MONEY
        return 1
    e.money_limit = <int64_t>limit
    e.money_limit_of = l.spender
    e.money_balance = <int64_t>(limit - d.used) if d.used < limit else 0
    e.money_resets = <uint32_t>d.resets_at
    return 0


cdef int within_limits(core *c, exchange *e, uint64_t micros) noexcept nogil:
    """Count against all spending limits that apply; mostly there are none. 1; 0: one of them refuses."""
    cdef spending_limit l
    cdef uint32_t i
    for i in range(SPENDING_LIMITS):
        spending_limit_of(e, i, &l)
        if l.cap and not spend(c, e, &l, micros):
            return 0
    return 1


cdef int64_t price_of(core *c, exchange *e, uint32_t *currency) noexcept nogil:
    """What this request costs, in micro-units; 0: it is free."""
    cdef const plan_rec *p
    cdef const price_step *steps
    cdef decision d
    cdef uint32_t i
    if e.has_consumer and e.consumer.plan < e.snap.plans.count:
        p = <const plan_rec *>snap_table(e.snap, e.snap.plans) + e.consumer.plan
        if p.prices.count != 0:
            steps = <const price_step *>snap_table(e.snap, p.prices)
            e.flags |= EX_METERED
            currency[0] = p.price_currency
            if p.prices.count == 1 and steps[0].up_to == 0:
                return <int64_t>steps[0].micros
            d.used = 1
            count(c, e, count_key(p.price_identity, payer_of(e)), p.price_period, COUNT_MOST, 1, &d)
            for i in range(p.prices.count):
                if steps[i].up_to == 0 or d.used <= steps[i].up_to:
                    return <int64_t>steps[i].micros
            return 0
    if e.policy.price_micros:
        e.flags |= EX_METERED
        currency[0] = e.policy.price_currency
    return <int64_t>e.policy.price_micros


# ---- the hold -------------------------------------------------------------------------------

cdef void describe(core *c, exchange *e, usage_who *who) noexcept nogil:
    who.time_ns = <int64_t>c.loop.now + c.window_offset
    who.consumer = e.consumer.identity if e.has_consumer else 0
    who.credential = e.credential
    who.route_slot = e.match.slot
    who.service_slot = e.service.slot if e.service is not NULL else NONE32
    who.plan_slot = e.consumer.plan if e.has_consumer else NONE32
    who.meter = 0
    memcpy(who.request_id, e.request_id, 16)


cdef int charge_open(core *c, exchange *e) noexcept nogil:
    cdef uint32_t currency = 0
    cdef int64_t micros = price_of(c, e, &currency)
    cdef int reason
    if micros <= 0:
        return 0
    reason = charge_hold(c, e, micros, currency)
    if reason != 0:
        uncount(c, e)
    return reason


cdef inline int still_owned(core *c) noexcept nogil:
    """Whether this gateway still owns the balances: another one may have taken over while we were stopped."""
    cdef uint64_t until = fg_load(&c.money.money.owned_until_ns)
    return until == 0 or c.loop.now < until


cdef int charge_hold(core *c, exchange *e, int64_t micros, uint32_t currency) noexcept nogil:
    """Hold an amount on the caller's wallet. Returns 0, or the Reason; then nothing is held."""
    return reserve(c, e, micros, currency, 0, &e.hold)


cdef int reserve(core *c, exchange *e, int64_t micros, uint32_t currency, uint64_t meter,
                 money_record **hold) noexcept nogil:
    cdef usage_who who
    cdef int64_t balance = 0
    cdef int wallet, held
    cdef uint32_t before = e.nspent
    e.money_required = micros
    e.money_currency = currency
    e.money_balance = 0
    e.money_resets = 0
    e.money_limit_of = 0
    e.money_held = 0
    e.units_asked = 0
    if not e.has_consumer or e.account is NULL:
        return PAYMENT_REQUIRED
    if c.money is NULL:
        return OVERLOADED                # no money map: exact charging is impossible
    if not still_owned(c):
        return OVERLOADED
    wallet = wallet_index(e.account, currency)
    if wallet < 0:
        return INSUFFICIENT_BALANCE
    if micros > <int64_t>MONEY_MOST:
        e.money_balance = e.account.wallets[wallet].available
        return INSUFFICIENT_BALANCE      # no wallet has that much
    if not within_limits(c, e, <uint64_t>micros):
        uncount_from(c, e, before)
        return SPENDING_LIMIT_REACHED
    describe(c, e, &who)
    who.meter = meter
    held = hold_open(c.money, e.account, wallet, micros, &who, hold, &balance)
    e.money_balance = balance
    if held == 1:
        return 0
    hold[0] = NULL
    uncount_from(c, e, before)
    if held < 0:
        return OVERLOADED
    e.money_held = hold_pending(c.money.money, e.account, wallet, micros - balance)
    return HOLD_IN_FLIGHT if balance + e.money_held >= micros else INSUFFICIENT_BALANCE


cdef void uncount_from(core *c, exchange *e, uint32_t first) noexcept nogil:
    """Give back what was counted after the first `first` entries."""
    while e.nspent > first:
        e.nspent -= 1
        give_back(c, &e.spent[e.nspent], e.spent[e.nspent].cost)


cdef void charge_due(exchange *e) noexcept nogil:
    if e.hold is not NULL and not e.flags_hold_by_handler:
        hold_due(e.hold, e.hold.held)


cdef int charge_abandoned(exchange *e) noexcept nogil:
    """Whether a client that leaves now, before the answer began, owes what the request costs."""
    cdef const plan_rec *p
    if not e.flags & EX_METERED:
        return 0
    if e.has_consumer and e.consumer.plan < e.snap.plans.count:
        p = <const plan_rec *>snap_table(e.snap, e.snap.plans) + e.consumer.plan
        if p.prices.count != 0 and p.flags & PLAN_ABANDONED_FREE:
            return 0
        if p.prices.count != 0:
            return 1                     # the plan's price, so the plan's rule
    return not e.policy.flags & ROUTE_ABANDONED_FREE


cdef void what_of(core *c, exchange *e, usage_what *what, uint64_t units) noexcept nogil:
    what.time_ns = <int64_t>c.loop.now + c.window_offset
    what.units = units
    what.status = e.status


cdef void charge_capture(core *c, exchange *e, int64_t micros, uint64_t units) noexcept nogil:
    cdef usage_what what
    cdef int64_t held
    if e.hold is NULL:
        return
    held = e.hold.held
    what_of(c, e, &what, units)
    hold_capture(c.money, e.hold, micros, &what)
    e.charged += micros
    e.hold = NULL
    e.flags &= ~EX_METERED               # it has its usage record
    if micros < held:
        uncount_money(c, e, <uint64_t>(held - micros))
    e.nspent = 0


cdef void charge_release(core *c, exchange *e) noexcept nogil:
    cdef int64_t held
    if e.hold is NULL:
        return
    held = e.hold.held
    hold_release(c.money, e.hold)
    e.hold = NULL
    uncount_money(c, e, <uint64_t>held)


cdef void charge_settle(core *c, exchange *e, int served) noexcept nogil:
    """The end of an exchange. served: an answer was relayed that its caller owes for."""
    if e.hold is not NULL:
        if served and not e.flags_hold_by_handler:
            charge_capture(c, e, e.hold.held, 1)
            return
        charge_release(c, e)
    if not served:
        uncount(c, e)
    elif e.flags & EX_METERED and e.has_consumer:
        note_usage(c, e, 0, 1)           # free (an allowance, a free tier), but still usage


cdef void note_usage(core *c, exchange *e, uint64_t meter, uint64_t units) noexcept nogil:
    """Publish a usage record without money, if there is room."""
    cdef usage_who who
    cdef usage_what what
    cdef money_record *r
    if c.money is NULL:
        return
    r = usage_reserve(c.money)
    if r is not NULL:
        describe(c, e, &who)
        who.meter = meter
        what_of(c, e, &what, units)
        usage_fill(r, e.account, &who, &what)
        usage_commit(c.money, r)


# ---- units of meters ------------------------------------------------------------------------

cdef int units_open(core *c, exchange *e, units_hold *u, int64_t micros, uint32_t currency) noexcept nogil:
    cdef spent kept[MAX_SPENT]
    cdef uint32_t n = e.nspent
    cdef int reason
    # What is counted for units is kept apart from what is counted for the request.
    memcpy(kept, e.spent, sizeof(kept))
    e.nspent = 0
    reason = reserve(c, e, micros, currency, u.meter, &u.hold)
    memcpy(u.spent, e.spent, sizeof(kept))
    u.nspent = e.nspent
    memcpy(e.spent, kept, sizeof(kept))
    e.nspent = n
    return reason


cdef void units_uncount(core *c, units_hold *u, int64_t micros) noexcept nogil:
    cdef uint32_t i
    for i in range(u.nspent):
        if micros:
            give_back(c, &u.spent[i], <uint64_t>micros)
    u.nspent = 0


cdef void units_capture(core *c, exchange *e, units_hold *u, int64_t micros, uint64_t units) noexcept nogil:
    cdef usage_what what
    cdef int64_t held
    if u.hold is NULL:
        if e.has_consumer:
            note_usage(c, e, u.meter, units)
        return
    held = u.hold.held
    what_of(c, e, &what, units)
    hold_capture(c.money, u.hold, micros, &what)
    u.hold = NULL
    e.charged += micros
    units_uncount(c, u, held - micros)


cdef void units_release(core *c, exchange *e, units_hold *u) noexcept nogil:
    cdef int64_t held
    if u.hold is NULL:
        return
    held = u.hold.held
    hold_release(c.money, u.hold)
    u.hold = NULL
    units_uncount(c, u, held)


cdef uint64_t units_counted(core *c, exchange *e, uint64_t identity, uint8_t period) noexcept nogil:
    cdef decision d
    quota_peek(&c.quota, count_key(identity, payer_of(e)), period, unix_now(c), ~<uint64_t>0, &d)
    return d.used


cdef uint64_t units_count(core *c, exchange *e, uint64_t identity, uint8_t period, uint64_t units) noexcept nogil:
    cdef decision d
    if quota_take(&c.quota, count_key(identity, payer_of(e)), period, unix_now(c), ~<uint64_t>0, units, &d):
        return d.used - units
    return d.used                        # more than a cell can count: it stays at the maximum
