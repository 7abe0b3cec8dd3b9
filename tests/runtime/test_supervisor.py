"""The supervisor with children of a few lines: it knows no more than a plan."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from gatewaykit import eventually
from waitkit import lives, readable

from fastgate.runtime.supervisor import supervisor
from fastgate.runtime.supervisor.notify import Notifier
from fastgate.runtime.supervisor.process import spawn
from fastgate.runtime.supervisor.supervisor import Supervisor
from fastgate.runtime.wire.channel import Channel, ChannelClosed
from fastgate.runtime.wire.messages import (
    Alive,
    Bind,
    Bound,
    DrainWanted,
    Fatal,
    KeepCredentials,
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
from fastgate.runtime.wire.plan import Companion, ControlStart, Plan, WorkerStart

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


@pytest.fixture
def events() -> Iterator[Events]:
    found = Events()
    yield found
    found.close()


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


@pytest.fixture
def run(events: Events) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(
        *,
        workers: int = 2,
        script: Callable[[Control], None] = serve,
        worker: Callable[[WorkerStart], int] | None = None,
        notifier: Notifier | None = None,
        segment: FakeSegment | None = None,
        **more: Any,
    ) -> Running:
        plan = Plan(
            workers=workers,
            segment=segment or FakeSegment(events),
            worker_main=worker or quiet_worker(events),
            control_main=Control(events, script),
            **more,
        )
        started.append(Running(plan, notifier))
        return started[-1]

    yield start
    for running in started:
        running.stop()


def test_starts_the_children_and_ends_them_gracefully(
    events: Events, run: Callable[..., Running]
) -> None:
    running = run()
    pids = {events.wait("worker", index=index)["pid"] for index in (0, 1)}
    control = events.wait("bound")
    assert control["fds"] == 2  # one socket for each worker
    running.signal(signal.SIGTERM)
    events.wait("control ends")
    assert running.wait() == 0
    ended = [event["what"] for event in events.seen]
    assert ended.count("worker ends") == 2
    assert ended.index("control ends") > max(
        i for i, what in enumerate(ended) if what == "worker ends"
    )
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_dead_worker_is_replaced_and_starts_with_what_was_published(
    events: Events, run: Callable[..., Running]
) -> None:
    run()
    address = events.wait("bound")["address"]
    events.wait("published")
    first = events.wait("worker", index=1)
    assert (first["generation"], first["snapshot"], first["listeners"]) == (0, False, [])
    os.kill(first["pid"], signal.SIGKILL)
    assert events.wait("told stopped", index=1)["status"] == "signal 9 (SIGKILL)"
    told = events.wait("told started", index=1)
    assert told["fds"] == 1
    assert told["binds"] == ["public 127.0.0.1:0"]
    second = events.wait("worker", index=1)
    assert second["pid"] == told["pid"] != first["pid"]
    assert (second["generation"], second["snapshot"]) == (7, True)
    assert second["listeners"] == ["127.0.0.1:0"]
    assert (
        second["open"] == [address] * 2
    )  # its own and, to stand in, the other worker's; not control's


def test_a_worker_is_replaced_at_once_also_when_several_die_in_a_row(
    events: Events, run: Callable[..., Running]
) -> None:
    run(workers=1)
    events.wait("published")
    pids = [events.wait("worker")["pid"]]
    for _ in range(4):  # how long it may take: test_process.py
        os.kill(pids[-1], signal.SIGKILL)
        pids.append(events.wait("worker")["pid"])
    assert len(set(pids)) == 5


@pytest.mark.parametrize("fds", [0, 2])
def test_a_message_with_too_few_or_too_many_descriptors_is_survived(
    events: Events, run: Callable[..., Running], fds: int
) -> None:
    encode = msgspec.msgpack.Encoder().encode

    def script(control: Control) -> None:
        if control.start.starts == 0:
            for message in (
                Published(generation=7, binds=[], drain_s=1.0),
                KeepCredentials(),
                Bind(id=9, listener=Listener(name="n", bind="127.0.0.1:0")),
            ):
                one = os.memfd_create("image")
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [one] * fds))]
                control.channel.sock.sendmsg([encode(message)], rights if fds else [])
                os.close(one)
        serve(control)

    running = run(script=script)
    events.wait("bound")
    events.wait("published")
    first = events.wait("worker", index=0)
    os.kill(first["pid"], signal.SIGKILL)
    assert events.wait("worker", index=0, snapshot=True)["generation"] == 7
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff",
        b"not msgpack",
        b"\x81\xa4type\xa5Bound",  # of the other direction
        b"\x91" * 60_000,  # nested deeply
        b"\x82\xa4type\xa4Bind\xa2id\xa1x",
        b"x" * 65_537,
    ],
)
def test_what_is_no_message_is_survived(
    events: Events, run: Callable[..., Running], frame: bytes
) -> None:
    def script(control: Control) -> None:
        if control.start.starts == 0:
            control.channel.sock.setblocking(True)
            control.channel.sock.sendmsg([frame])
            control.channel.sock.setblocking(False)
        serve(control)

    running = run(script=script)
    events.wait("bound")
    events.wait("published")
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_a_host_that_is_none_is_answered(events: Events, run: Callable[..., Running]) -> None:
    def script(control: Control) -> None:
        bound, fds = control.bind(1, Listener(name="odd", bind=f"{'x' * 70}.test:80"))
        control.events.tell(what="refused", error=bound.error, fds=len(fds))
        serve(control)

    run(script=script)
    assert "odd" in events.wait("refused", fds=0)["error"]
    events.wait("published")


def test_where_no_process_can_be_started_it_is_tried_again(
    events: Events, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    born = 0

    def fork(name: str, main: Callable[[], int]) -> int:
        nonlocal born
        born += 1
        if born in (2, 4):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return spawn(name, main)

    monkeypatch.setattr(supervisor, "spawn", fork)
    running = run(workers=2)
    events.wait("published")
    events.wait("worker", index=0)
    events.wait("worker", index=1)
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_a_connection_waits_for_the_successor_of_a_dead_worker(
    events: Events, run: Callable[..., Running]
) -> None:
    def worker(start: WorkerStart) -> int:
        events.tell(what="worker", index=start.index, pid=os.getpid())
        if not start.listeners:
            signal.pause()
        sock = start.listeners[0][1]
        readable(sock, None)
        peer, _ = sock.accept()
        peer.setblocking(True)
        peer.sendall(b"hello from the successor")
        peer.close()
        signal.pause()
        return 0

    run(workers=1, worker=worker)
    host, _, port = events.wait("bound")["address"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        events.wait("published")
        os.kill(events.wait("worker")["pid"], signal.SIGKILL)
        assert client.recv(100) == b"hello from the successor"


def test_a_new_control_gets_the_workers_and_the_sockets_of_the_old(
    events: Events, run: Callable[..., Running]
) -> None:
    run()
    first = events.wait("control")
    events.wait("bound")
    workers = {index: events.wait("worker", index=index)["pid"] for index in (0, 1)}
    events.wait("published")
    os.kill(first["pid"], signal.SIGKILL)
    second = events.wait("control", starts=1)
    assert dict(map(tuple, second["workers"])) == workers
    assert second["listeners"] == ["127.0.0.1:0"] * 2


def test_reload_and_reopen_reach_control(events: Events, run: Callable[..., Running]) -> None:
    running = run()
    events.wait("bound")
    running.signal(signal.SIGHUP)
    events.wait("reload")
    running.signal(signal.SIGUSR1)
    events.wait("reopen")


def test_control_may_ask_for_the_end(events: Events, run: Callable[..., Running]) -> None:
    def script(control: Control) -> None:
        serve(control)
        control.channel.send(DrainWanted())

    assert run(script=script).wait() == 0
    events.wait("worker ends")


def test_a_fatal_start_ends_with_its_code(events: Events, run: Callable[..., Running]) -> None:
    running = run(script=lambda control: control.channel.send(Fatal(error="no way", code=4)))
    assert running.wait() == 4


def test_children_that_never_live_are_given_up(events: Events, run: Callable[..., Running]) -> None:
    running = run(workers=1, worker=lambda start: 9, script=lambda control: None, start_failures=3)
    assert running.wait() == 1
    events.wait("control")


def test_a_worker_that_does_not_finish_is_killed(
    events: Events, run: Callable[..., Running]
) -> None:
    def stubborn(start: WorkerStart) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        events.tell(what="worker", index=start.index, pid=os.getpid())
        while True:
            signal.pause()

    def script(control: Control) -> None:
        fd = os.memfd_create("image")
        control.channel.send(Published(generation=1, binds=[], drain_s=0.2), [fd])
        control.channel.send(Ready(generation=1, listeners=[], control=""))
        control.events.tell(what="bound")

    running = run(workers=1, worker=stubborn, script=script)
    events.wait("bound")
    events.wait("worker")
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_a_worker_without_life_is_replaced(events: Events, run: Callable[..., Running]) -> None:
    segment = FakeSegment(events)
    segment.hung.add(0)
    run(workers=1, segment=segment, hang_s=0.2)
    first = events.wait("worker")
    assert events.wait("told stopped")["status"] == "signal 9 (SIGKILL)"
    assert events.wait("worker")["pid"] != first["pid"]


def test_a_control_without_life_is_replaced(events: Events, run: Callable[..., Running]) -> None:
    def script(control: Control) -> None:
        serve(control)
        control.shows_life = False

    run(hang_s=0.3, script=script)
    first = events.wait("control")
    assert events.wait("control", starts=1)["pid"] != first["pid"]


def test_at_once_does_not_ask(events: Events, run: Callable[..., Running]) -> None:
    running = run()
    events.wait("bound")
    running.signal(signal.SIGQUIT)
    assert running.wait() == 0
    events.wait("control ends")
    assert "worker ends" not in [event["what"] for event in events.seen]


def test_companions_live_as_long_as_the_gateway(
    events: Events, run: Callable[..., Running]
) -> None:
    def companion() -> int:
        events.tell(what="companion", pid=os.getpid())
        while True:
            signal.pause()

    running = run(companions=[Companion("demo", companion)])
    first = events.wait("companion")
    os.kill(first["pid"], signal.SIGKILL)
    second = events.wait("companion")
    assert second["pid"] != first["pid"]
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(second["pid"], 0)


def test_children_do_not_outlive_a_killed_supervisor(
    events: Events, run: Callable[..., Running]
) -> None:
    running = run(workers=1)
    pid = events.wait("worker")["pid"]
    assert lives(pid)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    eventually(lambda: not lives(pid), "the worker ends")


def test_states_are_reported_to_the_service_manager(
    events: Events, run: Callable[..., Running], tmp_path: Any
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
        assert notifier.watchdog_s == pytest.approx(0.1)
        running = run(notifier=notifier)
        notifier.close()
        heard: list[str] = []

        def until(line: str) -> None:
            while line not in heard:
                heard.extend(manager.recv(4096).decode().split("\n"))

        until("READY=1")
        heard.clear()
        running.signal(signal.SIGHUP)
        until("RELOADING=1")
        until("READY=1")
        until("WATCHDOG=1")
        running.signal(signal.SIGTERM)
        until("STOPPING=1")
