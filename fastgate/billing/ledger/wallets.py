"""Wallets: the ledger's balances and the cells that requests are charged to, kept in step.

```
 ledger (store)  ── credit, refund, … ──▶  cell (shared memory)  ── holds ──▶  requests
      ▲                                                                          │
      └───────────────────────── usage records, by the pipeline ◀────────────────┘

 cell = ledger + overdraft - usage on its way - holds open          at every moment
```

**A movement that gives**: noted in shared memory with the entry's key → the ledger's transaction
→ the cell, at once → the note is forgotten. **One that takes** where there must be enough: noted →
taken from the cell, if it has that much beyond the overdraft → the ledger's transaction →
forgotten; a ledger that refuses has it given back. So the cell never has what the ledger has not.

Control may be killed between any two steps, and the answer of a transaction may be lost with the
store. What was noted and not forgotten is settled before the next movement and when the store is
back: the ledger has the key → the cell gets it (once: shared memory knows whether it has it)
→ forgotten; it has not → what was taken is given back → forgotten. Giving back is noted itself,
under the key with its highest bit set.

**Starting.** Cells are filled with what `accounts.cache` says, less the usage that waits in the
spool, so that requests can be charged before the store is there; or with what the store says,
when there is no cache (`seeding`). They are compared with the ledger when the store is there,
before usage from after the filling is charged (`true_up`); until then movements are refused with
StoreError. A correction is an entry of the kind `cell`.

**Whole.** Everything here that changes a balance runs through `Serial`: one at a time, in a task
of its own. So a caller that is cancelled, by a shutdown too, never leaves a commit without the
cell, the sums and the cache that follow from it.

Used on the control process's event loop. Amounts are micro-units.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from fastgate._core.money.wallet import Accounts, Credit
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.ledger.cell_cache import (
    BalanceRecord,
    CellCache,
    CellRecord,
    SlotRecord,
    TrueRecord,
)
from fastgate.billing.ledger.ledger import (
    Charged,
    Clock,
    EntryKind,
    InsufficientFundsError,
    Ledger,
    LedgerError,
    Movement,
    Posted,
    Postings,
    Wanted,
    cell_key,
)
from fastgate.billing.ledger.names import unknown
from fastgate.billing.ledger.seeding import Seeding
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.serial import Serial
from fastgate.store import ledger as table
from fastgate.store import slots as slot_table
from fastgate.store.ledger import Book, Key, TakenBack
from fastgate.store.usage_blocks import Block

T = TypeVar("T")

log = logging.getLogger("fastgate.billing")

UNDO = 0x80
"""The bit of a key's first octet that says: this gives back what was taken for the key."""


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A wallet now. `available` is the cell's: what a request can be charged; it includes
    `overdraft`. `settled` is what it will be when all that is on its way is released at no cost:
    the ledger less the usage that is in the spool."""

    account: str
    currency: str
    available: int
    settled: int
    overdraft: int

    @property
    def in_flight(self) -> int:
        """Held by requests, or used and not in the ledger yet."""
        return self.settled - self.available


class Wallets:
    """Accounts, their slots and cells."""

    def __init__(
        self,
        cells: Accounts,
        ledger: Ledger,
        clock: Clock,
        *,
        cache: Path | None = None,
        waiting: Mapping[Key, int] | None = None,
        unknown: int = 0,
    ) -> None:
        """`waiting`: micro-units of usage in the spool, by wallet; read whenever it matters.
        `unknown`: the number of the reason with which a new row is refused, until somebody tells
        it what its account may do; 0: it is served at once."""
        self.cells = cells
        self.ledger = ledger
        self._clock = clock
        self._cache = CellCache(cache) if cache is not None else None
        self.waiting: Mapping[Key, int] = {} if waiting is None else waiting
        self._slots: dict[str, int] = {}
        self._accounts: dict[int, str] = {}
        self._spendable: dict[Key, int] = {}  # as the ledger has it
        self._overdraft: dict[Key, int] = {}
        self.unknown = unknown
        self._seeding = Seeding(cells, unknown)
        self._changes = Serial()
        self.lock = self._changes.lock

    # ---- the directory ------------------------------------------------------------------

    def slot(self, account: str) -> int | None:
        """The account's row in shared memory, if it has one."""
        return self._slots.get(account)

    def account(self, identity: int) -> str:
        """The id of the account with that hash; "" for 0, "#…" when it is not known."""
        if identity == 0:
            return ""
        return self._accounts.get(identity) or unknown(identity)

    def accounts(self) -> Mapping[str, int]:
        """Every account that has a slot."""
        return self._slots

    def cell_balances(self) -> dict[Key, int]:
        """What every cell has."""
        return {
            key: self.cells.balance(self._slots[key[0]], key[1])
            for key in self._spendable
            if self._has_cell(key)
        }

    async def ensure(self, account: str) -> int:
        """The account's slot, given now if it has none. Raises StoreError, LedgerError."""
        slot = self._slots.get(account)
        if slot is not None and slot in self.cells:
            return slot

        async def change() -> int:
            return await self._ensure(account)

        return await self._changes.run(change)

    async def _ensure(self, account: str) -> int:
        slot = self._slots.get(account)
        if slot is None:
            slot = await self.ledger.store.run_write(partial(self._allot, account))
            self._learn(account, slot)
            self._note([SlotRecord(account, slot)])
        if slot >= self.cells.capacity:
            raise LedgerError(
                f"The account {account} has the slot {slot}, and shared memory has room for "
                f"{self.cells.capacity} accounts."
            )
        if slot not in self.cells:
            self.cells.put(slot, stable_hash(account), access=self.unknown)
        return slot

    async def open(self, account: str, currency: str) -> None:
        """Make sure that the account has a wallet in the currency, so that what will be paid in
        has a place. Raises StoreError; LedgerError when there is none left."""
        key = (account, currency)
        if self._has_cell(key):
            return

        async def change() -> None:
            await self._settle_notes()
            slot = await self._ensure(account)
            await self.ledger.open_wallet(account, currency)
            self.cells.open_wallet(slot, currency)
            self._spendable.setdefault(key, 0)
            self._note([self._balance_record(key)])

        await self._changes.run(change)

    def _allot(self, account: str, connection: sa.Connection) -> int:
        table.take_numbers(connection, 0)
        return slot_table.allot(connection, account, self._clock())

    def _learn(self, account: str, slot: int) -> None:
        self._slots[account] = slot
        self._accounts[stable_hash(account)] = account

    # ---- balances -----------------------------------------------------------------------

    def balance(self, account: str, currency: str) -> Balance:
        """Raises NotFoundError when the account has no such wallet."""
        key = (account, currency)
        if not self._has_cell(key):
            raise NotFoundError(f"The account {account} has no wallet in {currency}.")
        return Balance(
            account=account,
            currency=currency,
            available=self.cells.balance(self._slots[account], currency),
            settled=self._settled(key),
            overdraft=self._overdraft.get(key, 0),
        )

    def balances(self, account: str) -> list[Balance]:
        """The account's wallets, by currency; those of a currency that it has a cell for."""
        found = sorted(key for key in self._spendable if key[0] == account)
        return [self.balance(*key) for key in found if self._has_cell(key)]

    def _has_cell(self, key: Key) -> bool:
        slot = self._slots.get(key[0])
        return (
            key in self._spendable
            and slot is not None
            and slot in self.cells
            and key[1] in self.cells.get(slot).wallets
        )

    def _settled(self, key: Key) -> int:
        return self._spendable.get(key, 0) - self.waiting.get(key, 0)

    # ---- movements ----------------------------------------------------------------------
    # All raise what the ledger raises, and StoreError while the cells are not compared yet.

    async def credit(self, movement: Movement, *, tax: int = 0) -> Posted:
        """As `Ledger.credit`; requests can be charged to it when this returns."""
        return await self._give(movement, lambda: self.ledger.credit(movement, tax=tax))

    async def promo(self, movement: Movement) -> Posted:
        """As `Ledger.promo`."""
        return await self._give(movement, lambda: self.ledger.promo(movement))

    async def refund(self, movement: Movement) -> Posted:
        """As `Ledger.refund`: usage given back."""
        return await self._give(movement, lambda: self.ledger.refund(movement))

    async def end_promo(self, movement: Movement) -> Posted:
        """As `Ledger.end_promo`."""
        return await self._take(movement, lambda: self.ledger.end_promo(movement))

    async def freeze(self, movement: Movement) -> Posted:
        """As `Ledger.freeze`: no request can be charged to it from now on; then `pay_out` or
        `release`. Raises InsufficientFundsError when requests have it already."""
        return await self._take(movement, lambda: self.ledger.freeze(movement))

    async def dispute(self, movement: Movement) -> Posted:
        """As `Ledger.dispute`; the cell may fall below zero."""
        post = lambda: self.ledger.dispute(movement)  # noqa: E731
        return await self._move(movement, -movement.amount, post)

    async def pay_out(self, ident: str, *, reference: str = "") -> Posted:
        """As `Ledger.pay_out`; the cell was without it before."""
        return await self.ledger.pay_out(ident, reference=reference)

    async def release(self, ident: str, *, reference: str = "") -> Posted:
        """As `Ledger.release`."""
        origin = await self.ledger.set_aside(ident)
        if origin.kind == EntryKind.FEE_ASIDE:
            return await self.ledger.release(ident, reference=reference)  # no wallet's money
        movement = self.ledger.settlement(origin, reference)
        return await self._give(movement, lambda: self.ledger.release(ident, reference=reference))

    async def fee(self, movement: Movement, *, tax: int = 0) -> Posted:
        """As `Ledger.fee`; no cell changes."""
        await self.open(movement.account, movement.currency)
        return await self.ledger.fee(movement, tax=tax)

    async def fee_aside(self, movement: Movement) -> Posted:
        """As `Ledger.fee_aside`; no cell changes."""
        await self.open(movement.account, movement.currency)
        return await self.ledger.fee_aside(movement)

    async def provider_fee(self, movement: Movement) -> Posted:
        """As `Ledger.provider_fee`; no cell changes."""
        await self.open(movement.account, movement.currency)
        return await self.ledger.provider_fee(movement)

    async def credit_note(self, movement: Movement) -> Posted:
        """As `Ledger.credit_note`."""
        return await self._give(movement, lambda: self.ledger.credit_note(movement))

    async def take_back(self, account: str, wanted: Wanted) -> None:
        """Bring what is taken of the account's credits to what is `wanted`, by invoice and
        currency, since fees went back, or are paid after all; the cell may fall below zero. To
        be called after each change of what is wanted, and as often as one likes."""

        async def change() -> None:
            await self._settle_notes()
            taken = await self.ledger.taken_back(account)
            for (invoice, currency), amount in sorted((await wanted()).items()):
                before = taken.get((invoice, currency), TakenBack(0, 0))
                delta = before.amount - amount
                if not delta:
                    continue
                ident = f"back:{invoice}:{currency}:{before.entries + 1}"
                movement = Movement(ident, account, currency, abs(delta), reference=invoice)
                post = self.ledger.credit_back if delta < 0 else self.ledger.credit_again
                await self._moved(movement, delta, partial(post, movement))

        await self._changes.run(change)

    async def tax(self, movement: Movement) -> Posted:
        """As `Ledger.tax`; no cell changes."""
        return await self.ledger.tax(movement)

    async def correct(self, movement: Movement, postings: Postings) -> Posted:
        """As `Ledger.correct`; the cell may fall below zero."""
        post = lambda: self.ledger.correct(movement, postings)  # noqa: E731
        return await self._move(movement, postings.get(Book.AVAILABLE, 0), post)

    async def reverse(self, ident: str) -> Posted:
        """Undo an entry by another. Raises NotFoundError; see `Ledger.reversal`."""
        return await self.correct(*await self.ledger.reversal(ident))

    async def set_overdraft(self, ident: str, account: str, currency: str, most: int) -> Posted:
        """The wallet may go to minus `most` from now on (it may be there already when that is
        less than before). `ident`: the id of the entry that notes it."""
        movement = Movement(ident, account, currency, max(1, most))

        async def change() -> Posted:
            await self._settle_notes()
            wallet = await self.ledger.wallet(account, currency)
            delta = most - (wallet.overdraft if wallet is not None else 0)
            posted = await self._moved(
                movement, delta, lambda: self.ledger.set_overdraft(movement, most)
            )
            if posted.fresh:
                self._overdraft[account, currency] = most
                self._note([self._balance_record((account, currency))])
            return posted

        return await self._changes.run(change)

    async def _give(self, movement: Movement, post: Callable[[], Awaitable[Posted]]) -> Posted:
        return await self._move(movement, movement.amount, post)

    async def _take(self, movement: Movement, post: Callable[[], Awaitable[Posted]]) -> Posted:
        return await self._move(movement, -movement.amount, post, enough=True)

    async def _move(
        self,
        movement: Movement,
        delta: int,
        post: Callable[[], Awaitable[Posted]],
        *,
        enough: bool = False,
    ) -> Posted:
        async def change() -> Posted:
            return await self._moved(movement, delta, post, enough=enough)

        return await self._changes.run(change)

    async def _moved(
        self,
        movement: Movement,
        delta: int,
        post: Callable[[], Awaitable[Posted]],
        *,
        enough: bool = False,
    ) -> Posted:
        """One movement, the lock held. `enough`: only if the cell can give it."""
        await self._settle_notes()
        if await self.ledger.find(movement.id) is not None:
            return await post()  # which checks that it is the same, and changes nothing
        key = (movement.account, movement.currency)
        slot = await self._ensure(movement.account)
        self._open_cell(slot, movement)
        note = self.cells.prepare(
            slot, movement.currency, delta, bytes.fromhex(cell_key(movement.id))
        )
        if enough and self.cells.apply(note, floor=self._overdraft.get(key, 0)) is None:
            self.cells.finish(note)
            raise InsufficientFundsError(
                movement.account,
                movement.currency,
                balance=self.cells.balance(slot, movement.currency) - self._overdraft.get(key, 0),
                required=movement.amount,
            )
        try:
            posted = await post()
        except (LedgerError, ConflictError, NotFoundError):
            self._undo(note, applied=enough)
            raise
        if not posted.fresh:  # someone else came between, on another gateway
            self._undo(note, applied=enough)
            return posted
        self.cells.apply(note)
        self.cells.finish(note)
        self._spendable[key] = self._spendable.get(key, 0) + delta
        self._note([self._balance_record(key)])
        return posted

    def _open_cell(self, slot: int, movement: Movement) -> None:
        try:
            self.cells.open_wallet(slot, movement.currency)
        except ValueError as error:
            raise LedgerError(
                f"The account {movement.account} has wallets in {table.WALLETS_MAX} currencies, "
                f"the most there can be; {movement.currency} is another."
            ) from error

    # ---- what was left half-way ---------------------------------------------------------

    async def _settle_notes(self) -> None:
        """Before a movement. Raises StoreError, also while cells wait to be compared."""
        if self._seeding.seeds:
            raise StoreError("The wallets are being compared with the store; try again shortly.")
        await self._resolve()

    async def _resolve(self) -> None:
        """Settle every note that was not forgotten. Raises StoreError."""
        notes = self.cells.open_credits()
        for note in [note for note in notes if note.key[0] & UNDO]:
            origin = bytes([note.key[0] & ~UNDO]) + note.key[1:]
            for other in notes:
                if other.key == origin:
                    self.cells.finish(other)
            self.cells.apply(note)
            self.cells.finish(note)
        for note in self.cells.open_credits():
            if await self.ledger.has_key(note.key.hex()):
                self.cells.apply(note)
                self.cells.finish(note)
                await self._refresh(note)
            else:
                self._undo(note, applied=note.applied)

    def _undo(self, note: Credit, *, applied: bool) -> None:
        """The ledger does not have it: the cell must not."""
        if not applied:
            self.cells.finish(note)
            return
        key = bytes([note.key[0] | UNDO]) + note.key[1:]
        back = self.cells.prepare(note.account, note.wallet, -note.delta, key)
        self.cells.finish(note)
        self.cells.apply(back)
        self.cells.finish(back)

    async def _refresh(self, note: Credit) -> None:
        """What the ledger says of the wallet that a note was about."""
        row = self.cells.get(note.account)
        account = self.account(row.identity)
        for wallet in await self.ledger.wallets(account):
            key = (account, wallet.currency)
            self._spendable[key] = wallet.spendable
            self._overdraft[key] = wallet.overdraft
            self._note([self._balance_record(key)])

    # ---- usage --------------------------------------------------------------------------

    async def charge(self, blocks: Sequence[Block], *, doubtful: bool = True) -> Charged:
        """As `Ledger.charge`; the cells have paid already."""

        async def change() -> Charged:
            charged = await self.ledger.charge(blocks, doubtful=doubtful)
            for key, amount in charged.totals.items():
                self._spendable[key] = self._spendable.get(key, 0) - amount
            self._note([self._balance_record(key) for key in charged.totals])
            return charged

        return await self._changes.run(change)

    # ---- coming up ----------------------------------------------------------------------

    def load_cache(self, boot: str) -> int:
        """Learn slots and balances from the cache, for a start without the store; the number of
        accounts. `boot`: the id of this start."""
        self._seeding.boot = boot
        if self._cache is None:
            return 0
        for record in self._cache.load():
            if isinstance(record, SlotRecord):
                self._learn(record.account, record.slot)
            elif isinstance(record, BalanceRecord):
                key = (record.account, record.currency)
                self._spendable[key] = record.spendable
                self._overdraft[key] = record.overdraft
            else:
                self._seeding.learn(record)
        return len(self._slots)

    def plan_seed(self) -> bool:
        """Decide what the cells that are empty are to be filled with, and write that down; whether
        there is anything to `seed`. A control that comes back finds its cells filled."""
        planned = self._seeding.plan(self._slots, self._spendable, self._settled)
        if planned:
            self._rewrite_cache()
        return planned

    def seed(self) -> None:
        """Fill the cells as planned: from now on requests are charged to them."""
        self._seeding.fill(self._slots, self._note)

    @property
    def seeded(self) -> bool:
        """Whether cells were filled and not compared with the store yet."""
        return bool(self._seeding.seeds)

    async def learn_slots(self) -> None:
        """The directory as the store has it. Raises StoreError."""
        slots = await self.ledger.store.run_read(slot_table.all_slots)
        for account, slot in slots.items():
            self._learn(account, slot)

    async def true_up(self) -> None:
        """Compare the cells that were seeded with the ledger and put them right. To be called
        when all usage from before they were filled is charged, and none from after. Raises
        StoreError."""
        await self._changes.run(self._true_up)

    async def _true_up(self) -> None:
        if not self._seeding.seeds:
            return
        await self._resolve()
        now = {(w.account, w.currency): w.spendable for w in await self.ledger.all_wallets()}
        for key, seed in self._seeding.seeds.items():
            delta = now.get(key, 0) - seed
            if delta:
                await self._repair(key, delta)
            self._spendable[key] = now.get(key, 0)
        self._seeding.clear()
        self._note([TrueRecord(self._seeding.boot)])

    async def _repair(self, key: Key, delta: int) -> None:
        account, currency = key
        movement = Movement(
            id=f"cell:{self._seeding.boot}:{account}:{currency}",
            account=account,
            currency=currency,
            amount=abs(delta),
            note=f"the cell was filled with {-delta:+} too much" if delta < 0 else "",
        )
        if await self.ledger.find(movement.id) is not None:
            return  # done by a control that was killed after it
        log.warning("The cell of %s in %s is set right by %+d micro-units.", *key, delta)
        note = self.cells.prepare(
            self._slots[account], currency, delta, bytes.fromhex(cell_key(movement.id))
        )
        await self.ledger.repair_cell(movement)
        self.cells.apply(note)
        self.cells.finish(note)

    async def sync(self) -> None:
        """Make directory, balances and cache equal the store. Then `plan_seed` finds the cells
        that are missing. Raises StoreError."""
        await self._changes.run(self._sync)
        if self._slots and max(self._slots.values()) >= self.cells.capacity:
            log.error("Shared memory has room for %d accounts, too few.", self.cells.capacity)

    async def _sync(self) -> None:
        await self._resolve()
        await self.learn_slots()
        for wallet in await self.ledger.all_wallets():
            key = (wallet.account, wallet.currency)
            self._spendable[key] = wallet.spendable
            self._overdraft[key] = wallet.overdraft
        self._rewrite_cache()

    # ---- the cache ----------------------------------------------------------------------

    def _balance_record(self, key: Key) -> BalanceRecord:
        return BalanceRecord(*key, self._spendable.get(key, 0), self._overdraft.get(key, 0))

    def _note(self, records: Sequence[CellRecord]) -> None:
        if self._cache is None or not records:
            return
        if self._cache.outdated(len(self._slots) + len(self._spendable)):
            self._rewrite_cache()
        else:
            self._cache.append(records)

    def _rewrite_cache(self) -> None:
        if self._cache is None:
            return
        records: list[CellRecord] = [SlotRecord(*item) for item in self._slots.items()]
        records += [self._balance_record(key) for key in self._spendable]
        records += self._seeding.records()
        self._cache.replace(records)

    def close(self) -> None:
        """Close the cache's file."""
        if self._cache is not None:
            self._cache.close()
