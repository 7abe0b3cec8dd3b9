"""What all keepers of certificates share."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from fastgate.certificates.acme.challenges import Shown
from fastgate.certificates.acme.clock import Clock
from fastgate.certificates.acme.events import Events
from fastgate.certificates.acme.problems import Result
from fastgate.certificates.acme.storage import Storage


class Common(NamedTuple):
    """What all keepers share."""

    storage: Storage
    shown: Shown
    events: Events
    clock: Clock
    places: asyncio.Semaphore
    """For attempts at the same time."""
    orders: Counter[Result]
    """Attempts, by result."""
