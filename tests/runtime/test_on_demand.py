"""Applications that are composed when they are first asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgate.runtime.control.on_demand import OnDemand


class World:
    """What composes, and what it composed."""

    def __init__(self) -> None:
        self.composed = 0
        self.asked: list[Any] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def compose(self) -> Any:
        self.composed += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.app

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope)


async def test_it_is_composed_once_by_the_first_request() -> None:
    world = World()
    app = OnDemand(world.compose)
    assert world.composed == 0
    await app(1, None, None)
    await app(2, None, None)
    assert (world.composed, world.asked) == (1, [1, 2])


async def test_requests_that_come_meanwhile_wait_for_the_same_one() -> None:
    world = World()
    world.go.clear()
    app = OnDemand(world.compose)
    asking = [asyncio.create_task(app(number, None, None)) for number in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()  # its client left
    await asyncio.wait({asking[0]})
    await asyncio.sleep(0)
    world.go.set()
    await asyncio.gather(*asking[1:])
    assert world.asked == [1, 2]
    assert world.composed <= 2  # by the one that left, and by one of the others


async def test_a_failure_is_raised_and_tried_again() -> None:
    world = World()
    world.error = ImportError("no such module")
    app = OnDemand(world.compose)
    with pytest.raises(ImportError):
        await app(1, None, None)
    world.error = None
    await app(2, None, None)
    assert (world.composed, world.asked) == (2, [2])
