"""Background tasks that must not end unnoticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

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
