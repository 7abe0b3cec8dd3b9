"""Binding: one socket for each worker, no silent sharing, errors that say how to mend them."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fastgate.runtime.supervisor.listeners import BindError, bind, split_address
from fastgate.runtime.wire.messages import Listener


def public(address: str, **more: object) -> Listener:
    return Listener(name="public", bind=address, **more)  # type: ignore[arg-type]


def connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address[5:].replace("@", "\0"))
        return sock
    host, port = split_address(address)
    return socket.create_connection((host, port))


def accepted(sockets: list[socket.socket]) -> int:
    """How many connections wait, over all sockets."""
    count = 0
    for sock in sockets:
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
    return count


def test_every_worker_gets_a_socket_of_its_own_on_one_port() -> None:
    bound = bind(public("127.0.0.1:0"), 3)
    assert len(bound.sockets) == 3
    assert len({sock.getsockname() for sock in bound.sockets}) == 1
    assert [bound.socket_for(i) for i in range(3)] == bound.sockets
    clients = [connect(bound.address) for _ in range(30)]
    assert accepted(bound.sockets) == 30
    for client in clients:
        client.close()
    bound.close(remove=True)
    with pytest.raises(ConnectionRefusedError):
        connect(bound.address)


def test_accepted_sockets_send_without_delay() -> None:
    bound = bind(public("127.0.0.1:0"), 1)
    with connect(bound.address):
        peer, _ = bound.sockets[0].accept()
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        peer.close()
    bound.close(remove=True)


def test_an_address_of_another_gateway_is_in_use_although_the_kernel_would_share_it() -> None:
    first = bind(public("127.0.0.1:0"), 2)
    with pytest.raises(BindError, match="already in use") as found:
        bind(public(first.address), 2)
    assert "ss -ltnp" in found.value.hint
    first.close(remove=True)
    bind(public(first.address), 2).close(remove=True)


def test_a_private_listener_has_one_socket() -> None:
    bound = bind(public("127.0.0.1:0", private=True), 4)
    assert len(bound.sockets) == 1
    assert bound.socket_for(3) is bound.sockets[0]
    bound.close(remove=True)


def test_ipv6_is_ipv6_only() -> None:
    try:
        bound = bind(public("[::1]:0"), 1)
    except BindError:
        pytest.skip("this machine has no IPv6 loopback")
    assert bound.address.startswith("[::1]:")
    assert bound.sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    connect(bound.address).close()
    bound.close(remove=True)


def test_a_unix_socket_has_its_mode_and_its_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    bound = bind(public(f"unix:{path}", mode=0o620), 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    assert len(bound.sockets) == 1
    connect(bound.address).close()
    assert accepted(bound.sockets) == 1
    bound.close(remove=True)
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    bind(public(f"unix:{path}"), 1).close(remove=False)
    assert path.exists()
    second = bind(public(f"unix:{path}"), 1)
    with pytest.raises(BindError, match="already in use"):
        bind(public(f"unix:{path}"), 1)
    connect(second.address).close()
    second.close(remove=True)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(BindError, match="not a socket"):
        bind(public(f"unix:{path}"), 1)
    assert path.read_text() == "data"


def test_the_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    first = bind(public(f"unix:{path}"), 1)
    path.rename(tmp_path / "moved")
    second = bind(public(f"unix:{path}"), 1)
    first.close(remove=True)
    assert path.exists()
    second.close(remove=True)


def test_an_abstract_address_has_no_file() -> None:
    bound = bind(public(f"unix:@fastgate-test-{os.getpid()}"), 1)
    assert bound.address == f"unix:@fastgate-test-{os.getpid()}"
    connect(bound.address).close()
    bound.close(remove=True)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "not an address"),
        ("127.0.0.1:99999", "not an address"),
        ("192.0.2.1:0", "this machine has no address"),
        ("unix:/nowhere/at/all.sock", "the directory does not exist"),
    ],
)
def test_errors_name_the_address_and_the_fault(address: str, message: str) -> None:
    with pytest.raises(BindError, match=message) as found:
        bind(public(address), 1)
    assert found.value.hint
    assert address in str(found.value)


def test_a_failed_bind_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    first = bind(public("127.0.0.1:0"), 1)
    for _ in range(3):
        with pytest.raises(BindError):
            bind(public(first.address), 3)
    first.close(remove=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_inherited_socket_is_used_by_address_or_by_name(tmp_path: Path) -> None:
    by_address = socket.create_server(("127.0.0.1", 0))
    by_name = socket.create_server(("127.0.0.1", 0))
    host, port = by_address.getsockname()
    inherited = [("public", by_name), ("", by_address)]
    first = bind(public(f"{host}:{port}"), 2, inherited)
    assert first.sockets == [by_address]
    second = bind(public("127.0.0.1:1"), 2, inherited)
    assert second.sockets == [by_name]
    assert inherited == []
    for bound in (first, second):
        bound.close(remove=True)


def test_the_file_of_an_inherited_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    bound = bind(public(f"unix:{path}"), 2, [("", sock)])
    connect(bound.address).close()
    bound.close(remove=True)
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":8080", ("0.0.0.0", 8080)),
        ("[::1]:443", ("::1", 443)),
    ],
)
def test_addresses_are_split(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected
