"""Waiting for a descriptor, whatever its number: `select` knows none above 1,023."""

from __future__ import annotations

import select
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def readable(what: int | HasFileno, seconds: float | None) -> bool:
    """Whether it can be read within so many seconds; None: however long it takes."""
    poller = select.poll()
    poller.register(what, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))
