"""The cache of accounts: each account's row of shared memory, and its balances in the ledger.

`<state>/accounts.cache` is a file of frames; a later record replaces an earlier one for the same
key. The cells are filled from it if a gateway starts while its store is down. Every change appends
to it, and it is rewritten when more than half of it is outdated.

A balance here is the ledger's, with the overdraft, never the cell's. After a kill it is correct or
too low, never too high: the cost of usage is written after the ledger's commit and before the ring
frees the records; any other change that takes money is written before its commit, and one that adds
money after it. (A machine that loses power may lose its last seconds; the true-up corrects that
when the store is back.) Only `balances` writes it.

If it cannot be written, it is removed. Without it the cells stay empty until the store is
available; with a stale one they could contain money that is already spent.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fastgate.billing.ledger.frames import MAGIC_SIZE, FrameFile, pack

log = logging.getLogger("fastgate.billing")

MAGIC = b"FGACCTS1"
SLACK = 4096  # frames beyond the live ones before the file is rewritten


class SlotRecord(msgspec.Struct, array_like=True, tag="s", frozen=True):
    """The account's row in shared memory."""

    account: str
    slot: int


class BalanceRecord(msgspec.Struct, array_like=True, tag="b", frozen=True):
    """What the account may spend according to the ledger, and how much of it is overdraft."""

    account: str
    currency: str
    spendable: int
    overdraft: int


class SeedRecord(msgspec.Struct, array_like=True, tag="e", frozen=True):
    """In this boot the cell is filled with this amount; not compared with the store yet."""

    boot: str
    account: str
    currency: str
    amount: int


class FilledRecord(msgspec.Struct, array_like=True, tag="f", frozen=True):
    """The cell has its seed, or a note in shared memory says that it gets it."""

    boot: str
    account: str
    currency: str


class TrueRecord(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """All cells that were filled so far have been compared."""

    boot: str


CellRecord = SlotRecord | BalanceRecord | SeedRecord | FilledRecord | TrueRecord
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[CellRecord] = msgspec.msgpack.Decoder(CellRecord)


class CellCache:
    """The file. Errors of the disk are logged, never raised."""

    def __init__(self, path: Path) -> None:
        self._file = FrameFile(path, MAGIC)
        self._frames = 0
        self._usable = False

    def load(self) -> list[CellRecord]:
        """All records, oldest first; none if there is no usable file."""
        try:
            self._file.open()
            records = [_decoder.decode(payload) for payload, _ in self._file.read(MAGIC_SIZE)]
        except OSError as error:
            self._give_up(error)
            return []
        except msgspec.DecodeError as error:
            self._give_up(error)
            return []
        self._usable = True
        self._frames = len(records)
        return records

    def append(self, records: Iterable[CellRecord]) -> None:
        """Append changes."""
        frames = [pack(_encoder.encode(record)) for record in records]
        if not frames or not self._usable:
            return
        try:
            self._file.append(b"".join(frames), sync=False)
        except OSError as error:
            self._give_up(error)
        else:
            self._frames += len(frames)

    def outdated(self, live: int) -> bool:
        """Whether it should be rewritten, if `live` records are still needed."""
        return not self._usable or self._frames > 2 * live + SLACK

    def replace(self, records: list[CellRecord]) -> None:
        """Rewrite the whole file, synced to disk."""
        try:
            self._file.replace(_encoder.encode(record) for record in records)
        except OSError as error:
            self._give_up(error)
        else:
            self._usable = True
            self._frames = len(records)

    def close(self) -> None:
        """If a change still comes later, it finds the file outdated and rewrites it."""
        self._usable = False
        self._file.close()

    def _give_up(self, error: Exception) -> None:
        log.error("%s cannot be used and is removed: %s", self._file.path, error)
        self._usable = False
        self._frames = 0
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._file.path.unlink()
