"""Credentials of all kinds, and revoked tokens, from the command line."""

from __future__ import annotations

import io

import pytest
from certkit import Material
from conftest import Cli, Gateway
from providerkit import SigningKey

from fastgate.identity import kinds
from fastgate.model import digests
from fastgate.model.codec import decode

PIN = "sha256/" + "A" * 43 + "="


def found(gateway: Gateway, digest: bytes) -> bool:
    result = gateway.world.identity.index.find_digest(digest)
    return result is not None and result.result == 0


@pytest.fixture
def acme(cli: Cli, gateway: Gateway) -> Cli:
    control = gateway.world.control
    issuers = [{"name": "corp", "issuer": "https://id.example.com"}]
    control.gateway = decode({"version": 1, "issuers": issuers, "plans": [{"name": "free"}]})
    cli.done("consumers", "create", "acme")
    return cli


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_subject(acme: Cli, gateway: Gateway) -> None:
    ran = acme("credentials", "subject", "acme", "corp", "user-1", "--label", "ci")
    assert ran.code == 0
    assert ran.out.endswith(": corp: user-1\n")
    assert found(gateway, digests.subject("corp", "user-1"))
    made = acme.done("credentials", "list", "acme")[0]
    listed = acme("credentials", "list", "acme").out
    for text in (made["id"], "subject", "corp: user-1", "active", "ci"):
        assert text in listed
    assert acme.done("keys", "list", "acme") == []
    assert f"{made['id']} is revoked" in acme("credentials", "revoke", "acme", made["id"]).out
    assert not found(gateway, digests.subject("corp", "user-1"))
    unknown = acme("credentials", "subject", "acme", "crop", "user-1")
    assert (unknown.code, "Did you mean 'corp'?" in unknown.err) == (1, True)


def test_a_certificate(acme: Cli, gateway: Gateway, tls_material: Material) -> None:
    leaf = tls_material.client()
    shown = acme("certificates", "pin", str(leaf.cert)).out.split()
    assert shown[0] == leaf.pin
    assert acme.done("certificates", "pin", str(leaf.cert)) == shown
    made = acme.done("credentials", "certificate", "acme", str(leaf.cert))
    assert made["about"] == {"pin": leaf.pin}
    assert acme.done("credentials", "certificate", "acme", PIN)["about"] == {"pin": PIN}
    for file, words in (("none.pem", "No such file"), (str(leaf.key), "has no certificate")):
        for command in (["certificates", "pin"], ["credentials", "certificate", "acme"]):
            ran = acme(*command, file)
            assert (ran.code, words in ran.err) == (2, True)


def test_a_user(acme: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = acme("credentials", "basic", "acme", "jane", "--expires", "90d")
    secret = ran.out.strip()
    assert "The secret of jane is shown only now:" in ran.err
    assert found(gateway, kinds.basic("jane", secret).digest)
    [made] = acme.done("credentials", "list", "acme")
    assert secret not in acme("credentials", "list", "acme").out
    rotated = acme("credentials", "rotate", "acme", made["id"], "--overlap", "1h").out.strip()
    assert rotated != secret
    assert found(gateway, kinds.basic("jane", rotated).digest)
    type_in(monkeypatch, "an-old-secret\n")
    imported = acme("credentials", "basic", "acme", "joe", "--import")
    assert (imported.code, "an-old-secret" in imported.out + imported.err) == (0, False)
    assert found(gateway, kinds.basic("joe", "an-old-secret").digest)
    assert acme("credentials", "rotate", "acme", made["id"], "--overlap", "x").code == 2


def test_a_token_is_revoked(acme: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    token = SigningKey().token({"sub": "user", "jti": "id-1", "exp": 4_000_000_000})
    assert acme("tokens", "revoked").out == "No token is revoked.\n"
    type_in(monkeypatch, f"{token}\n")
    ran = acme("tokens", "revoke")
    assert ran.code == 0
    assert "revoked, and forgotten when the token has expired, at 2096-10-02" in ran.out
    assert token not in ran.out + ran.err
    listed = acme("tokens", "revoked").out
    assert "sub user, jti id-1" in listed
    type_in(monkeypatch, "opaque")
    assert "expires_at" in acme("tokens", "revoke").err
    type_in(monkeypatch, "opaque")
    assert acme.done("tokens", "revoke", "--expires", "1h")["about"] == {}
    by_id = acme.done("tokens", "revoke", "--issuer", "corp", "--jti", "x", "--expires", "1h")
    assert by_id["about"] == {"issuer": "corp", "jti": "x"}
    assert acme("tokens", "revoke", "--jti", "x").code == 2
    assert len(acme.done("tokens", "revoked")) == 3
    index = gateway.world.identity.index
    for digest in (digests.token("opaque"), digests.token_id("corp", "x")):
        assert index.find_digest(digest) is not None


def test_a_token_is_never_an_argument(acme: Cli) -> None:
    assert acme("tokens", "revoke", "a.b.c").code == 2
