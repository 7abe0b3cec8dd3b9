"""A circuit breaker: no calls for a while to a provider that does not answer.

```
            success                     failure, the `failures`-th in a row
   closed ───────────▶ closed      closed ───────────▶ open
   half_open ────────▶ closed      half_open ────────▶ open, for twice as long
                       time: open ──── `wait` is over ────▶ half_open, one call at a time
```

Only `ProviderUnavailable` counts as a failure. After a decline, a refusal or an invalid amount, the
provider has answered, so it is available. A cancelled call counts neither way.

Kept in memory, one for each provider in the one control process; a new process starts closed and
learns within `failures` calls. Time comes from an injected clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

import msgspec

from fastgate.billing.payments.base import Clock, ProviderUnavailable

T = TypeVar("T")


class State(StrEnum):
    CLOSED = "closed"  # calls go through
    OPEN = "open"  # no call goes through
    HALF_OPEN = "half_open"  # one trial call at a time


class Signal(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"  # one that does not reach the limit
    LIMIT = "limit"  # the failure that does
    TIME = "time"  # the wait is over


TRANSITIONS: dict[tuple[State, Signal], State] = {
    (State.CLOSED, Signal.SUCCESS): State.CLOSED,
    (State.CLOSED, Signal.FAILURE): State.CLOSED,
    (State.CLOSED, Signal.LIMIT): State.OPEN,
    (State.OPEN, Signal.TIME): State.HALF_OPEN,
    # Calls that began before it opened may end while it is open; they change nothing.
    (State.OPEN, Signal.SUCCESS): State.OPEN,
    (State.OPEN, Signal.FAILURE): State.OPEN,
    (State.OPEN, Signal.LIMIT): State.OPEN,
    (State.HALF_OPEN, Signal.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Signal.FAILURE): State.OPEN,
    (State.HALF_OPEN, Signal.LIMIT): State.OPEN,
}
"""The transitions; nothing else changes a state."""


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When it opens, and for how long."""

    failures: int = 5
    """In a row, 1 or more."""
    wait: timedelta = timedelta(seconds=10)
    longest: timedelta = timedelta(minutes=5)
    """The wait doubles after each failed trial call, up to this."""
    probe: timedelta = timedelta(seconds=60)
    """After this time, a trial call that has not ended no longer blocks another one."""


DEFAULT = BreakerSettings()


class CircuitOpen(ProviderUnavailable):
    """The call was not made, because the provider has not been answering."""

    def __init__(self, name: str, retry_at: datetime) -> None:
        super().__init__(
            f"The payment provider {name!r} has not been answering; the next try is at "
            f"{retry_at:%H:%M:%S} UTC.",
            sent=False,
        )
        self.retry_at = retry_at


Listener = Callable[[str, State], None]


class CircuitBreaker:
    """One provider's breaker. Used on one event loop."""

    def __init__(self, name: str, clock: Clock, terms: BreakerSettings = DEFAULT) -> None:
        self.name = name
        self.terms = terms
        self.state = State.CLOSED
        self.failures = 0
        """In a row."""
        self.since = clock()
        """When the state was entered."""
        self.last_error = ""
        self.on_change: list[Listener] = []
        self._clock = clock
        self._wait = terms.wait
        self._probe: datetime | None = None

    @property
    def retry_at(self) -> datetime | None:
        """When an open breaker lets a call through; None if it is not open."""
        return self.since + self._wait if self.state is State.OPEN else None

    @property
    def available(self) -> bool:
        """Whether a call would be let through now. Changes nothing."""
        now = self._clock()
        if self.state is State.OPEN:
            return now >= self.since + self._wait
        if self.state is State.HALF_OPEN:
            return self._probe is None or now >= self._probe + self.terms.probe
        return True

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Make the call if the breaker allows it. Raises CircuitOpen, and what the call raises."""
        started = self._enter()
        try:
            result = await function()
        except ProviderUnavailable as error:
            self.last_error = str(error)
            self._leave(started)
            self._signal(
                Signal.LIMIT if self.failures + 1 >= self.terms.failures else Signal.FAILURE
            )
            raise
        except Exception:
            self._leave(started)
            self._signal(Signal.SUCCESS)
            raise
        except BaseException:  # cancelled: no result
            self._leave(started)
            raise
        self._leave(started)
        self._signal(Signal.SUCCESS)
        return result

    def _enter(self) -> datetime | None:
        """Let a call begin. When it began, if it is a trial call."""
        now = self._clock()
        if not self.available:
            raise CircuitOpen(self.name, self.retry_at or now + self.terms.probe)
        if self.state is State.OPEN:
            self._signal(Signal.TIME)
        if self.state is State.HALF_OPEN:
            self._probe = now
            return now
        return None

    def _leave(self, started: datetime | None) -> None:
        if started is not None and self._probe == started:
            self._probe = None

    def _signal(self, signal: Signal) -> None:
        before, after = self.state, TRANSITIONS[self.state, signal]
        if signal is Signal.SUCCESS:
            if before is not State.OPEN:
                self.failures = 0
        elif signal is not Signal.TIME:
            self.failures += 1
        if after is before:
            return
        if after is State.CLOSED:
            self._wait = self.terms.wait
            self.last_error = ""
        elif before is State.HALF_OPEN:
            self._wait = min(self._wait * 2, self.terms.longest)
        self.state = after
        self.since = self._clock()
        for listener in self.on_change:
            listener(self.name, after)
