"""What the tests of money in shared memory share: small maps, naive sums, single-stepped children.

`images` runs a piece of work in a child, one machine instruction at a time, and gives every
state that shared memory was in between two of them. A process killed at some instruction leaves
exactly one of these behind; so whoever can put each of them right survives a kill at any.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
from collections.abc import Callable, Iterable

import pytest

from fastgate._core.money.money_map import MoneyMap, UsageRecord
from fastgate._core.money.wallet import Accounts
from fastgate._core.shared.segment import Segment

SIZES = {
    "limiter_cells": 16,
    "quota_cells": 16,
    "targets": 1,
    "route_rows": 1,
    "concurrency_cells": 4,
    "log_records": 2,
}
SLOT, IDENTITY = 5, 0xACC0


class SharedWallet:
    """A segment, a money map bound to it, and one account with a wallet in euros."""

    def __init__(
        self,
        balance: int = 0,
        workers: int = 2,
        *,
        holds: int = 8,
        ring: int = 8,
        accounts: int = 8,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.segment = Segment.create(workers, accounts=accounts, **SIZES)
        self.money = MoneyMap.create(path, workers, holds=holds, ring=ring)
        self.money.bind(self.segment)
        self.accounts = Accounts(self.segment, self.money)
        self.accounts.put(SLOT, IDENTITY, ["EUR"])
        self.accounts.set_balance(SLOT, "EUR", balance)
        for worker in range(workers):
            self.money.begin(worker)

    @property
    def balance(self) -> int:
        return self.accounts.balance(SLOT)

    def again(self) -> SharedWallet:
        """The same memory, as another process sees it that knows nothing yet."""
        wallet = SharedWallet.__new__(SharedWallet)
        wallet.segment = Segment.attach(self.segment.fd)
        wallet.money = MoneyMap.attach(self.money.fd)
        wallet.money.bind(wallet.segment)
        wallet.accounts = Accounts(wallet.segment, wallet.money)
        return wallet

    def collect(self, worker: int) -> list[UsageRecord]:
        """Drain a worker's area to its end and commit, as the pipeline does."""
        found = []
        while True:
            records, position = self.money.drain(worker)
            self.money.commit(worker, position)
            found += records
            if not records:
                return found


def charged(records: Iterable[UsageRecord]) -> int:
    """What records cost, each id once. The same id always says the same."""
    amounts: dict[str, int] = {}
    for record in records:
        assert amounts.setdefault(record.id, record.amount) == record.amount
    return sum(amounts.values())


# ---- one instruction at a time ----------------------------------------------------------------

TRACEME, SINGLESTEP = 0, 9
MOST_STEPS = 200_000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class Memory:
    """All shared memory of a wallet, to be copied and put back."""

    def __init__(self, wallet: SharedWallet) -> None:
        self.maps = [
            (
                mmap.mmap(wallet.segment.fd, wallet.segment.bytes),
                wallet.segment.layout["accounts"],
                2048,
            ),
            (mmap.mmap(wallet.money.fd, wallet.money.bytes), 0, wallet.money.bytes),
        ]

    def read(self) -> tuple[bytes, ...]:
        return tuple(whole[at : at + size] for whole, at, size in self.maps)

    def write(self, image: tuple[bytes, ...]) -> None:
        for (whole, at, size), part in zip(self.maps, image, strict=True):
            whole[at : at + size] = part


def can_step() -> bool:
    if platform.machine() != "x86_64":
        return False
    pid = os.fork()
    if pid == 0:
        os._exit(libc.ptrace(TRACEME, 0, None, None) != 0)
    return os.waitpid(pid, 0)[1] == 0


def images(wallet: SharedWallet, work: Callable[[], object]) -> list[tuple[bytes, ...]]:
    """Every state that memory was in while a child did the work, the first and the last with it."""
    if not can_step():
        pytest.skip("processes cannot be traced here (x86-64 and the right to ptrace are needed)")
    memory = Memory(wallet)
    found = [memory.read()]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            libc.ptrace(TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            status = 0
        finally:
            os._exit(status)
    os.waitpid(pid, 0)
    for _ in range(MOST_STEPS):
        libc.ptrace(SINGLESTEP, pid, None, None)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return found
        now = memory.read()
        if now != found[-1]:
            found.append(now)
        if os.WSTOPSIG(status) != signal.SIGTRAP:
            break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the work did not come to its end")
