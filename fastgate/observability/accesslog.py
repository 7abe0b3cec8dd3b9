"""The access log: drains the workers' rings and writes the records as lines.

It runs in the control process. `run` checks for records every 50 ms, or as often as the rings fill
(a few reads of shared memory). If there are any, a separate thread does the work: rendering and
writing happen in C without the GIL, so they do not delay the event loop and the control API. The
same pass keeps the newest records in `recent` for `fastgate explain`.

No error here stops the gateway: while the destination cannot be written, lines are counted as lost
and the rings are still emptied. The error is logged once, and so is its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.shared.segment import Segment
from fastgate.ticks import next_tick

Format = Literal["json", "combined"]

INTERVAL_S = 0.05  # between two looks at the rings, while they fill slowly
HURRY_S = 0.005  # and the minimum, however fast the rings fill
FILE_MODE = 0o640

log = logging.getLogger("fastgate.accesslog")


class Destination:
    """The sink for a destination: "off", "stdout", "stderr", or a file's path to append to.

    Raises OSError if the file cannot be opened.
    """

    def __init__(self, to: str, format: Format, *, phases: bool = False) -> None:
        self.to = to
        self.wanted = (to, format, phases)
        self.format: str = "none" if to == "off" else format
        self.phases = phases
        self.is_file = to not in ("off", "stdout", "stderr")
        self.fd = {"off": -1, "stdout": 1, "stderr": 2}.get(to, -1)
        if self.is_file:
            self.fd = _open(to)

    def reopen(self) -> None:
        """Reopen a file's path. The old file is closed only if that succeeds."""
        if self.is_file:
            fd = _open(self.to)
            os.close(self.fd)
            self.fd = fd

    def close(self) -> None:
        if self.is_file and self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class AccessLog:
    """The one consumer of a segment's log rings.

    `to`, `format` and `phases` as in the configuration's `observability.access_log`; `recent` keeps
    records even if the log itself is off. Raises OSError if the file cannot be opened.

    Counted since its creation: `taken` records, `lost` lines, `errors` of writing or opening,
    `damaged` records, which were skipped.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        to: str = "off",
        format: Format = "json",
        phases: bool = False,
        recent: RecentRequests | None = None,
    ) -> None:
        self.segment = segment
        self.recent = recent
        self.taken = 0
        self.lost = 0
        self.errors = 0
        self._damaged = 0
        self._failing = False
        self._cut = False
        self._reopen = threading.Event()
        self._lock = threading.Lock()  # held while draining: a ring has one consumer
        self._switch = threading.Lock()  # held while the destination changes
        self._use(Destination(to, format, phases=phases))
        self._next: Destination | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="access-log")

    @property
    def damaged(self) -> int:
        return self._damaged + self._drain.damaged

    @property
    def pending(self) -> int:
        """The number of records that are waiting in the rings."""
        return self._drain.pending()

    def _use(self, destination: Destination) -> None:
        self._destination = destination
        self._drain = LogDrain(
            self.segment,
            format=destination.format,
            phases=destination.phases,
            recent=self.recent,
        )

    # ---- from the event loop ----------------------------------------------------------------

    def configure(self, to: str, format: Format, *, phases: bool = False) -> None:
        """Change the destination, from the next drain on. On OSError nothing changes.

        The same destination again has no effect, so every reload may call this.
        """
        with self._switch:
            current = self._next or self._destination
            if current.wanted == (to, format, phases):
                return
        following = Destination(to, format, phases=phases)
        with self._switch:
            overtaken, self._next = self._next, following
        if overtaken is not None:
            overtaken.close()

    def reopen(self) -> None:
        """Reopen the file at the next drain, after a rotation has moved it."""
        self._reopen.set()

    async def run(self) -> None:
        """Drain until cancelled. Then call `close`, which drains the rest."""
        loop = asyncio.get_running_loop()
        much = self.segment.log_records // 2
        delay = INTERVAL_S
        while True:
            await (next_tick(delay) if delay == INTERVAL_S else asyncio.sleep(delay))
            waiting = self.pending
            if waiting or self._reopen.is_set() or self._next is not None:
                await loop.run_in_executor(self._thread, self.drain)
            # This many arrived in `delay`: check again just before a ring is half full.
            delay = max(HURRY_S, min(INTERVAL_S, delay * much / waiting if waiting else INTERVAL_S))

    def close(self) -> None:
        """Drain once more, and close. Takes about a second if the reader of stdout is stuck."""
        self._thread.shutdown(wait=True)
        self.drain()
        if self._next is not None:
            self._next.close()
        self._destination.close()

    # ---- in the thread ----------------------------------------------------------------------

    def drain(self) -> int:
        """Drain all rings once and write the records. Returns how many.

        Safe to call from any thread; blocks while another drain runs.
        """
        with self._lock:
            with self._switch:
                following, self._next = self._next, None
                if following is not None:
                    self._turn_to(following)
            if self._reopen.is_set():
                self._reopen.clear()
                self._open_anew()
            taken, lost, error, self._cut = self._drain.write(self._destination.fd, self._cut)
            self.taken += taken
            self.lost += lost
            if error:
                self._failed(os.strerror(error))
            elif taken and self._failing:
                self._failing = False
                log.info(
                    "The access log (%s) can be written again; %d lines were lost.",
                    self._destination.to,
                    self.lost,
                )
            return taken

    def _turn_to(self, following: Destination) -> None:
        self._destination.close()
        self._damaged += self._drain.damaged
        self._use(following)
        self._cut = False
        self._failing = False

    def _open_anew(self) -> None:
        try:
            self._destination.reopen()
        except OSError as error:
            self._failed(f"{error.strerror}; the open file is still used")
        else:
            self._cut = False

    def _failed(self, why: str) -> None:
        self.errors += 1
        if not self._failing:
            self._failing = True
            log.error("The access log (%s) cannot be written: %s.", self._destination.to, why)


def _open(path: str) -> int:
    # Non-blocking, so that a named pipe without a reader is an error and not an endless wait.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, FILE_MODE)
    # An earlier process may have left an incomplete line; ours must start on a new one.
    with contextlib.suppress(OSError):
        state = os.fstat(fd)
        if stat.S_ISREG(state.st_mode) and state.st_size and not _is_ended(path, state.st_size):
            os.write(fd, b"\n")
    return fd


def _is_ended(path: str, size: int) -> bool:
    with open(path, "rb") as file:
        return os.pread(file.fileno(), 1, size - 1) == b"\n"
