"""The limiter against a token bucket in exact fractions, and at the ends of its ranges."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.shared.limiter import LimiterTable
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.cell_keys import mix_key_py
from fastgate._core.testing.limit_bench import bench_limiter

SECOND = 10**9
MINUTE = 60 * SECOND
MONTH = 31 * 86400 * SECOND
NOW = 10**15
KEY = mix_key_py(1, 1)


def table(cells: int = 64) -> LimiterTable:
    return LimiterTable(Segment.create(1, limiter_cells=cells, quota_cells=16, targets=1))


class Bucket:
    """A token bucket as the books have it. Exact."""

    def __init__(self, interval: int, burst: int, now: int) -> None:
        self.interval = interval
        self.burst = burst
        self.tokens = Fraction(burst)
        self.now = now

    def refill(self, now: int) -> None:
        self.tokens = min(
            Fraction(self.burst), self.tokens + Fraction(now - self.now, self.interval)
        )
        self.now = now

    def take(self, now: int, cost: int) -> bool:
        self.refill(now)
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def give_back(self, now: int, cost: int) -> None:
        self.refill(now)
        self.tokens = min(Fraction(self.burst), self.tokens + cost)

    def remaining(self) -> int:
        return int(self.tokens)

    def reset_s(self) -> int:
        return ceil((self.burst - self.tokens) * self.interval / SECOND)

    def retry_s(self, cost: int) -> int:
        if cost > self.burst:
            return max(1, self.reset_s())
        return max(1, ceil((cost - self.tokens) * self.interval / SECOND))


intervals = st.one_of(st.integers(1, 1000), st.integers(1, 10 * MINUTE), st.integers(1, MONTH))
steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "give back", "peek"]),
        st.fractions(0, 3),  # of the interval
        st.integers(0, 6),
    ),
    max_size=60,
)


@given(intervals, st.integers(1, 12), steps)
@settings(max_examples=400)
def test_it_is_a_token_bucket(
    interval: int, burst: int, history: list[tuple[str, Fraction, int]]
) -> None:
    limiter = table(16)
    now = NOW
    bucket = Bucket(interval, burst, now)
    tolerance = interval * burst
    for what, wait, cost in history:
        now += int(wait * interval)
        if what == "give back":
            # What was not taken cannot be given back.
            cost = min(cost, int(burst - bucket.tokens))
            bucket.give_back(now, cost)
            limiter.give_back(KEY, interval, cost)
        elif what == "take":
            allowed = bucket.take(now, cost)
            seen = limiter.take(KEY, now, interval, tolerance, cost)
            assert seen.allowed == allowed
            assert seen.retry_s == (0 if allowed else bucket.retry_s(cost))
            assert seen.remaining == bucket.remaining()
            assert seen.used == burst - bucket.remaining()
            assert seen.reset_s == bucket.reset_s()
        bucket.refill(now)
        look = limiter.peek(KEY, now, interval, tolerance)
        assert (look.remaining, look.reset_s) == (bucket.remaining(), bucket.reset_s())
        assert look.allowed == (bucket.tokens >= 1)
        assert look.retry_s == (0 if look.allowed else bucket.retry_s(1))


@given(intervals, st.integers(1, 20), st.integers(1, 20), st.integers(0, 10**9))
def test_waiting_for_retry_after_is_enough_and_less_is_not(
    interval: int, burst: int, cost: int, pause: int
) -> None:
    cost = min(cost, burst)
    tolerance = interval * burst
    limiter = table(16)
    assert limiter.take(KEY, NOW, interval, tolerance, burst).allowed
    now = NOW + pause
    refused = limiter.take(KEY, now, interval, tolerance, cost)
    if refused.allowed:
        assert pause >= cost * interval
        return
    if refused.retry_s > 1:
        early = now + (refused.retry_s - 1) * SECOND
        assert not limiter.take(KEY, early, interval, tolerance, cost).allowed
    assert limiter.take(KEY, now + refused.retry_s * SECOND, interval, tolerance, cost).allowed


@given(st.integers(1, 50), st.integers(1, 10), st.data())
@settings(max_examples=50)
def test_keys_do_not_touch_one_another(keys: int, burst: int, data: st.DataObject) -> None:
    limiter = table(1024)
    order = data.draw(st.lists(st.integers(0, keys - 1), max_size=200))
    buckets = {k: Bucket(SECOND, burst, NOW) for k in range(keys)}
    for moment, k in enumerate(order):
        now = NOW + moment * SECOND // 7
        seen = limiter.take(mix_key_py(k, 3), now, SECOND, burst * SECOND)
        assert seen.allowed == buckets[k].take(now, 1)
    assert limiter.full == 0


# ---- the ends of the ranges ---------------------------------------------------------------------


@pytest.mark.parametrize("burst", [1, 3, 1700])
def test_one_a_month(burst: int) -> None:
    limiter = table()
    tolerance = MONTH * burst
    for n in range(burst):
        assert limiter.take(KEY, NOW, MONTH, tolerance).remaining == burst - n - 1
    refused = limiter.take(KEY, NOW, MONTH, tolerance)
    assert (refused.allowed, refused.retry_s) == (False, 31 * 86400)
    assert refused.reset_s == burst * 31 * 86400
    assert not limiter.take(KEY, NOW + MONTH - 1, MONTH, tolerance).allowed
    assert limiter.take(KEY, NOW + MONTH, MONTH, tolerance).allowed


def test_a_thousand_million_a_second() -> None:
    limiter = table()
    assert limiter.take(KEY, NOW, 1, 10**9, 10**9).remaining == 0
    assert limiter.take(KEY, NOW, 1, 10**9).retry_s == 1
    assert limiter.take(KEY, NOW + 5, 1, 10**9, 5).allowed
    assert not limiter.take(KEY, NOW + 5, 1, 10**9).allowed


@given(
    st.integers(0, 2**61),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**64 - 1), max_size=6),
)
def test_no_numbers_overflow(now: int, interval: int, tolerance: int, costs: list[int]) -> None:
    limiter = table(16)
    interval = min(interval, 2**62)
    capped = min(tolerance, 2**62)
    bucket = capped
    for cost in costs:
        seen = limiter.take(KEY, now, interval, tolerance, cost)
        charge = cost * max(interval, 1)
        assert seen.allowed == (charge <= bucket)
        if seen.allowed:
            bucket -= charge
        assert seen.remaining == bucket // max(interval, 1)
        assert (seen.retry_s > 0) == (not seen.allowed)


def test_more_than_the_burst_is_never_had() -> None:
    limiter = table()
    assert not limiter.take(KEY, NOW, SECOND, 3 * SECOND, 4).allowed
    assert limiter.take(KEY, NOW, SECOND, 3 * SECOND, 3).allowed
    assert limiter.take(KEY, NOW, SECOND, 3 * SECOND, 4).retry_s == 3


def test_a_clock_that_is_behind_gains_nothing() -> None:
    """Workers read the clock once a round: theirs differ by up to a round."""
    limiter = table()
    interval, burst = 10**6, 5
    taken = sum(
        limiter.take(KEY, NOW - (n % 3) * 10**5, interval, interval * burst).allowed
        for n in range(50)
    )
    assert taken == burst
    assert not limiter.take(KEY, NOW - 3 * interval, interval, interval * burst).allowed
    assert limiter.peek(KEY, NOW, interval, interval * burst).used == burst
    assert limiter.take(KEY, NOW + interval, interval, interval * burst).allowed
    assert not limiter.take(KEY, NOW, interval, interval * burst).allowed


# ---- rates that change -----------------------------------------------------------------------


def test_a_raised_rate_takes_effect_at_once() -> None:
    limiter = table()
    for _ in range(10):
        assert limiter.take(KEY, NOW, MINUTE // 10, MINUTE).allowed
    assert not limiter.take(KEY, NOW, MINUTE // 10, MINUTE).allowed
    # 10 a minute were used up. 20 a minute now: 10 are left of them (the last within 0.05 %).
    now = NOW + MINUTE // 1000
    assert sum(limiter.take(KEY, now, MINUTE // 20, MINUTE).allowed for _ in range(20)) == 10
    refused = limiter.take(KEY, now, MINUTE // 20, MINUTE)
    assert refused.retry_s <= 3


def test_a_refusal_under_the_new_rate_is_enough_to_refill_by_it() -> None:
    limiter = table()
    for _ in range(5):
        limiter.take(KEY, NOW, MINUTE, 5 * MINUTE)
    tick = SECOND // 100
    assert not limiter.take(KEY, NOW, tick, 5 * tick).allowed
    assert limiter.take(KEY, NOW + tick + tick // 100, tick, 5 * tick).allowed


def test_a_raised_burst_takes_effect_at_once() -> None:
    limiter = table()
    for _ in range(5):
        limiter.take(KEY, NOW, SECOND, 5 * SECOND)
    assert not limiter.take(KEY, NOW, SECOND, 5 * SECOND).allowed
    assert limiter.take(KEY, NOW, SECOND, 50 * SECOND).remaining == 44


def test_a_lowered_burst_does_not_wait_for_the_old_debt() -> None:
    limiter = table()
    limiter.take(KEY, NOW, SECOND, 1000 * SECOND, 1000)
    refused = limiter.take(KEY, NOW, SECOND, 10 * SECOND)
    assert (refused.allowed, refused.remaining, refused.retry_s) == (False, 0, 1)
    assert limiter.take(KEY, NOW + SECOND, SECOND, 10 * SECOND).allowed
    assert limiter.peek(KEY, NOW + SECOND, SECOND, 10 * SECOND).reset_s == 10


@given(
    st.lists(st.tuples(st.integers(1, MONTH), st.integers(1, 1000)), min_size=2, max_size=5),
    st.integers(0, 1000),
)
def test_what_was_used_stays_used(rates: list[tuple[int, int]], used: int) -> None:
    """Through any changes of the rate, to within 0.05 % (and a nanosecond) each."""
    limiter = table(16)
    interval, burst = rates[0]
    used = min(used, burst)
    limiter.take(KEY, NOW, interval, interval * burst, used)
    for number, (interval, _) in enumerate(rates[1:], 1):
        tolerance = interval * 2000
        seen = limiter.take(KEY, NOW, interval, tolerance, 0)
        slack = used * (1.0005**number - 1) + number + 1
        assert abs(seen.used - used) <= slack
        # A take of one, given back, writes the conversion down.
        if limiter.take(KEY, NOW, interval, tolerance).allowed:
            limiter.give_back(KEY, interval)


def test_giving_back_under_another_rate_gives_the_same_tokens() -> None:
    limiter = table()
    limiter.take(KEY, NOW, 2048 * SECOND, 20480 * SECOND, 4)
    limiter.give_back(KEY, SECOND, 3)
    assert limiter.peek(KEY, NOW, 2048 * SECOND, 20480 * SECOND).used == 1


# ---- the border ------------------------------------------------------------------------------


def test_giving_back_what_is_not_there() -> None:
    limiter = table()
    limiter.give_back(KEY, SECOND, 5)
    assert limiter.take(KEY, NOW, SECOND, SECOND).allowed
    limiter.give_back(KEY, SECOND, 2**64 - 1)
    assert limiter.peek(KEY, NOW, SECOND, SECOND).remaining == 1
    assert limiter.take(KEY, NOW, SECOND, SECOND).allowed
    assert not limiter.take(KEY, NOW, SECOND, SECOND).allowed


def test_taking_many() -> None:
    from array import array

    limiter = table()
    keys = array("Q", [mix_key_py(k % 3, 0) for k in range(12)])
    passed = array("Q", bytes(8 * 12))
    assert limiter.take_all(keys, NOW, SECOND, 2 * SECOND, passed) == 6
    assert list(passed) == [1] * 6 + [0] * 6
    with pytest.raises(ValueError, match="one word"):
        limiter.take_all(keys, NOW, SECOND, SECOND, array("Q", [0]))


def test_the_benchmark_takes() -> None:
    assert bench_limiter(1000, 100) > 0
