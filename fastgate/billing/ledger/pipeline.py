"""The usage pipeline: records from shared memory to the ledger, each once, despite kills.

```
 worker's ring, parked holds ──drain──▶ names ──▶ store up:     ledger, one transaction   ─┐
        ▲                                         store down:   spool, synced to disk     ─┤
        └────────────────────────── commit: frees room ◀───────────────────────────────────┘
```

A task in control. Every 50 ms (under load: 500, or when a ring is three eighths full) it drains all
rings into blocks of similar records, writes them as one batch (*group commit*), and only then frees
the room in the rings:

| killed                              | what is done twice | what makes it once            |
|-------------------------------------|--------------------|-------------------------------|
| before the batch is written         | nothing            |                               |
| between batch and ring              | drained again      | the record's id, in the store |
| between batch and ring, store down  | spooled again      | the same, when it is replayed |
| while the spool is replayed         | replayed again     | the same                      |

A batch whose transaction has an unknown outcome (the connection to the store was lost) goes to the
spool: if it was committed, the store finds its ids. The order of records is kept: while the spool
is not empty, new records are appended to it.

**Looking for known ids.** All records that control finds when it begins, and all that could not be
written, go through the spool, and replaying the spool looks for them in the store. Later records
from a ring are new, so their ids are not looked up. The exceptions are parked records, which may
have arrived through the ring too, and records that are drained again after a failure.

**A slow store** (a lock is held, the server does not answer, usage arrives faster than it is
written) does not cause refusals. If a ring becomes half full while control waits for the store, the
rings are emptied into the spool. The batch that the store is writing is then in the spool too, and
the store finds its ids. The spool is replayed for REPLAY_S at a time; in between, others get the
lock.

**A worker that died**: its holds are settled by policy in shared memory, which turns them into
ordinary records with the flag *recovered*; the store lists them (`holds_resolved`).

**Starting**: `begin` runs before the store is available. The remaining records of the rings go to
the spool, a mark follows, then cells are seeded from the cache. Each `step` with the store then
replays the spool. At the mark, the cells are compared with the ledger (`Wallets.true_up`). At the
end, once after each outage of the store, the directory is made equal to the store (`Wallets.sync`)
and missing cells are seeded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec

from fastgate._core.money.money_map import AreaState, OpenHold, UsageRecord
from fastgate._core.money.usage_block import UsageBlock
from fastgate.billing.ledger.names import UNKNOWN, Names
from fastgate.billing.ledger.spool import Batch, Mark, Spool
from fastgate.billing.ledger.wallets import Wallets
from fastgate.errors import StoreError
from fastgate.serial import Serial
from fastgate.store.ledger import Key
from fastgate.store.usage_blocks import Block
from fastgate.ticks import next_tick

log = logging.getLogger("fastgate.billing")

INTERVAL_S = 0.05
LOADED_S, LOADED = 0.5, 500
"""The interval after a batch of at least LOADED records: larger batches cost less per record."""
ENOUGH, PRESSING = 0.375, 0.5
"""The fill level of a ring at which it is drained at once under load, and the level at which
control stops waiting for the store. Between the two, a batch is written."""
BACKOFF_S = 1.0
MOST, LEAST = 1 << 15, 512
"""Maximum records of a batch, of all workers together; and the minimum share of one worker."""
BLOCKS = 4096
"""The approximate number of blocks in a batch. Each is a row, often with its own charge, and others
wait for the lock until all are written."""

ALL = 1 << 30
"""More records than any ring has."""

REPLAY_S = 0.5
"""After this time, others get the lock, and the rings are drained."""

T = TypeVar("T")
P = ParamSpec("P")
NOTHING: Mapping[str, Set[int]] = {}


class UsageSource(Protocol):
    """Shared memory as the pipeline sees it: `fastgate._core.money.money_map.Money`."""

    @property
    def workers(self) -> int: ...
    @property
    def ring(self) -> int: ...
    @property
    def boot_id(self) -> str: ...
    def state(self, worker: int) -> AreaState: ...
    def drain_blocks(
        self, worker: int, most: int = ..., *, after: int | None = ...
    ) -> tuple[list[UsageBlock], int, int]: ...
    def commit(self, worker: int, position: int) -> None: ...
    def resolve_dead(self, worker: int, policy: str = ...) -> list[UsageRecord]: ...
    def open_holds(self, worker: int | None = None) -> list[OpenHold]: ...


class Counts(msgspec.Struct):
    """The pipeline's counts since it was created."""

    records: int = 0  # that reached the store or the spool
    spooled: int = 0
    replayed: int = 0
    duplicates: int = 0  # already in the store
    recovered: int = 0  # of dead workers


class Live(msgspec.Struct, frozen=True):
    """Shared memory, for comparison with the ledger by the audit. Micro-units, by wallet."""

    cells: dict[Key, int]
    held: dict[Key, int]  # by requests
    waiting: dict[Key, int]  # charged to cells, not in the ledger
    moving: set[Key]


class Pipeline:
    """The usage pipeline. Used on the control process's event loop; one for each gateway."""

    def __init__(self, source: UsageSource, wallets: Wallets, names: Names, spool: Spool) -> None:
        self.source = source
        self.wallets = wallets
        self.names = names
        self.spool = spool
        self.counts = Counts()
        self.problem: str | None = None
        """Why records cannot be written; None if they can."""
        self.replay_s = REPLAY_S
        self._steps = Serial()
        self._file = asyncio.Lock()
        self.lock = self._steps.lock
        self._store = wallets.ledger.store
        self._synced = False
        self._doubt = False  # records in the rings may have been written, without an answer
        self._twice = False  # records in the spool may be in the ledger too
        self._taken = 0  # records of the last batch
        self._share = 1.0  # of the last batch: blocks per record

    # ---- life ---------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start without the store. Requests may be charged afterwards. Raises OSError."""
        self.spool.open()
        self._twice = not self.spool.empty
        self.wallets.load(self.source.boot_id, self.spool.waiting)
        self._store.on_ready.append(self._store_is_back)
        await self._steps.run(self._begin)

    async def _begin(self) -> None:
        while await self._drain(to_store=False, skip=self.spool.last):
            pass
        await self.wallets.seed(self._mark)

    async def run(self, interval: float = INTERVAL_S) -> None:
        """Run one step after another, `interval` seconds apart, until cancelled."""
        while True:
            wait = interval
            try:
                full = await self.step()
                self.problem = None
                if self._taken >= LOADED and not full:
                    await self._gather(interval)
                    continue
                wait = 0.0 if full else interval
            except (OSError, StoreError) as error:
                wait = self._failed(str(error), interval)
            except Exception as error:
                log.exception("Usage could not be processed.")
                wait = self._failed(repr(error), interval)
            await next_tick(wait)

    async def _gather(self, interval: float) -> None:
        """Wait for more records while there is room; polls, since shared memory has no events."""
        end = time.monotonic() + LOADED_S
        while time.monotonic() < end and self._fullest() < ENOUGH:
            await next_tick(interval)

    def _failed(self, problem: str, interval: float) -> float:
        if problem != self.problem:
            log.error("Usage waits in shared memory: %s", problem)
        self.problem = problem
        return max(BACKOFF_S, interval)

    async def close(self) -> None:
        """Process the remaining records, let changes of balances end, and close the files. If this
        is cancelled during a step, the files stay open for it until the process ends. Raises
        OSError."""
        try:
            while await self.step():
                pass
            await self.wallets.idle()
        finally:
            if not self._steps.running:
                self.spool.close()
            self.wallets.close()

    async def _store_is_back(self) -> None:
        self._synced = False

    @property
    def caught_up(self) -> bool:
        """Whether the store is available and has everything except records in shared memory."""
        return self._store.ready and self._synced and self.spool.empty

    # ---- work ---------------------------------------------------------------------------

    async def step(self) -> bool:
        """One round. Returns whether there is more to do at once: a ring has more than was taken,
        or the spool is not empty and the store is available. Raises OSError if records can be
        written neither to the store nor to the spool: they stay in shared memory. If the caller is
        cancelled, the step continues, and the next step waits for it."""
        return await self._steps.run(self._step)

    async def _step(self) -> bool:
        there = self._store.ready
        if there:
            try:
                await self._catch_up()
            except StoreError as error:
                log.info("The store is not up to date yet: %s", error)
                there = False
        to_store = there and self._synced and self.spool.empty
        full = await self._drain(to_store=to_store)
        return full or (there and self._store.ready and not self.spool.empty)

    async def worker_died(self, worker: int, policy: str = "due") -> list[UsageRecord]:
        """Settle the holds of a worker that has died, and process its records.

        `policy`: the cost of a hold that was not settled: "due" (what the worker had noted as
        owed), "charge" (all of it) or "release" (nothing). Returns the records of the settled
        holds; the store lists them. May be called again, also if the worker was already replaced.
        """
        async with self.lock:
            found = self.source.resolve_dead(worker, policy)
            self.counts.recovered += len(found)
            if found:
                log.warning(
                    "Worker %d died with %d request(s) under way: settled, %d micro-units charged.",
                    worker,
                    len(found),
                    sum(record.amount for record in found),
                )
        await self.step()
        return found

    async def _catch_up(self) -> None:
        """Replay the spool, then make the cells and the directory equal to the store. With a long
        spool, only a part of it. Raises StoreError."""
        if self.wallets.unsettled:
            self._synced = False
        if self._synced and self.spool.empty:
            return
        if self._synced:
            await self._replay()
            return
        await self._meanwhile(self.wallets.learn_slots())
        if not await self._replay():
            return
        await self._meanwhile(self.wallets.true_up())
        await self._meanwhile(self.wallets.sync())
        await self._meanwhile(self.wallets.seed(self._mark))
        self._synced = await self._replay()

    async def _mark(self) -> None:
        """Write the mark to the spool: all usage of the cells filled now comes after it."""
        await self._spooling(self.spool.append, Mark(self.source.boot_id))

    async def _spooling(self, work: Callable[P, None], *args: P.args, **more: P.kwargs) -> None:
        """Change the spool's file, in a thread; one at a time."""
        async with self._file:
            await asyncio.to_thread(work, *args, **more)

    async def _replay(self) -> bool:
        """Charge the records of the spool, in order, for at most `replay_s`. Returns whether that
        was all. Raises StoreError."""
        end, twice = time.monotonic() + self.replay_s, self._twice
        while (found := self.spool.next()) is not None:
            frame, after = found
            if isinstance(frame, Batch):
                blocks = [self._named(block) for block in frame.blocks]
                charged = await self._meanwhile(self.wallets.charge(blocks))
                self.counts.replayed += charged.records
                self.counts.duplicates += _records(blocks) - charged.records
            elif frame.boot == self.source.boot_id:
                await self._meanwhile(self.wallets.true_up())
            self._twice = True
            await self._spooling(self.spool.take, frame, after)
            self._twice = twice
            if time.monotonic() > end:
                return self.spool.empty
        self._twice = False
        return True

    async def _meanwhile(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the store, and keep the rings from filling up. Raises what `work` raises.

        If the rings were emptied, the caller's records are in the spool too and committed in the
        ring; the caller's own commit of an earlier position then does nothing.
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=INTERVAL_S))[0]:
                if self._fullest() > PRESSING:
                    while await self._drain(to_store=False):
                        pass
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        return task.result()

    def _fullest(self) -> float:
        """The fill level of the fullest ring: 0 to 1."""
        states = map(self.source.state, range(self.source.workers))
        return max(state.published - state.committed for state in states) / self.source.ring

    async def _drain(self, *, to_store: bool, skip: Mapping[str, Set[int]] = NOTHING) -> bool:
        """Drain the rings, write the records and free the room. Returns whether a ring had at least
        as many records as one batch takes. `skip`: records already in the spool, `Spool.last`."""
        blocks: list[Block] = []
        positions: list[tuple[int, int]] = []  # how far each worker's ring was read
        full = False
        doubtful = self._doubt
        most = max(LEAST, int(min(MOST, BLOCKS / self._share)) // self.source.workers)
        for worker in range(self.source.workers):
            found, position, parked = self.source.drain_blocks(worker, most)
            if not found:
                continue
            full = full or _records(found) >= most
            doubtful = doubtful or parked > 0
            for each in found:
                block = self._block(each)
                left = block.without(skip[block.boot]) if block.boot in skip else block
                if left is not None:
                    blocks.append(left)
            positions.append((worker, position))
        self._taken = _records(blocks)
        if blocks:
            self._share = len(blocks) / self._taken
            self._doubt = True
            await self._write(blocks, to_store=to_store, doubtful=doubtful)
        for worker, position in positions:
            self.source.commit(worker, position)
        self._doubt = False
        return full

    async def _write(self, blocks: list[Block], *, to_store: bool, doubtful: bool) -> None:
        records = _records(blocks)
        if to_store:
            try:
                charged = await self._meanwhile(self.wallets.charge(blocks, doubtful=doubtful))
            except StoreError as error:
                log.warning("Usage goes to %s: %s", self.spool.path, error)
                self._twice = True
            else:
                self._twice = not self.spool.empty
                if self.spool.empty:  # otherwise `_meanwhile` spooled and counted it
                    self.counts.records += charged.records
                    self.counts.duplicates += records - charged.records
                return
            if not self.spool.empty:
                return  # `_meanwhile` has spooled it
        await self._spooling(self.spool.append, Batch(blocks))
        self.counts.records += records
        self.counts.spooled += records

    # ---- names --------------------------------------------------------------------------

    def _block(self, found: UsageBlock) -> Block:
        names = self.names
        return Block(
            f"{found.boot:016x}{found.low:016x}",
            f"{found.boot:016x}{found.high:016x}",
            found.day,
            found.first_us,
            found.last_us,
            self.wallets.account(found.account),
            names.consumer(found.consumer),
            names.credential(found.credential),
            names.route(found.route),
            names.service(found.service),
            names.plan(found.plan),
            found.currency,
            names.meter(found.meter),
            found.records,
            found.failed,
            found.recovered,
            found.units,
            found.amount,
            found.lines,
        )

    def _named(self, block: Block) -> Block:
        """Fill in ids that were unknown when the block was spooled."""
        sources: dict[str, Callable[[int], str]] = {
            "account": self.wallets.account,
            "consumer": self.names.consumer,
            "credential": self.names.credential,
            "meter": self.names.meter,
        }
        found = {
            field: find(int(name[len(UNKNOWN) :], 16))
            for field, find in sources.items()
            if (name := getattr(block, field)).startswith(UNKNOWN)
        }
        return msgspec.structs.replace(block, **found) if found else block

    # ---- for the audit ------------------------------------------------------------------

    def live(self) -> Live:
        """Cells, holds and usage that is not in the ledger, as consistent as traffic allows. Call
        it under the lock, so that nothing is charged to the ledger at the same time.

        A wallet is *moving* if its cell changed or a new record of it arrived during the reading,
        or if the ledger may have records that are in the spool: its numbers may be inconsistent.
        """
        cells, found = self.wallets.cell_balances(), _Waiting(self.source, self._block)
        held, waiting, moving = dict[Key, int](), dict(self.spool.waiting), set[Key]()
        if self._twice:
            moving.update(waiting)
        for block in found.blocks:
            if block.amount:
                key = (block.account, block.currency)
                waiting[key] = waiting.get(key, 0) + block.amount
        for hold in self.source.open_holds():
            if hold.taken:
                self._add(held, hold.record, hold.record.held)
            elif hold.state in ("settling", "settled") and hold.record.id not in found:
                self._add(waiting, hold.record, hold.record.amount)
        for block in found.since():
            moving.add((block.account, block.currency))
        for hold in self.source.open_holds():
            if hold.state == "parked" and hold.record.id not in found:
                moving.add(self._key(hold.record))
        for key, balance in self.wallets.cell_balances().items():
            if cells.get(key) != balance:
                moving.add(key)
        return Live(cells, held, waiting, moving)

    def _key(self, record: UsageRecord) -> Key:
        return self.wallets.account(record.account), record.currency

    def _add(self, sums: dict[Key, int], record: UsageRecord, amount: int) -> None:
        if amount:
            key = self._key(record)
            sums[key] = sums.get(key, 0) + amount


class _Waiting:
    """A snapshot of the records in the rings and parked that are not in the store or the spool.
    Ids of records are rarely looked up in it."""

    def __init__(self, source: UsageSource, block: Callable[[UsageBlock], Block]) -> None:
        self._source, self._block = source, block
        self._upto: list[int] = []  # by worker
        self.blocks: list[Block] = []
        for worker in range(source.workers):
            found, position, parked = source.drain_blocks(worker, ALL)
            for each in map(block, found):
                # A parked record may have arrived through the ring too: a copy in the same block.
                once = each.without(frozenset()) if parked else each
                if once is not None:
                    self.blocks.append(once)
            self._upto.append(position)

    def since(self) -> Iterator[Block]:
        """The records that arrived in the rings after the snapshot."""
        for worker, position in enumerate(self._upto):
            yield from map(self._block, self._source.drain_blocks(worker, ALL, after=position)[0])

    def __contains__(self, ident: str) -> bool:
        return ident in self._ids

    @cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(
            f"{block.boot}{number:016x}" for block in self.blocks for number in block.numbers()
        )


def _records(blocks: Sequence[Block] | Sequence[UsageBlock]) -> int:
    return sum(block.records for block in blocks)
