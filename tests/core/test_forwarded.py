"""What proxies say about a request: believed from trusted ones, from nobody else."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import orjson
import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.logs.drain import LogDrain

CLAIMS = [
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port",
    "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Ssl",
    "X-Forwarded-User", "X-Forwarded-Proto-Version", "X-Forwarded", "x-forwarded-anything",
    "X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "X-Remote-IP", "X-Remote-Addr",
    "X-Originating-IP", "X-ProxyUser-IP", "Client-IP", "True-Client-IP", "CF-Connecting-IP",
    "CF-Connecting-IPv6", "Fastly-Client-IP", "Fly-Client-IP", "X-Azure-ClientIP",
    "X-Azure-SocketIP", "X-AppEngine-User-IP", "X-Envoy-External-Address", "X-Original-URL",
    "X-Original-URI", "X-Original-Host", "X-Original-Forwarded-For", "X-Rewrite-URL", "X-Scheme",
    "X-URL-Scheme", "Front-End-Https",
]  # fmt: skip
OURS = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


async def test_a_strangers_claims_reach_nobody(backend):
    async with Plane(proxied(backend.url)) as plane:
        for name in CLAIMS:
            for spelling in (name, name.upper(), name.lower()):
                assert (await plane.get("/", headers={spelling: "forged"})).status == 200
        connection = {"Connection": "X-Forwarded-Prefix", "X-Forwarded-Prefix": "forged"}
        assert (await plane.get("/", headers=connection)).status == 200
    for seen in backend.requests:
        assert b"forged" not in seen.raw
        assert {name for name in seen.headers if name.startswith("x-f")} == OURS


@pytest.mark.parametrize("name", CLAIMS)
async def test_a_name_with_underscores_is_the_same_claim(backend, name):
    document = {**proxied(backend.url), "headers": {"underscores": "allow"}}
    async with Plane(document) as plane:
        spelt = {"X_Mine": "1"} | ({name.replace("-", "_"): "forged"} if "-" in name else {})
        assert (await plane.get("/", headers=spelt)).status == 200
        trusting = {**document, "trusted_proxies": ["127.0.0.1"]}
        plane.install(trusting)
        assert (await plane.get("/", headers=spelt)).status == 200
    for seen in backend.requests:
        assert b"forged" not in seen.raw
        assert seen.headers["x_mine"] == "1"


async def test_a_trusted_proxys_claims_pass(backend):
    document = {**proxied(backend.url), "trusted_proxies": ["127.0.0.1"]}
    async with Plane(document) as plane:
        for name in CLAIMS:
            value = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}.get(
                name.lower(), "said.example"
            )
            # Connection cannot name it away: what a proxy says is for the servers behind it.
            headers = {name: value, "Connection": name}
            assert (await plane.get("/", headers=headers)).status == 200
            seen = backend.requests[-1].headers[name.lower()]
            assert seen.startswith(value), name


async def test_what_only_resembles_a_claim_passes(backend):
    names = ["X-Forward", "X-Original", "X-Client", "X-Scheme-2", "Origin-IP", "X-Real-IPs"]
    async with Plane(proxied(backend.url)) as plane:
        assert (await plane.get("/", headers=dict.fromkeys(names, "1"))).status == 200
    assert set(map(str.lower, names)) <= set(backend.requests[0].headers)


# ---- peers on Unix sockets ---------------------------------------------------------------------

CLAIM = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Real-IP: 203.0.113.9\r\n" \
    b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 198.51.100.1, 203.0.113.9%b\r\n\r\n"  # fmt: skip


async def told(plane: Plane, path: Path, more: bytes = b"") -> tuple[str, str]:
    """The client's address in the log after the same request by TCP, and by a Unix socket."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    listening.setblocking(False)
    plane.engine.listen(listening.fileno(), str(path))
    assert b" 200 OK" in await plane.raw(CLAIM % more)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(CLAIM % more)
    assert b" 200 OK" in await reader.read()
    writer.close()
    listening.close()
    lines = [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]
    tcp, unix = (line["client"] for line in lines)
    return tcp, unix


async def test_peers_on_unix_sockets_alone_can_be_trusted(backend, tmp_path):
    async with Plane({**proxied(backend.url), "trusted_proxies": ["unix"]}) as plane:
        assert await told(plane, tmp_path / "s") == ("127.0.0.1", "203.0.113.9")
    tcp, unix = backend.requests
    assert tcp.headers["x-forwarded-for"] == "127.0.0.1"
    assert tcp.headers["x-forwarded-proto"] == "http"
    assert "x-real-ip" not in tcp.headers
    assert unix.headers["x-forwarded-for"] == "198.51.100.1, 203.0.113.9, unknown"
    assert unix.headers["x-forwarded-proto"] == "https"
    assert unix.headers["x-real-ip"] == "203.0.113.9"


async def test_networks_behind_a_trusted_unix_socket_are_passed_over(backend, tmp_path):
    """As behind any trusted proxy: the last address that nobody vouches for is the client's."""
    document = {**proxied(backend.url), "trusted_proxies": ["203.0.113.0/24", "unix"]}
    async with Plane(document) as plane:
        assert await told(plane, tmp_path / "s") == ("127.0.0.1", "198.51.100.1")
    # A proxy writes what it knows of its own client: nothing, or no address.
    async with Plane(document) as plane:
        assert await told(plane, tmp_path / "t", b", unix:") == ("127.0.0.1", "::")


@pytest.mark.parametrize("trusted", [[], ["127.0.0.0/8"], ["0.0.0.0/0", "::/0"]], ids=str)
async def test_networks_are_of_tcp_peers(backend, tmp_path, trusted):
    async with Plane({**proxied(backend.url), "trusted_proxies": trusted}) as plane:
        tcp, unix = await told(plane, tmp_path / "s")
    # Everybody is trusted in the last case, so the first address that was written counts.
    believed = {0: "127.0.0.1", 1: "203.0.113.9", 2: "198.51.100.1"}
    assert tcp == believed[len(trusted)]
    assert unix == "::"
    assert backend.requests[-1].headers["x-forwarded-for"] == "unknown"
    assert "x-real-ip" not in backend.requests[-1].headers
