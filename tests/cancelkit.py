"""Cancelling at the n-th await, for every n, with all objects kept: what a shutdown or a timeout
does to a task. Kills are modelled by `moneykit.Tripwire`, where nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Generator, Iterator
from typing import Any


class Canceller:
    """Cancels `task` when tasks of this loop have awaited `at` times; all of them count, since one
    that is waited for is as good a moment as any."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0
        self.fired = False
        self.task: asyncio.Task[Any] | None = None

    def passing(self) -> None:
        self.passed += 1
        if self.passed > self.at and not self.fired and self.task is not None:
            self.fired = True
            if not self.task.done():
                asyncio.get_running_loop().call_soon(self.task.cancel)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
            return asyncio.Task(_Counted(work, self), loop=loop, **more)

        loop.set_task_factory(factory)
        try:
            yield
        finally:
            loop.set_task_factory(before)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose awaits are counted."""

    def __init__(self, work: Any, canceller: Canceller) -> None:
        self._work, self._canceller = work, canceller

    def send(self, value: Any) -> Any:
        found = self._work.send(value)
        self._canceller.passing()
        return found

    def throw(self, *error: Any) -> Any:
        found = self._work.throw(*error)
        self._canceller.passing()
        return found

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError


async def cancelled_at(at: int, work: Coroutine[Any, Any, object]) -> bool:
    """Run it and cancel it at its `at`-th await; whether it was that long. Raises what it does."""
    canceller = Canceller(at)
    with canceller.watching():
        canceller.task = asyncio.ensure_future(work)
        with contextlib.suppress(asyncio.CancelledError):
            await canceller.task
    return canceller.fired
