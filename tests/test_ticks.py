"""Waits end at multiples of their length."""

from __future__ import annotations

import asyncio

import pytest

from fastgate import ticks
from fastgate.ticks import next_tick


@pytest.mark.parametrize(
    ("now", "seconds", "waits"),
    [
        (100.0, 0.25, 0.25),
        (100.1, 0.25, 0.15),
        (100.125, 0.25, 0.125),
        (100.126, 0.25, 0.374),  # the next one is too near
        (100.249, 0.25, 0.251),
        (107.0, 10.0, 13.0),
        (100.3, 0.0, 0.0),
        (100.3, -1.0, 0.0),
    ],
)
def test_the_wait_ends_at_a_multiple(
    monkeypatch: pytest.MonkeyPatch, now: float, seconds: float, waits: float
) -> None:
    waited: list[float] = []

    async def sleep(delay: float) -> None:
        waited.append(delay)

    async def main() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        monkeypatch.setattr(ticks.asyncio, "sleep", sleep)
        await next_tick(seconds)
        monkeypatch.undo()

    asyncio.run(main())
    assert waited == [pytest.approx(waits)]
