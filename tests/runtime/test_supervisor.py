"""The supervisor with children of a few lines: it knows no more than a plan."""

from __future__ import annotations

import errno
import os
import signal
import socket
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from gatewaykit import eventually
from supervisorkit import (
    PATIENCE,
    Control,
    Events,
    FakeSegment,
    Running,
    quiet_worker,
    serve,
)
from waitkit import lives, readable

from fastgate.runtime.supervisor import supervisor
from fastgate.runtime.supervisor.notify import Notifier
from fastgate.runtime.supervisor.process import spawn
from fastgate.runtime.wire.messages import (
    Bind,
    DrainWanted,
    Fatal,
    KeepCredentials,
    KeepKeyring,
    Listener,
    Published,
    Ready,
)
from fastgate.runtime.wire.plan import Companion, Plan, WorkerStart


@pytest.fixture
def events() -> Iterator[Events]:
    found = Events()
    yield found
    found.close()


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


def test_a_keyring_is_kept_for_workers_and_control_processes_to_come(
    events: Events, run: Callable[..., Running]
) -> None:
    def memfd(text: str) -> int:
        fd = os.memfd_create(text)
        os.write(fd, text.encode())
        return fd

    def script(control: Control) -> None:
        serve(control)
        if control.start.starts == 0:  # one comes with a generation, the next one alone
            binds = ["public 127.0.0.1:0", "private control 127.0.0.1:0"]
            published = Published(generation=8, binds=binds, drain_s=5.0, keyring=3)
            fds = [memfd("image"), memfd("first")]
            control.channel.send(published, fds)
            fds.append(memfd("second"))
            control.channel.send(KeepKeyring(serial=4), fds[2:])
            for fd in fds:
                os.close(fd)
        control.events.tell(what="kept")

    run(script=script, workers=1)
    assert events.wait("control")["keyring"] == ""
    first = events.wait("worker")
    assert first["keyring"] == ""
    events.wait("kept")
    os.kill(first["pid"], signal.SIGKILL)
    assert events.wait("worker")["keyring"] == "second"
    assert events.wait("told started", keyring=4)["generation"] == 8
    control = next(event for event in events.seen if event["what"] == "control")
    os.kill(control["pid"], signal.SIGKILL)
    again = events.wait("control")
    assert (again["starts"], again["keyring"]) == (1, "second")


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
