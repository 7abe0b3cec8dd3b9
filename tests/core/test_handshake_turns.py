"""Clients' handshakes take turns, and those in progress end with the engine or give way."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import tlskit
from certkit import Material
from deadlinekit import FOREVER
from enginekit import Backend, Client, Plane, proxied
from keyringkit import keyring_of

from fastgate._core.shared.counters import counters_snapshot

CONFIG: dict[str, Any] = {
    "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}]
}
GET = b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n"
MANY = 40


@pytest.fixture
async def plane(tls_material: Material) -> AsyncIterator[Plane]:
    """Its key is slow, so that one round has time for few handshakes."""
    async with Plane(CONFIG, keyring=keyring_of(tls_material.leaf(kind="rsa"))) as plane:
        yield plane


def begun(plane: Plane) -> socket.socket:
    """A client that has sent its ClientHello."""
    peer = socket.create_connection(("127.0.0.1", plane.port))
    peer.setblocking(False)
    peer.sendall(tlskit.client_hello(tlskit.client_context()))
    return peer


def answered(peer: socket.socket) -> bool:
    """Whether something has come."""
    try:
        return bool(peer.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def count(plane: Plane, name: str) -> int:
    """One of the worker's counters."""
    return counters_snapshot(plane.segment).workers[plane.worker][name]


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def test_the_first_come_first_and_requests_before_all(plane: Plane) -> None:
    client = await plane.client()
    assert (await client.request("GET", "/")).status == 200
    await plane.settled(handshakes=0)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(begun(plane)) for _ in range(MANY)]
        for record in client.writer.tunnel.seal(GET):
            client.writer.transport.get_extra_info("socket").send(record)
        while plane.engine.stats()["connections"] <= MANY:  # no turn yet: they are accepted
            plane.engine.poll()
        seen = [answered(peer) for peer in peers]
        assert not all(seen)
        reply = await asyncio.wait_for(client.reader.readuntil(b"hello"), FOREVER)
        assert reply.startswith(b"HTTP/1.1 200 OK")
        while not all(seen):
            plane.engine.poll()
            before, seen = seen, [answered(peer) for peer in peers]
            assert seen == sorted(seen, reverse=True), seen  # nobody before those who came first
            assert seen >= before
    await plane.settled(handshakes=0)


@pytest.mark.parametrize("accepted", [False, True])
async def test_clients_that_have_gone_cost_no_turn(plane: Plane, accepted: bool) -> None:
    """Nothing is signed for them, whether they went before they were accepted or after it."""
    peers = [begun(plane) for _ in range(MANY)]
    with begun(plane) as honest:
        while accepted and plane.engine.stats()["connections"] <= MANY:
            plane.engine.poll()
        for peer in peers:
            reset(peer)
        polls = 0
        while not answered(honest):
            plane.engine.poll()
            polls += 1
        # A poll lasts a millisecond, in which few keys can be used, far from MANY.
        assert polls < MANY // 4
    await plane.settled(handshakes=0, connections=0)
    assert count(plane, "handshakes_client_failed") == MANY + 1


@pytest.mark.parametrize("left", ["first", "middle", "last", "none"])
async def test_the_oldest_handshake_gives_way(tls_material: Material, left: str) -> None:
    """Whichever handshake has ended before."""
    keyring = keyring_of(tls_material.leaf())
    async with Plane({**CONFIG, "caps": {"handshakes": 4}}, keyring=keyring) as plane:
        with contextlib.ExitStack() as stack:
            peers = []
            for i in range(4):
                peers.append(
                    stack.enter_context(socket.create_connection(("127.0.0.1", plane.port)))
                )
                await plane.settled(handshakes=i + 1)
            gone = {"first": [0], "middle": [1, 2], "last": [3], "none": []}[left]
            for i in gone:
                peers[i].close()
            await plane.settled(handshakes=4 - len(gone))
            rest = [peer for i, peer in enumerate(peers) if i not in gone]
            for _ in range(len(gone) + 1):
                stack.enter_context(socket.create_connection(("127.0.0.1", plane.port)))
            oldest, *others = rest
            oldest.settimeout(FOREVER)
            assert await asyncio.to_thread(oldest.recv, 1) == b""
            await plane.settled(handshakes=4)
            for peer in others:
                peer.setblocking(False)
                assert not answered(peer)


# ---- ends ----------------------------------------------------------------------------------------

DATA_SEGS_IN = 152  # in struct tcp_info


def segments_in(peer: socket.socket) -> int:
    """How many segments with data this end of a connection has received."""
    info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("I", info, DATA_SEGS_IN)[0])


async def whole_answer(plane: Plane, request: bytes, version: str) -> tuple[bytes, int]:
    """What comes for a last request, up to close_notify, and in how many segments."""
    context = tlskit.client_context(versions=(version, version))
    reader, writer = await plane.connect(ssl=context)
    peer = writer.transport.get_extra_info("socket")
    assert (await Client(reader, writer).request("GET", "/")).status == 200  # tickets come first
    before = segments_in(peer)
    writer.write(request)
    data = await asyncio.wait_for(reader.read(), FOREVER)  # raises Cut without close_notify
    after = segments_in(peer)
    writer.close()
    return data, after - before


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["close", "http10", "malformed", "refused"],
)
async def test_close_notify_goes_out_with_the_last_answer(
    tls_material: Material, request_: bytes, version: str
) -> None:
    async with Plane(CONFIG, keyring=keyring_of(tls_material.leaf())) as plane:
        data, segments = await whole_answer(plane, request_, version)
        assert data.startswith(b"HTTP/1.1 ")
        assert b"Connection: close\r\n" in data
        assert segments == 1


async def test_a_slow_reader_gets_the_end_of_its_last_answer(tls_material: Material) -> None:
    """The answer fills the sockets: close_notify waits behind it."""
    size = 24 << 20
    upstream = await Backend(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, b"a" * size)
    ).start()
    async with Plane(proxied(upstream.url), keyring=keyring_of(tls_material.leaf())) as plane:
        reader, writer = await plane.connect()
        try:
            writer.transport.pause_reading()
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await plane.settled(exchanges=1)
            writer.transport.resume_reading()
            data = await asyncio.wait_for(reader.read(), FOREVER)  # raises Cut without it
            assert len(data.partition(b"\r\n\r\n")[2]) == size
        finally:
            writer.abort()
    await upstream.stop()


async def test_draining_serves_whoever_is_in_its_handshake(tls_material: Material) -> None:
    """A second for each step: the handshake, and the first request after it."""
    async with Plane(CONFIG, keyring=keyring_of(tls_material.leaf())) as plane:
        tunnel = tlskit.Tunnel(tlskit.client_context(), server_hostname="test.example")
        tunnel.handshake()
        loop = asyncio.get_running_loop()
        with (
            socket.create_connection(("127.0.0.1", plane.port)) as honest,
            socket.create_connection(("127.0.0.1", plane.port)) as silent,
        ):
            for peer in (honest, silent):
                peer.setblocking(False)
            await plane.settled(handshakes=2)
            plane.engine.drain()
            while not tunnel.handshake():
                for record in tunnel.records():
                    honest.sendall(record)
                tunnel.feed(await asyncio.wait_for(loop.sock_recv(honest, 65536), FOREVER))
            for record in tunnel.records():
                honest.sendall(record)
            await plane.settled(handshakes=1)
            for record in tunnel.seal(GET):
                honest.sendall(record)
            said = b""
            while (part := tunnel.open()) is not None:
                said += part
                if not part:
                    tunnel.feed(await asyncio.wait_for(loop.sock_recv(honest, 65536), FOREVER))
            assert said.startswith(b"HTTP/1.1 200 OK")
            assert b"Connection: close" in said
            assert await asyncio.wait_for(loop.sock_recv(silent, 1), FOREVER) == b""
        await plane.settled(connections=0, handshakes=0)


# ---- errors of others --------------------------------------------------------------------------


def leave_an_error() -> None:
    """Put an error into this thread's queue of libcrypto's, as careless users of it do."""
    crypto = ctypes.CDLL("libcrypto.so.3")
    crypto.ERR_new()
    crypto.ERR_set_error(20, 267, None)  # of libssl: wrong version number
    crypto.ERR_peek_error.restype = ctypes.c_ulong
    assert crypto.ERR_peek_error() != 0


async def test_errors_that_others_left_are_not_a_connection_s(tls_material: Material) -> None:
    async with Plane(CONFIG, keyring=keyring_of(tls_material.leaf())) as plane:
        client = await plane.client()
        assert (await client.request("GET", "/")).status == 200
        (record,) = client.writer.tunnel.seal(GET)
        peer = client.writer.transport.get_extra_info("socket")
        # Half a record, so that libssl wants more; and a handshake that wants more as well.
        peer.send(record[:9])
        with begun(plane) as other:
            leave_an_error()
            plane.engine.poll()
            await plane.settled(handshakes=1, connections=2)
            leave_an_error()
            peer.send(record[9:])
            plane.engine.poll()
            reply = await asyncio.wait_for(client.reader.readuntil(b"hello"), FOREVER)
            assert reply.startswith(b"HTTP/1.1 200 OK")
            assert answered(other)


# ---- counts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_handshakes_are_counted(tls_material: Material, version: str) -> None:
    async with Plane(CONFIG, keyring=keyring_of(tls_material.leaf())) as plane:
        context = tlskit.client_context(versions=(version, version))
        session: ssl.SSLSession | None = None
        for _ in range(2):
            reader, writer = await plane.connect(ssl=context, session=session)
            client = Client(reader, writer)
            await client.request("GET", "/")
            session = writer.tunnel.ssl.session
            await client.close()
        assert count(plane, f"handshakes_client_{version}_full") == 1
        assert count(plane, f"handshakes_client_{version}_resumed") == 1
        assert count(plane, "handshakes_client_failed") == 0
        peer = begun(plane)
        await plane.settled(handshakes=1)
        peer.close()
        await plane.settled(handshakes=0)
        assert count(plane, "handshakes_client_failed") == 1
