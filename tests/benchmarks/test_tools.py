"""The C tools against each other, and against servers that misbehave."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.machine import available_cores
from benchmarks.compare.processes import Tree
from benchmarks.compare.subjects import Setup, free_port, probe, release_port, wait_serving
from benchmarks.tools import tool

pytestmark = pytest.mark.usefixtures("compiled_tools")


@contextlib.contextmanager
def served(folder: Path, name: str, *upstream: str) -> Iterator[int]:
    """One of the tools, serving; its port."""
    port = free_port()
    mine = folder / f"{name}-{port}"
    mine.mkdir()
    command = [str(tool(name)), f"127.0.0.1:{port}", *upstream]
    with Tree(command, cores=available_cores(), folder=mine) as tree:
        wait_serving(tree, Setup(port=port, backend=0, folder=mine), 10)
        yield port
    release_port(port)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(tmp_path_factory.mktemp("backend"), "backend") as port:
        yield port


@pytest.fixture(scope="module")
def relay(backend: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(tmp_path_factory.mktemp("relay"), "relay", f"127.0.0.1:{backend}") as port:
        yield port


def load(port: int, *arguments: str) -> dict[str, Any]:
    """The load generator's result."""
    done = subprocess.run(
        [tool("load"), "--target", f"127.0.0.1:{port}", "--header", "Host: a", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    shape: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shape


def errors(shape: dict[str, Any]) -> int:
    names = ("connect_errors", "resets", "timeouts", "protocol_errors", "unanswered")
    return sum(shape[name] for name in names)


@contextlib.contextmanager
def answering(reply: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does `reply` with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, contextlib.suppress(OSError):
                        client.settimeout(30)
                        reply(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(30)


@pytest.mark.parametrize("front", ["backend", "relay"])
@pytest.mark.parametrize("size", [0, 100, 10_240, 1 << 20])
def test_every_request_is_answered(front: str, size: int, request: pytest.FixtureRequest) -> None:
    port = request.getfixturevalue(front)
    shape = load(port, "--connections", "8", "--count", "200", "--path", f"/bytes/{size}")
    assert errors(shape) == 0
    assert shape["responses"] == 200
    assert shape["statuses"] == {"200": 200}
    assert shape["latency"]["count"] == 200


@pytest.mark.parametrize("front", ["backend", "relay"])
def test_request_bodies_are_taken(front: str, request: pytest.FixtureRequest) -> None:
    port = request.getfixturevalue(front)
    shape = load(port, "--connections", "4", "--count", "40", "--body", "700000")
    assert (errors(shape), shape["responses"]) == (0, 40)


def test_a_connection_for_each_request(relay: int) -> None:
    shape = load(relay, "--connections", "4", "--count", "100", "--close")
    assert (errors(shape), shape["responses"], shape["reconnects"]) == (0, 100, 0)


def test_a_constant_rate_sends_what_is_due(backend: int) -> None:
    shape = load(
        backend, "--rate", "500", "--duration", "0.4", "--warmup", "0.1", "--connections", "4"
    )
    assert shape["mode"] == "open"
    assert errors(shape) == 0
    assert shape["latency"]["count"] == 200  # those due in the window, no more, no fewer
    assert sum(shape["statuses"].values()) == 250


def test_a_stall_is_paid_by_all_that_were_due(tmp_path: Path) -> None:
    """No coordinated omission: nobody answers, and yet every request due is in the histogram."""
    ended = threading.Event()

    def never(client: socket.socket) -> None:
        client.recv(65536)
        ended.wait(30)

    with answering(never) as port:
        shape = load(
            port, "--rate", "100", "--duration", "0.3", "--warmup", "0", "--timeout", "0.3",
            "--connections", "2",
        )  # fmt: skip
        ended.set()
    assert shape["responses"] == 0
    assert shape["latency"]["count"] + shape["timeouts"] >= 30
    assert shape["unanswered"] >= 28 - shape["timeouts"]


def test_requests_come_from_a_file_in_turn(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def reply(client: socket.socket) -> None:
        while data := client.recv(65536):
            asked.append(data)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    file = tmp_path / "requests"
    file.write_text("/a\n/b\tX-Key: two\n")
    with answering(reply) as port:
        shape = load(port, "--requests", str(file), "--count", "3", "--connections", "1")
    assert errors(shape) == 0
    head = b"HTTP/1.1\r\nHost: a\r\n"
    assert asked == [
        b"GET /a " + head + b"\r\n",
        b"GET /b " + head + b"X-Key: two\r\n\r\n",
        b"GET /a " + head + b"\r\n",
    ]


def test_a_head_in_pieces_is_put_together() -> None:
    def reply(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while client.recv(65536):
            for byte in b"HTTP/1.1 429 Slow Down\r\nX: y\r\ncontent-length: 3\r\n\r\nabc":
                client.sendall(bytes([byte]))

    with answering(reply) as port:
        shape = load(port, "--count", "5", "--connections", "1")
    assert errors(shape) == 0
    assert shape["statuses"] == {"429": 5}


@pytest.mark.parametrize(
    ("answer", "counter"),
    [
        (b"", "resets"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "resets"),
        (b"SSH-2.0-OpenSSH_9.2 and so on\r\n\r\n", "protocol_errors"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "protocol_errors"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc", "protocol_errors"),
    ],
)
def test_what_is_no_answer_is_counted(answer: bytes, counter: str) -> None:
    def reply(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(answer)

    with answering(reply) as port:
        shape = load(port, "--count", "1", "--connections", "1")
    assert (shape[counter], errors(shape), shape["responses"]) == (1, 1, 0)


def test_what_is_under_way_at_the_end_is_answered_and_counted() -> None:
    """Closed loop: `statuses` are all that was served; `responses` those of the window."""
    shut = threading.Event()
    served: list[int] = []

    def reply(client: socket.socket) -> None:
        while client.recv(65536):
            assert shut.wait(30)
            served.append(1)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with answering(reply) as port:
        command = [str(tool("load")), "--target", f"127.0.0.1:{port}", "--header", "Host: a",
                   "--connections", "1", "--warmup", "0", "--duration", "0.05"]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == "measured":
                    shut.set()
            shape = json.loads(line)
    assert errors(shape) == 0
    assert (shape["responses"], shape["statuses"], len(served)) == (0, {"200": 1}, 1)


def test_a_close_between_requests_is_no_error() -> None:
    def reply(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    with answering(reply) as port:
        shape = load(port, "--count", "3", "--connections", "1")
    assert (errors(shape), shape["responses"]) == (0, 3)


def test_nobody_there_is_a_connect_error() -> None:
    port = free_port()
    shape = load(port, "--count", "2", "--connections", "1")
    release_port(port)
    assert (shape["connect_errors"], shape["responses"]) == (2, 0)


def test_held_connections_stay_until_told(backend: int) -> None:
    process = subprocess.Popen(
        [tool("load"), "--target", f"127.0.0.1:{backend}", "--connections", "50", "--hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    lines = [process.stdout.readline().strip(), process.stdout.readline().strip()]
    assert lines == ["measuring", "held"]
    assert process.poll() is None
    process.stdin.close()
    shape = json.loads(process.stdout.read())
    process.stdout.close()
    assert process.wait(10) == 0
    assert (shape["responses"], shape["reconnects"]) == (50, 0)


def test_the_relay_stays_whole_when_its_upstream_is_gone(tmp_path: Path) -> None:
    nowhere = free_port()
    port = free_port()
    with Tree(
        [str(tool("relay")), f"127.0.0.1:{port}", f"127.0.0.1:{nowhere}"],
        cores=available_cores(),
        folder=tmp_path,
    ) as tree:
        while tree.alive():
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
        assert probe(port) is None
        assert probe(port) is None
        assert tree.alive()
    release_port(nowhere, port)
