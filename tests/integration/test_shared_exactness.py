"""Several processes on one segment: exact under contention, and when they are killed anywhere.

The processes are forked, spin instead of sleeping, and meet at barriers in shared memory. What
they did is noted in shared memory, so that the dead have told it too.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest

from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.limiter import LimiterTable
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.cell_keys import mix_key_py

PROCESSES = 4
# The children do nothing that a thread of the tests' process could have left half done.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
SECOND = 10**9
HOUR = 3600 * SECOND
NOW = 10**15
NOON = 1_800_000_000
DAY = 3
MINUTE = 1


class Words:
    """64-bit words that all processes share; each has one writer."""

    def __init__(self, n: int) -> None:
        self.map = mmap.mmap(-1, n * 8)
        self.view = memoryview(self.map).cast("Q")

    def __getitem__(self, index: int) -> int:
        return self.view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.view[index] = value

    def part(self, index: int, size: int) -> memoryview:
        return self.view[index * size : (index + 1) * size]


class Barrier:
    """Where `n` processes wait for one another, turn by turn.

    A machine with much else to do takes long over that: after ENOUGH seconds, the turn that
    process 0 is in becomes the last one, for all.
    """

    ENOUGH = 6.0

    def __init__(self, n: int) -> None:
        self.n = n
        self.words = Words(n)
        self.last = Words(1)  # number of the last turn, once it is known
        self.until = time.monotonic() + self.ENOUGH

    def wait(self, who: int, moment: int) -> None:
        self.words[who] = moment
        while any(self.words[i] < moment for i in range(self.n)):
            os.sched_yield()

    def turns(self, who: int, most: int) -> Iterator[int]:
        """1, 2, 3 ...: all processes begin each turn together and end it together."""
        for turn in range(1, most + 1):
            self.wait(who, 2 * turn - 1)
            yield turn
            if who == 0 and (turn == most or time.monotonic() > self.until):
                self.last[0] = turn
            self.wait(who, 2 * turn)
            if self.last[0] == turn:
                return


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; its exit status is 0 when it came to the end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


@contextmanager
def running(*works: Callable[[], None]) -> Iterator[list[int]]:
    """Children that are waited for at the end, and all have to come to theirs."""
    pids = [fork(work) for work in works]
    try:
        yield pids
    except BaseException:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    finally:
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0] * len(pids)


def segment(**sizes: int) -> Segment:
    return Segment.create(
        PROCESSES,
        **{"limiter_cells": 2**15, "quota_cells": 2**15, "targets": 1, "route_rows": 1, **sizes},
    )


def live_keys(table: LimiterTable) -> list[int]:
    return [key for key, state in table.cells() if state is not None]


# ---- one key, many processes -----------------------------------------------------------------


def test_one_rate_limit_passes_exactly_its_burst() -> None:
    limiter = LimiterTable(segment())
    key = array("Q", [mix_key_py(1, 1)]) * 5000
    passed = Words(PROCESSES)
    start = Barrier(PROCESSES)

    def work(who: int) -> None:
        start.wait(who, 1)
        passed[who] = sum(limiter.take_all(key, NOW, HOUR, 1000 * HOUR) for _ in range(10))

    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    assert sum(passed[i] for i in range(PROCESSES)) == 1000
    assert limiter.peek(key[0], NOW, HOUR, 1000 * HOUR).used == 1000


def test_one_quota_passes_exactly_its_amount() -> None:
    quota = QuotaTable(segment())
    key = array("Q", [mix_key_py(1, 1)]) * 5000
    passed = Words(PROCESSES)
    start = Barrier(PROCESSES)

    def work(who: int) -> None:
        start.wait(who, 1)
        passed[who] = sum(quota.take_all(key, DAY, NOON, 12345) for _ in range(10))

    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    assert sum(passed[i] for i in range(PROCESSES)) == 12345


def test_taking_and_giving_back_leaves_what_was_kept() -> None:
    shared = segment()
    limiter, quota = LimiterTable(shared), QuotaTable(shared)
    key = mix_key_py(1, 1)
    kept = Words(2 * PROCESSES)

    def work(who: int) -> None:
        dice = random.Random(who)
        for _ in range(5000):
            if limiter.take(key, NOW, HOUR, 50 * HOUR).allowed:
                if dice.random() < 0.997:
                    limiter.give_back(key, HOUR)
                else:
                    kept[2 * who] += 1
            if quota.take(key, DAY, NOON, 50).allowed:
                if dice.random() < 0.997:
                    quota.give_back(key, DAY, NOON)
                else:
                    kept[2 * who + 1] += 1

    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    rates = sum(kept[2 * i] for i in range(PROCESSES))
    quotas = sum(kept[2 * i + 1] for i in range(PROCESSES))
    assert 0 < rates <= 50
    assert 0 < quotas <= 50
    assert limiter.peek(key, NOW, HOUR, 50 * HOUR).used == rates
    assert quota.peek(key, DAY, NOON, 50).used == quotas


# ---- many keys, few cells --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "keys", "rounds"),
    [
        (2**15, 14000, 6),  # half full: the races are of two processes for one new key
        (64, 24, 1500),  # windows overlap: every insertion races with others and with reclaiming
        (16, 8, 3000),  # one window for all
    ],
)
def test_every_key_passes_exactly_its_burst(cells: int, keys: int, rounds: int) -> None:
    """Each round has keys of its own; the cells of the round before are reclaimed for them."""
    limiter = LimiterTable(segment(limiter_cells=cells))
    passed = [Words(keys) for _ in range(PROCESSES)]
    barrier = Barrier(PROCESSES)
    wrong = Words(PROCESSES)
    burst = 3

    def work(who: int) -> None:
        dice = random.Random(who)
        for turn in barrier.turns(who, rounds):
            order = [mix_key_py(k, turn) for k in range(keys)]
            now = NOW + turn * 10 * SECOND
            # All the same order, so that they race for each key; or from another start.
            shift = dice.randrange(keys) if turn % 2 else 0
            taken = array("Q", order[shift:] + order[:shift])
            noted = array("Q", bytes(8 * keys))
            # Together: what comes before took each its own time.
            between.wait(who, 2 * turn)
            for _ in range(burst):
                limiter.take_all(taken, now, SECOND, burst * SECOND, noted)
            for k in range(keys):
                passed[who][k] = noted[(k - shift) % keys]
            between.wait(who, 2 * turn + 1)
            if who == 0:
                sums = [sum(words[k] for words in passed) for k in range(keys)]
                wrong[0] += sum(n != burst for n in sums)
                live = live_keys(limiter)
                wrong[1] += len(live) - len(set(live))

    between = Barrier(PROCESSES)
    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    assert barrier.last[0] > 1
    assert (wrong[0], wrong[1]) == (0, 0)
    assert limiter.full == 0


def test_every_key_s_quota_passes_exactly() -> None:
    """As above with quotas: minutes go by, and their cells are reclaimed."""
    keys, rounds, amount = 24, 1000, 3
    quota = QuotaTable(segment(quota_cells=64))
    passed = [Words(keys) for _ in range(PROCESSES)]
    barrier = Barrier(PROCESSES)

    def work(who: int) -> None:
        for turn in barrier.turns(who, rounds):
            taken = array("Q", [mix_key_py(k, turn) for k in range(keys)])
            for _ in range(amount):
                # The next minute but one: a worker a round behind still has its own.
                quota.take_all(taken, MINUTE, NOON + turn * 120, amount, passed[who].view)

    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    turns = barrier.last[0]
    assert turns > 1
    assert quota.full == 0
    assert [sum(words[k] for words in passed) for k in range(keys)] == [amount * turns] * keys
    keys_now = [key for key, period, _, _ in quota.cells() if period == MINUTE]
    assert len(keys_now) == len(set(keys_now))


# ---- killed anywhere -------------------------------------------------------------------------


def test_a_kill_loses_at_most_the_request_it_hit() -> None:
    """Passes noted by the dead and the living: the limit, less at most one for each kill."""
    shared = segment(limiter_cells=64, quota_cells=64)
    limiter, quota = LimiterTable(shared), QuotaTable(shared)
    keys = 24
    burst = 2000
    order = array("Q", [mix_key_py(k, 77) for k in range(keys)])
    notes = [(Words(keys), Words(keys)) for _ in range(40)]
    dice = random.Random(1)

    def work(number: int) -> None:
        rates, quotas = notes[number]
        while True:
            a = limiter.take_all(order, NOW, HOUR, burst * HOUR, rates.view)
            b = quota.take_all(order, DAY, NOON, burst, quotas.view)
            if a + b == 0:
                return

    kills = 0
    pids = {fork(partial(work, n)): n for n in range(PROCESSES)}
    for number in range(PROCESSES, len(notes)):
        spin_until = time.monotonic_ns() + dice.randrange(10**6)
        while time.monotonic_ns() < spin_until:
            pass
        victim = dice.choice(list(pids))
        os.kill(victim, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) != 0
        del pids[victim]
        pids[fork(partial(work, number))] = number
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert kills > 0
    for which in range(2):
        lost = [burst - sum(pair[which][k] for pair in notes) for k in range(keys)]
        assert min(lost) >= 0
        assert sum(lost) <= kills
    assert (limiter.full, quota.full) == (0, 0)
    live = live_keys(limiter)
    assert len(live) == len(set(live)) == keys
    assert not any(limiter.take(key, NOW, HOUR, burst * HOUR).allowed for key in order)
    assert not any(quota.take(key, DAY, NOON, burst).allowed for key in order)


def test_keys_survive_kills_while_cells_change_hands() -> None:
    """Processes are killed while they claim and reclaim; then each new key has its whole burst."""
    limiter = LimiterTable(segment(limiter_cells=16))
    dice = random.Random(2)
    turns = Words(1)

    def work(seed: int) -> None:
        own = random.Random(seed)
        for step in count():
            now = NOW + turns[0] * 10 * SECOND
            keys = array("Q", [mix_key_py(own.randrange(6), step % 50) for _ in range(50)])
            limiter.take_all(keys, now, SECOND, 2 * SECOND)

    for turn in range(1, 60):
        pids = [fork(partial(work, turn * 10 + i)) for i in range(3)]
        spin_until = time.monotonic_ns() + 10**6 + dice.randrange(3 * 10**6)
        while time.monotonic_ns() < spin_until:
            turns[0] += 1
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        live = live_keys(limiter)
        assert len(live) == len(set(live))
        turns[0] += 10
        later = NOW + turns[0] * 10 * SECOND
        turns[0] += 10
        full = limiter.full
        for key in range(10):
            fresh = mix_key_py(key, 10**6 + turn)
            taken = [limiter.take(fresh, later, SECOND, 3 * SECOND).allowed for _ in range(5)]
            assert taken == [True, True, True, False, False]
        assert limiter.full == full


# ---- concurrency -----------------------------------------------------------------------------


def test_a_limit_of_one_is_mutual_exclusion() -> None:
    """Additions that are not atomic lose nothing: no two were inside at once."""
    shared = segment()
    words = Words(PROCESSES + 1)
    total = PROCESSES
    start = Barrier(PROCESSES)

    def work(who: int) -> None:
        table = Concurrency(shared, who)
        start.wait(who, 1)
        while words[who] < 3000:
            entered, running_now = table.enter(5, 1)
            if entered:
                assert running_now == 1
                words[total] += 1
                words[who] += 1
                table.leave(5)
            elif words[who] % 64 == 0:
                os.sched_yield()

    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    assert words[total] == sum(words[i] for i in range(PROCESSES)) == PROCESSES * 3000
    assert Concurrency(shared, 0).count(5) == 0


def test_rivals_for_the_last_places_do_not_all_lose() -> None:
    """Four race for two places, at key after key: two get them, and never three.

    A worker that is stopped in the very moment of deciding may cost the others a place, hence
    the few keys that may fall short. That nothing else does is shown, for all orders of events,
    by tests/core/test_concurrency_protocol.py.
    """
    shared = segment()
    barrier = Barrier(PROCESSES)
    keys = 2000
    entered = [Words(keys) for _ in range(PROCESSES)]
    seen = Words(3)  # keys, keys that fell short, keys with too many

    def work(who: int) -> None:
        table = Concurrency(shared, who)
        for turn in barrier.turns(who, 100):
            order = array("Q", [mix_key_py(k, turn) for k in range(keys)])
            noted = array("Q", bytes(8 * keys))
            between.wait(who, 3 * turn)
            table.enter_all(order, 2, noted)
            for k in range(keys):
                entered[who][k] = noted[k]
            between.wait(who, 3 * turn + 1)
            if who == 0:
                sums = [sum(words[k] for words in entered) for k in range(keys)]
                seen[0] += keys
                seen[1] += sum(n < 2 for n in sums)
                seen[2] += sum(n > 2 for n in sums)
            between.wait(who, 3 * turn + 2)
            for key, did in zip(order, noted, strict=True):
                if did:
                    table.leave(key)
            assert table.rows == 0

    between = Barrier(PROCESSES)
    with running(*(partial(work, who) for who in range(PROCESSES))):
        pass
    assert seen[2] == 0
    assert seen[1] <= seen[0] // 1000


def test_never_more_in_flight_than_the_limit_also_under_kills() -> None:
    """An observer takes consistent pictures of who is inside, while workers are killed.

    Each worker's word is version << 8 | inside, changed only by it. A picture in which no word
    changed between two readings is one of a single moment.
    """
    limit = 5
    key = mix_key_py(9, 9)
    shared = segment()
    words = Words(PROCESSES)
    stop = Words(1)
    pictures = Words(2)  # how many, most seen inside

    def work(who: int, seed: int) -> None:
        table = Concurrency(shared, who)
        dice = random.Random(seed)
        inside = 0
        version = words[who] >> 8
        while not stop[0] or inside:
            version += 1
            if not stop[0] and dice.random() < 0.6:
                if table.enter(key, limit)[0]:
                    inside += 1
                    words[who] = version << 8 | inside
            elif inside:
                inside -= 1
                words[who] = version << 8 | inside
                table.leave(key)

    def observe() -> None:
        while not stop[0]:
            first = [words[i] for i in range(PROCESSES)]
            if first == [words[i] for i in range(PROCESSES)]:
                pictures[0] += 1
                pictures[1] = max(pictures[1], sum(word & 255 for word in first))

    dice = random.Random(3)
    watcher = fork(observe)
    pids = [fork(partial(work, who, who)) for who in range(PROCESSES)]
    for kill in range(60):
        spin_until = time.monotonic_ns() + dice.randrange(4 * 10**6)
        while time.monotonic_ns() < spin_until:
            os.sched_yield()
        victim = dice.randrange(PROCESSES)
        os.kill(pids[victim], signal.SIGKILL)
        os.waitpid(pids[victim], 0)
        # Dead: what it had inside is gone, and then its counts are dropped, as supervisors do.
        words[victim] = (words[victim] >> 8) + 1 << 8
        shared.worker_stopped(victim)
        pids[victim] = fork(partial(work, victim, 100 + kill))
    while pictures[0] < 1000:
        os.sched_yield()
    stop[0] = 1
    for pid in [*pids, watcher]:
        assert os.waitpid(pid, 0)[1] == 0
    assert 0 < pictures[1] <= limit
    assert Concurrency(shared, 0).count(key) == 0
    assert [Concurrency(shared, i).rows for i in range(PROCESSES)] == [0] * PROCESSES
    entered = [Concurrency(shared, i % PROCESSES).enter(key, limit)[0] for i in range(limit + 2)]
    assert entered == [True] * limit + [False] * 2
