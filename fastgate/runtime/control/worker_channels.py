"""Control's channels to the workers: the generation of each, and the two-step installation.

`WorkerChannels.install` brings a generation to every worker or to none::

    prepare ─ all ready? ── no ──▶ abort; the caller gets every problem, once
                 │ yes
              keep(…)      the caller gives it to the supervisor, for future workers
                 │
              commit ─ all serve it? ──▶ done

Workers may die and start at any time during this. Each worker has a `WorkerState`. A new worker
that starts with an older generation gets its own prepare and commit, whether or not an install
waits for it (`_catch_up`). An install counts workers by their place, so it is enough that the
*place* finally serves the generation.

A worker that is stopped, or that hung before the request, does not delay the others: once it has
had no heartbeat for `AWAY_S`, they continue without it, unless it is the only one. The messages
wait in its channel, and it serves the generation as soon as it continues.

A keyring comes with a generation, so that both are swapped in one step, or alone (`use_keyring`). A
worker that starts with another one than the current one gets it as well.

Workers' questions are passed to `on_question`, and `answer` sends what came of them.

An answer has the `seq` of its request. Answers to an earlier control process, or to an install that
was given up, are ignored.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from fastgate.errors import ApplyError, ConfigurationError, KeyringError
from fastgate.runtime.control.async_channel import AsyncChannel
from fastgate.runtime.supervisor.process import is_stopped
from fastgate.runtime.wire.heartbeat import AWAY_S
from fastgate.runtime.wire.messages import (
    Abort,
    Answered,
    Commit,
    FromWorker,
    KeyringInstalled,
    Listener,
    Peers,
    Prepare,
    Prepared,
    Problem,
    Question,
    Serving,
    UseCredentials,
    UseKeyring,
)

log = logging.getLogger("fastgate.control")

PREPARE_S = 20.0  # handlers may import a lot
COMMIT_S = 20.0
LOOK_S = 0.25  # between two checks of heartbeats, while waiting for workers


class SealedKeyring(NamedTuple):
    """A keyring for workers."""

    serial: int
    fd: int


class Image:
    """A generation that is being installed, or the one that is served."""

    __slots__ = ("binds", "fd", "generation", "keyring", "listeners", "sockets")

    def __init__(
        self,
        generation: int,
        fd: int,
        listeners: list[Listener],
        sockets: dict[str, list[socket.socket]],
        keyring: SealedKeyring | None = None,
    ) -> None:
        """keyring: what workers need with this generation; None: they keep the one they have."""
        self.keyring = keyring
        self.generation = generation
        self.fd = fd
        self.listeners = listeners
        self.sockets = sockets
        self.binds = [listener.key for listener in listeners]

    def for_worker(self, index: int, has: set[str]) -> tuple[list[Listener], list[int]]:
        """The listeners that a worker does not have yet, and its sockets for them."""
        missing = [listener for listener in self.listeners if listener.key not in has]
        sockets = [self.sockets[listener.key] for listener in missing]
        return missing, [each[index % len(each)].fileno() for each in sockets]

    def close(self) -> None:
        os.close(self.fd)
        if self.keyring is not None:
            os.close(self.keyring.fd)
            self.keyring = None


class WorkerState:
    """The state of one worker in control."""

    __slots__ = (
        "answered", "binds", "channel", "coming", "generation", "index", "keyring",
        "keyring_error", "offered", "pid", "prepared", "problems", "seq",
    )  # fmt: skip

    def __init__(
        self, index: int, pid: int, generation: int, binds: set[str], keyring: int = 0
    ) -> None:
        self.index = index
        self.pid = pid
        self.channel: AsyncChannel[FromWorker] | None = None
        self.generation = generation  # that it has reported to serve
        self.binds = binds
        self.seq = 0  # of the request that waits for an answer
        self.prepared = False
        self.problems: list[Problem] = []
        self.keyring = keyring  # serial of the one that it has reported to use
        self.offered = keyring  # serial of the last one that was sent
        self.coming = 0  # serial of the one that belongs to the prepared generation; 0: none
        self.answered = 0  # serial of the last one that it has used or refused
        self.keyring_error = ""  # why it refused that one


class WorkerChannels:
    """All workers. heartbeat_age: seconds since a worker's last heartbeat; None: it had none."""

    def __init__(
        self, workers: int, heartbeat_age: Callable[[int], float | None] = lambda index: 0.0
    ) -> None:
        self._count = workers
        self._heartbeat_age = heartbeat_age
        self._asked = 0.0  # the time of the last prepare
        self._workers: dict[int, WorkerState] = {}
        self._image: Image | None = None  # the newest committed one
        self._trial: Image | None = None  # being prepared
        self._credentials_fd = -1
        self._keyring: SealedKeyring | None = None
        self._seq = itertools.count(time.time_ns() // 1000)
        self._changed = asyncio.Event()
        self.on_question: Callable[[int, Question], None] = lambda index, question: None
        """Called with each question of a worker, and its place."""

    @property
    def image(self) -> Image | None:
        """The generation that every worker serves, or is about to serve."""
        return self._image

    def generation_of(self, index: int) -> int:
        """The generation that a worker has reported to serve; 0: none."""
        worker = self._workers.get(index)
        return worker.generation if worker is not None else 0

    # ---- starts and ends -----------------------------------------------------------------

    def add(
        self,
        index: int,
        pid: int,
        sock: socket.socket,
        *,
        generation: int,
        binds: set[str],
        keyring: int = 0,
    ) -> None:
        """A worker has started, or was running before this control process."""
        self.remove(index)
        worker = WorkerState(index, pid, generation, binds, keyring)
        worker.channel = AsyncChannel(
            sock,
            FromWorker,
            lambda message, fds: self._on_message(worker, message),
            lambda: log.debug("worker %d is gone", index),
        )
        self._workers[index] = worker
        if self._credentials_fd >= 0:
            worker.channel.send(UseCredentials(), [self._credentials_fd])
        if self._trial is not None:
            self._prepare(worker, self._trial)
        else:
            self._catch_up(worker)
        self._changed.set()

    def remove(self, index: int) -> None:
        worker = self._workers.pop(index, None)
        if worker is not None and worker.channel is not None:
            worker.channel.close()
        self._changed.set()

    def close(self) -> None:
        for index in list(self._workers):
            self.remove(index)
        if self._image is not None:
            self._image.close()
            self._image = None
        if self._keyring is not None:
            os.close(self._keyring.fd)
            self._keyring = None
        if self._credentials_fd >= 0:
            os.close(self._credentials_fd)
            self._credentials_fd = -1

    # ---- the two steps -------------------------------------------------------------------

    async def install(self, image: Image, keep: Callable[[], Awaitable[None]]) -> None:
        """Bring an image to all workers. Raises ConfigurationError if one cannot serve it.

        image: this method takes ownership of its descriptors. keep: called when all are ready,
        before any swap. Raises ApplyError if workers do not answer in time: before the commit,
        nothing has changed; after it, the image is in force and late workers catch up. Does not
        wait for workers without a heartbeat, unless there is no other; the log names them.
        """
        self._trial = image
        self._asked = self._loop_time()
        try:
            for worker in self._workers.values():
                self._prepare(worker, image)
            await self._until(self._all_prepared, PREPARE_S, "is not ready for")
            problems = {
                (problem.about, problem.error)
                for worker in self._workers.values()
                for problem in worker.problems
            }
            if problems:
                raise _unservable(sorted(problems))
            await keep()
        except BaseException:
            self._trial = None
            image.close()
            for worker in self._workers.values():
                worker.offered = worker.keyring
                if worker.channel is not None:
                    worker.channel.send(Abort(seq=worker.seq))
            # Workers that have started in between with an older generation.
            for worker in self._workers.values():
                self._catch_up(worker)
            raise
        self._trial = None
        old, self._image = self._image, image
        if old is not None:
            old.close()
        if image.keyring is not None:
            self._take_keyring(image.keyring)
            image.keyring = None
        for worker in self._workers.values():
            if worker.channel is not None and (worker.prepared or self._is_away(worker)):
                worker.channel.send(Commit(seq=worker.seq))
            else:
                self._catch_up(worker)
        await self._until(self._all_serve, COMMIT_S, "does not serve")
        for worker in self._workers.values():
            if worker.generation < image.generation:
                log.warning(
                    "worker %d (pid %d) has had no heartbeat for %.1f s and does not serve "
                    "generation %d yet; the others do, and it will as soon as it continues",
                    *(
                        worker.index,
                        worker.pid,
                        self._heartbeat_age(worker.index) or 0,
                        image.generation,
                    ),
                )

    def use_credentials(self, fd: int) -> None:
        """Make all present and future workers use this index.

        fd: this method takes ownership of it.
        """
        if self._credentials_fd >= 0:
            os.close(self._credentials_fd)
        self._credentials_fd = fd
        for worker in self._workers.values():
            if worker.channel is not None:
                worker.channel.send(UseCredentials(), [fd])

    def answer(self, index: int, answer: Answered) -> None:
        """Answer a question of the worker at this place."""
        worker = self._workers.get(index)
        if worker is not None and worker.channel is not None:
            worker.channel.send(answer)

    async def use_keyring(self, keyring: SealedKeyring) -> None:
        """Make all present and future workers use this keyring, and wait until the present ones do.

        keyring: this method takes ownership of its descriptor. Raises KeyringError if a worker
        cannot use it, ApplyError if workers do not answer in time. Like `install`, does not wait
        for workers without a heartbeat.
        """
        self._take_keyring(keyring)
        self._asked = self._loop_time()
        for worker in self._workers.values():
            self._catch_up(worker)
        await self._until(
            lambda: self._late(lambda worker: worker.answered >= keyring.serial),
            COMMIT_S,
            "does not use",
            "the new certificates",
        )
        errors = {each.keyring_error for each in self._workers.values() if each.keyring_error}
        if errors:
            raise KeyringError("; ".join(sorted(errors)))

    def _take_keyring(self, keyring: SealedKeyring) -> None:
        if self._keyring is not None:
            os.close(self._keyring.fd)
        self._keyring = keyring

    def _prepare(self, worker: WorkerState, image: Image) -> None:
        listen, fds = image.for_worker(worker.index, worker.binds)
        keyring = image.keyring or self._keyring
        if keyring is not None and keyring.serial != worker.offered:
            worker.offered = worker.coming = keyring.serial
            fds = [keyring.fd, *fds]
        else:
            keyring, worker.coming = None, 0
        worker.seq = next(self._seq)
        worker.prepared = False
        worker.problems = []
        if worker.channel is not None:
            for listener in listen:
                sockets = image.sockets[listener.key]
                if len(sockets) > 1:
                    peers = [sock.fileno() for sock in sockets]
                    worker.channel.send(Peers(bind=listener.key), peers)
            worker.channel.send(
                Prepare(
                    seq=worker.seq,
                    generation=image.generation,
                    binds=image.binds,
                    listen=listen,
                    keyring=0 if keyring is None else keyring.serial,
                ),
                [image.fd, *fds],
            )

    def _catch_up(self, worker: WorkerState) -> None:
        """Send the current generation to a worker that serves an older one, or else the current
        keyring to one that has another."""
        if worker.channel is None:
            return
        image, keyring = self._image, self._keyring
        if image is not None and worker.generation < image.generation:
            self._prepare(worker, image)
            worker.channel.send(Commit(seq=worker.seq))
        elif keyring is not None and worker.offered != keyring.serial:
            worker.offered = keyring.serial
            worker.channel.send(UseKeyring(serial=keyring.serial), [keyring.fd])

    def _on_message(self, worker: WorkerState, message: FromWorker) -> None:
        if isinstance(message, Question):
            self.on_question(worker.index, message)
            return
        if isinstance(message, KeyringInstalled):
            worker.answered, worker.keyring_error = message.serial, message.error
            worker.keyring = worker.keyring if message.error else message.serial
        elif message.seq != worker.seq:
            return
        elif isinstance(message, Prepared):
            worker.prepared = True
            worker.problems = list(message.problems)
        elif isinstance(message, Serving):
            worker.generation = message.generation
            if worker.coming:
                worker.keyring = worker.answered = worker.coming
                worker.keyring_error = ""
            if self._image is not None and self._image.generation == message.generation:
                worker.binds = set(self._image.binds)
        self._changed.set()

    def _all_prepared(self) -> list[str]:
        return self._late(lambda worker: worker.prepared)

    def _all_serve(self) -> list[str]:
        assert self._image is not None
        newest = self._image.generation
        return self._late(lambda worker: worker.generation >= newest)

    def _late(self, ready: Callable[[WorkerState], bool]) -> list[str]:
        """The workers to wait for: not those without a heartbeat, unless all are."""
        late: list[str] = []
        away: list[str] = []
        for index in range(self._count):
            worker = self._workers.get(index)
            if worker is None:
                late.append(f"worker {index} (being started)")
            elif not ready(worker):
                names = away if self._is_away(worker) else late
                names.append(f"worker {index} (pid {worker.pid})")
        return away if len(away) == self._count else late

    def _is_away(self, worker: WorkerState) -> bool:
        """Whether it has no heartbeat for another reason than the imports of a prepare."""
        age = self._heartbeat_age(worker.index)
        if age is None or age < AWAY_S:
            return False
        return age > self._loop_time() - self._asked + AWAY_S / 2 or is_stopped(worker.pid)

    async def _until(
        self,
        late: Callable[[], list[str]],
        patience: float,
        does: str,
        what: str = "the new generation",
    ) -> None:
        deadline = self._loop_time() + patience
        while names := late():
            self._changed.clear()
            left = deadline - self._loop_time()
            if left <= 0:
                raise ApplyError(f"{', '.join(names)} {does} {what} after {patience:.0f} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_S)):
                    await self._changed.wait()

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()


_PARTS = ("snapshot", "keyring")  # what a problem is about, beside handlers


def _unservable(problems: list[tuple[str, str]]) -> ConfigurationError:
    errors = [
        ConfigurationError(
            error,
            path="" if about in _PARTS else f"handler {about}",
            hint=None
            if about in _PARTS
            else "Handlers are searched beside the configuration file, in the directory the "
            "gateway was started in, and on PYTHONPATH.",
        )
        for about, error in problems
    ]
    first, *others = errors
    first.others = tuple(others)
    return first
