"""The supervisor's children: their places and heartbeats."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from fastgate.runtime.supervisor.process import Backoff
from fastgate.runtime.wire.heartbeat import AWAY_S
from fastgate.runtime.wire.plan import SharedSegment

log = logging.getLogger("fastgate.supervisor")

LOOK_S = 1.0  # between two looks
SLEPT_S = 10.0  # between two checks: the whole gateway was stopped


@dataclass(slots=True)
class Child:
    """A place for a child process, filled or waiting for the next one."""

    name: str
    pid: int = 0  # 0: none now
    started: float = 0.0
    due: float = 0.0  # when the next one starts, if none is running
    killed: bool = False  # by us, for not answering
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(slots=True)
class WorkerPlace(Child):
    index: int = 0
    control_end: socket.socket | None = None  # of its channel, kept for the next control process
    stalled: bool = False  # it has no heartbeat, which was logged
    # Clients wait, so a child is replaced at once, unless it repeatedly dies right after its start.
    backoff: Backoff = field(default_factory=partial(Backoff, free=5, good=5.0, longest=2.0))


class Watchdog:
    """Logs stalled workers, and kills children without a heartbeat for `patience` seconds.

    patience: 0 means forever.
    """

    def __init__(
        self,
        control: Child,
        workers: Sequence[WorkerPlace],
        segment: SharedSegment,
        patience: float,
    ) -> None:
        self._control = control
        self._workers = workers
        self._segment = segment
        self._patience = patience
        self._looked = self._awake_since = time.monotonic()

    def look(self, heard: float | None) -> None:
        """Check all; called periodically. heard: when control last sent a message."""
        patience = self._patience
        if not patience:
            return
        now = time.monotonic()
        if now - self._looked > SLEPT_S:
            self._awake_since = now  # the whole gateway was stopped, so there were no heartbeats
        self._looked = now
        awake = now - self._awake_since
        for place in self._workers:
            age = self._segment.heartbeat_age(place.index) if place.pid else None
            self._note_stall(place, age or 0.0)
            if age is not None and min(age, awake) > patience:
                self._kill_as_hung(place, age)
        if heard is not None and min(now - heard, awake) > patience:
            self._kill_as_hung(self._control, now - heard)

    def _note_stall(self, place: WorkerPlace, age: float) -> None:
        if place.stalled == (age > AWAY_S):
            return
        place.stalled = not place.stalled
        if place.stalled:
            others = "; other workers accept its connections" if len(self._workers) > 1 else ""
            log.warning(
                "%s (pid %d) has had no heartbeat for %.1f s%s; it is killed after %.0f s",
                *(place.name, place.pid, age, others, self._patience),
            )
        elif place.pid:
            log.info("%s (pid %d) has a heartbeat again", place.name, place.pid)

    def _kill_as_hung(self, child: Child, age: float) -> None:
        if not child.killed:
            log.error("%s has had no heartbeat for %.0f s: killing it", child.name, age)
            child.killed = True
            send_signal(child.pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    """Send a signal, if the process exists."""
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
