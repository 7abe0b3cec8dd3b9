"""Accepts connections for workers that do not accept.

A TCP listener has one socket for each worker, and the kernel assigns each new connection to one of
them. If that worker is stopped, starting, dead, or in a handler that computes, the connection would
wait in its queue. So every worker has the sockets of all, and checks the heartbeats of the others:

    worker 2 has no heartbeat ──▶ the next accepting worker (3, else 0, 1) takes from its queue too
    worker 2 has one again    ──▶ only worker 2 takes from it

Two workers may take from the same queue, so a worker that was only busy for a moment loses nothing
except the connections that would have had to wait.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

log = logging.getLogger("fastgate.worker")

TAKEOVER_S = 1.5  # without a heartbeat; checked each half second, so noticed within two
SERVING = 2  # worker_row.state


class WorkerRow(Protocol):
    """A worker's row in the segment."""

    @property
    def pid(self) -> int: ...
    @property
    def state(self) -> int: ...
    @property
    def heartbeat_ns(self) -> int: ...


class Listens(Protocol):
    """The part of the engine that is used here."""

    def listen(self, fd: int, key: str) -> None: ...
    def unlisten(self, fd: int) -> None: ...


class Standby:
    """One worker's copies of all workers' sockets. `rows`: of all workers, in order."""

    def __init__(self, index: int, rows: Sequence[WorkerRow], engine: Listens) -> None:
        self._index = index
        self._rows = rows
        self._engine = engine
        self._sockets: dict[str, list[socket.socket]] = {}
        self._taken: dict[int, list[socket.socket]] = {}  # those that we accept from, by worker

    def put(self, bind: str, sockets: list[socket.socket]) -> None:
        """Take ownership of the sockets of a listener, one for each worker."""
        if bind in self._sockets:  # a new control process sends sockets that we already have
            for sock in sockets:
                sock.close()
        else:
            self._sockets[bind] = sockets

    def keep_only(self, binds: Iterable[str]) -> None:
        """Close the sockets of removed listeners."""
        for bind in self._sockets.keys() - set(binds):
            self._drop(bind)

    def look(self) -> None:
        """Start accepting for workers that do not accept, and stop for those that do."""
        for worker in range(len(self._rows)):
            if worker == self._index:
                continue
            if self._is_ours(worker):
                self._take(worker)
            elif worker in self._taken:
                self._leave(worker)

    def close(self, *, for_good: bool) -> None:
        """Close all, after the engine has stopped using them. for_good: also stop listening, since
        a stopped worker may still have the sockets open."""
        ours = {self._index, *self._taken}  # we have emptied their queues
        for sockets in self._sockets.values():
            for worker, sock in enumerate(sockets):
                if for_good and worker in ours:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self._sockets.clear()
        self._taken.clear()

    def _is_ours(self, worker: int) -> bool:
        """Whether it does not accept, and no worker between it and us accepts."""
        count = len(self._rows)
        while worker != self._index:
            if self._accepts(self._rows[worker]):
                return False
            worker = (worker + 1) % count
        return True

    @staticmethod
    def _accepts(row: WorkerRow) -> bool:
        age = time.monotonic_ns() - row.heartbeat_ns
        return bool(row.pid) and row.state == SERVING and age < TAKEOVER_S * 1e9

    def _take(self, worker: int) -> None:
        taken = self._taken.setdefault(worker, [])
        for bind, sockets in self._sockets.items():
            sock = sockets[worker]
            if sock in taken:
                continue
            try:
                self._engine.listen(sock.fileno(), bind)
            except (OSError, ValueError) as error:
                log.error("cannot accept for worker %d on %s: %s", worker, bind, error)
                return
            taken.append(sock)

    def _leave(self, worker: int) -> None:
        for sock in self._taken.pop(worker):
            self._engine.unlisten(sock.fileno())

    def _drop(self, bind: str) -> None:
        for worker, sock in enumerate(self._sockets.pop(bind, [])):
            taken = self._taken.get(worker, [])
            if sock in taken:
                taken.remove(sock)
                self._engine.unlisten(sock.fileno())
            sock.close()
