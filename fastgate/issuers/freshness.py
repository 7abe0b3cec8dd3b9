"""When keys are fetched again: what the answer says (RFC 9111), within bounds; after errors, a
back-off.

    fresh for    max-age less Age, else Expires less Date, else an hour; 5 minutes to a day
    after errors 5 s, 10 s, 20 s … 5 min

A little less at random, so that gateways that started together do not ask together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LEAST_S, MOST_S, DEFAULT_S = 300.0, 86_400.0, 3600.0
BACKOFF_S, BACKOFF_MOST_S = 5.0, 300.0
SPREAD = 0.1
"""The share that may be taken off at random."""


def fresh_s(headers: Mapping[str, str], now: float) -> float:
    """For how many seconds an answer is fresh. headers: names in lower case. now: Unix seconds."""
    found = _said(headers, now)
    return min(max(DEFAULT_S if found is None else found, LEAST_S), MOST_S)


def _said(headers: Mapping[str, str], now: float) -> float | None:
    directives = headers.get("cache-control", "").lower()
    if re.search(r"(?:^|[\s,])(?:no-store|no-cache)(?:$|[\s,=])", directives):
        return 0.0
    age = re.search(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,10})", directives, re.A)
    if age is not None:
        passed = headers.get("age", "0").strip()
        return float(age[1]) - (float(passed) if re.fullmatch(r"\d{1,10}", passed, re.A) else 0.0)
    if "expires" in headers:
        expires = _unix(headers["expires"])
        answered = _unix(headers.get("date", ""))
        # An invalid date, such as "0", means that it has expired.
        return 0.0 if expires is None else expires - (now if answered is None else answered)
    return None


def _unix(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def spread(seconds: float) -> float:
    """A little less."""
    return seconds * (1 - SPREAD * random.random())


def backoff_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(BACKOFF_S * 2.0 ** min(failures - 1, 16), BACKOFF_MOST_S)
