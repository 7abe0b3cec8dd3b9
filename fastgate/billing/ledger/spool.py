"""The spool: where usage waits while the store is down. `<state>/usage.spool`, a file of frames.

    ring ──drain──▶ store down: append, synced to disk ──▶ ring committed
                    store back: read from the first, charge, and clear when all are charged

The ring frees a record only when it is on disk here, so nothing is lost if control is killed. A
record can arrive twice (it was appended, and the ring not yet committed), which the ledger detects
by its id. The records of the last frame are known after `open`, so *waiting* counts each of them
only once.

A `Mark` shows where a start of the gateway filled the wallets' cells without the store: usage
before the mark is from before that, usage after it from later.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from fastgate.billing.ledger.frames import MAGIC_SIZE, FrameFile, pack
from fastgate.store.ledger import Key
from fastgate.store.usage_blocks import Block

MAGIC = b"FGUSAGE3"


class Batch(msgspec.Struct, array_like=True, tag="u", frozen=True):
    """The usage of one drain."""

    blocks: list[Block]


class Mark(msgspec.Struct, array_like=True, tag="m", frozen=True):
    """The following records are from this boot."""

    boot: str


Frame = Batch | Mark
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class Spool:
    """One spool file. Methods block on the disk and raise OSError."""

    def __init__(self, path: Path) -> None:
        self._file = FrameFile(path, MAGIC)
        self._at = MAGIC_SIZE
        self.waiting: dict[Key, int] = {}
        """Micro-units of the waiting records, by account and currency. Always the same dict."""
        self.records = 0
        """The number of waiting records."""
        self.last: dict[str, set[int]] = {}
        """After `open`: the numbers of the records in the last batch, by boot; the rings may still
        have them too."""

    @property
    def path(self) -> Path:
        return self._file.path

    def open(self) -> None:
        """Open or create the file. Drops an incomplete frame: the ring still has its records."""
        self._file.open()
        self._at = MAGIC_SIZE
        self.waiting.clear()
        self.records = 0
        self.last = {}
        for payload, _ in self._file.read(MAGIC_SIZE):
            frame = _decoder.decode(payload)
            if isinstance(frame, Batch):
                self._count(frame, 1)
                self.last = {}
                for block in frame.blocks:
                    self.last.setdefault(block.boot, set()).update(block.numbers())

    def append(self, frame: Frame) -> None:
        """Append it, synced to disk."""
        self._file.append(pack(_encoder.encode(frame)), sync=True)
        if isinstance(frame, Batch):
            self._count(frame, 1)

    def next(self) -> tuple[Frame, int] | None:
        """The first waiting frame, and the argument for `take`; None if there is none."""
        for payload, after in self._file.read(self._at):
            return _decoder.decode(payload), after
        return None

    def take(self, frame: Frame, after: int) -> None:
        """Drop the frame, since the ledger has it. Dropping the last one clears the file."""
        if isinstance(frame, Batch):
            self._count(frame, -1)
        self._at = after
        if after == self._file.end:
            self._file.clear()
            self._at = MAGIC_SIZE
            self.waiting.clear()
            self.records = 0

    @property
    def empty(self) -> bool:
        return self._at == self._file.end

    def close(self) -> None:
        self._file.close()

    def _count(self, batch: Batch, sign: int) -> None:
        for block in batch.blocks:
            self.records += sign * block.records
            if block.amount:
                key = (block.account, block.currency)
                self.waiting[key] = self.waiting.get(key, 0) + sign * block.amount
