"""Waiting for what is looked at again and again, so that all who wait wake up together.

Waking up costs a process that has little to do more than most looks themselves: its caches are
cold, and its core has to be woken. So waits of a length end at the multiples of that length on the
loop's clock, where those of other lengths end as well:

    every 0.05 s   | . . . . | . . . . | . . . . |
    every 0.25 s   |         |         |         |
"""

from __future__ import annotations

import asyncio


async def next_tick(seconds: float) -> None:
    """Wait for the next multiple of `seconds`, 0 or more, that is at least half of it away: half of
    it to one and a half, and exactly `seconds` from one look to the next, if looks are short."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    left = seconds - asyncio.get_running_loop().time() % seconds
    await asyncio.sleep(left if left >= seconds / 2 else left + seconds)
