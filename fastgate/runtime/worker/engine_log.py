"""What an engine has counted, in the log: at most one line a second, however often it happens.

The engine only counts and keeps the last one; the worker looks at each heartbeat. So a flood of
them costs nothing here.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

log = logging.getLogger("fastgate.worker")

AGAIN_S = 1.0

Noted = TypeVar("Noted", bound=tuple[Any, ...])


class EngineLog(ABC, Generic[Noted]):
    """`take`: what has come since its last call, how many first; `clock`: seconds."""

    def __init__(
        self, worker: int, take: Callable[[], Noted], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._take = take
        self._clock = clock
        self._again = 0.0

    def look(self) -> None:
        """Log what has come since the last line, if that is a second old."""
        now = self._clock()
        if now < self._again:
            return
        noted = self._take()
        if noted[0]:
            self._again = now + AGAIN_S
            log.warning("worker %d: %s", self._worker, self.text(noted))

    @abstractmethod
    def text(self, noted: Noted) -> str:
        """The line."""
