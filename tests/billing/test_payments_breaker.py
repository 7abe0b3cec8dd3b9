"""The circuit breaker follows its table, whatever comes in which order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.billing.payments.base import ProviderRefused, ProviderUnavailable
from fastgate.billing.payments.breaker import (
    TRANSITIONS,
    BreakerSettings,
    CircuitBreaker,
    CircuitOpen,
    Signal,
    State,
)

START = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
TERMS = BreakerSettings(failures=3, wait=timedelta(seconds=10), longest=timedelta(seconds=40))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Bench:
    """A breaker, a provider that does as it is told, and what was noticed."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breaker = CircuitBreaker("test", self.clock, TERMS)
        self.changes: list[State] = []
        self.breaker.on_change.append(lambda _, state: self.changes.append(state))
        self.calls = 0

    async def call(self, outcome: str) -> str:
        """Make a call; "ok", "down", "refused", or "open" when it was not made."""

        async def provider() -> str:
            self.calls += 1
            if outcome == "down":
                raise ProviderUnavailable("down")
            if outcome == "refused":
                raise ProviderRefused("no")
            return "ok"

        try:
            return await self.breaker.call(provider)
        except CircuitOpen:
            return "open"
        except ProviderUnavailable:
            return "down"
        except ProviderRefused:
            return "refused"


async def test_it_opens_after_failures_in_a_row() -> None:
    bench = Bench()
    for outcome in ("down", "down", "ok", "down", "down", "refused", "down", "down"):
        await bench.call(outcome)
    assert bench.breaker.state is State.CLOSED  # never three in a row
    assert await bench.call("down") == "down"
    assert bench.breaker.state is State.OPEN
    assert bench.breaker.last_error == "down"
    before = bench.calls
    assert await bench.call("ok") == "open"
    assert bench.calls == before
    assert bench.breaker.retry_at == START + timedelta(seconds=10)


async def test_it_closes_when_a_look_succeeds() -> None:
    bench = Bench()
    for _ in range(3):
        await bench.call("down")
    bench.clock.pass_(9.9)
    assert not bench.breaker.available
    bench.clock.pass_(0.1)
    assert bench.breaker.available
    assert await bench.call("refused") == "refused"  # an answer, if not the wanted one
    assert bench.breaker.state is State.CLOSED
    assert bench.changes == [State.OPEN, State.HALF_OPEN, State.CLOSED]


async def test_each_failed_look_doubles_the_wait_up_to_the_longest() -> None:
    bench = Bench()
    for _ in range(3):
        await bench.call("down")
    for wait in (10, 20, 40, 40):
        bench.clock.pass_(wait - 0.1)
        assert await bench.call("down") == "open"
        bench.clock.pass_(0.1)
        assert await bench.call("down") == "down"
    bench.clock.pass_(40)
    assert await bench.call("ok") == "ok"
    for _ in range(3):
        await bench.call("down")
    assert bench.breaker.retry_at == bench.clock.now + timedelta(seconds=10)


async def test_one_looks_while_others_wait() -> None:
    bench = Bench()
    for _ in range(3):
        await bench.call("down")
    bench.clock.pass_(10)
    gate = asyncio.Event()

    async def slow() -> str:
        await gate.wait()
        return "ok"

    look = asyncio.create_task(bench.breaker.call(slow))
    await asyncio.sleep(0)
    assert bench.breaker.state is State.HALF_OPEN
    assert await bench.call("ok") == "open"
    bench.clock.pass_(60)  # the look hangs: someone else may
    assert await bench.call("ok") == "ok"
    assert bench.breaker.state is State.CLOSED
    gate.set()
    assert await look == "ok"


async def test_a_cancelled_look_says_nothing_and_blocks_nobody() -> None:
    bench = Bench()
    for _ in range(3):
        await bench.call("down")
    bench.clock.pass_(10)
    look = asyncio.create_task(bench.breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look
    assert bench.breaker.state is State.HALF_OPEN
    assert await bench.call("ok") == "ok"
    assert bench.breaker.state is State.CLOSED


def test_the_table_is_whole() -> None:
    timed = {(State.CLOSED, Signal.TIME), (State.HALF_OPEN, Signal.TIME)}
    every = {(state, signal) for state in State for signal in Signal}
    assert set(TRANSITIONS) == every - timed


@given(st.lists(st.one_of(st.sampled_from(["ok", "down", "refused"]), st.integers(1, 50))))
def test_against_a_naive_breaker(steps: list[str | int]) -> None:
    """Outcomes and passing seconds, one call at a time."""

    async def run() -> None:
        bench = Bench()
        row, opened_at, wait = 0, None, 10
        now = 0
        for step in steps:
            if isinstance(step, int):
                bench.clock.pass_(step)
                now += step
                continue
            said = await bench.call(step)
            if opened_at is not None and now < opened_at + wait:
                assert said == "open"
                continue
            assert said == step
            if step != "down":
                row, opened_at, wait = 0, None, 10
            elif opened_at is not None:
                opened_at, wait = now, min(wait * 2, 40)
            else:
                row += 1
                if row == 3:
                    opened_at = now
            assert (bench.breaker.state is State.OPEN) is (opened_at is not None)

    asyncio.run(run())
