"""Waiting between polls, so that all polling tasks of a process wake up together.

In an idle process, waking up costs more than most polls: its caches are cold, and its core has to
leave its sleep state. So a wait ends at a multiple of its length on the loop's clock, where waits
of other lengths end too:

    every 0.05 s   | . . . . | . . . . | . . . . |
    every 0.25 s   |         |         |         |
"""

from __future__ import annotations

import asyncio


async def next_tick(seconds: float) -> None:
    """Wait for the next multiple of `seconds` (0 or more) that is at least `seconds / 2` away. The
    wait is 0.5 to 1.5 times `seconds`; with short polls, exactly `seconds` lie between two."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    left = seconds - asyncio.get_running_loop().time() % seconds
    await asyncio.sleep(left if left >= seconds / 2 else left + seconds)
