"""Subjects, certificates, users and revoked tokens through the API; what workers then find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apikit import Client, is_problem
from pkikit import Authority
from providerkit import SigningKey

from fastgate._core.reason import Reason
from fastgate.certificates.pins import pin_of
from fastgate.identity import kinds
from fastgate.model import digests
from fastgate.model.codec import decode
from fastgate.model.tls import pin_digest

BASE = "/v1/consumers/acme/credentials"
PIN = "sha256/" + "A" * 43 + "="
SUBJECT = {"kind": "subject", "issuer": "corp", "subject": "user-1"}


def who(world: Any, digest: bytes) -> str:
    found = world.identity.index.find_digest(digest)
    if found is None:
        return "unknown"
    return found.consumer.name if found.result == 0 else Reason(found.result).name.lower()


@pytest.fixture
async def acme(api: Client, world: Any) -> Client:
    issuers = [{"name": "corp", "issuer": "https://id.example.com"}]
    consumers = [{"name": "seed", "subjects": {"corp": "seeded"}, "basic": {"u": "a-secret-1"}}]
    document = {
        "version": 1,
        "issuers": issuers,
        "consumers": consumers,
        "plans": [{"name": "free"}],
    }
    await world.control.apply(decode(document))
    for name in ("acme", "other"):
        await api.post("/v1/consumers", json={"name": name, "plan": "free"})
    return api


async def test_a_subject(acme: Client, world: Any) -> None:
    made = await acme.post(BASE, json={**SUBJECT, "label": "ci"})
    assert made.status_code == 201
    body = made.json()
    assert (body["kind"], body["label"], body["prefix"]) == ("subject", "ci", "")
    assert body["about"] == {"issuer": "corp", "subject": "user-1"}
    assert not {"key", "secret", "digest"} & body.keys()
    digest = digests.subject("corp", "user-1")
    assert who(world, digest) == "acme"
    assert (await acme.get(BASE)).json()["items"] == [body]
    is_problem(await acme.post("/v1/consumers/other/credentials", json=SUBJECT), 409, "conflict")
    is_problem(await acme.post(f"{BASE}/{body['id']}/rotate"), 409, "conflict")
    revoked = await acme.delete(f"{BASE}/{body['id']}")
    assert revoked.json()["state"] == "revoked"
    assert who(world, digest) == "credential_revoked"
    again = await acme.post("/v1/consumers/other/credentials", json=SUBJECT)
    assert (again.status_code, who(world, digest)) == (201, "other")


async def test_a_certificate(acme: Client, world: Any) -> None:
    issued = Authority.root().issue("client.example")
    made = await acme.post(BASE, json={"kind": "certificate", "certificate": issued.pem.decode()})
    assert made.status_code == 201
    pin = made.json()["about"]["pin"]
    assert who(world, digests.certificate(pin_digest(pin))) == "acme"
    again = await acme.post(BASE, json={"kind": "certificate", "pin": pin})
    is_problem(again, 409, "conflict")
    other = await acme.post(BASE, json={"kind": "certificate", "pin": PIN})
    assert other.json()["about"] == {"pin": PIN}
    assert pin_of(b"x") != pin


async def test_a_user(acme: Client, world: Any) -> None:
    made = await acme.post(BASE, json={"kind": "basic", "user": "acme"})
    body = made.json()
    assert made.headers["cache-control"] == "no-store"
    assert (body["kind"], body["about"]) == ("basic", {"user": "acme"})
    assert "key" not in body
    assert body["secret"].startswith(body["prefix"])
    assert who(world, kinds.basic("acme", body["secret"]).digest) == "acme"
    shown = (await acme.get(BASE)).json()["items"][0]
    assert "secret" not in shown
    rotated = (await acme.post(f"{BASE}/{body['id']}/rotate", json={"overlap": 60})).json()
    assert rotated["secret"] != body["secret"]
    for secret in (rotated["secret"], body["secret"]):
        assert who(world, kinds.basic("acme", secret).digest) == "acme"
    given = {"kind": "basic", "user": "acme", "secret": "an-old-secret"}
    imported = (await acme.post(BASE, json=given)).json()
    assert "secret" not in imported
    assert who(world, kinds.basic("acme", "an-old-secret").digest) == "acme"


async def test_a_key_is_as_it_was(acme: Client, world: Any) -> None:
    body = (await acme.post(BASE)).json()
    assert (body["kind"], body["about"]) == ("key", {})
    assert world.reason_for(body["key"]) == 0
    assert "secret" not in body


async def test_credentials_of_the_configuration(acme: Client) -> None:
    listed = (await acme.get("/v1/consumers/seed/credentials")).json()["items"]
    assert {each["kind"]: each["about"] for each in listed} == {
        "subject": {"issuer": "corp", "subject": "seeded"},
        "basic": {"user": "u"},
    }
    assert {each["source"] for each in listed} == {"config"}


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({"kind": "subject", "subject": "a"}, "issuer", "It is missing"),
        ({"kind": "subject", "issuer": "corp"}, "subject", "It is missing"),
        (
            {**SUBJECT, "issuer": "crop"},
            "issuer",
            "There is no issuer 'crop'. Did you mean 'corp'?",
        ),
        ({**SUBJECT, "subject": ""}, "subject", "matching regex"),
        ({**SUBJECT, "subject": "ü" * 128}, "subject", "at most 255 bytes"),
        ({**SUBJECT, "key": "a-key-1234"}, "key", "It belongs to the kind 'key', not to 'subject'"),
        ({"issuer": "corp"}, "issuer", "It belongs to the kind 'subject', not to 'key'"),
        ({"kind": "certificate"}, "pin", "Give either `pin` or `certificate`"),
        ({"kind": "certificate", "pin": "sha256/x"}, "pin", "matching regex"),
        ({"kind": "certificate", "certificate": "x"}, "certificate", "the text has no PEM block"),
        ({"kind": "basic"}, "user", "It is missing"),
        ({"kind": "basic", "user": "a:b"}, "user", "matching regex"),
        ({"kind": "basic", "user": "a", "secret": "short"}, "secret", "matching regex"),
        ({"kind": "basic", "user": "a", "secret": "${OLD_SECRET}"}, "secret", "OLD_SECRET"),
        ({"kind": "token"}, "kind", "Invalid enum value"),
    ],
)
async def test_what_is_refused(acme: Client, body: Any, path: str, words: str) -> None:
    problem = is_problem(await acme.post(BASE, json=body), 422, "invalid_member")
    assert problem["errors"][0]["path"] == path
    assert words in problem["errors"][0]["message"] + (problem["errors"][0].get("hint") or "")


# ---- revoked tokens ---------------------------------------------------------------------

KEY = SigningKey()


def later(**more: float) -> str:
    return (datetime.now(UTC) + timedelta(**more)).isoformat()


async def test_a_jwt_is_revoked_until_it_expires(acme: Client, world: Any) -> None:
    exp = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
    text = KEY.token({"iss": "https://a", "sub": "user", "jti": "id-1", "exp": exp})
    made = await acme.post("/v1/tokens/revoke", json={"token": f" {text}\n"})
    assert made.status_code == 201
    body = made.json()
    assert body["about"] == {"iss": "https://a", "sub": "user", "jti": "id-1"}
    assert body["revoked_by"] == "the first admin token" or body["revoked_by"]
    assert datetime.fromisoformat(body["expires_at"]).timestamp() == exp
    assert who(world, digests.token(digests.signed_part(text))) == "credential_revoked"
    again = await acme.post("/v1/tokens/revoke", json={"token": text})
    assert (again.status_code, again.json()) == (200, body)
    listed = await acme.get("/v1/tokens/revoked")
    assert listed.json()["items"] == [body]
    assert text not in listed.text


async def test_an_opaque_token_needs_an_end(acme: Client, world: Any) -> None:
    refused = await acme.post("/v1/tokens/revoke", json={"token": "opaque"})
    problem = is_problem(refused, 422, "invalid_member")
    assert problem["errors"][0]["path"] == "expires_at"
    made = await acme.post(
        "/v1/tokens/revoke", json={"token": "opaque", "expires_at": later(hours=1)}
    )
    assert (made.status_code, made.json()["about"]) == (201, {})
    assert who(world, digests.token("opaque")) == "credential_revoked"


async def test_a_token_by_its_id(acme: Client, world: Any) -> None:
    asked = {"issuer": "corp", "jti": "id-1", "expires_at": later(hours=1)}
    made = await acme.post("/v1/tokens/revoke", json=asked)
    assert made.json()["about"] == {"issuer": "corp", "jti": "id-1"}
    assert who(world, digests.token_id("corp", "id-1")) == "credential_revoked"


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({}, "token", "Give either `token`, or `issuer` and `jti`"),
        ({"token": "a", "jti": "b"}, "token", "Give either"),
        ({"token": "a", "issuer": "corp"}, "issuer", "It belongs to `jti`"),
        ({"jti": "a"}, "issuer", "It is missing"),
        ({"jti": "a", "issuer": "crop"}, "issuer", "Did you mean 'corp'?"),
        ({"jti": "a", "issuer": "corp"}, "expires_at", "It is missing"),
        ({"token": "a", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "in the past"),
        ({"token": KEY.token({"exp": 1_500_000_000})}, "token", "It has expired, at 2017-07-14"),
        ({"token": KEY.token({"sub": "a"})}, "expires_at", "does not say when it expires"),
    ],
)
async def test_what_is_not_revoked(acme: Client, body: Any, path: str, words: str) -> None:
    problem = is_problem(await acme.post("/v1/tokens/revoke", json=body), 422, "invalid_member")
    assert problem["errors"][0]["path"] == path
    assert words in problem["errors"][0]["message"]


async def test_tokens_of_the_api_are_something_else(acme: Client) -> None:
    made = (await acme.post("/v1/tokens", json={"label": "ci"})).json()
    assert (await acme.get(f"/v1/tokens/{made['id']}")).json()["label"] == "ci"
    assert (await acme.get("/v1/tokens/revoked")).json()["items"] == []
    is_problem(await acme.get("/v1/tokens/revoke"), 405, "method_not_allowed")
