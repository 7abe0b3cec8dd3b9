"""The one owner of balances: each wallet's balance in the ledger, in its cell and in the cache.

```
             ledger (store)                the truth
                  │  each transaction returns the resulting wallets
                  ▼
   Balances ──▶ cell (shared memory)       requests are charged to it
            ──▶ standings (memory)         shown to people, compared by the audit
            ──▶ accounts.cache             fills the cells at a start without the store

 cell = ledger + overdraft - usage not yet in the ledger - open holds          at all times
```

| what                                | who changes it                                        |
|-------------------------------------|-------------------------------------------------------|
| entries, postings, `wallets` tables | `Ledger`, one transaction a change                    |
| a cell                              | requests, and `change`, `seed`, `true_up` here        |
| the standings, the cache            | `_learn`, from the result of a transaction; `sync`    |
| usage that waits in the spool       | the pipeline; it is only read here                    |

Nothing is added up here: a balance is what a transaction read back before it was committed.

**A change that adds money**: a note in shared memory with the entry's key → the ledger's
transaction → the cell, at once → the note is deleted → the standings and the cache. **A change that
takes money**: the note → taken from the cell, which must have enough beyond the overdraft if the
change requires it → the lower balance in the cache → the ledger's transaction → and so on. If the
ledger refuses, the cell gets the money back. So neither the cell nor the cache ever has more than
the ledger.

**One at a time, to the end.** Everything here that awaits and changes a balance runs through
`Serial`: one change at a time, in its own task, so that a cancelled caller never leaves a change
half done. The result of a transaction is applied before the next one begins, so an older result
never overwrites it.

**Interrupted changes.** Control may be killed between any two steps, and the answer of a
transaction may be lost with the store. Notes that are left are settled before the next change, and
by the pipeline's next step. If the ledger has the key, the cell gets the change (once: shared
memory knows whether it has it) and the note is deleted. If not, what was taken is given back and
the note is deleted. Giving back has a note too, under the key with its highest bit set.

**Starting.** Cells are filled from the cache, less the usage that waits in the spool, so that
requests can be charged before the store is available; without a cache they are filled from the
store (`seeding`). Once the store is available, they are compared with the ledger before any later
usage is charged (`true_up`). Until then, changes are refused with StoreError, and so is a change of
a wallet that has money but no cell yet. A correction is an entry of the kind `cell`.

Used on the control process's event loop. Amounts are micro-units.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
    InsufficientFundsError,
    Ledger,
    LedgerError,
    Movement,
    Posted,
    cell_key,
)
from fastgate.billing.ledger.names import unknown
from fastgate.billing.ledger.seeding import Seeding
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.model.units import MONEY_MOST
from fastgate.serial import Serial
from fastgate.store import ledger as table
from fastgate.store import slots as slot_table
from fastgate.store.ledger import Key, Standing, Standings
from fastgate.store.usage_blocks import Block

log = logging.getLogger("fastgate.billing")

UNDO = 0x80
"""The bit in a key's first octet for the note that gives back what was taken for the key."""

BALANCE_MOST = MONEY_MOST
"""Maximum balance or debt after a change, in micro-units: a start could not fill a larger one."""

NOTHING = Standing(0, 0)

COMPARED = "The wallets are being compared with the store; try again shortly."


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A wallet now. `available` is the cell's balance, which requests can be charged to; it
    includes `overdraft`. `settled` is the balance if all open holds were released at no cost: the
    ledger's, less the usage in the spool."""

    account: str
    currency: str
    available: int
    settled: int
    overdraft: int

    @property
    def in_flight(self) -> int:
        """Held by requests, or used and not in the ledger yet."""
        return self.settled - self.available


class Change(NamedTuple):
    """A change of money, as `Balances.change` makes it."""

    movement: Movement
    post: Callable[[], Awaitable[Posted]]
    """The ledger's transaction."""
    delta: int = 0
    """What the cell gains."""
    enough: bool = False
    """Refuse the change if the cell has less than this takes, beyond the overdraft."""


class Balances:
    """Accounts, their slots, cells and balances."""

    def __init__(
        self,
        cells: Accounts,
        ledger: Ledger,
        clock: Clock,
        *,
        cache: Path | None = None,
        unknown: int = 0,
    ) -> None:
        """`unknown`: the number of the reason for refusing a new row's requests until the rights of
        its account are known; 0: they are served at once."""
        self.ledger = ledger
        self._cells = cells
        self._clock = clock
        self._cache = CellCache(cache) if cache is not None else None
        self._waiting: Mapping[Key, int] = {}
        self._slots: dict[str, int] = {}
        self._accounts: dict[int, str] = {}
        self._standing: Standings = {}  # according to the ledger
        self._under_way: dict[Key, int] = {}  # what the ledger may still take, 0 or below
        self._incomplete = False  # a wallet may have no cell
        self._unknown = unknown
        self._seeding = Seeding(cells, unknown)
        self._changes = Serial()
        self.lock = self._changes.lock
        """Held by the running change; hold it to compare balances."""

    # ---- the directory ------------------------------------------------------------------

    def slot(self, account: str) -> int | None:
        """The account's row in shared memory, if it has one."""
        return self._slots.get(account)

    def account(self, identity: int) -> str:
        """The id of the account with that hash; "" for 0, "#…" if it is unknown."""
        if identity == 0:
            return ""
        return self._accounts.get(identity) or unknown(identity)

    def accounts(self) -> Mapping[str, int]:
        """Every account that has a slot."""
        return self._slots

    async def ensure(self, account: str) -> int:
        """The account's slot, assigned now if it has none. Raises StoreError, LedgerError."""
        slot = self._slots.get(account)
        if slot is not None and slot in self._cells:
            return slot
        return await self._changes.run(lambda: self._ensure(account))

    async def _ensure(self, account: str) -> int:
        slot = self._slots.get(account)
        if slot is None:
            slot = await self.ledger.store.run_write(partial(self._allot, account))
            self._know(account, slot)
            self._note([SlotRecord(account, slot)])
        if slot >= self._cells.capacity:
            raise LedgerError(
                f"The account {account} has the slot {slot}, and shared memory has room for "
                f"{self._cells.capacity} accounts."
            )
        if slot not in self._cells:
            self._cells.put(slot, stable_hash(account), access=self._unknown)
        return slot

    def _allot(self, account: str, connection: sa.Connection) -> int:
        table.take_numbers(connection, 0)
        return slot_table.allot(connection, account, self._clock())

    def _know(self, account: str, slot: int) -> None:
        self._slots[account] = slot
        self._accounts[stable_hash(account)] = account

    # ---- balances -----------------------------------------------------------------------

    def balance(self, account: str, currency: str) -> Balance:
        """Raises NotFoundError if the account has no such wallet."""
        key = (account, currency)
        if not self._has_cell(key):
            raise NotFoundError(f"The account {account} has no wallet in {currency}.")
        return Balance(
            account=account,
            currency=currency,
            available=self._cells.balance(self._slots[account], currency),
            settled=self._settled(key),
            overdraft=self._standing[key].overdraft,
        )

    def balances(self, account: str) -> list[Balance]:
        """The account's wallets by currency; only those with a cell."""
        found = sorted(key for key in self._standing if key[0] == account)
        return [self.balance(*key) for key in found if self._has_cell(key)]

    def cell_balances(self) -> dict[Key, int]:
        """The balance of every cell."""
        return {
            key: self._cells.balance(self._slots[key[0]], key[1])
            for key in self._standing
            if self._has_cell(key)
        }

    def _has_cell(self, key: Key) -> bool:
        slot = self._slots.get(key[0])
        return (
            key in self._standing
            and slot is not None
            and slot in self._cells
            and key[1] in self._cells.get(slot).wallets
        )

    def _settled(self, key: Key) -> int:
        return self._standing[key].spendable - self._waiting.get(key, 0)

    # ---- changes ------------------------------------------------------------------------
    # All raise the ledger's errors, and StoreError until the cells have been compared.

    async def change(self, change: Change) -> Posted:
        """Book the change and apply it to the cell. On return, requests see the new balance."""
        return await self._changes.run(lambda: self._change(change))

    async def change_all(self, plan: Callable[[], Awaitable[Iterable[Change]]]) -> list[Posted]:
        """The same for several. `plan` returns them; it is called while no other change runs."""

        async def run() -> list[Posted]:
            await self._settle_notes()
            return [await self._change(change) for change in await plan()]

        return await self._changes.run(run)

    async def open(self, account: str, currency: str) -> None:
        """Make sure that the account has a wallet in the currency, ready for a payment. Raises
        StoreError; LedgerError if the account cannot have another wallet."""
        key = (account, currency)
        if self._has_cell(key):
            return

        async def run() -> None:
            await self._settle_notes()
            await self._open(key)

        await self._changes.run(run)

    async def charge(self, blocks: Sequence[Block], *, doubtful: bool = True) -> Charged:
        """Like `Ledger.charge`; the cells have already paid."""

        async def run() -> Charged:
            charged = await self.ledger.charge(blocks, doubtful=doubtful)
            self._learn(charged.wallets)
            return charged

        return await self._changes.run(run)

    async def _change(self, change: Change) -> Posted:
        """The function for every change of money except usage. No other change runs at the same
        time."""
        movement, post, delta, enough = change
        key = (movement.account, movement.currency)
        await self._settle_notes()
        await self._open(key)
        note = None
        # An existing entry changes nothing; the ledger checks that it is the same movement.
        if delta and await self.ledger.find(movement.id) is None:
            note = self._prepare(movement, delta, enough=enough)
            self._under_way[key] = min(0, delta)
            self._note([self._record(key)])
        try:
            posted = await post()
        except (LedgerError, ConflictError, NotFoundError):  # nothing was booked
            self._end(key, note, booked=False)
            self._note([self._record(key)])
            raise
        self._end(key, note, booked=posted.fresh)
        self._learn(posted.wallets)
        return posted

    def _prepare(self, movement: Movement, delta: int, *, enough: bool) -> Credit:
        """Note the change in shared memory before it is booked; if it takes money, take it now."""
        slot, currency = self._slots[movement.account], movement.currency
        before = self._cells.balance(slot, currency)
        if abs(before + delta) > max(BALANCE_MOST, abs(before)):
            raise LedgerError(
                f"The wallet of {movement.account} in {currency} would have {before + delta} "
                f"micro-units; the most is {BALANCE_MOST}, owed or owned."
            )
        key = bytes.fromhex(cell_key(movement.id))
        note: Credit = self._cells.prepare(slot, currency, delta, key)
        overdraft = self._standing[movement.account, currency].overdraft
        if delta > 0:
            return note
        if self._cells.apply(note, floor=overdraft if enough else None) is None:
            self._cells.finish(note)
            raise InsufficientFundsError(
                movement.account,
                currency,
                balance=self._cells.balance(slot, currency) - overdraft,
                required=movement.amount,
            )
        return note._replace(applied=True)

    def _end(self, key: Key, note: Credit | None, *, booked: bool) -> None:
        """Bring the cell in line with the ledger and end the change."""
        if note is None:
            return
        if booked:
            self._cells.apply(note)
            self._cells.finish(note)
        else:
            self._undo(note)
        del self._under_way[key]

    async def _open(self, key: Key) -> None:
        """Create the wallet and its cell, if needed."""
        if self._has_cell(key):
            return
        account, currency = key
        slot = await self._ensure(account)
        try:
            wallets = await self.ledger.open_wallet(account, currency)
        except LedgerError:
            raise
        except Exception:  # it may exist without a cell
            self._incomplete = True
            raise
        if currency not in self._cells.get(slot).wallets:
            if wallets[key].spendable or self._waiting.get(key):
                self._incomplete = True
                raise StoreError(COMPARED)
            self._cells.open_wallet(slot, currency)
        self._learn(wallets)

    def _learn(self, wallets: Standings) -> None:
        """Store the result of a transaction, here and in the cache."""
        self._standing.update(wallets)
        self._note([self._record(key) for key in wallets])

    # ---- interrupted changes ------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether the outcome of a change is unknown, or a cell is missing: then call `sync` and
        `seed`. A change that is running does not count."""
        return self._incomplete or (bool(self._under_way) and not self.lock.locked())

    async def _settle_notes(self) -> None:
        """Called before a change. Raises StoreError, also until the cells have been compared."""
        if self._seeding.seeds:
            raise StoreError(COMPARED)
        await self._resolve()

    async def _resolve(self) -> None:
        """Settle every note that is left. Raises StoreError."""
        notes = self._cells.open_credits()
        for note in [note for note in notes if note.key[0] & UNDO]:
            origin = bytes([note.key[0] & ~UNDO]) + note.key[1:]
            for other in notes:
                if other.key == origin:
                    self._cells.finish(other)
            self._cells.apply(note)
            self._cells.finish(note)
        for note in self._cells.open_credits():
            if await self.ledger.has_key(note.key.hex()):
                self._cells.apply(note)
                self._cells.finish(note)
            else:
                self._undo(note)
        accounts = {self.account(self._cells.get(note.account).identity) for note in notes}
        accounts.update(account for account, _ in self._under_way)
        if accounts:
            wallets = await self.ledger.standings(accounts)
            self._under_way.clear()
            self._learn(wallets)

    def _undo(self, note: Credit) -> None:
        """The ledger does not have it: the cell must not."""
        if not note.applied:
            self._cells.finish(note)
            return
        key = bytes([note.key[0] | UNDO]) + note.key[1:]
        back = self._cells.prepare(note.account, note.wallet, -note.delta, key)
        self._cells.finish(note)
        self._cells.apply(back)
        self._cells.finish(back)

    # ---- starting -----------------------------------------------------------------------

    def load(self, boot: str, waiting: Mapping[Key, int]) -> None:
        """Load slots and balances from the cache, for a start without the store. `boot`: the id of
        this start. `waiting`: micro-units of usage in the spool, by wallet; the caller updates it
        and it is read when needed."""
        self._seeding.boot = boot
        self._waiting = waiting
        if self._cache is None:
            return
        for record in self._cache.load():
            if isinstance(record, SlotRecord):
                self._know(record.account, record.slot)
            elif isinstance(record, BalanceRecord):
                key = (record.account, record.currency)
                self._standing[key] = Standing(record.spendable, record.overdraft)
            else:
                self._seeding.learn(record)

    async def seed(self, mark: Callable[[], Awaitable[None]]) -> None:
        """Fill the empty cells: from now on requests are charged to them. `mark`: writes a mark to
        the spool; all usage of these cells comes after it. A restarted control process finds its
        cells filled."""

        async def run() -> None:
            if self._seeding.plan(self._slots, self._standing, self._settled):
                self._rewrite_cache()
                await mark()
                self._seeding.fill(self._slots, self._note)

        await self._changes.run(run)

    @property
    def seeded(self) -> bool:
        """Whether cells were filled and have not been compared with the store yet."""
        return bool(self._seeding.seeds)

    async def learn_slots(self) -> None:
        """Load the directory from the store. Raises StoreError."""
        slots = await self.ledger.store.run_read(slot_table.all_slots)
        for account, slot in slots.items():
            self._know(account, slot)

    async def true_up(self) -> None:
        """Compare the seeded cells with the ledger and correct them. To be called when all usage
        from before they were filled is charged, and none from after. Raises StoreError."""
        await self._changes.run(self._true_up)

    async def _true_up(self) -> None:
        if not self._seeding.seeds:
            return
        await self._resolve()
        found = await self.ledger.standings()
        now = {key: found.get(key, NOTHING) for key in self._seeding.seeds}
        for key, seed in self._seeding.seeds.items():
            if delta := now[key].spendable - seed:
                await self._repair(key, delta)
        self._learn(now)
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
            return  # already done by a control process that was killed after it
        log.warning("The cell of %s in %s is corrected by %+d micro-units.", *key, delta)
        note = self._cells.prepare(
            self._slots[account], currency, delta, bytes.fromhex(cell_key(movement.id))
        )
        await self.ledger.repair_cell(movement)
        self._cells.apply(note)
        self._cells.finish(note)

    async def sync(self) -> None:
        """Make the directory, balances and cache equal to the store. Then `seed` finds the missing
        cells. Raises StoreError."""
        await self._changes.run(self._sync)
        if self._slots and max(self._slots.values()) >= self._cells.capacity:
            log.error("Shared memory has room for %d accounts, too few.", self._cells.capacity)

    async def _sync(self) -> None:
        await self._resolve()
        await self.learn_slots()
        self._standing = await self.ledger.standings()
        self._incomplete = False
        self._rewrite_cache()

    # ---- the cache ----------------------------------------------------------------------

    def _record(self, key: Key) -> BalanceRecord:
        standing = self._standing[key]
        least = standing.spendable + self._under_way.get(key, 0)
        return BalanceRecord(*key, least, standing.overdraft)

    def _note(self, records: Sequence[CellRecord]) -> None:
        if self._cache is None or not records:
            return
        if self._cache.outdated(len(self._slots) + len(self._standing)):
            self._rewrite_cache()
        else:
            self._cache.append(records)

    def _rewrite_cache(self) -> None:
        if self._cache is None:
            return
        records: list[CellRecord] = [SlotRecord(*item) for item in self._slots.items()]
        records += [self._record(key) for key in self._standing]
        records += self._seeding.records()
        self._cache.replace(records)

    async def idle(self) -> None:
        """Return when no change is running."""
        await self._changes.idle()

    def close(self) -> None:
        """Close the cache file, unless a change still needs it."""
        if self._cache is not None and not self._changes.running:
            self._cache.close()
