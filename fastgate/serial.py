"""Runs changes one at a time, each to its end.

A change is often several steps with an await between them: a commit, then the update of what memory
has of it. The caller may be cancelled at any of these awaits, by a shutdown, a timeout or a client
that leaves. So a change runs in its own task: the caller stops waiting, the change continues, and
the next one waits for it. Only the death of the process can interrupt it, which is what the kill
tests model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

log = logging.getLogger("fastgate")


class Serial:
    """Runs changes one at a time. Used on one event loop."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Held by the running change; readers may take it too."""
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, change: Callable[[], Awaitable[T]]) -> T:
        """Run a change to its end, even if the caller is cancelled. Raises what it raises."""

        async def locked() -> T:
            async with self.lock:
                return await change()

        task = asyncio.ensure_future(locked())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_note_error)
            raise

    @property
    def running(self) -> bool:
        """Whether a change is running or waiting for its turn."""
        return bool(self._running)

    async def idle(self) -> None:
        """Return when no change is running."""
        while self._running:
            await asyncio.wait(set(self._running))


class Changing(Protocol):
    """An object with methods that are changes."""

    changes: Serial


Self = TypeVar("Self", bound=Changing)


def serialized(
    method: Callable[Concatenate[Self, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, T]]:
    """Decorates a method that is a change: `changes` runs it. It must not call another one."""

    @wraps(method)
    async def run(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.changes.run(lambda: method(self, *args, **kwargs))

    return run


def _note_error(task: asyncio.Task[Any]) -> None:
    """Log the error of a change whose caller has stopped waiting."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("A change failed after its caller had stopped waiting: %s", error)
