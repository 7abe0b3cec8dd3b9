"""The accounts' cache: which account has which row of shared memory, and what the ledger said.

`<state>/accounts.cache`, a file of frames; the last word on each thing counts. From it the cells
are filled when a gateway starts while its store is down. It is written on with every change and
again when more than half of it is outdated.

A balance here is the ledger's, with the overdraft: never that of the cell. After a kill it is right
or too low, never too high: what usage cost is written after the ledger's commit and before the ring
gives up the records; what another change takes is written before its commit; what one gives, after
it. (A machine that loses power may lose its last seconds; the true-up when the store is back mends
that.) Only `balances` writes it.

If it cannot be written it is removed: without it the cells stay empty until the store is there,
with a stale one they could hold what is spent.
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
    """What the ledger lets the account spend, and how much of that is overdraft."""

    account: str
    currency: str
    spendable: int
    overdraft: int


class SeedRecord(msgspec.Struct, array_like=True, tag="e", frozen=True):
    """In this boot the cell is filled with so much; not compared with the store yet."""

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
        """Every record, oldest first; none when there is no usable file."""
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
        """Write changes at the end."""
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
        """A change that comes later all the same finds the file outdated, and rewrites it."""
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
