"""Limits of a listener by address: connections, TLS handshakes; and handshakes in progress."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import tlskit
from certkit import Material
from deadlinekit import FOREVER, Peer, caller
from enginekit import Client, Plane, RawUpstream, proxied
from keyringkit import keyring_of
from proxykit import version_2

from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.segment import Segment

BIND = "127.0.0.1:80"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CONFIG: dict[str, Any] = {
    "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}]
}
TLS = {
    "certificates": [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}],
}


def listening(**listener: Any) -> dict[str, Any]:
    return {"listeners": [{"name": "web", "bind": BIND, **listener}]}


def behind(**listener: Any) -> dict[str, Any]:
    """Of clients that are announced."""
    return listening(proxy_protocol=["127.0.0.0/8"], **listener)


@contextlib.asynccontextmanager
async def serving(config: dict[str, Any], **more: Any) -> AsyncIterator[Plane]:
    """A plane that has nothing left of its connections when it ends."""
    segment = more.setdefault("segment", Segment.create(1, log_records=1024))
    async with Plane({**CONFIG, **config}, bind=BIND, **more) as plane:
        yield plane
        await plane.settled(connections=0)
        assert Concurrency(segment, plane.worker).rows == 0
    assert Concurrency(segment, plane.worker).rows == 0


def counted(plane: Plane, name: str) -> int:
    return counters_snapshot(plane.segment).workers[plane.worker][name]


def connected(plane: Plane) -> socket.socket:
    """A connection that may be refused: connecting does not wait for that."""
    return socket.create_connection(("127.0.0.1", plane.port))


@contextlib.asynccontextmanager
async def client(plane: Plane, source: str = "") -> AsyncIterator[Peer]:
    """A client with a request. source: the address that is announced for it."""
    with connected(plane) as sock:
        peer = Peer(sock)
        with contextlib.suppress(ConnectionError):
            await peer.send((version_2(source) if source else b"") + GET)
        yield peer


async def served(peer: Peer) -> bool:
    """Whether its request is answered. Otherwise nothing comes back."""
    try:
        first = await peer.recv(1)
    except ConnectionResetError:
        return False
    if not first:  # sending has noticed the reset
        return False
    assert (await peer.head()).startswith(b"TTP/1.1 200 ")
    assert await peer.exactly(5) == b"hello"
    return True


async def tried(plane: Plane, source: str = "") -> bool:
    """Whether a new client is served, which then leaves."""
    async with client(plane, source) as peer:
        return await served(peer)


# ---- connections --------------------------------------------------------------------------------


async def test_a_client_has_so_many_connections_at_once() -> None:
    async with serving(listening(connections=2)) as plane:
        async with client(plane) as first, client(plane) as second:
            assert await served(first)
            assert await served(second)
            for n in range(3):
                assert not await tried(plane)
                assert counted(plane, "connections_refused") == n + 1
            await first.send(GET)  # those that are open go on
            assert await served(first)
            second.close()
            await plane.settled(connections=1)
            assert await tried(plane)
        await plane.settled(connections=0)
        assert counted(plane, "connections_refused") == 3
        assert counted(plane, "accepted") == counted(plane, "closed") == 6


async def test_a_refused_connection_is_reset() -> None:
    """So that nothing of it is left, in the kernel either."""
    async with serving(listening(connections=1)) as plane, caller(plane):
        await plane.settled(connections=1)
        with connected(plane) as second:
            assert await Peer(second).rest() == (b"", "reset")


@pytest.mark.parametrize("listener", [{}, {"connections": {"max": 3, "by": "address"}}])
async def test_below_the_limit_nobody_notices(listener: dict[str, Any]) -> None:
    async with serving(listening(**listener)) as plane:
        for _ in range(5):
            assert await tried(plane)
            await plane.settled(connections=0)
        assert counted(plane, "connections_refused") == 0


async def test_each_announced_client_has_its_own() -> None:
    async with serving(behind(connections=1)) as plane:
        async with (
            client(plane, "203.0.113.1") as a,
            client(plane, "203.0.113.2") as b,
            client(plane, "2001:db8::1") as c,
            client(plane, "2001:db8:0:1::1") as d,
        ):
            for peer in (a, b, c, d):
                assert await served(peer)
            assert not await tried(plane, "203.0.113.1")
            assert not await tried(plane, "::ffff:203.0.113.1")
            assert not await tried(plane, "2001:db8::ffff:2")  # one client has all of a /64
            assert await tried(plane, "203.0.113.3")
        await plane.settled(connections=0)
        assert await tried(plane, "2001:db8::ffff:2")


async def test_each_listener_counts_for_itself() -> None:
    config = {
        "listeners": [
            {"name": name, "bind": bind, "connections": 1}
            for name, bind in (("web", BIND), ("other", "127.0.0.1:81"))
        ]
    }
    async with serving(config) as plane:
        with socket.create_server(("127.0.0.1", 0)) as other:
            other.setblocking(False)
            plane.engine.listen(other.fileno(), "127.0.0.1:81")
            port = other.getsockname()[1]
            async with client(plane) as first, caller(port) as second:
                await second.send(GET)
                assert await served(first)
                assert await served(second)
                assert not await tried(plane)
            await plane.settled(connections=0)
            plane.engine.unlisten(other.fileno())


async def test_the_limit_is_of_all_workers_together() -> None:
    segment = Segment.create(3, log_records=1024)
    async with contextlib.AsyncExitStack() as stack:
        planes = [
            await stack.enter_async_context(
                serving(listening(connections=4), segment=segment, worker=worker)
            )
            for worker in range(3)
        ]
        async with contextlib.AsyncExitStack() as clients:
            peers = [
                await clients.enter_async_context(client(plane))
                for plane in itertools.islice(itertools.cycle(planes), 12)
            ]
            assert sum([await served(peer) for peer in peers]) == 4
        for plane in planes:
            await plane.settled(connections=0)
        assert await tried(planes[2])


async def test_the_connections_of_a_killed_worker_are_not_counted() -> None:
    """The supervisor clears the worker's table, as it does for requests in progress."""
    segment = Segment.create(2, log_records=1024)
    async with serving(listening(connections=1), segment=segment, worker=0) as plane:
        async with serving(listening(connections=1), segment=segment, worker=1) as killed:
            async with client(killed) as peer:
                assert await served(peer)
                assert not await tried(plane)
                segment.worker_stopped(1)
                assert await tried(plane)
                await plane.settled(connections=0)
            # Had it been only slow: leaving what was cleared does no harm.
            await killed.settled(connections=0)
        assert await tried(plane)


async def test_trusted_proxies_are_exempt() -> None:
    """They speak for many clients."""
    limits = {"connections": 1}
    config = {**listening(**limits), "trusted_proxies": ["127.0.0.1"]}
    async with serving(config) as plane:
        async with client(plane) as first, client(plane) as second:
            assert await served(first)
            assert await served(second)
        await plane.settled(connections=0)
    # Announced clients are judged by their own address.
    async with serving({**behind(**limits), "trusted_proxies": ["127.0.0.1"]}) as plane:
        async with client(plane, "203.0.113.1") as first:
            assert await served(first)
            assert not await tried(plane, "203.0.113.1")
        await plane.settled(connections=0)


async def test_peers_on_unix_sockets_are_exempt(tmp_path: Path) -> None:
    async with serving(listening(connections=1)) as plane:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(tmp_path / "s"))
            unix.listen()
            unix.setblocking(False)
            plane.engine.listen(unix.fileno(), BIND)
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
                for sock in (first, second):
                    sock.setblocking(False)
                    await loop.sock_connect(sock, str(tmp_path / "s"))
                    peer = Peer(sock)
                    await peer.send(GET)
                    assert await served(peer)
            await plane.settled(connections=0)
            plane.engine.unlisten(unix.fileno())


async def test_a_crowded_table_counts_no_further_addresses() -> None:
    """And so leaves room for requests in progress; whom it counts it still limits."""
    segment = Segment.create(1, log_records=1024, concurrency_cells=16)
    sources = [f"203.0.113.{i}" for i in range(10)]
    async with serving(behind(connections=1), segment=segment) as plane:
        async with contextlib.AsyncExitStack() as clients:
            for i, source in enumerate(sources):
                peer = await clients.enter_async_context(client(plane, source))
                assert await served(peer)
                assert counted(plane, "connections_uncounted") == max(0, i - 7)
            assert Concurrency(segment, 0).rows == 8
            for i, source in enumerate(sources):
                assert await tried(plane, source) == (i > 7)
        await plane.settled(connections=0)
        assert Concurrency(segment, 0).full == 0


async def test_a_reload_changes_the_limit_at_once() -> None:
    async with serving(listening(connections=1)) as plane:
        async with client(plane) as first:
            assert await served(first)
            assert not await tried(plane)
            plane.install({**CONFIG, **listening(connections=2)})
            assert await tried(plane)
            await plane.settled(connections=1)
            plane.install({**CONFIG, **listening()})
            assert await tried(plane)
            # A lower one closes nothing.
            plane.install({**CONFIG, **listening(connections=2)})
            async with client(plane) as second:
                assert await served(second)
                plane.install({**CONFIG, **listening(connections=1)})
                for peer in (first, second):
                    await peer.send(GET)
                    assert await served(peer)
            plane.install({**CONFIG, **listening()})
            # What was not counted then does not count later, what was counted still does.
            plane.install({**CONFIG, **listening(connections=1)})
            await plane.settled(connections=1)
            assert not await tried(plane)
        await plane.settled(connections=0)
        assert await tried(plane)


async def in_a_head(peer: Peer) -> None:
    await peer.send(b"GET / HTTP/1.1\r\nHo")


async def idle(peer: Peer) -> None:
    await peer.send(GET)
    await served(peer)


async def bad(peer: Peer) -> None:
    await peer.send(b"\0\r\n\r\n")


async def ends(peer: Peer) -> None:
    await peer.send(GET)
    peer.finish()


async def says_nothing(peer: Peer) -> None:
    pass


async def reset(peer: Peer) -> None:
    peer.reset()


@pytest.mark.parametrize("way", [in_a_head, idle, bad, ends, says_nothing, reset])
@pytest.mark.parametrize("end", ["leaves", "times out", "the engine ends"])
async def test_no_count_is_left_however_a_connection_ends(
    way: Callable[[Peer], Awaitable[None]], end: str
) -> None:
    short = dict.fromkeys(("head", "idle"), "50ms") if end == "times out" else {}
    async with serving({**listening(connections=1), "timeouts": short}) as plane:
        async with caller(plane) as peer:
            await plane.settled(connections=1)
            await way(peer)
            if end == "times out":
                if way is not reset:
                    await peer.rest()
            elif end == "the engine ends":
                plane.engine.close()
        await plane.settled(connections=0)
        assert Concurrency(plane.segment, 0).rows == 0
        if end != "the engine ends":
            assert await tried(plane)


UPGRADE = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"


@pytest.mark.parametrize("sent", [GET, POST, UPGRADE])
async def test_no_count_is_left_of_requests_in_progress(sent: bytes) -> None:
    """The client leaves while its upstream takes its time, within its body, and in a tunnel."""
    async with RawUpstream() as upstream:
        config = {**proxied(upstream.url, websocket=True), **listening(connections=1)}
        async with serving(config) as plane:
            async with caller(plane) as peer:
                await peer.send(sent)
                target = await upstream.accept()
                await target.head()
                if sent is UPGRADE:
                    target.send(
                        b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                    )
                    assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
                assert not await tried(plane)
                peer.reset()
            await plane.settled(connections=0)
            assert Concurrency(plane.segment, 0).rows == 0


# ---- TLS ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving_tls(
    material: Material, config: dict[str, Any], **more: Any
) -> AsyncIterator[Plane]:
    keyring = keyring_of(material.leaf(), listener={"key": BIND})
    async with serving({**TLS, **config, **more}, keyring=keyring) as plane:
        yield plane


async def shakes_hands(plane: Plane) -> bool:
    """Whether a new client gets through its handshake and is served. Otherwise it is reset."""
    try:
        reader, writer = await plane.connect()
    except ConnectionResetError:
        return False
    peer = Client(reader, writer)
    assert (await peer.request("GET", "/")).body == b"hello"
    await peer.close()
    return True


async def test_connections_are_counted_before_the_handshake(tls_material: Material) -> None:
    async with serving_tls(tls_material, listening(tls=True, connections=2)) as plane:
        async with caller(plane):
            await plane.settled(handshakes=1)
            peer = Client(*await plane.connect())
            assert (await peer.request("GET", "/")).status == 200
            assert not await shakes_hands(plane)
            await peer.close()
            await plane.settled(connections=1)
            assert await shakes_hands(plane)
        await plane.settled(connections=0, handshakes=0)


async def test_a_client_begins_so_many_handshakes(tls_material: Material) -> None:
    limit = {"rate": "1/h", "burst": 3, "by": "address"}
    async with serving_tls(tls_material, listening(tls=True, handshakes=limit)) as plane:
        assert [await shakes_hands(plane) for _ in range(5)] == [True] * 3 + [False] * 2
        assert counted(plane, "handshakes_refused") == 2
        # Clear HTTP is told what is spoken here after the handshake's first bytes: it counts too.
        assert not await tried(plane)
        # An open connection does not shake hands again; a higher limit applies at once.
        plane.install({**CONFIG, **TLS, **listening(tls=True, handshakes="1000/s")})
        assert await shakes_hands(plane)


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_resumed_handshakes_count_as_well(tls_material: Material, version: str) -> None:
    limit = {"rate": "1/h", "burst": 2}
    async with serving_tls(tls_material, listening(tls=True, handshakes=limit)) as plane:
        context = tlskit.client_context(versions=(version, version))
        session = None
        for n in range(2):
            reader, writer = await plane.connect(ssl=context, session=session)
            peer = Client(reader, writer)
            assert (await peer.request("GET", "/")).status == 200
            assert writer.tunnel.ssl.session_reused == (n == 1)
            session = writer.tunnel.ssl.session
            await peer.close()
        with pytest.raises(ConnectionResetError):
            await plane.connect(ssl=context, session=session)


async def test_handshakes_are_of_the_announced_client(tls_material: Material) -> None:
    limits = {"tls": True, "handshakes": {"rate": "1/h"}}
    hello = tlskit.client_hello(tlskit.client_context())

    async def answered(source: str) -> bool:
        with connected(plane) as sock:
            peer = Peer(sock)
            try:
                await peer.send(version_2(source) + hello)
                return (await peer.recv(1)) == b"\x16"
            except ConnectionResetError:
                return False

    async with serving_tls(tls_material, behind(**limits)) as plane:
        sources = ["203.0.113.1", "203.0.113.2", "203.0.113.1", "2001:db8::1", "2001:db8::2"]
        assert [await answered(each) for each in sources] == [True, True, False, True, False]


async def test_a_refused_connection_takes_nothing_from_other_limits(
    tls_material: Material,
) -> None:
    limits = {"connections": 1, "handshakes": {"rate": "1/h", "burst": 2}}
    async with serving_tls(tls_material, listening(tls=True, **limits)) as plane:
        async with caller(plane):
            await plane.settled(handshakes=1)
            assert not await shakes_hands(plane)
            assert not await shakes_hands(plane)
        await plane.settled(connections=0)
        assert await shakes_hands(plane)  # the second token
        await plane.settled(connections=0)
        # And one that is refused by its handshakes does not count as a connection.
        assert not await shakes_hands(plane)
        assert Concurrency(plane.segment, 0).rows == 0
        assert counted(plane, "connections_refused") == 2
        assert counted(plane, "handshakes_refused") == 1


async def test_no_count_is_left_of_handshakes(tls_material: Material) -> None:
    hello = tlskit.client_hello(tlskit.client_context())
    short = {"timeouts": {"handshake": "100ms"}}
    async with serving_tls(tls_material, listening(tls=True, connections=1), **short) as plane:
        for n in (0, 5, len(hello)):
            for leaves in (True, False):
                async with caller(plane) as peer:
                    await peer.send(hello[:n])
                    await plane.settled(handshakes=1)
                    if not leaves:
                        await peer.rest()
                await plane.settled(connections=0, handshakes=0)
        assert await shakes_hands(plane)


async def test_handshakes_in_progress_are_capped(tls_material: Material) -> None:
    caps = {"caps": {"handshakes": 3}}
    async with serving_tls(tls_material, listening(tls=True), **caps) as plane:
        async with contextlib.AsyncExitStack() as stack:
            half = []
            for _ in range(3):
                half.append(await stack.enter_async_context(caller(plane)))
                await plane.settled(handshakes=len(half))
            assert counted(plane, "handshakes_dropped") == 0
            # The next one ends the one that began first, and is served.
            assert await shakes_hands(plane)
            assert await asyncio.wait_for(half[0].rest(), FOREVER) == (b"", "end")
            assert counted(plane, "handshakes_dropped") == 1
            await plane.settled(handshakes=2)
            assert await shakes_hands(plane)
            assert counted(plane, "handshakes_dropped") == 1
        await plane.settled(connections=0)
