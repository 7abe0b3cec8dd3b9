"""The identity providers that tests of tokens run against do what those tests rely on."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from gatewaykit import eventually
from identitykit import (
    PROJECT,
    IdentityProvider,
    Keycloak,
    OidcProvider,
    Refused,
    claims,
    header,
)
from waitkit import lives

AUDIENCE = "https://orders.example"
SCOPES = ["orders:read", "orders:write"]


@pytest.fixture(params=["keycloak", "oidc_provider"])
def provider(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")


def verify(provider: IdentityProvider, token: str) -> None:
    """Verify a token's RS256 signature with the keys that the provider publishes."""
    signed, _, signature = token.rpartition(".")
    (key,) = [one for one in provider.public_keys() if one["kid"] == header(token)["kid"]]
    public = rsa.RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
    raw = base64.urlsafe_b64decode(signature + "==")
    public.verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def test_discovery_and_keys(provider: IdentityProvider) -> None:
    found = provider.discovery()
    assert found["issuer"] == provider.issuer
    assert found["introspection_endpoint"] == provider.introspection_url
    keys = provider.public_keys()
    assert keys
    assert all(key["kty"] == "RSA" and key["kid"] for key in keys)
    assert not any("d" in key for key in keys)


@pytest.mark.parametrize("scopes", [[], SCOPES[:1], SCOPES])
def test_a_token_with_scopes_and_an_audience(provider: IdentityProvider, scopes: list[str]) -> None:
    token = provider.token(scopes, AUDIENCE)
    verify(provider, token)
    found = claims(token)
    assert found["iss"] == provider.issuer
    audience = found["aud"] if isinstance(found["aud"], list) else [found["aud"]]
    assert AUDIENCE in audience
    assert set(found.get("scope", "").split()) & set(SCOPES) == set(scopes)
    assert found["sub"]
    assert found["exp"] > found["iat"]
    assert found.get("client_id", found.get("azp")) == provider.client.id


def test_a_token_is_introspected_and_revoked(provider: IdentityProvider) -> None:
    token = provider.token(SCOPES)
    found = provider.introspect(token)
    assert found["active"] is True
    assert set(SCOPES) <= set(found["scope"].split())
    assert found["client_id"] == provider.client.id
    assert provider.introspect("no-such-token") == {"active": False}
    provider.revoke(token)
    assert provider.introspect(token) == {"active": False}


def test_introspection_needs_credentials(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token(SCOPES)
    monkeypatch.setattr(provider, "gateway", provider.gateway._replace(secret="wrong"))
    with pytest.raises(Refused, match="401"):
        provider.introspect(token)


def test_keys_are_rotated(provider: IdentityProvider) -> None:
    before = provider.token(SCOPES, AUDIENCE)
    new = provider.rotate()
    after = provider.token(SCOPES, AUDIENCE)
    assert header(after)["kid"] == new != header(before)["kid"]
    verify(provider, before)
    verify(provider, after)
    last = provider.rotate(keep_old=False)
    assert [key["kid"] for key in provider.public_keys() if key["alg"] == "RS256"] == [last]
    assert header(provider.token(SCOPES, AUDIENCE))["kid"] == last


def test_a_provider_stops_and_starts_with_the_same_keys(provider: IdentityProvider) -> None:
    before = provider.token(SCOPES, AUDIENCE)
    provider.stop()
    with pytest.raises(OSError, match="refused"):
        provider.discovery()
    provider.start()
    verify(provider, before)
    verify(provider, provider.token(SCOPES, AUDIENCE))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("identitykit.CACHE", tmp_path)
    for kind in (Keycloak, OidcProvider):
        assert kind.missing().endswith("is not installed: run tools/identity-providers")


def test_a_provider_ends_with_the_tests(tmp_path: Any) -> None:
    """Even if they are killed."""
    if why := OidcProvider.missing():
        pytest.skip(why)
    program = (
        "import os, pathlib, sys, identitykit\n"
        "provider = identitykit.OidcProvider(pathlib.Path(sys.argv[1])).start()\n"
        "print(provider.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    folders = [str(PROJECT / "tests" / "integration"), str(PROJECT / "tests")]
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ":".join(folders)},
        capture_output=True,
        timeout=60,
    )
    pid = int(ran.stdout)
    eventually(lambda: not lives(pid), "the provider has ended")
