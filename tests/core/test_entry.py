"""What a connection passes before it may speak: a PROXY header from those who must send one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import tlskit
from certkit import Material
from deadlinekit import DEADLINE, FOREVER, STEP, STEPS, Peer, caller, unstalled
from enginekit import Backend, Client, Plane, proxied
from keyringkit import keyring_of
from proxykit import LOCAL, binary, tlv, version_1, version_2

from fastgate._core.io.proxy_header import ProxyFault
from fastgate._core.logs.drain import LogDrain
from fastgate._core.shared.counters import counters_snapshot

BIND = "127.0.0.1:80"
OURS = ["127.0.0.0/8"]
OTHERS = ["192.0.2.0/24"]
CLIENT = "203.0.113.9"
REQUEST = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n"
GET = REQUEST % (b"", b"")
HEADERS = [
    version_1(CLIENT),
    version_2(CLIENT),
    version_2(CLIENT, tlvs=tlv(2, b"a.example"), checksum=True),
    version_1("2001:db8::9"),
    version_2("2001:db8::9"),
]
CONFIG: dict[str, Any] = {
    "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}]
}


def announced(*networks: str, **listener: Any) -> list[dict[str, Any]]:
    """Listeners of a configuration: one, for whose connections these announce the client."""
    return [{"name": "web", "bind": BIND, "proxy_protocol": list(networks or OURS), **listener}]


@contextlib.asynccontextmanager
async def serving(config: dict[str, Any] = CONFIG, **more: Any) -> AsyncIterator[Plane]:
    listeners = more.pop("listeners", announced())
    async with Plane({**config, "listeners": listeners, **more}, bind=BIND, keyring=None) as plane:
        yield plane


@contextlib.asynccontextmanager
async def serving_tls(material: Material, **more: Any) -> AsyncIterator[Plane]:
    listeners = [{**each, "tls": True} for each in more.pop("listeners", announced())]
    document = {
        **CONFIG, "certificates": [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}],
        "listeners": listeners, **more,
    }  # fmt: skip
    keyring = keyring_of(material.leaf(), listener={"key": BIND})
    async with Plane(document, bind=BIND, keyring=keyring) as plane:
        yield plane


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = await Backend().start()
    yield backend
    await backend.stop()


async def exchange(plane: Plane, *pieces: bytes) -> bytes:
    """All that comes back after these pieces, each of which the engine has read before the next."""
    async with caller(plane) as peer:
        with contextlib.suppress(OSError):  # it may be closed before all is sent
            await in_pieces(peer, *pieces)
        return (await peer.rest())[0]


async def in_pieces(peer: Peer, *pieces: bytes) -> None:
    for piece in pieces:
        await peer.send(piece)
        for _ in tlskit.until_read(peer.sock):
            await asyncio.sleep(0.0002)


def octets(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def counted(plane: Plane, name: str) -> int:
    return counters_snapshot(plane.segment).workers[plane.worker][name]


def clients(plane: Plane) -> list[str]:
    """The clients of the log's lines."""
    lines = LogDrain(plane.segment).drain(0).splitlines()
    return [orjson.loads(line)["client"] for line in lines]


# ---- who the client is --------------------------------------------------------------------------


@pytest.mark.parametrize("header", HEADERS)
async def test_the_client_is_the_one_that_is_announced(backend: Backend, header: bytes) -> None:
    client = "2001:db8::9" if b"2001" in header or b"\x0d\xb8" in header else CLIENT
    async with serving(proxied(backend.url)) as plane:
        for pieces in ([header + GET], [header, GET], octets(header + GET)):
            assert b" 200 OK" in await exchange(plane, *pieces)
        assert clients(plane) == [client] * 3
    assert [seen.headers["x-forwarded-for"] for seen in backend.requests] == [client] * 3


async def test_the_announced_port_is_logged() -> None:
    async with serving() as plane:
        await exchange(plane, version_2(CLIENT, ports=(51234, 80)) + GET)
        (line,) = LogDrain(plane.segment).drain(0).splitlines()
        assert orjson.loads(line)["port"] == 51234


async def test_handlers_see_the_announced_client() -> None:
    async def handler(x: Any) -> None:
        await x.respond(200, None, x.address.encode())

    config = {"routes": [{"name": "h", "path": "/", "handler": "t:h"}], "listeners": announced()}
    async with Plane(config, handlers={"t:h": handler}, bind=BIND) as plane:
        assert (await exchange(plane, HEADERS[1] + GET)).endswith(CLIENT.encode())


async def test_connections_are_kept_and_requests_pipelined(backend: Backend) -> None:
    async with serving(proxied(backend.url)) as plane:
        first = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
        answers = await exchange(plane, HEADERS[0] + first + first, GET)
        assert answers.count(b" 200 OK") == 3
    assert [seen.headers["x-forwarded-for"] for seen in backend.requests] == [CLIENT] * 3


async def test_a_long_head_follows_the_header() -> None:
    async with serving() as plane:
        head = REQUEST % (b"", b"".join(b"X-%d: %b\r\n" % (i, b"x" * 7000) for i in range(2)))
        assert b" 200 OK" in await exchange(plane, HEADERS[1] + head)


async def test_limits_and_lists_are_of_the_announced_client() -> None:
    config = {
        "routes": [
            {
                "name": "r",
                "path": "/{rest*}",
                "respond": {"body": "hello"},
                "limits": [{"by": "address", "rate": "1/h"}],
                "policies": ["known"],
            }
        ],
        "policies": [{"name": "known", "addresses": ["203.0.113.0/24"]}],
    }
    async with serving(config) as plane:
        for source, status in (
            ("203.0.113.9", b"200"), ("203.0.113.9", b"429"), ("203.0.113.10", b"200"),
            ("198.51.100.1", b"403"),
        ):  # fmt: skip
            for_it = await exchange(plane, version_2(source) + GET)
            assert for_it.startswith(b"HTTP/1.1 " + status), source


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", binary(command=LOCAL), binary(), binary(b"\0" * 216, 0x31)]
)
async def test_without_an_announced_client_it_is_the_peer(backend: Backend, header: bytes) -> None:
    async with serving(proxied(backend.url)) as plane:
        assert b" 200 OK" in await exchange(plane, header + GET)
    assert backend.requests[0].headers["x-forwarded-for"] == "127.0.0.1"


async def test_fields_are_believed_by_who_the_client_is(backend: Backend) -> None:
    """Not by who passes its bytes on: the client wrote them."""
    claims = REQUEST % (b"", b"X-Forwarded-For: 1.2.3.4\r\n")
    config = {**proxied(backend.url), "trusted_proxies": ["127.0.0.0/8", "198.51.100.0/24"]}
    async with serving(config) as plane:
        for source in (CLIENT, "198.51.100.7"):
            assert b" 200 OK" in await exchange(plane, version_1(source) + claims)
        # The proxy itself, for example for a health check, is believed by its address.
        assert b" 200 OK" in await exchange(plane, binary(command=LOCAL) + claims)
        assert clients(plane) == [CLIENT, "1.2.3.4", "1.2.3.4"]
    seen = [each.headers["x-forwarded-for"] for each in backend.requests]
    assert seen == [CLIENT, "1.2.3.4, 198.51.100.7", "1.2.3.4, 127.0.0.1"]


async def test_peers_on_unix_sockets(backend: Backend, tmp_path: Path) -> None:
    async with serving(proxied(backend.url), listeners=announced("unix", *OTHERS)) as plane:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "s"))
            listening.listen()
            listening.setblocking(False)
            plane.engine.listen(listening.fileno(), BIND)
            for header in (*HEADERS[:2], binary(command=LOCAL)):
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
                writer.write(header + GET)
                assert b" 200 OK" in await reader.read()
                writer.close()
            plane.engine.unlisten(listening.fileno())
        # `unix` is about them alone, and networks are not about them.
        assert b" 200 OK" in await exchange(plane, GET)
    seen = [each.headers["x-forwarded-for"] for each in backend.requests]
    assert seen == [CLIENT, CLIENT, "unknown", "127.0.0.1"]


# ---- TLS ----------------------------------------------------------------------------------------


def after(header: bytes, wire: tlskit.Wire, *, glued: bool = False) -> tlskit.Wire:
    """The wire of a connection that begins with this header."""
    first = [header]

    def send(records: list[bytes]) -> list[bytes]:
        pieces = wire(records)
        if not first:
            return pieces
        start = first.pop()
        return [start + pieces[0], *pieces[1:]] if glued else [start, *pieces]

    return send


def split(wire: tlskit.Wire) -> tlskit.Wire:
    """The same, an octet a piece."""
    return lambda records: octets(b"".join(wire(records)))


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize("header", HEADERS[1:4])
async def test_the_header_precedes_tls(tls_material: Material, version: str, header: bytes) -> None:
    async with serving_tls(tls_material) as plane:
        context = tlskit.client_context(tls_material.root, versions=(version, version))
        for wire in (
            after(header, tlskit.together),
            after(header, tlskit.together, glued=True),
            split(after(header, tlskit.together)),
        ):
            client = Client(*await plane.connect(ssl=context, wire=wire))
            for _ in range(2):
                assert (await client.request("GET", "/")).body == b"hello"
            await client.close()
        await plane.settled(connections=0, buffers=0)
        assert set(clients(plane)) == {"2001:db8::9" if b"TCP6" in header else CLIENT}


async def test_clear_http_after_the_header(tls_material: Material) -> None:
    """As without one: it is told that TLS is spoken here."""
    async with serving_tls(tls_material) as plane:
        for pieces in ([HEADERS[1] + GET], [HEADERS[1], GET], octets(HEADERS[1] + GET)):
            answer = await exchange(plane, *pieces)
            assert answer.startswith(b"HTTP/1.1 "), answer
        await plane.settled(connections=0, handshakes=0, buffers=0)


async def test_part_of_a_hello_after_the_header(tls_material: Material) -> None:
    """The client leaves, or is too slow, with something fed to TLS."""
    hello = tlskit.client_hello(tlskit.client_context())
    async with serving_tls(tls_material, timeouts={"handshake": "200ms"}) as plane:
        for leaves in (True, False):
            for n in (1, 5, 100):
                async with caller(plane) as peer:
                    await peer.send(HEADERS[0] + hello[:n])
                    await plane.settled(handshakes=1)
                    if not leaves:
                        await peer.rest()
                await plane.settled(connections=0, handshakes=0, buffers=0)
        assert counted(plane, "bad_proxy_headers") == 0


async def test_damaged_tls_after_the_header(tls_material: Material) -> None:
    async with serving_tls(tls_material) as plane:
        for data in (b"\x16\x03\x01\x00\x01\x01", b"\0" * 64, HEADERS[1]):
            answer = await exchange(plane, HEADERS[1] + data)
            assert answer == b"" or answer[0] == 0x15  # an alert, at most
        await plane.settled(connections=0, handshakes=0, buffers=0)


# ---- those who may not send one -----------------------------------------------------------------


@pytest.mark.parametrize("listener", [{"proxy_protocol": OTHERS}, {}], ids=["others", "nobody"])
async def test_a_header_of_anyone_else_is_no_http(listener: dict[str, Any]) -> None:
    async with serving(listeners=[{"name": "web", "bind": BIND, **listener}]) as plane:
        assert b" 200 OK" in await exchange(plane, GET)
        for header in HEADERS:
            assert (await exchange(plane, header + GET)).startswith(b"HTTP/1.1 400 ")
        assert set(clients(plane)) == {"127.0.0.1"}
        assert counted(plane, "bad_proxy_headers") == 0


async def test_a_header_of_anyone_else_is_no_tls(tls_material: Material) -> None:
    async with serving_tls(tls_material, listeners=announced(*OTHERS)) as plane:
        context = tlskit.client_context(tls_material.root)
        client = Client(*await plane.connect(ssl=context))
        assert (await client.request("GET", "/")).status == 200
        await client.close()
        # The line begins with a letter, as clear HTTP does.
        assert (await exchange(plane, HEADERS[0])).startswith(b"HTTP/1.1 400 ")
        for wire in (after(HEADERS[0], tlskit.together), after(HEADERS[1], tlskit.together)):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await plane.connect(ssl=context, wire=wire)


# ---- those who must -----------------------------------------------------------------------------


BAD = {
    ProxyFault.PROXY_ABSENT: [GET, b"\x16\x03\x01", b"\r\n\r\n" + GET],
    ProxyFault.PROXY_BAD_LINE: [b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 a b 1 2\r\n"],
    ProxyFault.PROXY_BAD_COMMAND: [binary(b"\0" * 12, 0x11, 0x11)],
    ProxyFault.PROXY_BAD_FAMILY: [binary(b"\0" * 12, 0x13)],
    ProxyFault.PROXY_BAD_LENGTH: [binary(b"\0" * 11, 0x11)],
    ProxyFault.PROXY_BAD_TLV: [binary(b"\0" * 13, 0x11)],
    ProxyFault.PROXY_BAD_CHECKSUM: [HEADERS[2][:-1] + b"x"],
    ProxyFault.PROXY_TOO_LONG: [b"PROXY UNKNOWN " + b"x" * 93, binary(b"\0" * 4081, 0x11)],
}


@pytest.mark.parametrize("fault", BAD, ids=lambda fault: fault.name)
async def test_bad_headers_close_the_connection(fault: ProxyFault) -> None:
    async with serving() as plane:
        for n, data in enumerate(BAD[fault], 1):
            assert await exchange(plane, data) == b""
            assert await exchange(plane, *octets(data[:120])) == b""
            assert counted(plane, "bad_proxy_headers") == 2 * n
            assert plane.engine.take_bad_headers() == (2, fault, "127.0.0.1", BIND)
            assert plane.engine.take_bad_headers()[0] == 0
        assert clients(plane) == []
        assert b" 200 OK" in await exchange(plane, HEADERS[0] + GET)


@pytest.mark.parametrize("header", [HEADERS[0], HEADERS[2]])
async def test_connections_that_end_within_a_header(header: bytes) -> None:
    async with serving() as plane:
        for n in range(1, len(header)):
            for reset in (False, True):
                async with caller(plane) as peer:
                    await in_pieces(peer, header[:n])
                    if reset:
                        peer.reset()
                    else:
                        peer.finish()
                        assert await peer.rest() == (b"", "end")
                await plane.settled(connections=0, buffers=0)
        assert counted(plane, "bad_proxy_headers") == 2 * (len(header) - 1)
        assert plane.engine.take_bad_headers()[1] == ProxyFault.PROXY_CUT


async def test_a_look_whether_we_accept_is_no_fault() -> None:
    """As load balancers check the health of a server."""
    async with serving() as plane:
        for reset in (False, True):
            async with caller(plane) as peer:
                await plane.settled(connections=1)
                if reset:
                    peer.reset()
            await plane.settled(connections=0)
        assert counted(plane, "bad_proxy_headers") == 0
        assert plane.engine.take_bad_headers()[0] == 0


@unstalled
async def test_a_header_has_its_time_in_all() -> None:
    async with serving(timeouts={"handshake": DEADLINE}) as plane:
        for steps in (STEPS, 0):
            async with caller(plane) as peer:
                with contextlib.suppress(ConnectionError):
                    for octet in octets(HEADERS[1])[:steps]:
                        await peer.send(octet)
                        await asyncio.sleep(STEP)
                assert (await peer.rest())[0] == b""
            await plane.settled(connections=0)
            assert plane.engine.take_bad_headers()[:2] == (1, ProxyFault.PROXY_LATE)
        assert counted(plane, "bad_proxy_headers") == 2
        assert b" 200 OK" in await exchange(plane, HEADERS[0] + GET)


@unstalled
async def test_after_the_header_the_clients_own_time_begins(tls_material: Material) -> None:
    """The handshake has the same time again, and so has a head."""
    times = {"handshake": DEADLINE, "head": DEADLINE}
    for made in (serving(timeouts=times), serving_tls(tls_material, timeouts=times)):
        async with made as plane, caller(plane) as peer:
            await asyncio.sleep(5 * STEP)
            await peer.send(HEADERS[0])
            await asyncio.sleep(7 * STEP)  # more than the time is over
            assert plane.engine.stats()["connections"] == 1
            assert await peer.rest() == (b"", "end")
            assert counted(plane, "bad_proxy_headers") == 0


# ---- while something else happens ---------------------------------------------------------------


@pytest.mark.parametrize("listeners", [announced(*OTHERS), [{"name": "web", "bind": BIND}]])
async def test_a_header_on_its_way_through_a_reload(listeners: list[dict[str, Any]]) -> None:
    async with serving() as plane, caller(plane) as peer:
        await in_pieces(peer, HEADERS[1][:20])
        plane.install({**CONFIG, "listeners": listeners})
        await peer.send(HEADERS[1][20:] + GET)
        assert b" 200 OK" in (await peer.rest())[0]
        assert clients(plane) == [CLIENT]
        # New connections go by the new configuration.
        assert b" 200 OK" in await exchange(plane, GET)


async def test_what_was_accepted_is_served_while_draining() -> None:
    async with serving() as plane:
        async with caller(plane) as peer:
            await in_pieces(peer, HEADERS[1][:20])
            plane.engine.drain()
            await peer.send(HEADERS[1][20:] + GET)
            assert b" 200 OK" in (await peer.rest())[0]
        await plane.settled(connections=0)
        assert plane.engine.idle


@pytest.mark.parametrize("sent", [b"", HEADERS[1][:20]])
async def test_the_engine_ends(sent: bytes) -> None:
    async with serving() as plane, caller(plane) as peer:
        await in_pieces(peer, sent)
        await plane.settled(connections=1)
        plane.engine.close()
        await plane.settled(connections=0, buffers=0)


EVENTS: dict[str, Callable[[Plane, socket.socket], Any]] = {
    "rest": lambda _, sock: sock.send(HEADERS[1][20:] + GET),
    "bad": lambda _, sock: sock.send(b"x" * 100),
    "half_close": lambda _, sock: sock.shutdown(socket.SHUT_WR),
    "reset": lambda _, sock: Peer(sock).reset(),
    "reload": lambda plane, _: plane.install(plane.config),
    "drain": lambda plane, _: plane.engine.drain(),
    "keyring": lambda plane, _: plane.keyring and plane.engine.set_keyring(plane.keyring),
}


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("first", EVENTS)
async def test_two_events_in_one_round(first: str, secure: bool, tls_material: Material) -> None:
    for second in EVENTS:
        async with serving_tls(tls_material) if secure else serving() as plane:
            async with caller(plane) as peer:
                await in_pieces(peer, HEADERS[1][:20])
                for event in (first, second):
                    with contextlib.suppress(OSError):  # the one before has closed it
                        EVENTS[event](plane, peer.sock)
                with contextlib.suppress(OSError):
                    peer.reset()
            await asyncio.wait_for(plane.settled(connections=0, exchanges=0), FOREVER)
