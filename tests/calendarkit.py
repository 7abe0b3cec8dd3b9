"""A calendar whose month does not end while a test runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_ZONES = ("UTC", "Pacific/Kiritimati")  # fourteen hours ahead
_TEST = timedelta(hours=2)


def steady_zone() -> str:
    """The IANA name of a time zone in which today's month, and this day, go on for two hours more.

    A fee for the last minutes of a month is less than a coin, and a period that ends within a test
    renews its subscriptions and begins its quotas again.
    """
    now = datetime.now(UTC)
    for zone in _ZONES:
        here = now.astimezone(ZoneInfo(zone))
        if (here + _TEST).date() == here.date():
            return zone
    raise AssertionError("Two zones that are ten hours apart do not end their days together.")
