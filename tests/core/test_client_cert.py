"""Client certificates: which requests a route takes, and what its upstream is told (RFC 9440)."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.exchange.dry_run import DryRun
from fastgate._core.logs.drain import LogDrain
from fastgate._core.testing.tls_peers import TlsPeer
from fastgate._core.tls.keyring import authority_id

BIND = "0.0.0.0:443"
PARTNERS, STAFF, OTHERS = (authority_id(name) for name in ("partners", "staff", "others"))
LEAF, ISSUER, ROOT = b"\x30\x82leaf", b"\x30\x82the issuer", bytes(range(256)) * 9


def config(certificate: dict[str, Any] | None, url: str = "", **route: Any) -> dict[str, Any]:
    """A listener with TLS, and a route with these client certificates, perhaps to an upstream."""
    more = {"client_certificate": certificate} if certificate is not None else {}
    if url:
        document = proxied(url, **more, **route)
    else:
        document = {
            "routes": [
                {"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}, **more, **route}
            ]
        }
    names = ("partners", "staff", "others")
    return {
        "listeners": [{"name": "secure", "bind": ":443", "tls": {}}],
        "certificates": [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}],
        "authorities": [{"name": name, "ca": "path:/ca.pem"} for name in names],
        **document,
    }


def certified(*verified: int, asked: tuple[int, ...] | None = None, **more: Any) -> TlsPeer:
    """A connection whose client has a certificate by these authorities."""
    return TlsPeer(asked=verified if asked is None else asked, verified=verified, **more)


async def outcome(plane: Plane, peer: TlsPeer | None) -> str:
    """`served`, or the reason of the refusal."""
    client = await plane.encrypted(peer)
    reply = await client.request("GET", "/x")
    if reply.status == 200:
        return "served"
    problem = orjson.loads(reply.body)
    assert reply.status == problem["status"]
    assert reply.headers["connection"] == "close"
    return str(problem["reason"])


CONNECTIONS: list[tuple[TlsPeer | None, str]] = [
    (certified(PARTNERS), "served"),
    (certified(STAFF, asked=(PARTNERS, STAFF)), "served"),
    (certified(OTHERS, PARTNERS), "served"),
    (TlsPeer(asked=[PARTNERS]), "certificate_required"),
    (TlsPeer(asked=[OTHERS, STAFF]), "certificate_required"),
    (certified(OTHERS, asked=(OTHERS, PARTNERS)), "certificate_required"),
    (TlsPeer(asked=[OTHERS]), "misdirected_request"),
    (certified(OTHERS), "misdirected_request"),
    (TlsPeer(), "misdirected_request"),
    (None, "misdirected_request"),
]


@pytest.mark.parametrize(("peer", "wanted"), CONNECTIONS)
async def test_which_connections_a_route_takes(peer: TlsPeer | None, wanted: str) -> None:
    async with Plane(config({"authorities": ["partners", "staff"]}), bind=BIND) as plane:
        assert await outcome(plane, peer) == wanted
        plane.install(config({"authorities": ["partners", "staff"], "required": False}))
        assert await outcome(plane, peer) == "served"
        plane.install(config(None))
        assert await outcome(plane, peer) == "served"


async def test_the_statuses() -> None:
    async with Plane(config({"authorities": ["partners"]}), bind=BIND) as plane:
        for peer, status in ((TlsPeer(asked=[PARTNERS]), 403), (None, 421)):
            client = await plane.encrypted(peer)
            assert (await client.request("GET", "/x")).status == status


async def test_each_request_of_a_connection_is_judged() -> None:
    document = config({"authorities": ["partners"]})
    certificate = document["routes"][0]["client_certificate"]
    document["routes"] += [
        {"name": "open", "path": "/open", "respond": {"body": "open"}},
        {"name": "staff", "path": "/staff", "respond": {"body": ""},
         "client_certificate": {**certificate, "authorities": ["staff"]}},
    ]  # fmt: skip
    async with Plane(document, bind=BIND) as plane:
        client = await plane.encrypted(certified(PARTNERS, asked=(PARTNERS, STAFF)))
        for target, status in (("/x", 200), ("/open", 200), ("/x", 200), ("/staff", 403)):
            assert (await client.request("GET", target)).status == status
        lines = [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]
        assert [(line["tls"], line.get("client_certificate", False)) for line in lines] == [
            (True, True), (True, False), (True, True), (True, False),
        ]  # fmt: skip


async def test_a_connection_without_tls_has_no_certificate() -> None:
    document = config({"authorities": ["partners"]})
    document["listeners"].append({"name": "clear", "bind": ":80"})
    async with Plane(document, bind="0.0.0.0:80") as plane:
        reply = await plane.get("/x")
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (403, "certificate_required")
        plane.install({**document, "trusted_proxies": ["127.0.0.1"]})
        claims = {"X-Forwarded-Proto": "https", "Client-Cert": ":AAAA:"}
        assert (await plane.get("/x", headers=claims)).status == 403


async def test_limits_by_address_and_addresses_come_first_and_the_key_after() -> None:
    limit = {"rate": "2/h", "by": ["address"]}
    document = config({"authorities": ["partners"]}, auth="api_key", limits=[limit])
    async with Plane(document, bind=BIND) as plane:
        assert await outcome(plane, TlsPeer(asked=[PARTNERS])) == "certificate_required"
        client = await plane.encrypted(certified(PARTNERS))
        assert (await client.request("GET", "/x")).status == 401
        client = await plane.encrypted(TlsPeer(asked=[PARTNERS]))
        assert (await client.request("GET", "/x")).status == 429


async def test_preflights_need_no_certificate() -> None:
    cors = {"origins": ["https://a.example"]}
    async with Plane(config({"authorities": ["partners"]}, cors=cors), bind=BIND) as plane:
        client = await plane.encrypted()
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
        assert (await client.request("OPTIONS", "/x", headers)).status == 204
        reply = await client.request("GET", "/x", {"Origin": "https://a.example"})
        assert reply.status == 421
        assert reply.headers["access-control-allow-origin"] == "https://a.example"


async def test_a_dry_run_leaves_certificates_out() -> None:
    async with Plane(config({"authorities": ["partners"]}), bind=BIND) as plane:
        dry = DryRun(plane.segment, None, plane.snapshot, route=0, address=bytes(16))
        assert dry.of_nobody().reason == 0


# ---- what the upstream is told ---------------------------------------------------------------

FORWARD = {"authorities": ["partners"], "forward": True}


def binary(der: bytes) -> str:
    return f":{base64.b64encode(der).decode()}:"


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


async def told(plane: Plane, backend: Backend, peer: TlsPeer | None, **kw: Any) -> dict[str, str]:
    """The upstream's certificate fields, each of which comes at most once."""
    client = await plane.encrypted(peer)
    assert (await client.request("GET", "/x", **kw)).status == 200
    pairs = [(name, value) for name, value in backend.requests[-1].pairs if "ert" in name]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("chain", "fields"),
    [
        ([], {}),
        ([ISSUER], {"Client-Cert-Chain": binary(ISSUER)}),
        ([ISSUER, ROOT], {"Client-Cert-Chain": f"{binary(ISSUER)}, {binary(ROOT)}"}),
    ],
)
async def test_the_certificate_and_its_chain(backend, chain, fields) -> None:
    async with Plane(config(FORWARD, backend.url), bind=BIND) as plane:
        peer = certified(PARTNERS, leaf=LEAF, chain=chain)
        assert await told(plane, backend, peer) == {"Client-Cert": binary(LEAF), **fields}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 300])
async def test_base64_of_every_length(backend, size: int) -> None:
    der = (bytes(range(251)) * 2)[7 : 7 + size]
    async with Plane(config(FORWARD, backend.url), bind=BIND) as plane:
        found = await told(plane, backend, certified(PARTNERS, leaf=der))
        assert found == {"Client-Cert": binary(der)}


async def test_large_chains_fit(backend) -> None:
    leaf, chain = LEAF * 2000, [bytes([number]) * 9001 for number in range(8)]
    async with Plane(config(FORWARD, backend.url), bind=BIND) as plane:
        peer = certified(PARTNERS, leaf=leaf, chain=chain)
        found = await told(plane, backend, peer, headers={"X-Long": "x" * 7000})
        assert found == {
            "Client-Cert": binary(leaf),
            "Client-Cert-Chain": ", ".join(map(binary, chain)),
        }


async def test_only_what_the_route_accepts_is_told(backend) -> None:
    async with Plane(config({**FORWARD, "required": False}, backend.url), bind=BIND) as plane:
        assert await told(plane, backend, TlsPeer(asked=[PARTNERS])) == {}
        assert await told(plane, backend, None) == {}
        assert await told(plane, backend, certified(OTHERS, leaf=LEAF)) == {}
        both = certified(OTHERS, PARTNERS, leaf=LEAF)
        assert await told(plane, backend, both) == {"Client-Cert": binary(LEAF)}
        plane.install(config({**FORWARD, "forward": False}, backend.url))
        assert await told(plane, backend, both) == {}
        plane.install(config(None, backend.url))
        assert await told(plane, backend, both) == {}


FORGED = [
    name.replace("-", mark)
    for name in ("Client-Cert", "Client-Cert-Chain", "client-cert", "CLIENT-CERT-CHAIN")
    for mark in "-_.~+"
] + ["Client_Cert-Chain", "client.cert-chain", "Client-Cert.Chain"]


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
async def test_nobody_else_can_say_so(backend, trusted: list[str]) -> None:
    """On every route, whether its upstream is told or not, and whoever the peer is."""
    document = {"headers": {"underscores": "allow"}, "trusted_proxies": trusted}
    async with Plane({**config(None, backend.url), **document}, bind=BIND) as plane:
        for certificate in (None, {**FORWARD, "required": False}, FORWARD):
            plane.install({**config(certificate, backend.url), **document})
            for name in FORGED:
                headers = {name: ":forged:", "X.Mine": "1", "x_mine": "2", "Client-Certs": "3"}
                peer = certified(PARTNERS, leaf=LEAF)
                client = await plane.encrypted(peer)
                reply = await client.request("GET", "/x", headers=headers)
                assert reply.status == 200
                await client.close()
                seen = backend.requests[-1]
                assert b"forged" not in seen.raw, name
                assert (seen.headers["x.mine"], seen.headers["x_mine"]) == ("1", "2")
                assert seen.headers["client-certs"] == "3"
                assert ("client-cert" in seen.headers) == (certificate is not None)


async def test_a_retry_tells_it_again(backend) -> None:
    refused = await Backend(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").start()
    document = config(FORWARD, backend.url)
    document["upstreams"][0]["targets"] = [refused.url, backend.url]
    document["services"][0]["retries"] = {"attempts": 2, "statuses": [503], "budget": "100%"}
    try:
        async with Plane(document, bind=BIND) as plane:
            peer = certified(PARTNERS, leaf=LEAF, chain=[ISSUER])
            for _ in range(2):
                await told(plane, backend, peer)
            assert refused.requests
            for seen in refused.requests + backend.requests:
                assert seen.headers["client-cert"] == binary(LEAF)
                assert seen.headers["client-cert-chain"] == binary(ISSUER)
    finally:
        await refused.stop()


async def test_a_handler_does_not_see_what_clients_say(backend) -> None:
    seen: list[list[str]] = []

    async def handler(exchange: Any) -> None:
        seen.append([name for name, _ in exchange.headers])
        await exchange.respond(200)

    routes = [{"name": "h", "path": "/", "handler": "a.b:c"}]
    document = {**config(None), "routes": routes}
    async with Plane(document, bind=BIND, handlers={"a.b:c": handler}) as plane:
        client = await plane.encrypted()
        headers = {"Client-Cert": ":AA==:", "Client.Cert.Chain": ":AA==:", "X-Mine": "1"}
        assert (await client.request("GET", "/", headers=headers)).status == 200
    assert seen == [["Host", "X-Mine"]]
