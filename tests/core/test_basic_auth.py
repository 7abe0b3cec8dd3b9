"""Callers with a user and a secret, or with a client certificate."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from certkit import Material
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from enginekit import Backend, Plane, proxied
from test_client_cert import certified
from test_token_auth import problem

from fastgate._core.testing.tls_peers import TlsPeer
from fastgate._core.tls.keyring import authority_id
from fastgate.model import digests

SECRET = "s3cret:with:colons"
DIGEST = digests.basic("ann", hashlib.sha256(SECRET.encode()).digest())


def basic(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return f"Basic {base64.b64encode(raw).decode()}"


def document(auth: Any = None, **more: Any) -> dict[str, Any]:
    route = {"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}
    return {"routes": [{**route, "auth": auth or {"basic": {"realm": "shop"}}, **more}]}


CASES = [
    (basic(f"ann:{SECRET}"), ""),
    (basic(f"ann:{SECRET}").replace("Basic", "BASIC  "), ""),
    (basic(f"ann:{SECRET}x"), "credential_unknown"),
    (basic(f"Ann:{SECRET}"), "credential_unknown"),
    (basic(f"ann{SECRET}"), "credential_unknown"),
    (basic("ann:"), "credential_unknown"),
    (basic(":"), "credential_unknown"),
    (basic(f"ann:{SECRET}").rstrip("="), "credential_unknown"),
    (basic(f"ann:{SECRET}") + "=", "credential_unknown"),
    (basic(f"ann:{SECRET}").replace("=", "-"), "credential_unknown"),
    ("Basic !!!!", "credential_unknown"),
    ("Basic =", "credential_unknown"),
    (basic("ann:" + "x" * 2000), "credential_unknown"),
    ("Bearer x", "credential_missing"),
    ("Basically", "credential_missing"),
]


@pytest.mark.parametrize(("value", "reason"), CASES)
async def test_users(value: str, reason: str) -> None:
    async with Plane(document(), keys={DIGEST: "ann"}) as plane:
        reply = await plane.get("/x", headers={"Authorization": value})
        assert (problem(reply)["reason"] if reply.status != 200 else "") == reason
        if reason:
            assert reply.headers["www-authenticate"] == 'Basic realm="shop", charset="UTF-8"'


@pytest.mark.parametrize("forward", [True, False])
async def test_whether_the_upstream_gets_them(forward: bool) -> None:
    backend = await Backend().start()
    config = proxied(backend.url, auth={"basic": {"forward": forward}})
    async with Plane(config, keys={DIGEST: "ann"}) as plane:
        value = basic(f"ann:{SECRET}")
        assert (await plane.get("/x", headers={"Authorization": value})).status == 200
    seen = backend.requests[0].headers
    assert seen.get("authorization") == (value if forward else None)
    assert seen["x-consumer-id"] == "ann"
    await backend.stop()


# ---- certificates -------------------------------------------------------------------------------

BIND = "0.0.0.0:443"
PARTNERS, STAFF = authority_id("partners"), authority_id("staff")


def with_certificates(auth: Any) -> dict[str, Any]:
    return {
        "listeners": [{"name": "secure", "bind": ":443", "tls": {}}],
        "certificates": [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}],
        "authorities": [{"name": name, "ca": "path:/ca.pem"} for name in ("partners", "staff")],
        **document(auth),
    }


@pytest.fixture
def pair(tls_material: Material) -> tuple[bytes, bytes]:
    """A certificate, DER, and the digest of its public key."""
    made = tls_material.challenge("client.example", b"x" * 32).certificate
    der, public = made.public_bytes(Encoding.DER), made.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der, digests.certificate(hashlib.sha256(spki).digest())


async def outcome(plane: Plane, peer: TlsPeer | None) -> str:
    client = await plane.encrypted(peer)
    reply = await client.request("GET", "/x")
    return "" if reply.status == 200 else str(problem(reply)["reason"])


async def test_a_certificate_is_a_consumer(pair: tuple[bytes, bytes]) -> None:
    der, digest = pair
    config = with_certificates({"mtls": "partners"})
    async with Plane(config, bind=BIND, keys={digest: "acme"}) as plane:
        for _ in range(2):
            assert await outcome(plane, certified(PARTNERS, leaf=der)) == ""
        assert await outcome(plane, certified(STAFF, leaf=der)) == "misdirected_request"
        assert await outcome(plane, TlsPeer(asked=[PARTNERS])) == "certificate_required"
        assert await outcome(plane, None) == "misdirected_request"
        refused = await outcome(plane, certified(PARTNERS, leaf=b"\x30\x03abc"))
        assert refused == "certificate_required"
        plane.index.revoke(digest)
        assert await outcome(plane, certified(PARTNERS, leaf=der)) == "credential_revoked"


async def test_a_route_without_tls_has_no_certificates() -> None:
    config = with_certificates({"mtls": "partners"})
    config["listeners"].append({"name": "clear", "bind": ":80"})
    async with Plane(config, bind="0.0.0.0:80") as plane:
        reply = await plane.get("/x")
        assert (reply.status, problem(reply)["reason"]) == (403, "certificate_required")


async def test_a_certificate_of_nobody(pair: tuple[bytes, bytes]) -> None:
    config = with_certificates({"any": ["api_key", {"mtls": ["staff", "partners"]}]})
    async with Plane(config, bind=BIND, keys={"k": "bob"}) as plane:
        assert await outcome(plane, certified(PARTNERS, leaf=pair[0])) == "subject_unknown"
        client = await plane.encrypted(certified(PARTNERS, leaf=pair[0]))
        assert (await client.request("GET", "/x", {"X-Api-Key": "k"})).status == 200
