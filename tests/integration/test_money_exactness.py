"""Money over several processes: exact to the micro-unit, also when they are killed anywhere.

Four workers hold, capture and release on one wallet, one process credits and debits it, and all are
killed at random, the one that resolves the dead too. At each kill everybody is stopped for a moment
and the books are closed: what the wallet has is what was credited, less what records charge, less
what is held.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest
from moneymapkit import SLOT, SharedWallet, charged
from test_shared_exactness import Barrier, Words, fork, running

from fastgate._core.money.money_map import Hold, HoldTableFull, OpenHold, UsageRecord

WORKERS = 4
KILLS = 240
NEGATIVE = 1 << 63  # from here on, a word of Words is a number below 0
# The children do nothing that a thread of the tests' process could have left half done.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        os.sched_yield()


# ---- the last cent ---------------------------------------------------------------------------


def test_a_thousand_requests_for_a_balance_of_one() -> None:
    """Turn after turn there is money for one request, and four workers ask 250 times each."""
    wallet = SharedWallet(0, WORKERS, holds=4096, ring=1024)
    turns = 100
    passed = [Words(turns) for _ in range(WORKERS)]
    barrier = Barrier(WORKERS + 1)

    def work(who: int) -> None:
        wallet.money.begin(who)
        for turn in range(turns):
            barrier.wait(who, 2 * turn + 1)
            passed[who][turn] = wallet.money.hold_many(who, SLOT, 7, 7, 250)
            barrier.wait(who, 2 * turn + 2)

    with running(*(partial(work, who) for who in range(WORKERS))):
        for turn in range(turns):
            assert wallet.accounts.credit(SLOT, 7) == 7
            barrier.wait(WORKERS, 2 * turn + 1)
            barrier.wait(WORKERS, 2 * turn + 2)
            assert sum(words[turn] for words in passed) == 1
            assert wallet.balance == 0
    records = [record for worker in range(WORKERS) for record in wallet.collect(worker)]
    assert len(records) == turns
    assert charged(records) == 7 * turns


def test_many_amounts_on_one_wallet() -> None:
    """Holds larger than their prices: what passes differs, what it costs adds up."""
    wallet = SharedWallet(100_000, WORKERS, ring=8192)
    passed = Words(WORKERS)
    start = Barrier(WORKERS)

    def work(who: int) -> None:
        wallet.money.begin(who)
        start.wait(who, 1)
        passed[who] = wallet.money.hold_many(who, SLOT, 10 * (who + 1), who + 1, 8000)

    with running(*(partial(work, who) for who in range(WORKERS))):
        pass
    spent = [charged(wallet.collect(who)) for who in range(WORKERS)]
    assert spent == [passed[who] * (who + 1) for who in range(WORKERS)]
    assert sum(spent) + wallet.balance == 100_000
    assert wallet.money.open_holds() == []


# ---- killed anywhere ---------------------------------------------------------------------------


class Books:
    """What the ledger would have on disk: entries of credits by key, records by id."""

    def __init__(self, credits: int) -> None:
        self.entries = Words(credits + 1)  # the delta of each key, 0: not written; last: how many
        self.count = credits
        self.records: dict[str, int] = {}
        self.charged = 0

    def write(self, key: int, delta: int) -> None:
        self.entries[self.count] = key + 1
        self.entries[key] = delta & (2**64 - 1)

    def delta(self, key: int) -> int:
        word = self.entries[key]
        return word - 2**64 if word >= NEGATIVE else word

    def credited(self) -> int:
        return sum(self.delta(key) for key in range(self.entries[self.count]))

    def enter(self, records: list[UsageRecord]) -> None:
        for record in records:
            if record.id not in self.records:
                self.charged += record.amount
            assert self.records.setdefault(record.id, record.amount) == record.amount


def serve(wallet: SharedWallet, worker: int, stop: Words, seed: int) -> None:
    """What a worker does: many requests at a time, some for long, some that fail."""
    dice = random.Random(seed)
    wallet.money.begin(worker)
    open_now: list[Hold] = []
    while not stop[0] or open_now:
        chance = dice.random()
        if not stop[0] and chance < 0.3:
            amount = dice.randrange(1, 30)
            wallet.money.hold_many(worker, SLOT, amount, dice.randrange(amount + 1), 20)
        elif not stop[0] and chance < 0.6 and len(open_now) < 8:
            try:
                hold = wallet.money.hold(worker, SLOT, dice.randrange(1, 30))
            except HoldTableFull:
                hold = None
            if hold is not None:
                open_now.append(hold)
        elif open_now:
            hold = open_now.pop(dice.randrange(len(open_now)))
            if chance < 0.8:
                hold.capture(dice.randrange(hold.held + 1))
            elif chance < 0.9:
                hold.due(dice.randrange(hold.held + 1))
                open_now.append(hold)
            else:
                hold.release()


def settle_credits(wallet: SharedWallet, books: Books) -> None:
    """What a new control does: what is written reaches the wallet, the rest is dropped."""
    for credit in wallet.accounts.open_credits():
        if books.delta(int.from_bytes(credit.key, "little")):
            wallet.accounts.apply(credit)
        else:
            assert not credit.applied
        wallet.accounts.finish(credit)


def credit(wallet: SharedWallet, books: Books, stop: Words, seed: int) -> None:
    """What a control does: entries in the ledger, then in the wallet."""
    dice = random.Random(seed)
    settle_credits(wallet, books)
    while not stop[0]:
        key = books.entries[books.count]
        if key >= books.count:
            spin(0.001)  # the ledger is full; whoever kills still counts on this process
            continue
        delta = dice.choice((300, 500, 1, -7))
        prepared = wallet.accounts.prepare(SLOT, "EUR", delta, key.to_bytes(16, "little"))
        if dice.random() < 0.1:
            wallet.accounts.finish(prepared)  # the store refused it
            continue
        books.write(key, delta)
        wallet.accounts.apply(prepared)
        wallet.accounts.finish(prepared)
        spin(0.0001)


def charge_of(entry: OpenHold) -> int:
    """What a row costs that is settled, or held back from the wallet no more."""
    return 0 if entry.taken or entry.state == "intent" else entry.record.amount


def close_books(wallet: SharedWallet, books: Books) -> None:
    """Nobody moves: the wallet is exact."""
    rows = wallet.money.open_holds()
    under_way: dict[str, int] = {}
    found = [(r.id, r.amount) for worker in range(WORKERS) for r in wallet.money.drain(worker)[0]]
    found += [(entry.record.id, charge_of(entry)) for entry in rows if not entry.taken]
    for name, cost in found:
        known = books.records if name in books.records else under_way
        assert known.setdefault(name, cost) == cost
    held = sum(entry.record.held for entry in rows if entry.taken)
    waiting = sum(
        books.delta(int.from_bytes(credit.key, "little"))
        for credit in wallet.accounts.open_credits()
        if not credit.applied
    )
    assert wallet.balance == books.credited() - waiting - held - books.charged - sum(
        under_way.values()
    )


def pipeline(wallet: SharedWallet, books: Books) -> None:
    for worker in range(WORKERS):
        records, position = wallet.money.drain(worker, 48)
        books.enter(records)
        wallet.money.commit(worker, position)


def resolve(wallet: SharedWallet, worker: int, policy: str, seconds: float) -> None:
    """Resolve the dead, in a process that is killed meanwhile if it takes longer than that."""

    def work() -> None:
        wallet.money.resolve_dead(worker, policy)

    pid = fork(work)
    spin(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def paused(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])


def resumed(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_exact_at_every_kill() -> None:
    wallet = SharedWallet(0, WORKERS, holds=24, ring=64)
    books = Books(40_000)
    stop = Words(1)
    dice = random.Random(11)
    seeds = iter(range(10_000))

    def start(who: int) -> int:
        """Workers 0 to 3; 4 credits."""
        work: Callable[[], None] = partial(serve, wallet, who, stop, next(seeds))
        if who == WORKERS:
            work = partial(credit, wallet, books, stop, next(seeds))
        return fork(work)

    running_now = {who: start(who) for who in range(WORKERS + 1)}
    try:
        for kill in range(KILLS):
            for _ in range(dice.randrange(3)):
                spin(dice.random() * 0.002)
                pipeline(wallet, books)
            spin(dice.random() * 0.001)
            who = dice.randrange(WORKERS + 1)
            os.kill(running_now[who], signal.SIGKILL)
            os.waitpid(running_now.pop(who), 0)
            paused(list(running_now.values()))
            close_books(wallet, books)
            if who < WORKERS:
                wallet.money.stopped(who)
                policy = dice.choice(("due", "charge", "release"))
                resolve(wallet, who, policy, dice.random() * 0.002)
                close_books(wallet, books)
                if kill % 2:
                    # The successor serves while its predecessor is being resolved.
                    running_now[who] = start(who)
                    resumed(list(running_now.values()))
                    wallet.money.resolve_dead(who, policy)
                else:
                    wallet.money.resolve_dead(who, policy)
                    assert not any(
                        e.dead and e.state != "parked" for e in wallet.money.open_holds()
                    )
                    close_books(wallet, books)
            resumed(list(running_now.values()))
            running_now.setdefault(who, 0)
            running_now[who] = running_now[who] or start(who)
        stop[0] = 1
        while running_now:
            pipeline(wallet, books)
            for who, pid in list(running_now.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    assert status == 0
                    del running_now[who]
    finally:
        for pid in running_now.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    settle_credits(wallet, books)
    for worker in range(WORKERS):
        books.enter(wallet.collect(worker))
    assert wallet.money.open_holds() == []
    assert wallet.accounts.open_credits() == []
    assert (
        wallet.balance
        == books.credited() - books.charged
        == books.credited() - sum(books.records.values())
    )
    assert wallet.money.damaged == 0
    # It was a busy place: each kill hit somebody at work.
    assert len(books.records) > 10 * KILLS
    assert sum(amount > 0 for amount in books.records.values()) > 5 * KILLS
