"""The time, and waiting for it. Tests give the service another clock."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Protocol

LOOK_S = 600.0
"""The longest wait between two looks at the clock, which may be set, or stand still in a machine
that sleeps."""


class Clock(Protocol):
    """A clock that can wait."""

    def now(self) -> datetime:
        """The time now: aware, UTC."""

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        """Return when the event is set, or at a time; None: wait for the event alone."""


class SystemClock:
    """The clock of the system."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        while not event.is_set():
            left = LOOK_S
            if until is not None:
                left = min(left, (until - self.now()).total_seconds())
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await event.wait()
