"""What is said of a TLS connection to an upstream that could not be made; sessions and keyrings."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import tlskit
from certkit import Identity, Material
from enginekit import Plane, proxied
from keyringkit import authority_entry, opened
from tlsserverkit import TlsServer, echo

from fastgate._core.logs.drain import LogDrain
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.tls.keyring import TLS_1_3, Keyring, UpstreamTls
from fastgate.config.targets import tls_id
from fastgate.model import upstream as model
from fastgate.model.codec import decode


def trusting(material: Material, tls: dict[str, Any], *, crl: bool = False, **more: Any) -> Keyring:
    """A keyring for an upstream with these settings (of the document) that trusts the root."""
    crls = [material.crl(material.revoked())] if crl else []
    entry = UpstreamTls(
        id=tls_id(decode(tls, model.UpstreamTls)),
        name=tls.get("name", ""),
        authority=0,
        pins=[bytes(32)] if tls.get("pins") else [],
        min_version=TLS_1_3 if tls.get("min") == "1.3" else 0x0303,
        **more.pop("entry", {}),
    )
    authorities = [authority_entry(material.root, crls=crls)]
    return opened(Keyring(**{"serial": 1, **more}, authorities=authorities, upstreams=[entry]))


def calling(url: str, tls: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = proxied(url)
    config["upstreams"][0]["tls"] = tls
    return config


def count(plane: Plane, name: str) -> int:
    return counters_snapshot(plane.segment).workers[0][name]


async def refused(plane: Plane, url: str, reason: str = "upstream_tls_failed") -> tuple[str, str]:
    """The fault in the access log, and why in the worker's."""
    reply = await plane.get("/a")
    assert (reply.status, orjson.loads(reply.body)["reason"]) == (502, reason)
    (line,) = [orjson.loads(each) for each in LogDrain(plane.segment).drain(0).splitlines()]
    assert (line["reason"], line["status"]) == (reason, 502)
    times, upstream, target, why = plane.engine.take_failed_tls()
    assert (upstream, target) == ("u", url)
    assert times == count(plane, "handshakes_upstream_failed") >= 1
    assert plane.engine.take_failed_tls()[0] == 0
    return line["fault"], why


Given = Callable[[Material], Identity]
PIN = "sha256/" + "A" * 43 + "="

CERTIFICATES: dict[str, tuple[Given, dict[str, Any], str, str]] = {
    "expired": (Material.expired, {}, "tls_certificate_expired", "certificate has expired"),
    "not yet valid": (
        Material.not_yet_valid,
        {},
        "tls_certificate_not_yet_valid",
        "certificate is not yet valid",
    ),
    "wrong name": (Material.wrong_name, {}, "tls_certificate_wrong_name", "IP address mismatch"),
    "wrong host": (
        Material.wrong_name,
        {"name": "test.example"},
        "tls_certificate_wrong_name",
        "[Hh]ostname mismatch",
    ),
    "unknown authority": (
        Material.unknown_issuer,
        {},
        "tls_certificate_untrusted",
        "unable to get local issuer certificate",
    ),
    "self-signed": (
        Material.self_signed,
        {},
        "tls_certificate_untrusted",
        "self[- ]signed certificate",
    ),
    "chain missing": (
        Material.without_chain,
        {},
        "tls_certificate_untrusted",
        "unable to get local issuer certificate",
    ),
    "not pinned": (
        Material.leaf,
        {"pins": [PIN]},
        "tls_certificate_not_pinned",
        "no certificate of its chain has one of the pinned keys",
    ),
}


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize("what", CERTIFICATES)
async def test_certificates_that_are_not_trusted(
    tls_material: Material, what: str, version: str
) -> None:
    given, tls, fault, why = CERTIFICATES[what]
    with TlsServer(given(tls_material), versions=(version, version)) as server:
        keyring = trusting(tls_material, tls)
        async with Plane(calling(server.url, tls), keyring=keyring) as plane:
            found = await refused(plane, server.url)
            assert found[0] == fault
            assert re.fullmatch(why, found[1]), found
        assert server.requests == []


async def test_revoked_certificates(tls_material: Material) -> None:
    with TlsServer(tls_material.revoked()) as server:
        async with Plane(
            calling(server.url, {}), keyring=trusting(tls_material, {}, crl=True)
        ) as plane:
            fault, why = await refused(plane, server.url)
            assert (fault, why) == ("tls_certificate_revoked", "certificate revoked")
        assert server.requests == []


async def test_a_peer_without_a_version_in_common(tls_material: Material) -> None:
    tls = {"min": "1.3"}
    with TlsServer(tls_material.leaf(), versions=("1.2", "1.2")) as server:
        async with Plane(calling(server.url, tls), keyring=trusting(tls_material, tls)) as plane:
            assert (await refused(plane, server.url))[0] == "tls_no_common_version"


async def test_a_peer_that_wants_a_certificate_of_ours(tls_material: Material) -> None:
    """In TLS 1.2 it refuses the handshake; in 1.3 it does so when it reads our request."""
    with TlsServer(
        tls_material.leaf(), clients=tls_material.root, versions=("1.2", "1.2")
    ) as server:
        async with Plane(calling(server.url, {}), keyring=trusting(tls_material, {})) as plane:
            assert (await refused(plane, server.url))[0] == "tls_refused_by_peer"


@contextlib.contextmanager
def hanging_up(first: bytes) -> Iterator[str]:
    """A peer that sends this and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = asyncio.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    accepted, _ = listener.accept()
                    accepted.recv(65536)
                    accepted.sendall(first)
                    accepted.close()

        serving = asyncio.get_running_loop().run_in_executor(None, serve)
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
    del serving


@pytest.mark.parametrize(
    ("first", "fault"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls_not_spoken"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "tls_refused_by_peer"),
        (b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00", "tls_failed"),
    ],
)
async def test_peers_that_hang_up(tls_material: Material, first: bytes, fault: str) -> None:
    with hanging_up(first) as url:
        async with Plane(calling(url, {}), keyring=trusting(tls_material, {})) as plane:
            assert (await refused(plane, url))[0] == fault


async def test_a_peer_that_only_closes_is_not_reachable(tls_material: Material) -> None:
    """It may be about to restart: trying again later is no mistake, as it is with a certificate."""
    with hanging_up(b"") as url:
        async with Plane(calling(url, {}), keyring=trusting(tls_material, {})) as plane:
            found = await refused(plane, url, "upstream_connect_failed")
            assert found == (
                "tls_closed_by_peer",
                "it closed the connection during the handshake",
            )


async def test_a_keyring_without_what_is_needed(tls_material: Material) -> None:
    keyring = opened(Keyring(serial=1))
    async with Plane(calling("https://127.0.0.1:9", {}), keyring=keyring) as plane:
        reply = await plane.get("/a")
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (502, "upstream_tls_failed")
        (line,) = [orjson.loads(each) for each in LogDrain(plane.segment).drain(0).splitlines()]
        assert line["fault"] == "tls_not_configured"


async def test_another_fault_is_not_said_of_a_later_failure(tls_material: Material) -> None:
    """The first target's TLS failed, and the second took no connection: that is the reason."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"https://127.0.0.1:{closed.getsockname()[1]}"
    with TlsServer(tls_material.expired()) as server:
        config = calling(server.url, {})
        config["upstreams"][0]["targets"] = [server.url, nobody]
        async with Plane(config, keyring=trusting(tls_material, {})) as plane:
            for _ in range(2):  # each of the two first
                await plane.get("/a")
            lines = [orjson.loads(each) for each in LogDrain(plane.segment).drain(0).splitlines()]
            faults = {line["reason"]: line.get("fault") for line in lines}
            assert faults.get("upstream_connect_failed") is None
            assert faults.get("upstream_tls_failed", "tls_certificate_expired") == (
                "tls_certificate_expired"
            )


# ---- sessions ------------------------------------------------------------------------------------


def once(request: Any) -> bytes:
    """An answer that ends its connection, so that the next one may resume the session."""
    return echo(request).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_a_new_keyring_forgets_sessions(tls_material: Material, version: str) -> None:
    """What a session was verified with may be trusted no longer."""
    with TlsServer(tls_material.leaf(), versions=(version, version), respond=once) as server:
        keyring = trusting(tls_material, {})
        async with Plane(calling(server.url, {}), keyring=keyring) as plane:
            for _ in range(2):
                assert (await plane.get("/a")).status == 200
            assert server.resumed == 1
            assert count(plane, f"handshakes_upstream_{version}_resumed") == 1
            plane.engine.set_keyring(trusting(tls_material, {}, serial=2))
            assert (await plane.get("/a")).status == 200
            assert (server.handshakes, server.resumed) == (3, 1)
            assert (await plane.get("/a")).status == 200
            assert server.resumed == 2
            assert count(plane, f"handshakes_upstream_{version}_full") == 2


async def test_a_session_of_an_old_keyring_is_not_kept(tls_material: Material) -> None:
    """Its connection was open while the keyring was replaced."""
    with TlsServer(tls_material.leaf()) as server:
        async with Plane(calling(server.url, {}), keyring=trusting(tls_material, {})) as plane:
            assert (await plane.get("/a")).status == 200
            plane.engine.set_keyring(trusting(tls_material, {}, serial=2))
            server.respond = once
            assert (await plane.get("/a")).status == 200  # on the same connection, its last
            assert (await plane.get("/a")).status == 200
            assert (server.handshakes, server.resumed) == (2, 0)


async def test_a_pooled_connection_rests_after_a_second(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf()) as server:
        async with Plane(calling(server.url, {}), keyring=trusting(tls_material, {})) as plane:
            assert (await plane.get("/a")).status == 200
            assert plane.engine.stats()["rested"] == 0
            await plane.settled(rested=1)
            assert (await plane.get("/b")).status == 200
            assert server.handshakes == 1
            assert plane.engine.stats()["rested"] == 0
