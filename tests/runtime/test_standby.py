"""Accepting connections for workers that do not accept."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from fastgate.runtime.supervisor.standby import SERVING, TAKEOVER_S, Standby

STARTING, DRAINING = 1, 3


class Row:
    def __init__(self) -> None:
        self.pid = 1
        self.state = SERVING
        self.heartbeat_ns = time.monotonic_ns() + 10**12  # fresh for as long as the test lasts

    def stop(self) -> None:
        self.heartbeat_ns = time.monotonic_ns() - int(TAKEOVER_S * 1e9) - 1


class Engine:
    """Notes what it listens on."""

    def __init__(self) -> None:
        self.fds: dict[int, str] = {}
        self.full = False

    def listen(self, fd: int, key: str) -> None:
        if self.full:
            raise ValueError("a worker has at most 0 listeners")
        assert fd not in self.fds
        self.fds[fd] = key

    def unlisten(self, fd: int) -> None:
        del self.fds[fd]


class Workers:
    """So many workers, each with what it knows of the others."""

    def __init__(self, count: int) -> None:
        self.rows = [Row() for _ in range(count)]
        self.engines = [Engine() for _ in range(count)]
        self.all = [Standby(i, self.rows, self.engines[i]) for i in range(count)]
        self.sockets: dict[tuple[int, str], list[socket.socket]] = {}

    def put(self, bind: str) -> None:
        for i, one in enumerate(self.all):
            sockets = [socket.socket() for _ in self.rows]
            self.sockets[i, bind] = sockets
            one.put(bind, sockets)

    def look(self) -> None:
        for row, one in zip(self.rows, self.all, strict=True):
            if Standby._accepts(row):  # the others do nothing
                one.look()

    def takers(self, worker: int, bind: str = "a") -> list[int]:
        """Who accepts from this worker's socket of a listener besides it."""
        return [
            i
            for i, engine in enumerate(self.engines)
            if i != worker and self.sockets[i, bind][worker].fileno() in engine.fds
        ]


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers(4)
    found.put("a")
    yield found
    for one in found.all:
        one.close(for_good=False)


def test_no_worker_accepts_for_healthy_workers(workers: Workers) -> None:
    workers.look()
    assert not any(engine.fds for engine in workers.engines)


def test_the_next_that_accepts_takes_and_leaves_again(workers: Workers) -> None:
    row = workers.rows[1]
    row.stop()
    workers.look()
    workers.look()
    assert workers.takers(1) == [2]
    row.heartbeat_ns = time.monotonic_ns() + 10**12
    workers.look()
    assert workers.takers(1) == []
    assert not any(engine.fds for engine in workers.engines)


@pytest.mark.parametrize(("pid", "state"), [(0, 0), (7, STARTING), (7, DRAINING)])
def test_one_that_is_dead_starts_or_drains_is_stood_in_for(
    workers: Workers, pid: int, state: int
) -> None:
    workers.rows[3].pid, workers.rows[3].state = pid, state
    workers.look()
    assert workers.takers(3) == [0]


def test_the_next_may_be_away_too(workers: Workers) -> None:
    for index in (1, 2):
        workers.rows[index].stop()
    workers.look()
    assert workers.takers(1) == [3]
    assert workers.takers(2) == [3]
    workers.rows[3].stop()
    workers.look()
    assert 0 in workers.takers(1)
    assert 0 in workers.takers(2)
    assert 0 in workers.takers(3)


def test_listeners_come_and_go_meanwhile(workers: Workers) -> None:
    workers.rows[1].stop()
    workers.look()
    workers.put("b")
    workers.look()
    assert workers.takers(1, "b") == [2]
    workers.all[2].keep_only(["b"])
    assert workers.sockets[2, "a"][1].fileno() == -1  # closed
    assert list(workers.engines[2].fds.values()) == ["b"]


def test_a_full_engine_says_so_and_goes_on(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    workers.engines[2].full = True
    workers.rows[1].stop()
    workers.look()
    assert "cannot accept for worker 1 on a" in caplog.text
    workers.rows[1].heartbeat_ns = time.monotonic_ns() + 10**12
    workers.look()


def test_at_the_end_the_emptied_queues_are_closed_also_where_a_stopped_worker_has_them() -> None:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    rows = [Row() for _ in range(3)]
    rows[1].stop()
    one = Standby(2, rows, Engine())
    one.put("a", [sock.dup() for sock in listening])
    one.look()
    one.close(for_good=True)
    refused = []
    for sock in listening:
        with socket.socket() as client:
            client.settimeout(10)
            refused.append(client.connect_ex(sock.getsockname()) != 0)
    for sock in listening:
        sock.close()
    assert refused == [False, True, True]  # worker 0 empties its own queue
