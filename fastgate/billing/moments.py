"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(at: datetime) -> str:
    """With its zone, to the minute, or the second where that matters: 30 November 2026, 00:00 UTC.

    `at`: aware. The same words as in refusals (`put_moment` in `_core/exchange/refusal.pyx`).
    """
    utc = at.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M}{f':{utc:%S}' if utc.second else ''} UTC"


def moment_of(unix: int) -> str:
    """The same of Unix seconds."""
    return moment(datetime.fromtimestamp(unix, UTC))


def day(at: datetime) -> str:
    """30 November 2026."""
    utc = at.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y}"
