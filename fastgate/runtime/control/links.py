"""Control's side of the workers and of the supervisor: who serves what, and the two steps.

`Links.install` brings a generation to every worker or to none::

    prepare ─ all ready? ── no ──▶ abort; the caller hears every problem, once
                 │ yes
              keep(…)      the caller lets the supervisor keep it for workers to come
                 │
              commit ─ all serve it? ──▶ done

Workers die and are born in the middle of that. Each worker has a `Link`; when a new one is
born with an older generation than the newest, it is sent prepare and commit of its own,
whether an install waits for it or not (`_catch_up`). An install counts workers by their
place, so it is enough that the *place* serves the generation in the end.

A worker that is stopped, or that hung before it was asked, holds nobody up: once it has had no
heartbeat for `AWAY_S` the others go on without it, unless there is no other. What it was sent
waits in its channel, and it serves it as soon as it continues.

An answer carries the `seq` of its question. Questions of another control's life, or of an
install that was given up, get no attention.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from fastgate.errors import ApplyError, ConfigurationError
from fastgate.runtime.supervisor.process import is_stopped
from fastgate.runtime.wire.channel import Channel, ChannelClosed, ChannelFull
from fastgate.runtime.wire.heartbeat import AWAY_S
from fastgate.runtime.wire.messages import (
    Abort,
    Commit,
    FromWorker,
    Listener,
    Message,
    Peers,
    Prepare,
    Prepared,
    Problem,
    Serving,
    UseCredentials,
)

log = logging.getLogger("fastgate.control")

PREPARE_S = 20.0  # handlers may import a lot
COMMIT_S = 20.0
LOOK_S = 0.25  # between two looks at heartbeats, while some are waited for

T = TypeVar("T")


class AsyncChannel(Generic[T]):
    """A channel served by an event loop: every message goes to `on_message`."""

    def __init__(
        self,
        sock: socket.socket,
        expects: Any,
        on_message: Callable[[T, list[int]], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._channel: Channel[T] = Channel(sock, expects)
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)
        self.closed = False

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send; a peer that is gone or does not read is as if it had not been told."""
        if self.closed:
            return
        try:
            self._channel.send(message, fds)
        except (ChannelClosed, ChannelFull):
            self._end()
            return
        except (OSError, ValueError) as error:
            log.error("%s could not be sent: %s", type(message).__name__, error)
            return
        if self._channel.waiting:
            self._loop.add_writer(self._channel.fileno(), self._write)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._channel.close()

    def _read(self) -> None:
        while not self.closed:
            try:
                received = self._channel.receive()
            except ChannelClosed:
                self._end()
                return
            except msgspec.DecodeError as error:
                log.error("ignored a message: %s", error)
                continue
            if received is None:
                return
            try:
                self._on_message(*received)
            except Exception:
                log.exception("could not handle the message %s", type(received[0]).__name__)

    def _write(self) -> None:
        try:
            self._channel.flush()
        except ChannelClosed:
            self._end()
            return
        if not self._channel.waiting:
            self._loop.remove_writer(self._channel.fileno())

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._on_closed()


class Image:
    """A generation on its way to the workers, or the one they serve."""

    __slots__ = ("binds", "fd", "generation", "listeners", "sockets")

    def __init__(
        self,
        generation: int,
        fd: int,
        listeners: list[Listener],
        sockets: dict[str, list[socket.socket]],
    ) -> None:
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


class Link:
    """One worker, as control knows it."""

    __slots__ = ("binds", "channel", "generation", "index", "pid", "prepared", "problems", "seq")

    def __init__(self, index: int, pid: int, generation: int, binds: set[str]) -> None:
        self.index = index
        self.pid = pid
        self.channel: AsyncChannel[FromWorker] | None = None
        self.generation = generation  # that it said it serves
        self.binds = binds
        self.seq = 0  # of the question that waits for an answer
        self.prepared = False
        self.problems: list[Problem] = []


class Links:
    """All the workers. heartbeat_age: seconds since a worker's last one; None: it had none."""

    def __init__(
        self, workers: int, heartbeat_age: Callable[[int], float | None] = lambda index: 0.0
    ) -> None:
        self._count = workers
        self._heartbeat_age = heartbeat_age
        self._asked = 0.0  # when the workers were last asked to prepare something
        self._links: dict[int, Link] = {}
        self._image: Image | None = None  # the newest that was committed
        self._trial: Image | None = None  # being prepared
        self._credentials_fd = -1
        self._seq = itertools.count(time.time_ns() // 1000)
        self._changed = asyncio.Event()

    @property
    def image(self) -> Image | None:
        """What every worker serves, or is about to."""
        return self._image

    def generation_of(self, index: int) -> int:
        """The generation that a worker said it serves; 0: none."""
        link = self._links.get(index)
        return link.generation if link is not None else 0

    # ---- births and deaths ---------------------------------------------------------------

    def add(
        self, index: int, pid: int, sock: socket.socket, *, generation: int, binds: set[str]
    ) -> None:
        """A worker was born, or (after our own birth) was there before us."""
        self.remove(index)
        link = Link(index, pid, generation, binds)
        link.channel = AsyncChannel(
            sock,
            FromWorker,
            lambda message, fds: self._on_message(link, message),
            lambda: log.debug("worker %d is gone", index),
        )
        self._links[index] = link
        if self._credentials_fd >= 0:
            link.channel.send(UseCredentials(), [self._credentials_fd])
        if self._trial is not None:
            self._prepare(link, self._trial)
        else:
            self._catch_up(link)
        self._changed.set()

    def remove(self, index: int) -> None:
        link = self._links.pop(index, None)
        if link is not None and link.channel is not None:
            link.channel.close()
        self._changed.set()

    def close(self) -> None:
        for index in list(self._links):
            self.remove(index)
        if self._image is not None:
            os.close(self._image.fd)
            self._image = None
        if self._credentials_fd >= 0:
            os.close(self._credentials_fd)
            self._credentials_fd = -1

    # ---- the two steps -------------------------------------------------------------------

    async def install(self, image: Image, keep: Callable[[], Awaitable[None]]) -> None:
        """Bring an image to all workers. Raises ConfigurationError when one cannot serve it.

        image: its descriptor is taken over. keep: called when all are ready, before any
        swaps. Raises ApplyError when workers do not answer in time: before the commit nothing
        has changed; after it the image is the truth and late workers catch up. Workers without a
        heartbeat are not waited for, as long as there is another; the log names them.
        """
        self._trial = image
        self._asked = self._loop_time()
        try:
            for link in self._links.values():
                self._prepare(link, image)
            await self._until(self._all_prepared, PREPARE_S, "is not ready for")
            problems = {
                (problem.about, problem.error)
                for link in self._links.values()
                for problem in link.problems
            }
            if problems:
                raise _unservable(sorted(problems))
            await keep()
        except BaseException:
            self._trial = None
            os.close(image.fd)
            for link in self._links.values():
                if link.channel is not None:
                    link.channel.send(Abort(seq=link.seq))
            # Whoever was born meanwhile with something older than what is served.
            for link in self._links.values():
                self._catch_up(link)
            raise
        self._trial = None
        old, self._image = self._image, image
        if old is not None:
            os.close(old.fd)
        for link in self._links.values():
            if link.channel is not None and (link.prepared or self._is_away(link)):
                link.channel.send(Commit(seq=link.seq))
            else:
                self._catch_up(link)
        await self._until(self._all_serve, COMMIT_S, "does not serve")
        for link in self._links.values():
            if link.generation < image.generation:
                log.warning(
                    "worker %d (pid %d) has had no heartbeat for %.1f s and does not serve "
                    "generation %d yet; the others do, and it will as soon as it continues",
                    *(link.index, link.pid, self._heartbeat_age(link.index) or 0, image.generation),
                )

    def use_credentials(self, fd: int) -> None:
        """Tell all workers, and those to come, to look keys up in this index.

        fd: taken over.
        """
        if self._credentials_fd >= 0:
            os.close(self._credentials_fd)
        self._credentials_fd = fd
        for link in self._links.values():
            if link.channel is not None:
                link.channel.send(UseCredentials(), [fd])

    def _prepare(self, link: Link, image: Image) -> None:
        listen, fds = image.for_worker(link.index, link.binds)
        link.seq = next(self._seq)
        link.prepared = False
        link.problems = []
        if link.channel is not None:
            for listener in listen:
                sockets = image.sockets[listener.key]
                if len(sockets) > 1:
                    peers = [sock.fileno() for sock in sockets]
                    link.channel.send(Peers(bind=listener.key), peers)
            link.channel.send(
                Prepare(
                    seq=link.seq, generation=image.generation, binds=image.binds, listen=listen
                ),
                [image.fd, *fds],
            )

    def _catch_up(self, link: Link) -> None:
        """Send a worker that serves something older what all others serve."""
        image = self._image
        if image is None or link.generation >= image.generation or link.channel is None:
            return
        self._prepare(link, image)
        link.channel.send(Commit(seq=link.seq))

    def _on_message(self, link: Link, message: FromWorker) -> None:
        if message.seq != link.seq:
            return
        if isinstance(message, Prepared):
            link.prepared = True
            link.problems = list(message.problems)
        elif isinstance(message, Serving):
            link.generation = message.generation
            if self._image is not None and self._image.generation == message.generation:
                link.binds = set(self._image.binds)
        self._changed.set()

    def _all_prepared(self) -> list[str]:
        return self._late(lambda link: link.prepared)

    def _all_serve(self) -> list[str]:
        assert self._image is not None
        newest = self._image.generation
        return self._late(lambda link: link.generation >= newest)

    def _late(self, ready: Callable[[Link], bool]) -> list[str]:
        """Those to wait for: not the ones that are away, unless all are."""
        late: list[str] = []
        away: list[str] = []
        for index in range(self._count):
            link = self._links.get(index)
            if link is None:
                late.append(f"worker {index} (being started)")
            elif not ready(link):
                names = away if self._is_away(link) else late
                names.append(f"worker {index} (pid {link.pid})")
        return away if len(away) == self._count else late

    def _is_away(self, link: Link) -> bool:
        """Whether it has no heartbeat, and not because it imports what it was asked to prepare."""
        age = self._heartbeat_age(link.index)
        if age is None or age < AWAY_S:
            return False
        return age > self._loop_time() - self._asked + AWAY_S / 2 or is_stopped(link.pid)

    async def _until(self, late: Callable[[], list[str]], patience: float, what: str) -> None:
        deadline = self._loop_time() + patience
        while names := late():
            self._changed.clear()
            left = deadline - self._loop_time()
            if left <= 0:
                raise ApplyError(
                    f"{', '.join(names)} {what} the new generation after {patience:.0f} s"
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_S)):
                    await self._changed.wait()

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()


def _unservable(problems: list[tuple[str, str]]) -> ConfigurationError:
    errors = [
        ConfigurationError(
            error,
            path="" if about == "snapshot" else f"handler {about}",
            hint=None
            if about == "snapshot"
            else "Handlers are found beside the configuration file, in the directory the "
            "gateway was started in, and on PYTHONPATH.",
        )
        for about, error in problems
    ]
    first, *others = errors
    first.others = tuple(others)
    return first
