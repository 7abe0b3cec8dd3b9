"""Seeding: fills the cells of a new boot, each once, even if processes are killed in between.

```
plan    the amount for each cell                   SeedRecord in the cache, on disk
        (a mark goes to the spool: all usage of these cells comes after it)
fill    a note in shared memory under the seed's key ─▶ FilledRecord in the cache
        ─▶ the cell has it ─▶ the note is deleted
true up compared with the ledger                   TrueRecord in the cache
```

A note is deleted only after its FilledRecord is written, and shared memory knows whether a note was
applied to the cell. So if control is killed, the next one knows the state: no FilledRecord and no
note: not begun; a note: to be completed; a FilledRecord and no note: done. A cell is thus never
filled twice, and an empty one is never taken for filled.

The seeds are kept until they are compared: the cell must then gain the ledger's balance less the
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fastgate._core.money.wallet import Accounts
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.ledger.cell_cache import CellRecord, FilledRecord, SeedRecord, TrueRecord
from fastgate.billing.ledger.ledger import cell_key
from fastgate.store.ledger import Key

AT_ONCE = 8
"""Cells that are filled with one write to the cache; each uses a row of control until then."""


class Seeding:
    """The seeds of one boot."""

    def __init__(self, cells: Accounts, unknown: int = 0) -> None:
        """`unknown`: the reason with which requests of new rows are refused; see `Balances`."""
        self._cells = cells
        self._unknown = unknown
        self.boot = ""
        self.seeds: dict[Key, int] = {}
        self._filled: set[Key] = set()
        self._rows: list[str] = []

    def learn(self, record: SeedRecord | FilledRecord | TrueRecord) -> None:
        """Apply a record of the cache; called in order. Records of other boots have no effect."""
        if record.boot != self.boot:
            return
        if isinstance(record, SeedRecord):
            self.seeds[record.account, record.currency] = record.amount
        elif isinstance(record, FilledRecord):
            self._filled.add((record.account, record.currency))
        else:
            self.clear()

    def records(self) -> Iterator[CellRecord]:
        """The records that a rewritten cache must contain."""
        for key, amount in self.seeds.items():
            yield SeedRecord(self.boot, *key, amount)
        for key in self._filled:
            yield FilledRecord(self.boot, *key)

    def clear(self) -> None:
        """They have been compared."""
        self.seeds.clear()
        self._filled.clear()

    def plan(
        self, slots: Mapping[str, int], wallets: Iterable[Key], amount: Callable[[Key], int]
    ) -> bool:
        """Find the rows and wallets that are missing in shared memory. Returns whether there is
        anything to fill or to complete. `amount`: the amount for a wallet's cell."""
        cells = self._cells
        there: dict[str, Mapping[str, int]] = {}
        for account, slot in slots.items():
            if slot in cells:
                there[account] = cells.get(slot).wallets
            elif slot < cells.capacity:
                there[account] = {}
                self._rows.append(account)
        for key in wallets:
            account, currency = key
            if account in there and currency not in there[account]:
                self.seeds.setdefault(key, amount(key))
        return bool(self._rows or self.seeds.keys() - self._filled or self._open())

    def fill(self, slots: Mapping[str, int], write: Callable[[Sequence[CellRecord]], None]) -> None:
        """Fill the planned cells; from now on requests are charged to them. `write`: the cache."""
        cells = self._cells
        for account in self._rows:
            cells.put(slots[account], stable_hash(account), access=self._unknown)
        self._rows = []
        notes = {note.key: note for note in cells.open_credits()}
        left = [key for key in self.seeds if key not in self._filled or self._name(key) in notes]
        for start in range(0, len(left), AT_ONCE):
            some = left[start : start + AT_ONCE]
            under_way = []
            for key in some:
                cells.open_wallet(slots[key[0]], key[1])
                name = self._name(key)
                note = notes.get(name) or cells.prepare(
                    slots[key[0]], key[1], self.seeds[key], name
                )
                under_way.append(note)
            self._filled.update(some)
            write([FilledRecord(self.boot, *key) for key in some])
            for note in under_way:
                cells.apply(note)
                cells.finish(note)

    def _name(self, key: Key) -> bytes:
        """The key of a seed in shared memory."""
        return bytes.fromhex(cell_key(f"seed:{self.boot}:{key[0]}:{key[1]}"))

    def _open(self) -> bool:
        names = {self._name(key) for key in self._filled}
        return any(note.key in names for note in self._cells.open_credits())
