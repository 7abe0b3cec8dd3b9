"""Debian's nginx as an https upstream of a real gateway."""

from __future__ import annotations

import hashlib
import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from certkit import CLIENT, Identity, Material
from gatewaykit import Gateway, Upstream, eventually, fetch
from nginxkit import Facts, Nginx, presenting
from tlspeerkit import authority, certificate

Start = Callable[..., Gateway]
LARGE = 4_000_000


def document(
    material: Material, upstreams: dict[str, tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Upstreams by name: where they are, and their TLS. `/NAME/…` leads to each."""
    return {
        "certificates": [certificate("own", material.client("gateway.example"))],
        "authorities": [
            authority("internal", material.root),
            authority("listed", material.root, material.crl()),
        ],
        "upstreams": [
            {"name": name, "targets": [url], "tls": {"authority": "internal", **tls}}
            for name, (url, tls) in upstreams.items()
        ],
        "services": [{"name": name, "upstream": name} for name in upstreams],
        "routes": [
            {"name": name, "path": f"/{name}/{{rest*}}", "service": name} for name in upstreams
        ],
    }


def facts(gateway: Gateway, name: str) -> Facts:
    answer = fetch(gateway.address(), f"/{name}/facts")
    assert answer.status == 200, answer
    return Facts.of(answer.body)


# ---- what it is asked for ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nginx(
    shared_upstream: Upstream, tls_material: Material, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    leaf = presenting(tls_material.leaf())
    onward = f"location / {{ proxy_pass {shared_upstream.url}; proxy_request_buffering off; }}"
    asks = f"ssl_verify_client on; ssl_client_certificate {tls_material.root.ca};"
    servers: dict[str, str | list[str]] = {
        "named": [
            presenting(tls_material.leaf("a.internal"), "server_name a.internal;"),
            presenting(tls_material.leaf("b.internal", kind="rsa"), "server_name b.internal;"),
        ],
        "old": leaf + "ssl_protocols TLSv1.2; " + onward,
        "new": leaf + "ssl_protocols TLSv1.3; " + onward,
        "mutual": leaf + asks,
        "each-old": leaf + "ssl_protocols TLSv1.2; keepalive_timeout 0;",
        "each-new": leaf + "ssl_protocols TLSv1.3; keepalive_timeout 0;",
        "large-records": leaf + "ssl_buffer_size 16k; " + onward,
    }
    with Nginx(tmp_path_factory.mktemp("nginx"), servers) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(shared_gateway: Start, nginx: Nginx, tls_material: Material) -> Gateway:
    """One worker: connections and sessions are a worker's own."""
    named = nginx.url("named")
    return shared_gateway(
        document(
            tls_material,
            {
                "a": (named, {"name": "a.internal"}),
                "b": (named, {"name": "b.internal"}),
                "c": (named, {"name": "c.internal"}),
                "old": (nginx.url("old"), {}),
                "new": (nginx.url("new"), {"min": "1.3"}),
                "too-old": (nginx.url("old"), {"min": "1.3"}),
                "mutual": (nginx.url("mutual"), {"certificate": "own"}),
                "anonymous": (nginx.url("mutual"), {}),
                "each-old": (nginx.url("each-old"), {}),
                "each-new": (nginx.url("each-new"), {}),
                "large-records": (nginx.url("large-records"), {"name": "localhost"}),
            },
        ),
        workers=1,
    )


@pytest.mark.parametrize(("name", "version"), [("old", "TLSv1.2"), ("new", "TLSv1.3")])
def test_versions(gateway: Gateway, name: str, version: str) -> None:
    assert facts(gateway, name).protocol == version


def test_names_by_sni(gateway: Gateway) -> None:
    """Two servers on one port, with certificates of two kinds; an address is no name."""
    for name in ("a", "b", "a"):
        found = facts(gateway, name)
        assert found.name == f"{name}.internal"
    assert facts(gateway, "new").name == ""
    refused = fetch(gateway.address(), "/c/facts")
    assert (refused.status, refused.json["reason"]) == (502, "upstream_tls_failed")


def test_a_client_certificate(gateway: Gateway) -> None:
    found = facts(gateway, "mutual")
    assert (found.verified, found.client) == ("SUCCESS", "CN=gateway.example")
    refused = fetch(gateway.address(), "/anonymous/facts")  # nginx says so in HTTP
    assert refused.status == 400
    assert b"No required SSL certificate was sent" in refused.body


def test_no_version_in_common(gateway: Gateway) -> None:
    refused = fetch(gateway.address(), "/too-old/facts")
    assert (refused.status, refused.json["reason"]) == (502, "upstream_tls_failed")


@pytest.mark.parametrize("name", ["old", "new"])
def test_connections_are_used_again(gateway: Gateway, name: str) -> None:
    first = facts(gateway, name)
    assert {facts(gateway, name).connection for _ in range(10)} == {first.connection}


@pytest.mark.parametrize("name", ["each-old", "each-new"])
def test_sessions_are_used_again(gateway: Gateway, name: str) -> None:
    """A connection for each answer: the first one shakes hands in full."""
    found = [facts(gateway, name) for _ in range(6)]
    assert len({each.connection for each in found}) == 6
    assert [each.reused for each in found] == [False, True, True, True, True, True]


@pytest.mark.parametrize("name", ["old", "new", "large-records"])
def test_large_bodies(gateway: Gateway, name: str) -> None:
    """Up and down, eight at a time."""

    def one(n: int) -> None:
        data = os.urandom(50) * (LARGE // 400 + n)
        answer = fetch(gateway.address(), f"/{name}/{n}", method="PUT", body=data)
        assert answer.status == 200, answer
        arrived = json.loads(answer.body)["body"].encode("latin-1")
        assert hashlib.sha256(arrived).digest() == hashlib.sha256(data).digest()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(one, n) for n in range(8)]:
            done.result()


# ---- what it presents ----------------------------------------------------------------------------


UNTRUSTED = "tls_certificate_untrusted"
BAD: dict[str, tuple[Callable[[Material], Identity], str, str]] = {
    # which; the fault in the access log; the words in the gateway's log
    "expired": (
        lambda made: made.expired(),
        "tls_certificate_expired",
        "certificate has expired",
    ),
    "not yet valid": (
        lambda made: made.not_yet_valid(),
        "tls_certificate_not_yet_valid",
        "certificate is not yet valid",
    ),
    "wrong name": (
        lambda made: made.wrong_name(),
        "tls_certificate_wrong_name",
        "address mismatch",
    ),
    "unknown authority": (
        lambda made: made.unknown_issuer(),
        UNTRUSTED,
        "unable to get local issuer certificate",
    ),
    "self-signed": (lambda made: made.self_signed(), UNTRUSTED, "self-signed certificate"),
    "intermediate missing": (
        lambda made: made.without_chain(),
        UNTRUSTED,
        "unable to get local issuer certificate",
    ),
    "for clients": (
        lambda made: made.leaf(usage=(CLIENT,)),
        "tls_certificate_invalid",
        "certificate purpose",
    ),
    "revoked": (
        lambda made: made.revoked(),
        "tls_certificate_revoked",
        "certificate revoked",
    ),
}


@pytest.fixture(scope="module")
def changing(
    shared_gateway: Start, tls_material: Material, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Nginx]]:
    """An nginx that is restarted, behind a gateway whose authority has a revocation list."""
    with Nginx(
        tmp_path_factory.mktemp("changing"), {"it": presenting(tls_material.leaf())}
    ) as nginx:
        upstreams = {"it": (nginx.url("it"), {"authority": "listed"})}
        yield shared_gateway(document(tls_material, upstreams), workers=1), nginx


def test_certificates_that_are_not_trusted(
    changing: tuple[Gateway, Nginx], tls_material: Material
) -> None:
    """nginx presents each of them, and a good one in between."""
    running, nginx = changing
    nginx.restart({"it": presenting(tls_material.leaf())})
    for why, (made, _, _) in BAD.items():
        assert facts(running, "it").reused is False
        nginx.restart({"it": presenting(made(tls_material))})
        for _ in range(2):
            refused = fetch(running.address(), "/it/facts")
            found = (refused.status, refused.json["reason"])
            assert found == (502, "upstream_tls_failed"), why
        nginx.restart({"it": presenting(tls_material.leaf())})
    assert facts(running, "it").reused is False


@pytest.mark.parametrize(("made", "fault", "words"), BAD.values(), ids=list(BAD))
def test_why_they_are_not_trusted(
    changing: tuple[Gateway, Nginx],
    tls_material: Material,
    made: Callable[[Material], Identity],
    fault: str,
    words: str,
) -> None:
    """In the record of the request, and in the log; the caller learns nothing of it."""
    running, nginx = changing
    nginx.restart({"it": presenting(made(tls_material))})
    refused = fetch(running.address(), "/it/facts")
    assert refused.json["reason"] == "upstream_tls_failed"
    assert words.encode() not in refused.body
    path = f"/v1/requests/{refused.headers['x-request-id']}"
    record = eventually(lambda: (a := running.api(path)).status == 200 and a.json, "its record")
    assert record["fault"] == fault
    place = f"upstream it: no trusted TLS connection to {nginx.url('it')}: "
    eventually(
        lambda: any(place in each and words in each for each in running.log_text().splitlines()),
        "the log says why",
    )


class Clear(socketserver.BaseRequestHandler):
    """Answers whatever comes with HTTP."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_an_upstream_without_tls(shared_gateway: Start, tls_material: Material) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Clear) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        running = shared_gateway(document(tls_material, {"it": (url, {})}), workers=1)
        refused = fetch(running.address(), "/it/")
        server.shutdown()
    assert (refused.status, refused.json["reason"]) == (502, "upstream_tls_failed")
