"""Calendar periods in a time zone: days, weeks (from Monday), months, years.

A period begins at the first instant of a local day and ends where the next begins, so periods
touch, never overlap, and are an hour shorter or longer where the clocks change. A midnight that
the clocks jump over begins at the jump; one that comes twice begins the first time.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from fastgate.model.billing import Period as PeriodKind


class Period(NamedTuple):
    """From `start` (within) to `end` (no more within); aware, UTC."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def __contains__(self, moment: object) -> bool:
        return isinstance(moment, datetime) and self.start <= moment < self.end


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _first(day: date, kind: PeriodKind) -> date:
    if kind == "day":
        return day
    if kind == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if kind == "month" else day.replace(month=1, day=1)


def _following(first: date, kind: PeriodKind) -> date:
    if kind == "day":
        return first + timedelta(days=1)
    if kind == "week":
        return first + timedelta(days=7)
    if kind == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first.replace(year=first.year + 1)


def period_of(moment: datetime, kind: PeriodKind, zone: ZoneInfo) -> Period:
    """The period that an aware moment is in."""
    first = _first(moment.astimezone(zone).date(), kind)
    following = _following(first, kind)
    return Period(midnight(first, zone), midnight(following, zone))


def next_period(period: Period, kind: PeriodKind, zone: ZoneInfo) -> Period:
    """The one that begins where `period` ends."""
    return period_of(period.end, kind, zone)
