"""Changes that happen one at a time, and wholly.

A change is often several steps with an await between them: a commit, then what lies in memory and
follows from it. A caller may be cancelled at any of these awaits, by a shutdown, a timeout, a
client that leaves. So a change runs in a task of its own: the caller stops waiting, the change
goes on, and the next one waits for it. Only the death of the process ends it half-way, which is
what the kill tests model.
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
    """Runs changes. Used on one event loop."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Held by the running change; readers may take it too."""
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, change: Callable[[], Awaitable[T]]) -> T:
        """Run a change to its end, also when the caller is cancelled. Raises what it raises."""

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
        """Whether a change is running, or waits for its turn."""
        return bool(self._running)

    async def idle(self) -> None:
        """Return when no change is running."""
        while self._running:
            await asyncio.wait(set(self._running))


class Changing(Protocol):
    """What has methods that are changes."""

    changes: Serial


Self = TypeVar("Self", bound=Changing)


def whole(
    method: Callable[Concatenate[Self, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, T]]:
    """A method that is a change, run by its object's `changes`. None calls another that is one."""

    @wraps(method)
    async def run(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.changes.run(lambda: method(self, *args, **kwargs))

    return run


def _note_error(task: asyncio.Task[Any]) -> None:
    """The caller has gone and will not ask how it ended."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("A change failed after its caller had stopped waiting: %s", error)
