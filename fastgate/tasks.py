"""Tasks that must not end unnoticed, and work that must not end early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SHORTEST_S, LONGEST_S = 0.1, 5.0  # the wait before a restart
GOOD_S = 30.0  # a run of this length resets the wait


async def keep_running(
    what: str, work: Callable[[], Awaitable[object]], log: logging.Logger
) -> None:
    """Run `work` until cancelled. Whenever it ends, log why, wait, and start it again.

    what: begins the log message, as in "the control API".
    """
    now = asyncio.get_running_loop().time
    wait, last = SHORTEST_S, ""
    while True:
        began = now()
        error: Exception | None = None
        try:
            await work()
        except Exception as caught:
            error = caught
        if now() - began >= GOOD_S:
            wait = SHORTEST_S
        reason = "it returned" if error is None else f"{type(error).__name__}: {error}"
        # The traceback only once: the same error may return every few seconds.
        trace = error if reason != last else None
        log.error("%s ended (%s); starting it again in %.1f s", what, reason, wait, exc_info=trace)
        last = reason
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_S)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a separate task, and return its result. If the caller is cancelled, even several
    times, the cancellation is raised when the task is done, and the task's result is dropped."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # asyncio reports an error that is never retrieved
    raise cancelled
