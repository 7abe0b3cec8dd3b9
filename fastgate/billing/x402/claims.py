"""Claims: one payment, one execution, for any number of workers, kills and restarts.

A claim is a file, named by the payment's nonce, in a folder that all workers share and that is
kept when they end:

    <state>/x402/<first byte>/<nonce>         one line of JSON: a ClaimRecord
    <state>/x402/<first byte>/<nonce>.answer  the upstream's answer, if it is kept
    <state>/x402/due/<nonce>                  empty: to be checked by the books (`books`)

The worker that handles a payment holds the kernel's lock (flock) on its file. So if the payment is
presented many times, to any workers, one gets the lock, and the others see that the payment is in
progress. If a worker is killed at any instruction, its lock is released but its record stays. The
next presentation of the payment reads how far it had come (`state`), and continues from there.

    ┌── released (nothing was owed: file removed, the payment can be used again)
    │
    running ──► settling ──► settled ──► served
                 │    ▲          ▲
                 │    └──────────┤ asked again
                 ├──► unknown ───┘
                 ├──► unsent ────┘
                 └──► failed

The file of a new claim is empty until `run`; an empty file without a lock has no owner. A payment
becomes due before its record says `settling`. Control checks every due payment, books the settled
ones, and drops those that were not paid. So no payment is ever missed, even if processes are
killed. A due record is not swept.

A record is written with one write of less than a page, over the previous one; readers use the first
line. The modification time of a file is the time until which it is needed; it is swept later. After
that, a settled payment is refused by its token, and an expired one by its time.

Claims are on disk, not in cells of shared memory, because a cell may be lost or reused: a full
table lets requests through, which is right for limits and wrong for money.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from fastgate.model.units import MICROS
from fastgate.model.x402 import Terms

State = Literal["running", "settling", "settled", "served", "unknown", "unsent", "failed"]

FOLDER = "x402"
"""The folder of the claims in the state directory."""
MAX_RECORD = 4000
NOT_SERVED = "owed"
"""The code in the record of a settled payment whose answer is lost."""
DUE = "due"
"""Below that: the names of the payments that the books have to check."""
SWEEP_S = 60
"""Seconds between two sweeps by one process."""


class Paid(Struct, frozen=True, kw_only=True):
    """The token, amount and parties of a payment."""

    network: str
    asset: str
    """The token's contract."""
    asset_name: str
    decimals: int
    amount: str
    """In the token's smallest unit."""
    pay_to: str

    @classmethod
    def of(cls, terms: Terms) -> Paid:
        """The price of a request."""
        return cls(
            network=terms.network,
            asset=terms.asset,
            asset_name=terms.asset_name,
            decimals=terms.asset_decimals,
            amount=terms.amount,
            pay_to=terms.pay_to,
        )

    @property
    def currency(self) -> str:
        """The token, by its CAIP-19 name, which the books use instead of a currency."""
        return f"{self.network}/erc20:{self.asset.lower()}"

    @property
    def micros(self) -> int:
        """Millionths of a token. Raises ValueError if that is not a whole number."""
        unit: int = 10**self.decimals
        found, rest = divmod(int(self.amount) * MICROS, unit)
        if rest:
            raise ValueError(f"{self.amount} of {self.decimals} decimals is finer than a millionth")
        return found


class ClaimRecord(Struct, kw_only=True):
    """The state of a payment."""

    state: State = "running"
    request: str
    """Digest of the request that it pays for, including the body."""
    route: str
    payer: str
    created: int
    """Unix seconds."""
    expires: int
    """When the record may be deleted, in Unix seconds."""
    identifier: str | None = None
    paid: Paid | None = None
    """None: the record is of an identifier, not of a payment."""
    transaction: str = ""
    code: str = ""
    """Why it failed, or why the outcome is unknown."""
    presumed: bool = False
    """Settled, because the token has used the nonce; the facilitator did not report it."""
    kept: bool = False
    """Whether the upstream's answer is kept."""


class Answer(Struct, frozen=True):
    """A stored answer of an upstream."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Busy(Exception):
    """The payment is in progress elsewhere."""


class Claim:
    """The right to handle one payment. Each holder ends it with `close` or `release`."""

    def __init__(self, fd: int, path: Path, record: ClaimRecord | None) -> None:
        self._fd = fd
        self._path = path
        self._holders = 1
        self.record = record
        """None: a new payment."""

    def write(self, record: ClaimRecord) -> None:
        """Replace the record. It becomes due before the payment may be settled. Raises OSError, or
        ValueError if it is too long."""
        line = msgspec.json.encode(record) + b"\n"
        if len(line) > MAX_RECORD:
            raise ValueError("the record of a payment is too long")
        if record.state == "settling":
            self._make_due()
        if os.pwrite(self._fd, line, 0) != len(line):
            raise OSError(errno.ENOSPC, "the record of a payment could not be written completely")
        os.utime(self._fd, (record.expires, record.expires))
        self.record = record
        if record.state == "settled" and record.paid is not None:
            self._make_due()  # again: the books may have dropped it in between

    def keep(self, answer: Answer) -> None:
        """Store the upstream's answer. Raises OSError."""
        path = self._answer
        temporary = path.with_suffix(".part")
        temporary.write_bytes(msgspec.msgpack.encode(answer))
        temporary.replace(path)
        assert self.record is not None
        os.utime(path, (self.record.expires, self.record.expires))
        self.record.kept = True
        self.write(self.record)

    def kept(self) -> Answer | None:
        """The stored answer."""
        if self.record is None or not self.record.kept:
            return None
        try:
            return msgspec.msgpack.decode(self._answer.read_bytes(), type=Answer)
        except (OSError, msgspec.DecodeError):
            return None

    def forget_answer(self) -> None:
        """The answer is no longer needed."""
        with contextlib.suppress(FileNotFoundError):
            self._answer.unlink()
        if self.record is not None:
            self.record.kept = False

    def not_served(self) -> None:
        """Mark it for the books: it was settled and its answer is lost. Raises OSError."""
        if self.record is not None and self.record.code != NOT_SERVED:
            self.record.code = NOT_SERVED
            self.write(self.record)

    def share(self) -> Claim:
        """Add a holder: the lock is released when all have ended."""
        self._holders += 1
        return self

    def release(self) -> None:
        """Nothing was paid: the payment can be used again. Repeating it does nothing."""
        if self._holders <= 0:
            return  # another claim may own the file of that name by now
        with contextlib.suppress(FileNotFoundError):
            self._answer.unlink()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """End the claim and keep the record unchanged."""
        self._holders -= 1
        if self._holders == 0:
            os.close(self._fd)

    def _make_due(self) -> None:
        folder = self._path.parent.parent / DUE
        while True:
            try:
                (folder / self._path.name).touch(mode=0o600)
                return
            except FileNotFoundError:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def _answer(self) -> Path:
        return self._path.with_suffix(".answer")


class Claims:
    """The claims of a gateway."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        """clock: Unix time in seconds."""
        self.folder = folder
        self.clock = clock
        self._swept = 0.0

    def open(self, key: bytes) -> Claim:
        """Claim a payment. Raises Busy, or OSError if the claim cannot be recorded.

        Never waits.
        """
        name = key.hex()
        path = self.folder / name[:2] / name
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is(fd, path):
                    return Claim(fd, path, _record(fd))
            except BlockingIOError as error:
                os.close(fd)
                raise Busy from error
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was removed between opening and locking

    @staticmethod
    def _is(fd: int, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), path.stat())
        except FileNotFoundError:
            return False

    def records(self) -> Iterator[tuple[str, ClaimRecord]]:
        """All records with their nonces, in no order; for operators."""
        for path in self.folder.glob("??/*"):
            if path.suffix:
                continue
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                record = _record(file.fileno())
                if record is not None:
                    yield path.name, record

    def due(self) -> Iterator[tuple[str, ClaimRecord | None]]:
        """The payments that the books have to check, with their current records, in no order.
        None: it has no record. Raises OSError if a record cannot be read."""
        try:
            names = os.scandir(self.folder / DUE)
        except FileNotFoundError:
            return
        with names:
            for entry in names:
                record = None
                with (
                    contextlib.suppress(FileNotFoundError),
                    (self.folder / entry.name[:2] / entry.name).open("rb") as file,
                ):
                    record = _record(file.fileno())
                yield entry.name, record

    def looked_at(self, name: str) -> None:
        """The books are done with a payment. Repeating it does nothing."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / DUE / name).unlink()

    def sweep(self) -> int:
        """Remove files that are no longer needed. Returns how many. Files in use stay, and so do
        those of payments that the books have not checked."""
        now = self.clock()
        removed = 0
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime >= now or (self.folder / DUE / path.stem).exists():
                    continue
                with path.open("rb") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    path.unlink()
                    removed += 1
        return removed

    def time_to_sweep(self) -> bool:
        """True at most once in SWEEP_S."""
        now = self.clock()
        if now - self._swept < SWEEP_S:
            return False
        self._swept = now
        return True


def _record(fd: int) -> ClaimRecord | None:
    line = os.pread(fd, MAX_RECORD, 0).partition(b"\n")[0]
    if not line:
        return None
    try:
        return msgspec.json.decode(line, type=ClaimRecord)
    except msgspec.DecodeError as error:
        raise OSError(errno.EIO, f"the record of a payment cannot be read: {error}") from error


# ---- this process's claims --------------------------------------------------------------------

_claims: Claims | None = None


def use(folder: Path, clock: Callable[[], float]) -> Claims:
    """Keep this process's claims under `folder`; a worker calls this when it starts."""
    global _claims
    _claims = Claims(folder, clock)
    return _claims


def current() -> Claims:
    """The claims of this process. Raises RuntimeError before `use`."""
    if _claims is None:
        raise RuntimeError("no place for claims: fastgate.billing.x402.claims.use was not called")
    return _claims
