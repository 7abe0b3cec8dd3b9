"""Claims: one payment, one execution, whatever the number of workers, kills and restarts.

A claim is a file, named by the payment's nonce, in a folder that all workers share and that
outlives them:

    <state>/x402/<first byte>/<nonce>         one line of JSON: a ClaimRecord
    <state>/x402/<first byte>/<nonce>.answer  the upstream's answer, where it is kept
    <state>/x402/due/<nonce>                  empty: to be looked at by the books (`books`)

Who works on a payment holds the kernel's lock (flock) on its file. So of any number of replays
on any number of workers one gets the lock, and the others learn that the payment is in progress;
and when a worker is killed at any instruction, its lock is gone and its record is not: the next
who presents the payment reads how far it had come (`state`), and goes on from there.

    ┌── released (nothing was owed: file removed, the payment can be used again)
    │
    running ──► settling ──► settled ──► served
                 │    ▲          ▲
                 │    └──────────┤ asked again
                 ├──► unknown ───┘
                 ├──► unsent ────┘
                 └──► failed

The file of a new claim is empty until `run`; an empty file without a lock has no owner. Before a
record says `settling`, its payment is due: control looks at every payment that is, books the ones
that were settled, and forgets what came to nothing. So nothing that was paid is ever missed, even
if processes are killed; and a record that is due is not swept.

A record is written with one write of less than a page, over the last one; readers take the
first line. Files carry the time until which they are wanted as their modification time, and are
swept afterwards; a payment that was settled is then refused by its token, and one that has
expired by its time.

Kept on disk and not in cells of shared memory because a cell may be lost or taken over: a table
that is full lets requests through, which is right for limits and wrong for money.
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
"""Where they stand in the state directory."""
MAX_RECORD = 4000
NOT_SERVED = "owed"
"""The code of a record that was settled and whose answer is gone."""
DUE = "due"
"""Below that: the names of payments that the books have to look at."""
SWEEP_S = 60
"""Seconds between two sweeps of one process."""


class Paid(Struct, frozen=True, kw_only=True):
    """What a payment is of."""

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
        """The token, by its CAIP-19 name: what the books have instead of a currency."""
        return f"{self.network}/erc20:{self.asset.lower()}"

    @property
    def micros(self) -> int:
        """Millionths of a token. Raises ValueError where that is no whole number."""
        unit: int = 10**self.decimals
        found, rest = divmod(int(self.amount) * MICROS, unit)
        if rest:
            raise ValueError(f"{self.amount} of {self.decimals} decimals is finer than a millionth")
        return found


class ClaimRecord(Struct, kw_only=True):
    """How far a payment has come."""

    state: State = "running"
    request: str
    """Digest of the request that it pays for, body included."""
    route: str
    payer: str
    created: int
    """Unix seconds."""
    expires: int
    """Unix seconds; when the record may be forgotten."""
    identifier: str | None = None
    paid: Paid | None = None
    """None: it is no payment's, but an identifier's."""
    transaction: str = ""
    code: str = ""
    """Why it failed, or is not known."""
    presumed: bool = False
    """Settled, as the token has taken the nonce; the facilitator itself did not say so."""
    kept: bool = False
    """Whether the upstream's answer is kept."""


class Answer(Struct, frozen=True):
    """An upstream's answer, kept."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Busy(Exception):
    """Somebody else works on this payment just now."""


class Claim:
    """The right to work on one payment. Each holder gives it back, by `close` or `release`."""

    def __init__(self, fd: int, path: Path, record: ClaimRecord | None) -> None:
        self._fd = fd
        self._path = path
        self._holders = 1
        self.record = record
        """None: a payment that was never seen."""

    def write(self, record: ClaimRecord) -> None:
        """Put the record in place of the last, which is due once it may have been paid. Raises
        OSError, or ValueError when too long."""
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
            self._make_due()  # once more: the books may have given it up meanwhile

    def keep(self, answer: Answer) -> None:
        """Keep the upstream's answer. Raises OSError."""
        path = self._answer
        temporary = path.with_suffix(".part")
        temporary.write_bytes(msgspec.msgpack.encode(answer))
        temporary.replace(path)
        assert self.record is not None
        os.utime(path, (self.record.expires, self.record.expires))
        self.record.kept = True
        self.write(self.record)

    def kept(self) -> Answer | None:
        """The answer that is kept."""
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
        """It was settled and its answer is gone, which the books are to see. Raises OSError."""
        if self.record is not None and self.record.code != NOT_SERVED:
            self.record.code = NOT_SERVED
            self.write(self.record)

    def share(self) -> Claim:
        """Another holder: the lock is let go when all have."""
        self._holders += 1
        return self

    def release(self) -> None:
        """Nothing happened: the payment can be used again. Once more does nothing."""
        if self._holders <= 0:
            return  # the file of that name may be somebody else's by now
        with contextlib.suppress(FileNotFoundError):
            self._answer.unlink()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Let go, leaving the record as it is."""
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
        """Take hold of a payment. Raises Busy, or OSError when that cannot be recorded.

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
        """The payments that the books have to look at, with their records as they are now, in no
        order. None: it has no record. Raises OSError for a record that cannot be read."""
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
        """The books are done with a payment. Once more does nothing."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / DUE / name).unlink()

    def sweep(self) -> int:
        """Remove files that are no longer needed; returns how many. Files in use are left alone,
        and those of payments that the books have not looked at."""
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


# ---- the one of this process ------------------------------------------------------------------

_claims: Claims | None = None


def use(folder: Path, clock: Callable[[], float]) -> Claims:
    """Keep this process's claims under `folder`; a worker does so when it starts."""
    global _claims
    _claims = Claims(folder, clock)
    return _claims


def current() -> Claims:
    """The claims of this process. Raises RuntimeError before `use`."""
    if _claims is None:
        raise RuntimeError("no place for claims: fastgate.billing.x402.claims.use was not called")
    return _claims
