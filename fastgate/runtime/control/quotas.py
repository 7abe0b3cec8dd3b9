"""Keeps quota counts across restarts of the gateway: saves each second, restores at the start.

Quotas are in the segment, which ends with the gateway. If the whole gateway is killed at once, at
most the counts of the last second are lost; a graceful end loses nothing.
"""

from __future__ import annotations

import asyncio
import logging

from fastgate._core.shared.clock import HOLD_SECONDS, held_seconds
from fastgate._core.shared.quota import export_quotas, import_quotas
from fastgate._core.shared.segment import Segment
from fastgate.errors import FastGateError
from fastgate.runtime.persist import StateDirectory, StateError
from fastgate.ticks import next_tick

log = logging.getLogger("fastgate.control")

FILE = "quotas.bin"
EVERY_S = 1.0


class QuotaSaver:
    """Saves and restores the quota cells of a segment."""

    def __init__(self, segment: Segment, state: StateDirectory) -> None:
        self._segment = segment
        self._state = state
        self._saved = b""
        self._failing = False
        self._held = 0

    def restore(self) -> None:
        """Restore the saved counts; a damaged file is renamed, with a log message."""
        try:
            data = self._state.read(FILE)
            if data is not None:
                import_quotas(self._segment, data)
        except StateError as error:
            log.error("%s; quotas count from zero", error)
        except (FastGateError, ValueError) as error:
            kept = self._state.set_aside(FILE)
            log.error("%s (kept as %s); quotas count from zero", error, kept)

    async def run(self) -> None:
        """Save changes every second, until cancelled."""
        while True:
            await next_tick(EVERY_S)
            self._warn_of_jumps()
            data = export_quotas(self._segment)
            if data != self._saved:
                await asyncio.to_thread(self._write, data)

    def _warn_of_jumps(self) -> None:
        held = held_seconds(self._segment)
        if held and not self._held:
            log.warning(
                "the system's clock jumped by %+d s; quotas and spending limits use the time "
                "from before it, unless it stays so for %d s",
                held,
                HOLD_SECONDS,
            )
        self._held = held

    def save(self) -> None:
        """Save now. Called at the end, when the workers have ended."""
        data = export_quotas(self._segment)
        if data != self._saved:
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            self._state.write(FILE, data)
        except StateError as error:
            if not self._failing:  # once, not every second
                log.error("%s; quotas would not survive a restart now", error)
            self._failing = True
        else:
            self._saved, self._failing = data, False
