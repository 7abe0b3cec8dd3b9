"""TLS to upstreams: what is whole and what is cut off, handshakes that fail, and who is next."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import h11
import orjson
import pytest
import tlskit
from certkit import Authority, Identity, Material
from deadlinekit import DEADLINE, FOREVER
from enginekit import Plane, proxied
from keyringkit import authority_entry, keyring_of
from tlsserverkit import Request, TlsServer

from fastgate._core.tls.keyring import UpstreamTls
from fastgate.config.targets import tls_id
from fastgate.model.gateway import UpstreamTls as Profile

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
WIRES = {"whole": tlskit.together, "octets": tlskit.octets, "records": tlskit.one_by_one}


@contextlib.asynccontextmanager
async def gateway(
    trusted: Authority, *urls: str, attempts: int = 1, **upstream: Any
) -> AsyncIterator[Plane]:
    """A clear listener, and upstreams that are verified."""
    config = proxied(*urls)
    config["upstreams"] = [{"name": "u", "targets": list(urls), "eject": {"after": 0}, **upstream}]
    config["services"] = [{"name": "s", "upstream": "u", "retries": {"attempts": attempts}}]
    keyring = keyring_of(
        authorities=[authority_entry(trusted)],
        upstreams=[UpstreamTls(id=tls_id(Profile()), authority=0)],
    )
    async with Plane(config, keyring=keyring) as plane:
        yield plane


async def got(plane: Plane) -> tuple[int, bytes, bool]:
    """Status, body, and whether the answer looks whole, to a client of HTTP/1.1."""
    client = await plane.client()
    await client.send("GET", "/")
    head = await asyncio.wait_for(client.event(), FOREVER)
    assert isinstance(head, h11.Response)
    body = b""
    try:
        while isinstance(event := await asyncio.wait_for(client.event(), FOREVER), h11.Data):
            body += event.data
    except (h11.RemoteProtocolError, ConnectionResetError):
        return head.status_code, body, False
    return head.status_code, body, isinstance(event, h11.EndOfMessage)


async def refused(plane: Plane) -> tuple[int, str]:
    """Status and reason."""
    status, body, whole = await got(plane)
    assert whole
    return status, orjson.loads(body)["reason"]


def says(data: bytes) -> Callable[[Request], bytes]:
    return lambda _: data


# ---- what is whole, and what is not -----------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize(
    "answer",
    [
        LENGTH + b"0123456789",
        CHUNKED + b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n",
        CLOSE + b"0123456789",
    ],
    ids=["length", "chunked", "close"],
)
async def test_a_whole_answer(
    tls_material: Material, answer: bytes, version: str, wire: str
) -> None:
    with TlsServer(tls_material.leaf(), versions=(version, version)) as server:
        server.respond = says(answer)
        server.wire, server.record = WIRES[wire], 1 if wire == "records" else tlskit.WHOLE
        async with gateway(tls_material.root, server.url) as plane:
            for _ in range(2):
                assert await got(plane) == (200, b"0123456789", True)


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize(
    "answer",
    [LENGTH + b"01234", CHUNKED + b"5\r\n01234\r\n", CLOSE + b"01234"],
    ids=["length", "chunked", "close"],
)
async def test_an_answer_that_ends_without_close_notify_is_never_whole(
    tls_material: Material, answer: bytes, version: str
) -> None:
    """`cut`: a FIN after the whole record."""
    with TlsServer(tls_material.leaf(), versions=(version, version)) as server:
        server.respond, server.cut = says(answer), 1 << 20
        async with gateway(tls_material.root, server.url) as plane:
            assert await got(plane) == (200, b"01234", False)


@pytest.mark.parametrize(
    "answer", [LENGTH + b"01234", CHUNKED + b"5\r\n01234\r\n"], ids=["length", "chunked"]
)
async def test_an_answer_that_lacks_something_is_not_whole_with_close_notify(
    tls_material: Material, answer: bytes
) -> None:
    with TlsServer(tls_material.leaf()) as server:
        server.respond = says(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        async with gateway(tls_material.root, server.url) as plane:
            assert await got(plane) == (200, b"01234", False)


@pytest.mark.parametrize("cut", [0, 1, 5, 30, -1])
@pytest.mark.parametrize(
    "answer", [LENGTH + b"0123456789", CLOSE + b"0123456789"], ids=["length", "close"]
)
async def test_a_record_that_is_cut_is_nothing(
    tls_material: Material, answer: bytes, cut: int
) -> None:
    with TlsServer(tls_material.leaf()) as server:
        server.respond, server.cut = says(answer), cut
        async with gateway(tls_material.root, server.url) as plane:
            status, body, _ = await got(plane)
            assert (status, orjson.loads(body)["reason"]) == (502, "upstream_reset")


@pytest.mark.parametrize("notifies", [False, True], ids=["cut", "close_notify"])
async def test_an_end_in_the_head_is_no_answer(tls_material: Material, notifies: bool) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\n", LENGTH[:-2], CLOSE[:-1]):
        async with by_hand(tls_material) as target, gateway(tls_material.root, target.url) as plane:
            asking = asyncio.ensure_future(got(plane))
            peer = await target.peer()
            await peer.until(b"\r\n\r\n")
            await peer.send(head)
            await peer.end(notifies)
            status, _, whole = await asking
            assert (status, whole) == (502, True)


async def test_close_notify_without_a_fin_is_an_end(tls_material: Material) -> None:
    async with by_hand(tls_material) as target, gateway(tls_material.root, target.url) as plane:
        asking = asyncio.ensure_future(got(plane))
        peer = await target.peer()
        await peer.until(b"\r\n\r\n")
        await peer.send(CLOSE + b"0123456789")
        await peer.send_records(peer.tunnel.notify())
        assert await asking == (200, b"0123456789", True)
        await plane.settled(upstreams=0)


async def test_a_connection_that_was_ended_is_not_used_again(tls_material: Material) -> None:
    """By close_notify without a FIN, while it is in the pool."""
    async with by_hand(tls_material) as target, gateway(tls_material.root, target.url) as plane:
        for _ in range(2):
            asking = asyncio.ensure_future(got(plane))
            peer = await target.peer()
            await peer.until(b"\r\n\r\n")
            await peer.send(LENGTH + b"0123456789")
            assert await asking == (200, b"0123456789", True)
            await plane.settled(idle_upstreams=1)
            await peer.send_records(peer.tunnel.notify())
            await plane.settled(upstreams=0)


# ---- handshakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["expired", "not_yet_valid", "wrong_name", "unknown_issuer", "self_signed"]
)
async def test_a_certificate_that_is_not_valid(tls_material: Material, kind: str) -> None:
    bad: Identity = getattr(tls_material, kind)()
    with TlsServer(bad) as server, TlsServer(tls_material.leaf()) as good:
        async with gateway(tls_material.root, server.url) as plane:
            assert await refused(plane) == (502, "upstream_tls_failed")
        async with gateway(tls_material.root, server.url, good.url, attempts=2) as plane:
            for _ in range(4):  # two of them begin with the bad one
                assert (await got(plane))[0] == 200
        assert server.requests == []
        assert len(good.requests) == 4


async def test_revocation_is_checked_where_there_is_a_list(tls_material: Material) -> None:
    with TlsServer(tls_material.revoked()) as server:
        async with gateway(tls_material.root, server.url) as plane:
            assert (await got(plane))[0] == 200
        config = proxied(server.url)
        keyring = keyring_of(
            authorities=[authority_entry(tls_material.root, crls=[tls_material.crl()])],
            upstreams=[UpstreamTls(id=tls_id(Profile()), authority=0)],
        )
        async with Plane(config, keyring=keyring) as plane:
            assert await refused(plane) == (502, "upstream_tls_failed")
    assert len(server.requests) == 1


async def test_no_version_in_common_is_an_alert(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf(), versions=("1.2", "1.2")) as server:
        config = proxied(server.url)
        config["upstreams"][0]["tls"] = {"min": "1.3"}
        keyring = keyring_of(
            authorities=[authority_entry(tls_material.root)],
            upstreams=[UpstreamTls(id=tls_id(Profile(min="1.3")), authority=0, min_version=0x0304)],
        )
        async with Plane(config, keyring=keyring) as plane:
            assert await refused(plane) == (502, "upstream_tls_failed")
        assert server.handshakes == 0
        assert all("UNSUPPORTED_PROTOCOL" in each for each in server.failures)


@pytest.mark.parametrize("how", ["fin", "reset", "fin after a part", "no TLS"])
async def test_a_handshake_that_is_broken_off(tls_material: Material, how: str) -> None:
    server = tlskit.server_context(tls_material.leaf())
    with TlsServer(tls_material.leaf()) as good:
        async with (
            listening() as (listener, url),
            gateway(tls_material.root, url, good.url, attempts=2) as plane,
        ):

            async def breaking() -> None:
                loop = asyncio.get_running_loop()
                while True:
                    peer, _ = await loop.sock_accept(listener)
                    hello = await loop.sock_recv(peer, 65536)
                    if how == "fin after a part":
                        tunnel = tlskit.Tunnel(server, server=True)
                        tunnel.feed(hello)
                        tunnel.handshake()
                        await loop.sock_sendall(peer, b"".join(tunnel.records())[:100])
                    elif how == "no TLS":
                        await loop.sock_sendall(peer, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    elif how == "reset":
                        linger = struct.pack("ii", 1, 0)
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    peer.close()

            task = asyncio.ensure_future(breaking())
            for _ in range(4):
                assert (await got(plane))[0] == 200
            task.cancel()
        assert len(good.requests) == 4


async def test_a_handshake_that_never_ends(tls_material: Material) -> None:
    timeouts = {"connect": DEADLINE}
    with TlsServer(tls_material.leaf()) as server, TlsServer(tls_material.leaf()) as good:
        server.stall = True
        async with gateway(tls_material.root, server.url, timeouts=timeouts) as plane:
            status, reason = await refused(plane)
            assert (status, reason) == (502, "upstream_connect_failed")
        async with gateway(
            tls_material.root, server.url, good.url, attempts=2, timeouts=timeouts
        ) as plane:
            for _ in range(2):
                assert (await got(plane))[0] == 200
        assert server.handshakes == 0
        assert len(good.requests) == 2


# ---- a target worked by hand ------------------------------------------------------------------


class Hand:
    """One accepted connection, after its handshake."""

    def __init__(self, accepted: socket.socket, tunnel: tlskit.Tunnel) -> None:
        self.socket, self.tunnel = accepted, tunnel
        self.loop = asyncio.get_running_loop()

    async def shake_hands(self) -> None:
        while not self.tunnel.handshake():
            await self.send_records(self.tunnel.records())
            self.tunnel.feed(await asyncio.wait_for(self.loop.sock_recv(self.socket, 65536), 20))
        await self.send_records(self.tunnel.records())

    async def send_records(self, records: list[bytes]) -> None:
        await self.loop.sock_sendall(self.socket, b"".join(records))

    async def send(self, data: bytes) -> None:
        await self.send_records(self.tunnel.seal(data))

    async def until(self, mark: bytes) -> None:
        received = b""
        while mark not in received:
            while not (data := self.tunnel.open()):
                self.tunnel.feed(await self.loop.sock_recv(self.socket, 65536))
            received += data

    async def end(self, notifies: bool) -> None:
        if notifies:
            await self.send_records(self.tunnel.notify())
        self.socket.close()


class Target:
    def __init__(self, listener: socket.socket, url: str, material: Material) -> None:
        self.listener, self.url = listener, url
        self.context = tlskit.server_context(material.leaf())
        self.hands: list[Hand] = []

    async def peer(self) -> Hand:
        accepted, _ = await asyncio.wait_for(
            asyncio.get_running_loop().sock_accept(self.listener), FOREVER
        )
        accepted.setblocking(False)
        self.hands.append(Hand(accepted, tlskit.Tunnel(self.context, server=True)))
        await self.hands[-1].shake_hands()
        return self.hands[-1]


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener, f"https://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def by_hand(material: Material) -> AsyncIterator[Target]:
    async with listening() as (listener, url):
        target = Target(listener, url, material)
        try:
            yield target
        finally:
            for hand in target.hands:
                hand.socket.close()
