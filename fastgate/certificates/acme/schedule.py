"""When a certificate is ordered, renewed, and tried again. Pure functions over a record on disk.

    no certificate, or for other hosts, by another authority, expired      now
    renewal information (RFC 9773) suggests a window                       a time drawn within it
    otherwise                                                              two thirds of its life

- A certificate is renewed one hour after it was obtained at the earliest.
- A drawn time is kept until the window changes, over restarts too, so that many gateways (and many
  certificates of one) spread over it. It is never in the last tenth of the certificate's life.
- The authority is asked for the window again when it says so (`Retry-After`, one minute to one
  day), else after six hours; never after the certificate has expired.
- After a failure the next attempt is in one minute, then two, four, up to six hours, and never
  before the authority allows it (`Retry-After`). The count is on disk: a restart does not reset it,
  but a change of what is ordered does.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from fastgate.certificates.acme.keys import Facts

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=6)
LONGEST_RETRY_AFTER = timedelta(days=30)

RENEW_FROM, RENEW_TO = 2 / 3 - 1 / 40, 2 / 3 + 1 / 40
"""The part of its life after which a certificate is renewed; a time between the two is drawn."""
LATEST = 9 / 10
"""The latest time to renew, whatever the window is."""
LEAST_LIFE = timedelta(hours=1)
"""A certificate is not replaced earlier, whatever the window is: an authority that always answers
"now", or a wrong clock, must not lead to one order after another."""

ASK_AGAIN = timedelta(hours=6)
ASK_LEAST, ASK_MOST = timedelta(minutes=1), timedelta(days=1)


class Window(msgspec.Struct, frozen=True):
    """When the authority suggests to renew a certificate."""

    start: datetime
    end: datetime


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What is planned for one certificate, and what has failed."""

    basis: str = ""
    """What was ordered (`settings.basis_of`)."""
    fingerprint: str = ""
    """The certificate that the next five are about."""
    since: datetime | None = None
    """When it was first seen."""
    renew_at: datetime | None = None
    window: Window | None = None
    ask_at: datetime | None = None
    """When to ask for renewal information."""
    asks_failed: int = 0
    failures: int = 0
    """Failed attempts in a row."""
    retry_at: datetime | None = None
    error: str = ""
    failed_at: datetime | None = None


class Step(NamedTuple):
    """What to do next."""

    what: Literal["order", "ask"]
    at: datetime


def next_step(schedule: Schedule, facts: Facts | None, why: str, now: datetime) -> Step:
    """The next step. `why`: the reason to order now, empty if the certificate can serve on."""
    if schedule.retry_at is not None:
        return Step("order", schedule.retry_at)
    if why or facts is None or schedule.renew_at is None:
        return Step("order", now)
    if schedule.ask_at is not None and schedule.ask_at < min(schedule.renew_at, facts.not_after):
        return Step("ask", schedule.ask_at)
    since = now if schedule.since is None else schedule.since
    return Step("order", max(schedule.renew_at, since + LEAST_LIFE))


def brought_up_to_date(
    schedule: Schedule, basis: str, facts: Facts | None, now: datetime
) -> Schedule:
    """The schedule for what is configured and on disk now."""
    if schedule.basis != basis:
        schedule = msgspec.structs.replace(_without_failures(schedule), basis=basis)
    fingerprint = "" if facts is None else facts.fingerprint
    if schedule.fingerprint == fingerprint:
        return schedule
    asks = facts is not None and facts.renewal_id is not None
    return msgspec.structs.replace(
        schedule,
        fingerprint=fingerprint,
        since=None if facts is None else now,
        renew_at=None if facts is None else _drawn_from_life(facts),
        window=None,
        ask_at=now if asks else None,
        asks_failed=0,
    )


def _drawn_from_life(facts: Facts) -> datetime:
    return _at(facts, random.uniform(RENEW_FROM, RENEW_TO))


def _at(facts: Facts, part: float) -> datetime:
    """When this part of a certificate's life is over."""
    when: datetime = facts.not_before + facts.lifetime * part
    return when


# ---- renewal information ----------------------------------------------------------------


def informed(
    schedule: Schedule,
    facts: Facts,
    window: Window | None,
    retry_after: float | None,
    now: datetime,
) -> Schedule:
    """The authority has answered; None: it has no renewal information. `retry_after`: seconds."""
    wait = ASK_AGAIN if retry_after is None else _seconds(retry_after, ASK_LEAST, ASK_MOST)
    renew_at = schedule.renew_at
    if window is not None and window != schedule.window:
        drawn = window.start + (window.end - window.start) * random.random()
        renew_at = min(drawn, _at(facts, LATEST))
    return msgspec.structs.replace(
        schedule,
        renew_at=renew_at,
        window=window if window is not None else schedule.window,
        ask_at=now + wait,
        asks_failed=0,
    )


def not_informed(schedule: Schedule, retry_after: float | None, now: datetime) -> Schedule:
    """The authority could not be asked. What was planned stays."""
    failed = schedule.asks_failed + 1
    at = _retry_at(failed, retry_after, now)
    return msgspec.structs.replace(schedule, ask_at=at, asks_failed=failed)


# ---- failures ---------------------------------------------------------------------------


def failed(schedule: Schedule, error: str, retry_after: float | None, now: datetime) -> Schedule:
    """An attempt failed. `retry_after`: seconds that the authority asks to wait."""
    failures = schedule.failures + 1
    return msgspec.structs.replace(
        schedule,
        failures=failures,
        retry_at=_retry_at(failures, retry_after, now),
        error=error,
        failed_at=now,
    )


def succeeded(schedule: Schedule) -> Schedule:
    """An attempt succeeded."""
    return _without_failures(schedule)


def _without_failures(schedule: Schedule) -> Schedule:
    return msgspec.structs.replace(schedule, failures=0, retry_at=None, error="", failed_at=None)


def _retry_at(failures: int, retry_after: float | None, now: datetime) -> datetime:
    doubled: int = 1 << min(failures - 1, 20)
    wait = min(FIRST_WAIT * doubled, LONGEST_WAIT)
    if retry_after is not None:
        wait = max(wait, _seconds(retry_after, timedelta(), LONGEST_RETRY_AFTER))
    return now + wait


def _seconds(seconds: float, least: timedelta, most: timedelta) -> timedelta:
    """As a timedelta between two bounds; the number may be too large for one."""
    return max(least, timedelta(seconds=min(seconds, most.total_seconds())))
