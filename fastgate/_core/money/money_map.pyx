"""money_map: holds and usage records for Python: control, handlers, tests.

    control     drain → ledger → commit, for each worker, repeatedly
                resolve_dead, when a worker has died; open_holds, to inspect
    worker      begin, once, before it serves; then the engine, or hold() for a Python handler
    supervisor  create or open; stopped, when it has reaped a worker

Draining is *at least once*: what was drained and not committed is drained again, also by the successor
of a control process that was killed. The ledger takes each record once, by its id. A worker must not be
drained from the start a second time between a `drain` from the start and its `commit`.

holds.pyx determines who may do what: a worker's holds are opened and settled by the worker's own process,
on the thread of its engine; a dead worker's holds are resolved by control only.
"""
from typing import NamedTuple

cimport cython

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastgate._core.platform.atomics cimport fg_cas, fg_load, fg_read_before, fg_store
from fastgate._core.money.holds cimport (
    MONEY_MOST, hold_capture, hold_due, hold_open, hold_release, hold_resolve, hold_taken, usage_fill,
    usage_what, usage_who,
)
from fastgate._core.money.layout cimport HOLD_FREE, HOLD_PARKED, money_record, rows_scan, area_view
from fastgate._core.money.money_file cimport MoneyFile
from fastgate._core.money.usage_block cimport pack_blocks
from fastgate._core.snapshot.currency cimport currency_text
from fastgate._core.money.usage_ring cimport usage_commit, usage_reserve
from fastgate._core.money.wallet cimport account_of
from fastgate._core.shared.layout cimport WALLETS, account_row

from fastgate._core.money.layout import POLICIES
from fastgate._core.money.usage_block import UsageBlock

cdef enum:
    STATE_BITS = 0xFF

NO_SLOT = 0xFFFFFFFF
STATES = ("free", "intent", "held", "settling", "settled", "parked")


class HoldTableFull(RuntimeError):
    """The worker has as many paid requests in progress as its table has rows, or their records wait
    for a ledger that accepts none: the gateway answers 503 `overloaded`."""


class UsageRecord(NamedTuple):
    """One use, and what it cost.

    `id`: 32 hex digits (boot 16, area 2, sequence 14), never reused. `time_ns`: Unix time of
    settling. `account`, `consumer`, `credential`: identities (hashes of ids), 0: none. `route`,
    `service`, `plan`: slots, NO_SLOT: none. `amount`, `held`: micro-units of `currency` (three
    letters; "" without money). `units`: of the meter. `request_id`: 32 hex digits. `flags`: UsageFlag.
    `meter`: the meter's identity; 0: the record is for the request itself.
    """

    id: str
    time_ns: int
    account: int
    account_slot: int
    consumer: int
    credential: int
    route: int
    service: int
    plan: int
    wallet: int
    currency: str
    amount: int
    held: int
    units: int
    status: int
    flags: int
    request_id: str
    meter: int


class OpenHold(NamedTuple):
    """A row of a hold table that is in use. `state`: see STATES. `taken`: whether `record.held` is currently
    taken from the wallet; while it is held, `record.amount` is what is owed if the worker dies."""

    worker: int
    state: str
    taken: bool
    dead: bool
    record: UsageRecord


class AreaState(NamedTuple):
    """Numbers of a worker's area, since the map was created. Waiting in the ring: `published - committed`;
    parked now: see `open_holds`."""

    published: int
    committed: int
    parked: int
    dropped: int
    refused: int
    sequence: int


cdef object _record(const money_record *r):
    return UsageRecord(
        f"{r.boot:016x}{r.number:016x}", r.time_ns, r.account, r.account_slot, r.consumer,
        r.credential, r.route_slot, r.service_slot, r.plan_slot, r.wallet, currency_text(r.currency),
        r.amount, r.held, r.units, r.status, r.flags, (<const char *>r.request_id)[:16].hex(), r.meter)


cdef int _who(usage_who *who, dict fields) except -1:
    """From keyword arguments: consumer, credential, route, service, plan, meter, now_ns, request_id."""
    cdef bytes request_id = fields.pop("request_id", b"") or bytes(16)
    if len(request_id) != 16:
        raise ValueError(f"a request_id has 16 bytes, not {len(request_id)}")
    memset(who, 0, sizeof(usage_who))
    who.time_ns = fields.pop("now_ns", 0)
    who.consumer = fields.pop("consumer", 0)
    who.credential = fields.pop("credential", 0)
    who.route_slot = fields.pop("route", NO_SLOT)
    who.service_slot = fields.pop("service", NO_SLOT)
    who.plan_slot = fields.pop("plan", NO_SLOT)
    who.meter = fields.pop("meter", 0)
    memcpy(who.request_id, <const char *>request_id, 16)
    if fields:
        raise TypeError(f"no such field of a hold: {', '.join(sorted(fields))}")
    return 0


@cython.final
cdef class Hold:
    """Money held for one request. Settle it once, by `capture` or `release`.

    If neither is called, because the handler failed, it stays until its worker dies and control resolves
    it; so settle in a `finally`.
    """

    cdef readonly object money
    cdef readonly uint32_t worker
    cdef readonly int64_t held
    cdef readonly int64_t balance
    cdef readonly str id
    cdef area_view *at
    cdef money_record *row
    cdef uint64_t word

    cdef _check(self):
        if self.row == NULL or fg_load(&self.row.word) != self.word:
            raise ValueError(f"hold {self.id} is already settled")

    @property
    def open(self) -> bool:
        """Whether it still has to be settled."""
        return self.row != NULL and fg_load(&self.row.word) == self.word

    def due(self, int64_t amount) -> None:
        """Record what is owed so far, micro-units: charged if the worker dies before it settles."""
        self._check()
        hold_due(self.row, amount)

    def capture(self, int64_t actual, *, int64_t now_ns=0, uint64_t units=0, uint16_t status=200) -> bool:
        """Charge `actual` micro-units, at most what was held, and give back the rest.

        False: the ring is full, and the record waits in the hold's row; nothing is lost.
        Raises ValueError if it is already settled, or for an amount below 0 or above `held`.
        """
        cdef usage_what what
        cdef int published
        self._check()
        if not 0 <= actual <= self.held:
            raise ValueError(f"capture of {actual}: only {self.held} are held")
        what.time_ns = now_ns
        what.units = units
        what.status = status
        published = hold_capture(self.at, self.row, actual, &what)
        self.row = NULL
        return published != 0

    def release(self) -> None:
        """Give all of it back; there is no usage record. Raises ValueError if it is already settled."""
        self._check()
        hold_release(self.at, self.row)
        self.row = NULL


cdef struct gathered:             # by one drain
    const money_record **records
    size_t count
    uint64_t parked               # how many of them are parked; these come last
    uint64_t position


cdef class MoneyMap(MoneyFile):
    """The money map with all its operations. Created by `create`, `open` or `attach`.

    `worker` is an index, checked (IndexError). `bind` it to the segment before holds are
    opened or resolved (TypeError).
    """

    cdef dict given               # worker → (position, rows that the last drain returned)
    cdef dict seen_parked         # worker → area_head.parked when its rows were last searched
    cdef dict damage

    def __cinit__(self):
        self.given = {}
        self.seen_parked = {}
        self.damage = {}

    cdef _check_bound(self):
        if self.segment is None:
            raise TypeError("bind() the money map to the segment first")

    cdef area_view *_begun(self, uint32_t worker) except NULL:
        cdef area_view *t
        self._check_worker(worker)
        self._check_bound()
        t = self.worker_view(worker)
        if not t.begun:
            raise TypeError(f"begin({worker}) was not called in this process")
        return t

    cdef account_row *_account(self, uint32_t slot, int wallet) except NULL:
        cdef account_row *row = account_of(self.segment.header, slot)
        if row == NULL:
            raise KeyError(f"no account has slot {slot}")
        if not 0 <= wallet < WALLETS or row.currencies[wallet] == 0:
            raise KeyError(f"account slot {slot} has no wallet {wallet}")
        return row

    # ---- workers and handlers -----------------------------------------------------------

    def begin(self, uint32_t worker) -> None:
        """This process is that worker from now on; what its predecessor left has no owner."""
        cdef area_view *t
        self._check_worker(worker)
        self._check_bound()
        t = self.worker_view(worker)
        fg_store(&t.head.dead_upto, t.head.sequence)
        rows_scan(t)
        t.begun = 1

    def hold(self, uint32_t worker, uint32_t account, int64_t amount, *, int wallet=0,
             **fields) -> Hold | None:
        """Hold `amount` micro-units (0 to 2^60) of an account slot's wallet; None: the wallet has less.

        Fields of the usage record: consumer, credential, meter (identities), route, service, plan
        (slots), now_ns (Unix time), request_id (16 bytes). Raises HoldTableFull, or KeyError if there is no
        such account or wallet.
        """
        cdef area_view *t = self._begun(worker)
        cdef account_row *row = self._account(account, wallet)
        cdef usage_who who
        cdef money_record *r = NULL
        cdef int64_t balance = 0
        cdef int result
        cdef Hold hold
        if not 0 <= amount <= <int64_t>MONEY_MOST:
            raise ValueError(f"cannot hold {amount} micro-units: use 0 to 2^60")
        _who(&who, fields)
        result = hold_open(t, row, wallet, amount, &who, &r, &balance)
        if result < 0:
            raise HoldTableFull(f"worker {worker} has no free row of {t.rows}")
        if result == 0:
            return None
        hold = Hold.__new__(Hold)
        hold.money = self
        hold.worker = worker
        hold.held = amount
        hold.balance = balance
        hold.id = f"{r.boot:016x}{r.number:016x}"
        hold.at = t
        hold.row = r
        hold.word = r.word
        return hold

    def note(self, uint32_t worker, uint32_t account=NO_SLOT, *, uint64_t units=0, uint16_t status=200,
             **fields) -> str | None:
        """Record the use of something without a price; returns the record's id, or None if there is no room for it.

        Fields as for `hold`."""
        cdef area_view *t = self._begun(worker)
        cdef usage_who who
        cdef usage_what what
        cdef account_row *row = NULL
        cdef money_record *r
        if account != NO_SLOT:
            row = account_of(self.segment.header, account)
            if row == NULL:
                raise KeyError(f"no account has slot {account}")
        _who(&who, fields)
        what.time_ns = who.time_ns
        what.units = units
        what.status = status
        r = usage_reserve(t)
        if r == NULL:
            return None
        usage_fill(r, row, &who, &what)
        name = f"{r.boot:016x}{r.number:016x}"
        usage_commit(t, r)
        return name

    def hold_many(self, uint32_t worker, uint32_t account, int64_t amount, int64_t price, uint64_t n,
                  *, int wallet=0) -> int:
        """Hold `amount` and capture `price`, n times, in C; returns how often there was enough.

        For tests and tools that need a worker's speed; ends early if no row is free.
        """
        cdef area_view *t = self._begun(worker)
        cdef account_row *row = self._account(account, wallet)
        cdef usage_who who
        cdef usage_what what
        cdef money_record *r = NULL
        cdef int64_t balance = 0
        cdef uint64_t held = 0
        cdef int result
        if not 0 <= price <= amount <= <int64_t>MONEY_MOST:
            raise ValueError(f"a hold of {amount} micro-units for a price of {price}")
        _who(&who, {})
        memset(&what, 0, sizeof(what))
        with nogil:
            for _ in range(n):
                result = hold_open(t, row, wallet, amount, &who, &r, &balance)
                if result < 0:
                    break
                if result:
                    held += 1
                    hold_capture(t, r, price, &what)
        return held

    # ---- control --------------------------------------------------------------------------

    def drain(self, uint32_t worker, uint64_t most=1024, *, after=None) -> tuple[list[UsageRecord], int]:
        """Up to `most` records that are not committed, oldest first, and the position after them.

        With the last records of the ring come those for which it had no room, however many. `after`: a
        position of an earlier drain to continue from, for a pipeline that reads ahead of its commits;
        parked records come only without it. Nothing is freed before `commit`.
        """
        cdef gathered g
        cdef size_t i
        try:
            self._gather(&g, worker, most, after)
            return [_record(g.records[i]) for i in range(g.count)], g.position
        finally:
            PyMem_Free(g.records)

    def drain_blocks(self, uint32_t worker, uint64_t most=1024, *,
                     after=None) -> tuple[list[UsageBlock], int, int]:
        """As `drain`, with the records grouped by what they have in common; and how many of them were parked.

        A parked record may be in the ring as well: its worker was killed between publishing it and
        freeing its row."""
        cdef gathered g
        try:
            self._gather(&g, worker, most, after)
            return pack_blocks(g.records, g.count), g.position, g.parked
        finally:
            PyMem_Free(g.records)

    cdef int _gather(self, gathered *g, uint32_t worker, uint64_t most, after) except -1:
        """Find what is to be drained. The caller frees `g.records` in any case."""
        cdef area_view *t
        cdef uint64_t head, position, end
        cdef const money_record *r
        memset(g, 0, sizeof(gathered))
        self._check_worker(worker)
        t = self.worker_view(worker)
        head = fg_load(&t.head.ring_head)
        position = t.head.ring_tail
        if after is not None:
            if not position <= after <= head:
                raise ValueError(f"position {after} of worker {worker} is not between {position} and {head}")
            position = after
        end = min(head, position + most)
        g.records = <const money_record **>PyMem_Malloc((end - position + t.rows) * sizeof(void *))
        if g.records == NULL:
            raise MemoryError
        while position < end:
            r = t.ring + (position & t.ring_mask)
            position += 1
            if r.word == position:
                g.records[g.count] = r
                g.count += 1
            else:
                self.damage[worker] = self.damage.get(worker, 0) + 1
        if after is None:
            rows = self._parked(g, t, worker) if position == head else ()
            self.given[worker] = position, rows
        g.position = position
        return 0

    cdef object _parked(self, gathered *g, area_view *t, uint32_t worker):
        """Add the parked records; returns their rows, with the words that they had."""
        cdef uint64_t word, parked = fg_load(&t.head.parked)
        cdef uint32_t i
        rows = []
        if self.seen_parked.get(worker) == parked:
            return rows
        for i in range(t.rows):
            word = fg_load(&t.holds[i].word)
            if (word & STATE_BITS) == HOLD_PARKED:
                g.records[g.count] = t.holds + i
                g.count += 1
                g.parked += 1
                rows.append((i, word))
        if not rows:
            self.seen_parked[worker] = parked
        return rows

    def commit(self, uint32_t worker, uint64_t position) -> None:
        """The ledger has everything up to a position returned by `drain`: make room.

        Committing a position again does nothing; a position that was never published is a
        ValueError.
        """
        cdef area_view *t
        cdef uint64_t word, freed = 0
        cdef uint32_t i
        self._check_worker(worker)
        t = self.worker_view(worker)
        if position > fg_load(&t.head.ring_head):
            raise ValueError(f"position {position} of worker {worker} was never published")
        given, rows = self.given.get(worker, (0, ()))
        if position >= given:
            for i, seen in rows:
                word = seen
                freed += fg_cas(&t.holds[i].word, &word, (word & ~<uint64_t>STATE_BITS) | HOLD_FREE)
            self.given.pop(worker, None)
            fg_store(&t.head.returned, t.head.returned + freed)
        if position > t.head.ring_tail:
            fg_store(&t.head.ring_tail, position)

    def stopped(self, uint32_t worker) -> None:
        """The supervisor has reaped this worker, and has not started another in its place yet."""
        cdef area_view *t
        self._check_worker(worker)
        t = self.worker_view(worker)
        fg_store(&t.head.dead_upto, t.head.sequence)

    def resolve_dead(self, uint32_t worker, policy="due") -> list[UsageRecord]:
        """Settle the holds of a worker's dead predecessors, and return their records.

        `policy`, for those that were only held: "due" (charge what the worker had recorded as owed, else
        nothing), "charge" (all that was held) or "release". The records are flagged
        USAGE_RECOVERED, wait in their rows, and come with the next `drain`; until they are committed
        each call returns them again, with the same ids. A live worker's holds are not touched.
        """
        cdef area_view *t
        cdef uint32_t i
        cdef int how = POLICIES[policy]
        self._check_worker(worker)
        self._check_bound()
        t = self.worker_view(worker)
        records = []
        for i in range(t.rows):
            if hold_resolve(t, t.holds + i, how):
                records.append(_record(t.holds + i))
        self.seen_parked.pop(worker, None)
        return records

    def open_holds(self, worker=None) -> list[OpenHold]:
        """The rows in use of the hold tables (of one worker), including dead and parked ones.

        For a running worker, this is a snapshot of a moment ago.
        """
        cdef area_view *t
        cdef money_record row
        cdef uint64_t word
        cdef uint32_t w, i
        found = []
        if worker is not None:
            self._check_worker(worker)
        for w in range(self.header.workers) if worker is None else (worker,):
            t = self.worker_view(w)
            for i in range(t.rows):
                word = fg_load(&t.holds[i].word)
                if (word & STATE_BITS) == HOLD_FREE:
                    continue
                row = t.holds[i]
                taken = self.segment is not None and bool(hold_taken(t, t.holds + i))
                fg_read_before()
                if fg_load(&t.holds[i].word) == word:
                    dead = word >> 8 <= fg_load(&t.head.dead_upto)
                    found.append(OpenHold(w, STATES[word & STATE_BITS], taken, dead, _record(&row)))
        return found

    def state(self, uint32_t worker) -> AreaState:
        """Numbers of a worker's area."""
        cdef area_view *t
        self._check_worker(worker)
        t = self.worker_view(worker)
        return AreaState(fg_load(&t.head.ring_head), fg_load(&t.head.ring_tail),
                         fg_load(&t.head.parked), fg_load(&t.head.dropped),
                         fg_load(&t.head.refused), fg_load(&t.head.sequence))

    @property
    def damaged(self) -> int:
        """Damaged records that this object found in the rings (counted again at each drain)."""
        return sum(self.damage.values())
