"""The relay between clear TCP and TLS: what goes through it, how it is cut, and how it ends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
import tlskit
from certkit import Material
from tlsrelaykit import Cuts, TlsRelay

DATA = bytes(range(256)) * 4000


@pytest.fixture(params=["whole", "records", "octets"])
def cuts(request: pytest.FixtureRequest) -> Cuts:
    return {
        "whole": Cuts(),
        "records": Cuts(1, tlskit.one_by_one, 20),
        "octets": Cuts(wire=tlskit.octets, most=20),
    }[request.param]


@pytest.fixture
def ends(tls_material: Material, cuts: Cuts) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The clear ends of two relays in a row, with TLS between them."""
    with socket.create_server(("127.0.0.1", 0)) as listener, TlsRelay(cuts) as relay:
        server = tlskit.server_context(tls_material.leaf())
        port = relay.decrypt(listener.getsockname(), server)
        port = relay.encrypt(("127.0.0.1", port), tlskit.client_context(tls_material.root))
        with socket.create_connection(("127.0.0.1", port)) as one:
            other, _ = listener.accept()
            with other:
                for each in (one, other):
                    each.settimeout(20)
                yield one, other


def received(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += end.recv(1 << 20)
    return bytes(data)


def test_octets_pass_both_ways_and_so_do_ends(ends: tuple[socket.socket, socket.socket]) -> None:
    for one, other in (ends, ends[::-1]):
        one.sendall(b"hello")
        assert received(other, 5) == b"hello"
    one, other = ends
    one.shutdown(socket.SHUT_WR)
    assert other.recv(1) == b""
    other.sendall(DATA[:5000])
    assert received(one, 5000) == DATA[:5000]
    other.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""


def test_a_reset_passes(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)


@pytest.mark.parametrize("fins", [False, True])
def test_an_end_without_close_notify_is_a_reset(tls_material: Material, fins: bool) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        TlsRelay(fins=fins) as relay,
    ):
        server = tlskit.server_context(tls_material.leaf())
        port = relay.decrypt(listener.getsockname(), server)
        client = tlskit.TlsClient(("127.0.0.1", port), tlskit.client_context())
        other, _ = listener.accept()
        with other:
            other.settimeout(20)
            client.send(b"half")
            assert received(other, 4) == b"half"
            client.close(notify=False)
            if fins:
                assert other.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    other.recv(1)
