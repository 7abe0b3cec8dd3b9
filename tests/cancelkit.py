"""Cancelling at the n-th await, for every n, with all objects kept: what a shutdown or a timeout
does to a task. And killing there, where no task goes on and no object is kept. `moneykit.Tripwire`
kills between two steps that have no await between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Canceller:
    """Cancels `task` when tasks of this loop have awaited `at` times; all of them count, since one
    that is waited for is as good a moment as any."""

    def __init__(self, at: int, *, everything: bool = False) -> None:
        """`everything`: all tasks that were made while it watched."""
        self.at = at
        self.passed = 0
        self.fired = False
        self.task: asyncio.Task[Any] | None = None
        self._everything = everything
        self.made: list[asyncio.Task[Any]] = []

    def passing(self) -> None:
        self.passed += 1
        if self.passed > self.at and not self.fired and self.task is not None:
            self.fired = True
            for task in self.made if self._everything else [self.task]:
                if not task.done():
                    asyncio.get_running_loop().call_soon(task.cancel)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
            task = asyncio.Task(_Counted(work, self), loop=loop, **more)
            self.made.append(task)
            return task

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


async def killed_at(at: int, work: Coroutine[Any, Any, object]) -> bool:
    """The same, and every task that it has made is cancelled as well: nothing goes on but what is
    in a thread, such as a transaction, which is waited for."""
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor()
    loop.set_default_executor(threads)
    canceller = Canceller(at, everything=True)
    with canceller.watching():
        canceller.task = asyncio.ensure_future(work)
        with contextlib.suppress(asyncio.CancelledError):
            await canceller.task
        await asyncio.wait(canceller.made)
    threads.shutdown()
    loop.set_default_executor(ThreadPoolExecutor())
    return canceller.fired
