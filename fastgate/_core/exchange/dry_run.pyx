"""dry_run: would a request be served? The data plane's own functions decide, and nothing changes.

A second description of the rules would drift from the first, so there is none. An exchange for a request
that was never sent goes through the functions that a worker calls, over *private copies* of shared
memory (`Segment.private_copy`): pages are shared until they are written to, and no other process sees
what is written (counts, holds).

    1 admit_address      limits that count by address alone
    2 admit_caller       key, account, subscription, plan
    3 admit              the other limits
    4 charge_open        price, spending limits, wallet

`Outcome.reason` is their result. The other fields explain it, including what comes after the first obstacle:
since the copy is private, the obstacle is removed from it, and the next function is called.

A DryRun answers one question: create one for each.
"""
from typing import NamedTuple

cimport cython

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastgate._core.exchange.admission cimport (
    admit, admit_address, admit_undo, by_address_alone, in_force, limit_take, plan_of)
from fastgate._core.exchange.authentication cimport authenticate
from fastgate._core.exchange.caller cimport admit_caller, includes_service
from fastgate._core.platform.atomics cimport fg_load, fg_store
from fastgate._core.shared.cells cimport cells_of_limiter, cells_of_quota, decision
from fastgate._core.shared.clock cimport window_offset
from fastgate._core.exchange.charging cimport (
    SPENDING_LIMITS, charge_access, charge_open, charge_settle, spending_cell, spending_limit, spending_limit_of)
from fastgate._core.exchange.maintenance cimport closed_for_maintenance
from fastgate._core.exchange.split cimport choose_service, take_service
from fastgate._core.shared.counters cimport counters_worker
from fastgate._core.shared.consumer_row cimport CONSUMER_SUSPENDED_FLAG, cap_micros, cap_period
from fastgate._core.shared.credentials cimport CredentialIndex
from fastgate._core.shared.lookup cimport credential_find, credential_of
from fastgate._core.money.layout cimport rows_scan
from fastgate._core.shared.quota cimport quota_peek
from fastgate._core.reason cimport CONSUMER_SUSPENDED, SPENDING_LIMIT_REACHED
from fastgate._core.snapshot.snapshot cimport (
    BY_ADDRESS, BY_CREDENTIAL, BY_HEADER, BY_ROUTE, BY_SERVICE, LIMIT_CONCURRENCY, LIMIT_QUOTA, LIMIT_RATE,
    NONE32, ROUTE_MAINTENANCE, ROUTE_SPLIT, SPLIT_BY_ADDRESS, SPLIT_BY_CONSUMER, plan_rec, service_rec, snap_policy, snap_route,
    snap_service, snap_str, snap_table, snap_traffic)
from fastgate._core.snapshot.traffic cimport split_rec, traffic_rec
from fastgate._core.state cimport digest_fn, lookup_fn
from fastgate._core.platform.sys cimport boottime_ns, monotonic_ns, realtime_ns
from fastgate._core.snapshot.currency cimport currency_text
from fastgate._core.shared.layout cimport ACCOUNT_LIMITS, SUBSCRIPTIONS
from fastgate._core.exchange.number_text cimport put_limit_words


class LimitLook(NamedTuple):
    """A limit that the request meets. `words`: what it allows, for people. `reason`: the number of the Reason
    if it refuses, else 0. `resets_at`: Unix seconds. `of_plan`: it is the plan's, not the route's."""

    name: str
    words: str
    kind: str
    amount: int
    used: int
    remaining: int
    resets_at: int
    reason: int
    of_plan: bool


class SpendingLook(NamedTuple):
    """A spending limit that the request meets, micro-units. `of`: key, consumer or account."""

    of: str
    limit: int
    used: int
    resets_at: int


class Outcome(NamedTuple):
    """What would happen to the request. Reasons are numbers, 0: none; amounts are micro-units.

    `reason`: why it would be refused; 0: it would be served. Each check has its own result, even after
    another one refused: `key` (the credential), `account` and `subscription` (their access), `service`
    (whether the plan includes it), `charge` (price and wallet; `spending_limit_reached` is in
    `spending_reason`). `looks_at_keys`: whether the route does. `plan`: name of the plan in force.
    `price` with `currency`: of this request; `available`: in the wallet; `held`: what requests in progress
    hold, as far as the price would need it. `spender`: whose spending limit refused, as `SpendingLook.of`.
    `unseen`: limits that count by something not given (an address, a key, the value of a header).
    `chosen`: of a route with a split, the name of the service that gets it; `chosen_by`: what decided that,
    "asked", "consumer" or "address"; "share": nothing that is known, so it is the one with the largest share.
    """

    reason: int
    looks_at_keys: bool
    key: int
    account: int
    subscription: int
    service: int
    plan: str
    limits: tuple[LimitLook, ...]
    unseen: int
    price: int
    currency: str
    spending: tuple[SpendingLook, ...]
    spending_reason: int
    spender: str
    charge: int
    available: int
    held: int
    chosen: str = ""
    chosen_by: str = ""


SPENDERS = ("", "account", "consumer", "key")
KINDS = {LIMIT_RATE: "rate", LIMIT_QUOTA: "quota", LIMIT_CONCURRENCY: "concurrency"}


@cython.final
cdef class DryRun:
    """A request that is not sent.

    `route`: index in the snapshot; -1: none, then only the checks of the caller are made. `address`:
    16 bytes, IPv4 mapped; empty: not known. `service`: the one that gets it, if the route has it in a split.
    Raises IndexError if there is no such route.
    """

    def __cinit__(self):
        self.c = <core *>calloc(1, sizeof(core))
        self.e = <exchange *>calloc(1, sizeof(exchange))
        if self.c == NULL or self.e == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.c)
        free(self.e)

    def __init__(self, Segment segment not None, MoneyFile money, Snapshot snapshot not None, *, int route=-1,
                 bytes address=b"", str service=None):
        cdef core *c = self.c
        cdef exchange *e = self.e
        cdef uint64_t boot
        self.segment = segment.private_copy()
        self.snapshot = snapshot
        c.loop.now = monotonic_ns()
        c.unix_offset = realtime_ns() - <int64_t>c.loop.now
        c.segment = self.segment.header
        boot = boottime_ns()
        c.window_offset = <int64_t>boot + window_offset(c.segment, realtime_ns(), boot) - <int64_t>c.loop.now
        c.counters = counters_worker(c.segment, 0)
        c.limiter = cells_of_limiter(c.segment)
        c.quota = cells_of_quota(c.segment)
        c.lookup = <lookup_fn><void *>credential_find
        c.lookup_digest = <digest_fn><void *>credential_of
        if money is not None:
            self.money = money.private_copy(self.segment)
            c.money = self.money.worker_view(0)
            rows_scan(c.money)
            c.money.begun = 1
        e.owner = c
        e.snap = snapshot.header
        self.by_address = bool(address)
        if address and len(address) != 16:
            raise ValueError(f"an address has 16 bytes, not {len(address)}")
        # Not known: use an address that no client has, so that nothing was counted for it.
        address = address or b"\x20\x01\x0d\xb8" + (<object>c.loop.now).to_bytes(12, "big")
        memcpy(e.client, <const char *>address, 16)
        if route >= 0:
            snapshot._bounds(route, snapshot.header.routes.count)
            e.route = snap_route(e.snap, route)
            e.policy = snap_policy(e.snap, e.route.policy)
            if e.policy.service != NONE32:
                e.service = snap_service(e.snap, e.policy.service)
            self.chosen_by = ""
            if e.policy.flags & ROUTE_SPLIT:
                self.choose(service)

    cdef choose(self, str service):
        """Which service of a split gets it, unless that depends on the caller."""
        cdef exchange *e = self.e
        cdef const traffic_rec *t = snap_traffic(e.snap, e.policy)
        cdef const split_rec *s = <const split_rec *>snap_table(e.snap, t.split)
        cdef const service_rec *its
        cdef uint32_t i
        for i in range(t.split.count):
            its = snap_service(e.snap, snap_policy(e.snap, s[i].policy).service)
            if service is not None and snap_str(e.snap, its.name)[:its.name.len].decode() == service:
                self.chosen_by = "asked"
                take_service(e, &s[i])
                return
        if t.split_by == SPLIT_BY_CONSUMER:
            self.chosen_by = "consumer"
            return
        self.chosen_by = "address" if t.split_by == SPLIT_BY_ADDRESS and self.by_address else "share"
        choose_service(e)

    # ---- the caller -----------------------------------------------------------------------

    def of_key(self, CredentialIndex index not None, bytes digest not None) -> Outcome:
        """Decide for a caller with the key that has this SHA-256."""
        cdef const consumer_row *row = NULL
        cdef uint64_t word = 0
        cdef const credential_entry *entry
        cdef int found
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
        self.index = index
        self.by_key = True
        entry = index.slot_of(<const uint8_t *><const char *>digest, &word)
        found = index.judge(entry if word else NULL, word, unix_s(self.c), &row)
        return self.outcome(found, row, entry if word else NULL, 1)

    def of_consumer(self, CredentialIndex index not None, uint32_t row) -> Outcome:
        """Decide for a consumer, a row of an index, with a key of which nothing else is known."""
        cdef const consumer_row *consumer
        cdef credential_entry entry
        index._check_row(row)
        self.index = index
        consumer = index.rows + row
        memset(&entry, 0, sizeof(entry))
        entry.identity = self.c.loop.now      # no key has it, so nothing was counted for it
        return self.outcome(
            CONSUMER_SUSPENDED if consumer.flags & CONSUMER_SUSPENDED_FLAG else 0, consumer, &entry, 1)

    def of_nobody(self) -> Outcome:
        """Decide for a caller without a key."""
        return self.outcome(0, NULL, NULL, 0)

    # ---- the decision -----------------------------------------------------------------------

    cdef object outcome(self, int found, const consumer_row *row, const credential_entry *entry, bint shown):
        cdef core *c = self.c
        cdef exchange *e = self.e
        cdef bint looks = e.policy is NULL or e.policy.auth != NONE32
        cdef int reason, service = 0, spending_reason = 0, charge = 0
        cdef int account = 0, subscription = 0
        spender = ""
        shown = shown and looks
        reason = self.decide(found, row, entry, shown)
        self.fresh()
        if not shown:
            found = 0 if e.policy is NULL else authenticate(c, e)
        elif row is not NULL:
            admit_caller(c, e, 0, row, entry)
            account = self.lift_account()
            subscription = self.lift_subscription()
            service = includes_service(e)
        known = e.has_consumer or (not shown and found == 0)
        limits, unseen = self.limits(known)
        spending = self.spending() if e.account is not NULL else []
        if known and e.policy is not NULL:
            charge = charge_open(c, e)
            if charge == SPENDING_LIMIT_REACHED:
                spending_reason = charge
                spender = SPENDERS[e.money_limit_of & 3]
                self.lift_spending()
                charge = charge_open(c, e)
        price = e.money_required
        plan = e.consumer.plan_name[:e.consumer.plan_len].decode("ascii", "replace") if e.has_consumer else ""
        if e.policy is NULL and reason == 0:
            reason = next((one.reason for one in limits if one.reason), 0)
        return Outcome(
            reason, looks, found, account, subscription, service, plan, tuple(limits), unseen,
            price, currency_text(e.money_currency) if price else "", tuple(spending), spending_reason,
            spender, charge,
            e.money_balance + (price if charge == 0 and e.hold is not NULL else 0), e.money_held,
            snap_str(e.snap, e.service.name)[:e.service.name.len].decode() if e.split_row else "",
            self.chosen_by if e.split_row else "")

    cdef int decide(self, int found, const consumer_row *row, const credential_entry *entry, bint shown):
        """As `exchange_head` does it. What was taken is given back."""
        cdef core *c = self.c
        cdef exchange *e = self.e
        cdef int reason = 0
        if e.policy is not NULL:
            if e.policy.flags & ROUTE_MAINTENANCE:
                reason = closed_for_maintenance(e)
            if reason == 0:
                reason = admit_address(c, e)
        if reason == 0 and shown:
            reason = admit_caller(c, e, found, row, entry)
        elif reason == 0 and e.policy is not NULL:
            reason = authenticate(c, e)
        if reason == 0 and e.policy is not NULL:
            if e.policy.flags & ROUTE_SPLIT:
                choose_service(e)
            reason = admit(c, e)
            if reason == 0:
                reason = charge_open(c, e)
                if reason == 0:
                    charge_settle(c, e, 0)
        admit_undo(c, e)
        return reason

    cdef fresh(self):
        """Restore the exchange to its state before."""
        cdef exchange *e = self.e
        e.has_consumer = 0
        e.overrides = NULL
        e.account = NULL
        e.credential = e.key_spending = 0
        memset(&e.consumer, 0, sizeof(e.consumer))
        e.tightest = NULL
        e.hold = NULL
        e.ntaken = e.nspent = 0
        e.flags = 0
        e.money_required = e.money_balance = e.money_limit = e.money_held = 0
        e.money_currency = e.money_resets = e.access_ended = 0
        e.money_limit_of = 0

    # ---- obstacles, removed from the copy -----------------------------------------------------

    cdef int lift_account(self):
        """Why the account's requests are refused; removes that reason from the copy."""
        cdef exchange *e = self.e
        cdef int access
        if e.account is NULL:
            return 0
        access = <int>(fg_load(&e.account.access) & 0xffff)
        fg_store(&e.account.access, 0)
        return access

    cdef int lift_subscription(self):
        """Why the subscription gives no access; afterwards it does, and its plan is in force."""
        cdef exchange *e = self.e
        cdef int access, i
        if e.account is NULL:
            return 0
        access = charge_access(self.c, e)
        if access != 0:
            for i in range(SUBSCRIPTIONS):
                e.account.subscriptions[i].access = 0
            charge_access(self.c, e)
        return access

    cdef lift_spending(self):
        """Remove all spending limits."""
        cdef exchange *e = self.e
        cdef int i
        e.key_spending = e.consumer.spending = 0
        for i in range(ACCOUNT_LIMITS):
            fg_store(&e.account.limits[i], 0)

    # ---- what is reported ---------------------------------------------------------------------

    cdef tuple limits(self, bint known):
        """Every limit that the request meets, in the order in which they are taken from, and how many count by
        something unknown. Not `known`: the caller's key is refused, so only the limits before it are met."""
        cdef exchange *e = self.e
        cdef const limit_rec *l
        cdef const plan_rec *p = plan_of(e)
        cdef uint32_t i
        cdef int guards
        found = []
        if e.policy is not NULL:
            l = <const limit_rec *>snap_table(e.snap, e.policy.limits)
            for guards in range(1, -1 if known else 0, -1):
                for i in range(e.policy.limits.count):
                    if (by_address_alone(&l[i]) != 0) == (guards != 0):
                        found.append(self.limit(&l[i], False))
        if p is not NULL:
            l = <const limit_rec *>snap_table(e.snap, p.limits)
            for i in range(p.limits.count):
                found.append(self.limit(&l[i], True))
        admit_undo(self.c, e)
        return [one for one in found if one is not None], found.count(None)

    cdef object limit(self, const limit_rec *configured, bint of_plan):
        """One limit; None: what it counts by is not known."""
        cdef decision d
        cdef limit_rec own
        cdef const limit_rec *l = in_force(self.e, configured, &own)
        cdef char text[256]
        cdef int reason
        if l.scope & BY_ADDRESS and not self.by_address or l.scope & BY_CREDENTIAL and not self.by_key \
                and self.e.has_consumer or l.scope & (BY_ROUTE | BY_SERVICE) and self.e.route is NULL \
                or l.scope & BY_HEADER:
            return None
        reason = limit_take(self.c, self.e, configured, &d)
        # The count was the request itself: it is not used yet.
        used, remaining = d.used, d.remaining
        if reason == 0 and l.kind != LIMIT_CONCURRENCY:
            used, remaining = used - 1, remaining + 1
        elif reason == 0:
            used -= 1
            remaining = l.amount - used
        name = snap_str(self.e.snap, l.name)[:l.name.len].decode()
        words = text[:put_limit_words(text, l) - text].decode("ascii")
        return LimitLook(name, words, KINDS[l.kind], l.amount, used, remaining, d.resets_at, reason, of_plan)

    cdef list spending(self):
        """Every spending limit that the request meets, in the order in which they are checked."""
        cdef spending_limit l
        cdef decision d
        cdef uint32_t i
        found = []
        for i in range(SPENDING_LIMITS):
            spending_limit_of(self.e, i, &l)
            if l.cap:
                quota_peek(&self.c.quota, spending_cell(&l), cap_period(l.cap), window_s(self.c), cap_micros(l.cap), &d)
                found.append(SpendingLook(SPENDERS[l.spender], cap_micros(l.cap), d.used, d.resets_at))
        return found


cdef inline int64_t unix_s(core *c) noexcept nogil:
    return (<int64_t>c.loop.now + c.unix_offset) // 1000000000


cdef inline int64_t window_s(core *c) noexcept nogil:
    return (<int64_t>c.loop.now + c.window_offset) // 1000000000
