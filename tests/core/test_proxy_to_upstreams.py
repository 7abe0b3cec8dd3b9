"""PROXY headers to upstreams: what connections begin with, and who may use them again."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import tlskit
from certkit import Material
from enginekit import Backend, Plane, Responder, Seen, proxied
from hypothesis import given
from hypothesis import strategies as st
from keyringkit import authority_entry, keyring_of
from proxykit import LOCAL, SIGNATURE, binary, version_1, version_2

from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.testing.proxy_headers import parse, written
from fastgate._core.tls.keyring import UpstreamTls
from fastgate.config.targets import tls_id
from fastgate.model.gateway import UpstreamTls as Profile

VERSIONS = ("v1", "v2")
NOBODY = {"v1": b"PROXY UNKNOWN\r\n", "v2": binary(command=LOCAL)}


class Announced(Backend):
    """An upstream whose connections begin with a PROXY header, before TLS if it has a context."""

    def __init__(self, respond: Any = None, context: ssl.SSLContext | None = None) -> None:
        super().__init__(respond)
        self.context = context
        self.headers: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: str | None = None) -> Announced:
        if path is None:
            self.socket = socket.create_server(("127.0.0.1", 0))
            port = self.socket.getsockname()[1]
            self.url = f"http{'s' if self.context else ''}://127.0.0.1:{port}"
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(path)
            self.socket.listen()
            self.url = f"unix:{path}"
        self.socket.setblocking(False)
        self.accepting = asyncio.ensure_future(self._accept())
        return self

    async def stop(self) -> None:
        self.accepting.cancel()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(self.accepting, *self.tasks, return_exceptions=True)
        self.socket.close()
        for writer in list(self.writers):
            writer.close()

    async def _accept(self) -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(self.socket)
            accepted.setblocking(False)
            self.tasks.add(asyncio.ensure_future(self._begin(accepted)))

    async def _begin(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            header = await read_header(accepted)
            if not header:
                raise ConnectionResetError
            self.headers.append(header)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self.context
            )
        except BaseException as error:
            accepted.close()
            if isinstance(error, (OSError, ssl.SSLError)):
                return
            raise
        await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


async def read_header(sock: socket.socket) -> bytes:
    """Exactly the PROXY header that comes first; empty if the connection is closed before."""
    loop = asyncio.get_running_loop()
    data = b""
    while not (data.endswith(b"\r\n") if data[:1] == b"P" else len(data) == 16):
        piece = await loop.sock_recv(sock, 1)
        if not piece:
            return b""
        data += piece
    if data[:1] == b"P":
        return data
    (rest,) = struct.unpack("!H", data[14:16])
    while len(data) < 16 + rest:
        data += await loop.sock_recv(sock, 16 + rest - len(data))
    return data


def config(*urls: str, version: str = "v1", route: dict[str, Any] | None = None, **upstream: Any):
    document = proxied(*urls, **(route or {}))
    document["upstreams"] = [
        {"name": "u", "targets": list(urls), "proxy_protocol": version, **upstream}
    ]
    return document


@pytest.fixture
async def target() -> AsyncIterator[Announced]:
    target = await Announced().start()
    yield target
    await target.stop()


def port_of(client: Any) -> int:
    return int(client.writer.get_extra_info("sockname")[1])


def header(version: str, source: str, destination: str, ports: tuple[int, int]) -> bytes:
    return (version_1 if version == "v1" else version_2)(source, destination, ports)


# ---- the headers themselves --------------------------------------------------------------------


def mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(
        address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    )


@given(
    st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535),
    st.sampled_from((1, 2)),
)  # fmt: skip
def test_headers_are_written_as_they_are_read(
    source: Any, destination: Any, sport: int, dport: int, version: int
) -> None:
    data = written(version, mapped(source).packed, mapped(destination).packed, sport, dport)
    assert parse(data) == (len(data), (mapped(source).packed, sport))
    four = [each.ipv4_mapped or (each if each.version == 4 else None)
            if each.version == 6 else each for each in (source, destination)]  # fmt: skip
    if all(four):
        source, destination = four
    else:
        source, destination = mapped(source), mapped(destination)
    if version == 2:
        assert data == version_2(str(source), str(destination), (sport, dport))
    else:
        words = data.decode("ascii").removesuffix("\r\n").split(" ")
        assert words[:2] == ["PROXY", f"TCP{source.version}"]
        assert [ipaddress.ip_address(word) for word in words[2:4]] == [source, destination]
        assert words[4:] == [str(sport), str(dport)]
    assert len(data) <= 107


def test_headers_without_a_client() -> None:
    assert [written(version, None) for version in (1, 2)] == [NOBODY["v1"], NOBODY["v2"]]
    assert NOBODY["v2"] == SIGNATURE + b"\x20\0\0\0"


# ---- whom they announce ------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_client_and_where_it_connected_to(target: Announced, version: str) -> None:
    async with Plane(config(target.url, version=version)) as plane:
        client = await plane.client()
        reply = await client.request("POST", "/x", body=b"hello")
        assert (reply.status, reply.body) == (200, b"POST /x")
        assert target.headers == [
            header(version, "127.0.0.1", "127.0.0.1", (port_of(client), plane.port))
        ]
    assert target.requests[0].body == b"hello"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("announced", ["203.0.113.9", "2001:db8::9"])
async def test_a_client_that_a_load_balancer_announces(
    target: Announced, version: str, announced: str
) -> None:
    listeners = [{"name": "web", "bind": "127.0.0.1:80", "proxy_protocol": ["127.0.0.0/8"]}]
    document = {**config(target.url, version=version), "listeners": listeners}
    async with Plane(document, bind="127.0.0.1:80") as plane:
        client = await plane.client()
        await client.raw(version_2(announced, ports=(51234, 443)))
        assert (await client.request("GET", "/")).status == 200
        # One address of IPv4 and one of IPv6: both are written as IPv6.
        ours = "127.0.0.1" if "." in announced else "::ffff:127.0.0.1"
        assert target.headers == [header(version, announced, ours, (51234, plane.port))]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_a_trusted_proxy_reports_has_no_port(
    target: Announced, version: str
) -> None:
    document = {**config(target.url, version=version), "trusted_proxies": ["127.0.0.1"]}
    async with Plane(document) as plane:
        client = await plane.client()
        for address in ("203.0.113.9", "203.0.113.9", "198.51.100.1"):
            headers = {"X-Forwarded-For": address}
            assert (await client.request("GET", "/", headers)).status == 200
        assert (await client.request("GET", "/")).status == 200
        ours = ("127.0.0.1", (0, plane.port))
        assert target.headers == [
            header(version, "203.0.113.9", *ours),
            header(version, "198.51.100.1", *ours),
            header(version, "127.0.0.1", "127.0.0.1", (port_of(client), plane.port)),
        ]


async def unix_request(path: Path, lines: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n")
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@contextlib.contextmanager
def unix_listener(plane: Plane, path: Path):
    listening = socket.socket(socket.AF_UNIX)
    listening.setblocking(False)
    listening.bind(str(path))
    listening.listen()
    plane.engine.listen(listening.fileno(), f"unix:{path}")
    try:
        yield
    finally:
        plane.engine.unlisten(listening.fileno())
        listening.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_clients_on_unix_sockets_have_no_address(
    target: Announced, version: str, tmp_path: Path
) -> None:
    document = {**config(target.url, version=version), "trusted_proxies": ["unix"]}
    async with Plane(document) as plane:
        with unix_listener(plane, tmp_path / "in.sock"):
            assert b" 200 OK" in await unix_request(tmp_path / "in.sock")
            assert b" 200 OK" in await unix_request(tmp_path / "in.sock")
            assert target.headers == [NOBODY[version]]
            # A trusted proxy there reports its client; the socket has no address to announce.
            for address, nowhere in (("203.0.113.9", "0.0.0.0"), ("2001:db8::1", "::")):
                line = f"X-Forwarded-For: {address}\r\n".encode()
                assert b" 200 OK" in await unix_request(tmp_path / "in.sock", line)
                assert target.headers.pop() == header(version, address, nowhere, (0, 0))
            await plane.settled(connections=0)


@pytest.mark.parametrize("version", VERSIONS)
async def test_requests_of_handlers_announce_nobody(target: Announced, version: str) -> None:
    async def handler(x: Any) -> None:
        x.relay(await x.forward("u"))

    document = config(target.url, version=version)
    document["routes"] = [
        {"name": "h", "path": "/h", "handler": "t:h"},
        {"name": "r", "path": "/r", "service": "s"},
    ]
    async with Plane(document, handlers={"t:h": handler}) as plane:
        client, other = await plane.client(), await plane.client()
        for each in (client, other, client):
            assert (await each.request("GET", "/h")).status == 200
        assert target.headers == [NOBODY[version]]
        assert (await client.request("GET", "/r")).status == 200
        assert (await client.request("GET", "/h")).status == 200
        assert target.headers[1:] == [
            header(version, "127.0.0.1", "127.0.0.1", (port_of(client), plane.port))
        ]


@pytest.mark.parametrize("version", VERSIONS)
async def test_unix_sockets_of_upstreams_get_them_too(version: str, tmp_path: Path) -> None:
    target = await Announced().start(str(tmp_path / "up.sock"))
    async with Plane(config(target.url, version=version)) as plane:
        client = await plane.client()
        for _ in range(2):
            assert (await client.request("GET", "/")).status == 200
        assert target.headers == [
            header(version, "127.0.0.1", "127.0.0.1", (port_of(client), plane.port))
        ]
    await target.stop()


# ---- connections that are kept -----------------------------------------------------------------


async def test_a_connection_is_used_again_for_its_client_alone(target: Announced) -> None:
    async with Plane(config(target.url)) as plane:
        first, second = await plane.client(), await plane.client()
        for client in (first, second, first, second, second, first):
            assert (await client.request("GET", "/")).status == 200
        assert target.headers == [
            version_1("127.0.0.1", "127.0.0.1", (port_of(client), plane.port))
            for client in (first, second)
        ]
        assert plane.engine.stats()["idle_upstreams"] == 2
        counters = counters_snapshot(plane.segment).workers[0]
        assert (counters["upstream_connects"], counters["upstream_reused"]) == (2, 4)


async def test_a_client_that_leaves_takes_its_idle_connections_with_it(target: Announced) -> None:
    other = await Announced().start()
    async with Plane(config(target.url, other.url)) as plane:
        stays, leaves = await plane.client(), await plane.client()
        for client in (stays, stays, leaves, leaves):
            assert (await client.request("GET", "/")).status == 200
        assert plane.engine.stats()["idle_upstreams"] == 4
        await leaves.close()
        await plane.settled(idle_upstreams=2, upstreams=2)
        for _ in range(2):
            assert (await stays.request("GET", "/")).status == 200
    assert len(target.headers) == len(other.headers) == 2
    await other.stop()


async def test_clients_without_a_port_share_connections_which_stay(target: Announced) -> None:
    document = {**config(target.url), "trusted_proxies": ["127.0.0.1"]}
    async with Plane(document) as plane:
        for _ in range(3):
            headers = {"X-Forwarded-For": "203.0.113.9"}
            assert (await plane.get("/", headers=headers)).status == 200
        await plane.settled(connections=0)
        assert plane.engine.stats()["idle_upstreams"] == 1
    assert len(target.headers) == 1


async def test_the_oldest_give_way_beyond_keepalive_max(target: Announced) -> None:
    async with Plane(config(target.url, keepalive={"max": 2})) as plane:
        clients = [await plane.client() for _ in range(3)]
        for client in (*clients, clients[2], clients[1]):
            assert (await client.request("GET", "/")).status == 200
        assert len(target.headers) == 3
        assert plane.engine.stats()["idle_upstreams"] == 2
        assert (await clients[0].request("GET", "/")).status == 200
        assert len(target.headers) == 4


async def test_a_stale_one_is_replaced_and_announces_again(target: Announced) -> None:
    async with Plane(config(target.url)) as plane:
        client = await plane.client()
        assert (await client.request("GET", "/")).status == 200
        for writer in list(target.writers):
            writer.close()
        assert (await client.request("GET", "/")).status == 200
        assert len(target.headers) == 2
        assert target.headers[0] == target.headers[1]
        counters = counters_snapshot(plane.segment).workers[0]
        assert (counters["retries"], counters["upstream_connect_failures"]) == (0, 0)


async def test_a_retry_announces_to_the_next_target(target: Announced) -> None:
    async with Plane(config("http://127.0.0.1:1", target.url)) as plane:
        client = await plane.client()
        for _ in range(4):
            assert (await client.request("POST", "/", body=b"x")).status == 200
        assert target.headers == [
            version_1("127.0.0.1", "127.0.0.1", (port_of(client), plane.port))
        ]


async def test_a_reload_that_changes_the_header_uses_no_old_connection() -> None:
    """Each connection begins as its configuration says, and serves that one alone."""
    clear, v1, v2 = Backend(), Announced(), Announced()
    await clear.start()
    url = clear.url
    port = int(url.rpartition(":")[2])
    async with Plane(proxied(url)) as plane:
        client = await plane.client()
        assert (await client.request("GET", "/")).status == 200
        await clear.stop()
        for version, announced in (("v1", v1), ("v2", v2)):
            announced.socket = socket.create_server(("127.0.0.1", port))
            announced.socket.setblocking(False)
            announced.accepting = asyncio.ensure_future(announced._accept())
            plane.install(config(url, version=version))
            assert (await client.request("GET", "/")).status == 200
            assert (await client.request("GET", "/")).status == 200
            ports = (port_of(client), plane.port)
            assert announced.headers == [header(version, "127.0.0.1", "127.0.0.1", ports)]
            await announced.stop()


async def test_a_client_that_leaves_during_its_request(target: Announced) -> None:
    arrived = asyncio.Event()

    async def respond(_: Backend, seen: Seen) -> bytes:
        arrived.set()
        await seen.reader.read()
        return b""

    target.respond = respond
    async with Plane(config(target.url)) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await arrived.wait()
        await client.reset()
        await plane.settled(exchanges=0, upstreams=0)


async def test_a_target_that_hangs_up_at_once_is_not_reachable() -> None:
    """Without an answer to what it was told: other requests than GET are not sent again."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Plane(config(url)) as plane:
        reply = await plane.request("POST", "/", body=b"x")
        assert reply.status == 502
        assert orjson.loads(reply.body)["reason"] in ("upstream_reset", "upstream_connect_failed")
    server.close()


# ---- TLS ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def over_tls(
    material: Material, version: str, target: Announced, *, known: bool = True
) -> AsyncIterator[Plane]:
    keyring = keyring_of(
        authorities=[authority_entry(material.root)],
        upstreams=[UpstreamTls(id=tls_id(Profile()), authority=0)] if known else [],
    )
    async with Plane(config(target.url, version=version), keyring=keyring) as plane:
        yield plane


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", tlskit.BOTH)
async def test_the_header_precedes_tls(tls_material: Material, version: str, tls: str) -> None:
    context = tlskit.server_context(tls_material.leaf(), versions=(tls, tls))
    target = await Announced(context=context).start()
    async with over_tls(tls_material, version, target) as plane:
        clients = [await plane.client() for _ in range(3)]
        for client in clients * 2:
            assert (await client.request("POST", "/x", body=b"hello")).body == b"POST /x"
        assert target.headers == [
            header(version, "127.0.0.1", "127.0.0.1", (port_of(client), plane.port))
            for client in clients
        ]
        counters = counters_snapshot(plane.segment).workers[0]
        shaken = counters[f"handshakes_upstream_{tls}_full"]
        resumed = counters[f"handshakes_upstream_{tls}_resumed"]
        assert shaken + resumed == 3
        assert resumed > 0  # a session is the target's, not a client's
    await target.stop()


async def test_a_certificate_that_is_not_accepted(tls_material: Material) -> None:
    context = tlskit.server_context(tls_material.expired())
    target = await Announced(context=context).start()
    async with over_tls(tls_material, "v1", target) as plane:
        reply = await plane.get("/")
        assert reply.status == 502
        assert orjson.loads(reply.body)["reason"] == "upstream_tls_failed"
    await target.stop()


async def test_a_keyring_without_its_profile(tls_material: Material) -> None:
    context = tlskit.server_context(tls_material.leaf())
    target = await Announced(context=context).start()
    async with over_tls(tls_material, "v2", target, known=False) as plane:
        reply = await plane.get("/")
        assert orjson.loads(reply.body)["reason"] == "upstream_tls_failed"
    await target.stop()


async def test_a_target_that_never_shakes_hands(tls_material: Material) -> None:
    """It takes the header, and says nothing: the time to connect includes the handshake."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    respond: Responder = stall
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    keyring = keyring_of(
        authorities=[authority_entry(tls_material.root)],
        upstreams=[UpstreamTls(id=tls_id(Profile()), authority=0)],
    )
    document = config(url, timeouts={"connect": "100ms"})
    async with Plane(document, keyring=keyring) as plane:
        reply = await plane.get("/")
        assert orjson.loads(reply.body)["reason"] == "upstream_connect_failed"
    server.close()
