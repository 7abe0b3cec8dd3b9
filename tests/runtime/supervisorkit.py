"""A supervisor with children of a few lines, which tell a pipe what they see."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from waitkit import readable

from fastgate.runtime.supervisor.notify import Notifier
from fastgate.runtime.supervisor.process import spawn
from fastgate.runtime.supervisor.supervisor import Supervisor
from fastgate.runtime.wire.channel import Channel, ChannelClosed
from fastgate.runtime.wire.messages import (
    Alive,
    Bind,
    Bound,
    Listener,
    Published,
    Ready,
    Reload,
    ReloadDone,
    ReopenLogs,
    ToControl,
    WorkerStarted,
    WorkerStopped,
)
from fastgate.runtime.wire.plan import ControlStart, Plan, WorkerStart

PATIENCE = 60.0


class FakeSegment:
    """What the supervisor uses of the segment, in its own memory."""

    def __init__(self, events: Events) -> None:
        self.draining = 0
        self.hung: set[int] = set()
        self._events = events

    def worker_started(self, index: int, pid: int) -> None:
        self._events.tell(what="started", index=index, pid=pid)

    def worker_stopped(self, index: int) -> None:
        self.hung.discard(index)
        self._events.tell(what="stopped", index=index)

    def heartbeat_age(self, index: int) -> float | None:
        return 1e6 if index in self.hung else 0.0


class Events:
    """A pipe of JSON lines that all processes of a test write to."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._buffer = b""
        self.seen: list[dict[str, Any]] = []
        self._unclaimed: list[dict[str, Any]] = []

    def tell(self, **event: Any) -> None:
        os.write(self._write, json.dumps(event).encode() + b"\n")

    def wait(self, what: str, **wanted: Any) -> dict[str, Any]:
        """The first event of that kind with these values that no wait has returned yet."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for event in self._unclaimed:
                if event["what"] == what and all(event.get(k) == v for k, v in wanted.items()):
                    self._unclaimed.remove(event)
                    return event
            left = deadline - time.monotonic()
            assert left > 0, f"no {what} {wanted} among {self.seen}"
            if readable(self._read, left):
                self._buffer += os.read(self._read, 65536)
            *lines, self._buffer = self._buffer.split(b"\n")
            events = [json.loads(line) for line in lines]
            self.seen += events
            self._unclaimed += events

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def content_of(fd: int) -> str:
    """What is in a memfd; empty if there is none."""
    return os.pread(fd, 100, 0).decode() if fd >= 0 else ""


class Control:
    """A control process for tests: answers by a function of the message."""

    def __init__(self, events: Events, script: Callable[[Control], None] | None = None) -> None:
        self.events = events
        self.script = script
        self.shows_life = True

    def __call__(self, start: ControlStart) -> int:
        self.start = start
        self.channel: Channel[ToControl] = Channel(start.channel, ToControl)
        self.ended = False
        signal.signal(signal.SIGTERM, self._end)
        self.events.tell(
            what="control",
            pid=os.getpid(),
            starts=start.starts,
            workers=[[index, pid] for index, pid, _ in start.workers],
            listeners=[listener.bind for listener, _, _ in start.listeners],
            pending_reload=start.pending_reload,
            keyring=content_of(start.keyring_fd),
        )
        if self.script is not None:
            self.script(self)
        while not self.ended:
            if self.shows_life:
                self.channel.send(Alive())
            with contextlib.suppress(InterruptedError):
                if readable(self.channel, 0.05):
                    message, fds = self.read()
                    self.on(message, fds)
        self.events.tell(what="control ends")
        return 0

    def _end(self, number: int, frame: object) -> None:
        self.ended = True

    def read(self) -> tuple[Any, list[int]]:
        while True:
            readable(self.channel, None)
            try:
                received = self.channel.receive()
            except ChannelClosed:
                os._exit(3)
            if received is not None:
                return received

    def on(self, message: Any, fds: list[int]) -> None:
        if isinstance(message, WorkerStarted):
            self.events.tell(
                what="told started",
                index=message.index,
                pid=message.pid,
                generation=message.generation,
                keyring=message.keyring,
                binds=message.binds,
                fds=len(fds),
            )
        elif isinstance(message, WorkerStopped):
            self.events.tell(what="told stopped", index=message.index, status=message.status)
        elif isinstance(message, Reload):
            self.events.tell(what="reload")
            self.channel.send(ReloadDone(error=""))
        elif isinstance(message, ReopenLogs):
            self.events.tell(what="reopen")
        for fd in fds:
            os.close(fd)

    def bind(self, id: int, listener: Listener) -> tuple[Bound, list[int]]:
        self.channel.send(Bind(id=id, listener=listener))
        while True:
            message, fds = self.read()
            if isinstance(message, Bound) and message.id == id:
                return message, fds
            self.on(message, fds)


def serve(control: Control) -> None:
    """Bind one address, publish an image of nothing, be ready."""
    if control.start.starts == 0:
        bound, fds = control.bind(1, Listener(name="public", bind="127.0.0.1:0"))
        control.events.tell(what="bound", address=bound.address, fds=len(fds))
        _, own = control.bind(2, Listener(name="control", bind="127.0.0.1:0", private=True))
        for fd in (*fds, *own):
            os.close(fd)
    fd = os.memfd_create("image")
    generation = 7 + control.start.starts
    binds = ["public 127.0.0.1:0", "private control 127.0.0.1:0"]
    control.channel.send(Published(generation=generation, binds=binds, drain_s=5.0), [fd])
    os.close(fd)
    control.channel.send(Ready(generation=7, listeners=[], control=""))
    control.events.tell(what="published")


def quiet_worker(events: Events) -> Callable[[WorkerStart], int]:
    def main(start: WorkerStart) -> int:
        def end(number: int, frame: object) -> None:
            events.tell(what="worker ends", index=start.index)
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        events.tell(
            what="worker",
            index=start.index,
            pid=os.getpid(),
            generation=start.generation,
            snapshot=start.snapshot_fd >= 0,
            keyring=content_of(start.keyring_fd),
            listeners=[listener.bind for listener, _ in start.listeners],
            open=sorted(_open_sockets()),
        )
        while True:
            signal.pause()

    return main


def _open_sockets() -> list[str]:
    """What kinds of listening sockets this process has open (addresses)."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found.append(":".join(map(str, sock.getsockname())))
        except OSError:
            continue
    return found


class Running:
    """A supervisor in a process of its own."""

    def __init__(self, plan: Plan, notifier: Notifier | None = None) -> None:
        self.pid = spawn("supervisor", lambda: Supervisor(plan, notifier).run())
        self.code: int | None = None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        if self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def stop(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGQUIT)
            self.wait()
