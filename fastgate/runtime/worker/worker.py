"""A worker: one uvloop, one Engine, and the channel to control. The composition root.

The engine does the work, in C, whenever its epoll descriptor is readable; the code here runs
between two of its rounds. A worker installs a configuration in two steps (`messages.py`): *prepare*
maps the snapshot and imports the handlers, which may fail without any effect; *commit* swaps, which
cannot fail.

A worker that replaces a dead one starts with the snapshot that the supervisor kept: it serves
before the first message from control, even if control is not running. If a handler cannot be
imported then, the worker still serves the other routes: the handler's routes answer 500, and the
log says why.

States: `starting` until a snapshot is installed, `serving`, and after SIGTERM `draining`: no new
connections, idle ones closed, requests in progress finished; then exit 0. The supervisor kills a
worker that takes too long.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import uvloop

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Keyring
from fastgate.billing.x402 import claims
from fastgate.errors import FastGateError
from fastgate.runtime.supervisor.standby import SERVING, Standby
from fastgate.runtime.wire.channel import Channel, ChannelClosed, ChannelFull
from fastgate.runtime.wire.heartbeat import HEARTBEAT_S
from fastgate.runtime.wire.messages import (
    Abort,
    Answered,
    Commit,
    KeyringInstalled,
    Listener,
    Message,
    Peers,
    Prepare,
    Prepared,
    Problem,
    Serving,
    ToWorker,
    UseCredentials,
    UseKeyring,
)
from fastgate.runtime.wire.plan import WorkerStart
from fastgate.runtime.worker.bad_headers import BadHeaderLog
from fastgate.runtime.worker.failed_tls import FailedTlsLog
from fastgate.runtime.worker.handlers import Handler, resolve_all
from fastgate.runtime.worker.questions import Asking, Questions

log = logging.getLogger("fastgate.worker")

DRAIN_LOOK_S = 0.02

STARTING, DRAINING = 1, 3  # worker_row.state, beside SERVING


class EngineLike(Asking, Protocol):
    """The part of `_core/engine.pyx` that the worker uses."""

    @property
    def idle(self) -> bool: ...
    def run_in(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def listen(self, fd: int, key: str) -> None: ...
    def unlisten(self, fd: int) -> None: ...
    def install(self, snapshot: Snapshot, handlers: list[Handler]) -> None: ...
    def check_keyring(self, keyring: Keyring) -> None: ...
    def set_keyring(self, keyring: Keyring) -> None: ...
    def set_credentials(self, index: CredentialIndex) -> None: ...
    def set_money(self, money: MoneyMap) -> None: ...
    def take_bad_headers(self) -> tuple[int, int, str, str]: ...
    def take_failed_tls(self) -> tuple[int, str, str, str]: ...
    def drain(self) -> None: ...
    def close(self) -> None: ...


class Pending(NamedTuple):
    """A generation that is prepared and waits for its commit."""

    seq: int
    generation: int
    binds: list[str]
    snapshot: Snapshot
    keyring: Keyring | None  # None: the one in use stays
    handlers: list[Handler]
    listen: list[tuple[Listener, socket.socket]]


class Worker:
    """One worker process. `engine` is created after the fork."""

    def __init__(self, start: WorkerStart, segment: Segment, engine: EngineLike) -> None:
        self._index = start.index
        self._segment = segment
        self._row = segment.worker_row(start.index)
        self._engine = engine
        rows = [segment.worker_row(index) for index in range(segment.workers)]
        self._standby = Standby(start.index, rows, engine)
        self._bad_headers = BadHeaderLog(start.index, engine.take_bad_headers)
        self._failed_tls = FailedTlsLog(start.index, engine.take_failed_tls)
        self._channel: Channel[ToWorker] = Channel(start.channel, ToWorker)
        self._listening: dict[str, socket.socket] = {}
        self._pending: Pending | None = None
        self._draining = False
        self._exit_code = 0

    def run(self, start: WorkerStart) -> int:
        """Serve until drained. Returns the exit code."""
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        self._questions = Questions(self._engine, self._send_soon, loop)
        self._row.state = STARTING
        self._beat()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._engine.run_in(loop)
        loop.add_reader(self._channel.fileno(), self._on_channel)
        loop.call_soon(self._try, lambda: self._begin(start))
        try:
            loop.run_forever()
        finally:
            self._engine.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        return self._exit_code

    # ---- generations ---------------------------------------------------------------------

    def _begin(self, start: WorkerStart) -> None:
        """Serve the snapshot that the supervisor kept, if there is one."""
        if start.credentials_fd >= 0:
            self._use_credentials(start.credentials_fd)
        if start.keyring_fd >= 0:
            self._use_keyring(start.keyring_fd)
        if start.snapshot_fd < 0:
            return
        snapshot = Snapshot(start.snapshot_fd)
        os.close(start.snapshot_fd)
        handlers, problems = resolve_all(snapshot.handlers())
        for problem in problems:
            log.error(
                "worker %d: handler %s: %s; its routes answer 500",
                self._index,
                problem.about,
                problem.error,
            )
        binds = [listener.key for listener, _ in start.listeners]
        for bind, sockets in start.peers.items():
            # Our own socket is among them, and is closed separately.
            mine = sockets[self._index].dup()
            sockets = [*sockets[: self._index], mine, *sockets[self._index + 1 :]]
            self._standby.put(bind, sockets)
        self._install(
            Pending(0, start.generation, binds, snapshot, None, handlers, list(start.listeners))
        )

    def _prepare(self, message: Prepare, fds: list[int]) -> None:
        self._forget_pending()
        memfds = 2 if message.keyring else 1
        about, ring = "snapshot", None
        try:
            snapshot = Snapshot(fds[0])
            if message.keyring:
                about = "keyring"
                ring = keyring.read(fds[1])
                self._engine.check_keyring(ring)
            sockets = _sockets_of(fds[memfds:])
        except (FastGateError, OSError, ValueError) as error:
            _close_fds(fds)
            self._send(Prepared(seq=message.seq, problems=[Problem(about, str(error))]))
            return
        _close_fds(fds[:memfds])
        listen = list(zip(message.listen, sockets, strict=True))
        handlers, problems = resolve_all(snapshot.handlers())
        self._pending = Pending(
            message.seq, message.generation, message.binds, snapshot, ring, handlers, listen
        )
        self._send(Prepared(seq=message.seq, problems=problems))

    def _commit(self, message: Commit) -> None:
        pending, self._pending = self._pending, None
        if pending is None or pending.seq != message.seq:
            log.error("worker %d: ignored a commit without a prepare", self._index)
            return
        self._install(pending)
        self._send(Serving(seq=pending.seq, generation=pending.generation))

    def _install(self, new: Pending) -> None:
        if new.keyring is not None:
            self._engine.set_keyring(new.keyring)
        self._engine.install(new.snapshot, new.handlers)
        if not self._draining:
            for listener, sock in new.listen:
                if listener.key in self._listening:
                    sock.close()  # it already has this one
                    continue
                self._engine.listen(sock.fileno(), listener.key)
                self._listening[listener.key] = sock
            for bind in self._listening.keys() - set(new.binds):
                sock = self._listening.pop(bind)
                self._engine.unlisten(sock.fileno())
                sock.close()
            self._standby.keep_only(new.binds)
            self._row.state = SERVING
        self._row.generation = new.generation

    def _forget_pending(self) -> None:
        if self._pending is not None:
            for _, sock in self._pending.listen:
                sock.close()
            self._pending = None

    def _use_credentials(self, fd: int) -> None:
        try:
            self._engine.set_credentials(CredentialIndex.attach(fd))
        except (FastGateError, OSError, ValueError) as error:
            log.error("worker %d: the old credential index stays in use: %s", self._index, error)
        finally:
            os.close(fd)

    def _use_keyring(self, fd: int) -> str:
        """Use a keyring; returns why it cannot be used."""
        try:
            self._engine.set_keyring(keyring.read(fd))
        except (FastGateError, OSError, ValueError) as error:
            log.error("worker %d: the old keyring stays in use: %s", self._index, error)
            return str(error)
        finally:
            os.close(fd)
        return ""

    # ---- the channel ---------------------------------------------------------------------

    def _on_channel(self) -> None:
        while True:
            try:
                received = self._channel.receive()
            except ChannelClosed:
                # Even the supervisor has closed the other end, so the gateway has ended.
                log.error("worker %d: the supervisor is gone", self._index)
                self._loop.stop()
                return
            except msgspec.DecodeError as error:
                log.error("worker %d: ignored a message from control: %s", self._index, error)
                continue
            if received is None:
                return
            message, fds = received
            self._try(functools.partial(self._on_message, message, fds))

    def _on_message(self, message: ToWorker, fds: list[int]) -> None:
        if isinstance(message, Prepare):
            self._prepare(message, fds)
        elif isinstance(message, Peers):
            self._on_peers(message, fds)
        elif isinstance(message, Commit):
            self._commit(message)
        elif isinstance(message, Abort):
            self._forget_pending()
            self._standby.keep_only(self._listening)
        elif isinstance(message, UseCredentials):
            self._use_credentials(fds[0])
        elif isinstance(message, UseKeyring):
            error = self._use_keyring(fds[0])
            self._send(KeyringInstalled(serial=message.serial, error=error))
        elif isinstance(message, Answered):
            self._questions.answered(message)

    def _on_peers(self, message: Peers, fds: list[int]) -> None:
        try:
            sockets = _sockets_of(fds)
        except OSError as error:
            _close_fds(fds)
            log.error("worker %d: ignored a message from control: %s", self._index, error)
            return
        if self._draining or len(sockets) != self._segment.workers:
            _close_fds([sock.detach() for sock in sockets])
        else:
            self._standby.put(message.bind, sockets)

    def _send(self, message: Message) -> None:
        try:
            self._send_now(message)
        except (ChannelClosed, ChannelFull, OSError, ValueError) as error:
            log.error("worker %d: control cannot be reached: %r", self._index, error)

    def _send_soon(self, message: Message) -> bool:
        """Send what is sent again if nobody answers; whether it could be. Takes no room in the
        outbox from messages that are sent once."""
        if self._channel.waiting:
            return False
        try:
            self._send_now(message)
        except (ChannelClosed, ChannelFull, OSError, ValueError):
            return False
        return True

    def _send_now(self, message: Message) -> None:
        self._channel.send(message)
        if self._channel.waiting:
            self._loop.add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        with suppress(ChannelClosed):  # its reader notices it too
            self._channel.flush()
        if not self._channel.waiting:
            self._loop.remove_writer(self._channel.fileno())

    # ---- life ----------------------------------------------------------------------------

    def _try(self, work: Callable[[], None]) -> None:
        """Run it, and end the worker on an error: a worker between two states must be replaced."""
        try:
            work()
        except Exception:
            log.exception("worker %d ends", self._index)
            self._exit_code = 70  # EX_SOFTWARE
            self._loop.stop()

    def _beat(self) -> None:
        self._row.heartbeat_ns = time.monotonic_ns()
        self._loop.call_later(HEARTBEAT_S, self._beat)
        self._bad_headers.look()
        self._failed_tls.look()
        if self._row.state == SERVING:
            self._standby.look()

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        self._row.state = DRAINING
        self._engine.drain()
        self._standby.close(for_good=bool(self._segment.draining))
        for sock in self._listening.values():
            sock.close()
        self._listening.clear()
        self._look_idle()

    def _look_idle(self) -> None:
        if self._engine.idle:
            self._loop.stop()
        else:
            self._loop.call_later(DRAIN_LOOK_S, self._look_idle)


def worker_main(
    segment: Segment,
    paths: Sequence[str] = (),
    *,
    money: MoneyMap | None = None,
    state: Path | None = None,
) -> Callable[[WorkerStart], int]:
    """The function that a worker runs. `paths`: additional directories for handlers; `money`: the
    money map, if anything costs money; `state`: the state directory, for payments with requests."""

    def main(start: WorkerStart) -> int:
        from fastgate._core.engine import Engine

        gc.enable()
        sys.path.extend(path for path in paths if path not in sys.path)
        engine: Any = Engine(segment, start.index)
        if money is not None:
            money.begin(start.index)
            engine.set_money(money)
        if state is not None:
            claims.use(state / claims.FOLDER, time.time)
        return Worker(start, segment, engine).run(start)

    return main


def _sockets_of(fds: list[int]) -> list[socket.socket]:
    """Take ownership of descriptors as sockets. On OSError, the caller still owns them."""
    sockets: list[socket.socket] = []
    try:
        for fd in fds:
            sockets.append(socket.socket(fileno=fd))
    except OSError:
        for sock in sockets:
            sock.detach()
        raise
    return sockets


def _close_fds(fds: list[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
