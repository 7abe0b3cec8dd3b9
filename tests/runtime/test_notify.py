"""What the service manager is told, and the sockets it hands down."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgate.runtime.supervisor.notify import Notifier, inherited_sockets


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def lines(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_states_are_reported_in_the_form_of_the_protocol(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    notifier = Notifier(environ)
    assert environ == {}, "children would speak in our name"
    notifier.ready("serving\ngeneration 3")
    assert lines(manager) == ["READY=1", "STATUS=serving generation 3"]
    notifier.reloading()
    told = lines(manager)
    assert told[0] == "RELOADING=1"
    assert any(line.startswith("MONOTONIC_USEC=") and int(line[15:]) > 0 for line in told)
    notifier.stopping()
    assert lines(manager)[0] == "STOPPING=1"
    notifier.alive()
    assert lines(manager) == ["WATCHDOG=1"]
    notifier.status("half of it")
    assert lines(manager) == ["STATUS=half of it"]
    notifier.close()


def test_an_abstract_socket_is_reached() -> None:
    name = f"fastgate-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(10)
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
        notifier.ready()
        assert lines(sock) == ["READY=1"]
        notifier.close()


@pytest.mark.parametrize("path", ["", "relative", "/nowhere/at/all", "vsock:2:1"])
def test_without_a_manager_nothing_happens(path: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000"})
    notifier.ready()
    assert notifier.watchdog_s == 0.0


def test_a_manager_that_left_is_no_error(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    manager.close()
    notifier.ready()
    notifier.close()


@pytest.mark.parametrize(
    ("pid", "seconds"),
    [(None, 1.5), (str(os.getpid()), 1.5), ("1", 0.0)],
    ids=["any", "this", "another"],
)
def test_the_watchdog_is_for_this_process_only(
    manager: socket.socket, pid: str | None, seconds: float
) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "3000000"}
    if pid is not None:
        environ["WATCHDOG_PID"] = pid
    notifier = Notifier(environ)
    assert notifier.watchdog_s == seconds
    notifier.close()


def high_descriptors(count: int) -> int:
    """Move listening sockets to consecutive descriptors far up; the first of them."""
    first = 200
    for i in range(count):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            os.dup2(sock.fileno(), first + i, inheritable=True)
    return first


def test_inherited_sockets_come_with_their_names() -> None:
    first = high_descriptors(2)
    environ = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "public",
    }
    found = inherited_sockets(environ, first=first)
    assert environ == {}
    assert [name for name, _ in found] == ["public", ""]
    for i, (_, sock) in enumerate(found):
        assert sock.fileno() == first + i
        assert not sock.get_inheritable()
        assert not sock.getblocking()
        sock.close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "2"}, {"LISTEN_PID": str(os.getpid())}],
)
def test_sockets_of_others_are_not_taken(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == []
    assert environ == {}
