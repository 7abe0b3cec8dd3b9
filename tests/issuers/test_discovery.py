"""Asking a provider: what it may answer, and what of it is believed."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from certkit import Material
from providerkit import KEYS, OAUTH, OIDC, Provider, Reply, SigningKey
from waitkit import free_port

from fastgate.issuers import fetching
from fastgate.issuers.discovery import Found, ask, places
from fastgate.issuers.fetching import MOST, FetchError
from fastgate.model.codec import decode
from fastgate.model.gateway import Issuer

NOW = 1_800_000_000.0


def unused() -> ssl.SSLContext:
    raise AssertionError("nothing is verified")


def issuer(provider: Provider, **more: Any) -> Issuer:
    return decode({"name": "test", "issuer": provider.issuer, **more}, Issuer)


async def found(provider: Provider, **more: Any) -> Found:
    return await ask(issuer(provider, **more), unused, NOW)


async def refused(provider: Provider, **more: Any) -> str:
    with pytest.raises(FetchError) as caught:
        await found(provider, **more)
    return str(caught.value)


# ---- where documents are ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "oidc", "oauth"),
    [
        ("https://a", "https://a/.well-known/{0}", "https://a/.well-known/{1}"),
        ("https://a/", "https://a/.well-known/{0}", "https://a/.well-known/{1}"),
        ("https://a:8/b/c", "https://a:8/b/c/.well-known/{0}", "https://a:8/.well-known/{1}/b/c"),
        ("https://a/b/", "https://a/b/.well-known/{0}", "https://a/.well-known/{1}/b"),
    ],
)
def test_places(text: str, oidc: str, oauth: str) -> None:
    names = ("openid-configuration", "oauth-authorization-server")
    assert places(text) == (oidc.format(*names), oauth.format(*names))


async def test_discovery_of_openid_connect() -> None:
    with Provider() as provider:
        provider.headers["Cache-Control"] = "max-age=600"
        answer = await found(provider)
        assert [key.spki for key in answer.keys.keys] == [provider.keys[0].spki]
        assert (answer.fresh_s, answer.jwks_uri) == (600, f"{provider.origin}{KEYS}")
        assert provider.asked == [OIDC, KEYS]
        assert provider.sent[0]["Accept-Encoding"] == "identity"
        assert "Authorization" not in provider.sent[0]


async def test_discovery_of_rfc_8414() -> None:
    with Provider() as provider:
        provider.oidc = False
        assert (await found(provider)).keys.keys
        assert provider.asked == [OIDC, OAUTH, KEYS]
        provider.replies[OAUTH] = Reply(404)
        text = await refused(provider)
        assert f"{OIDC}: it answered 404" in text
        assert f"{OAUTH}: it answered 404" in text


async def test_no_discovery() -> None:
    with Provider() as provider:
        answer = await found(provider, issuer="anything", jwks_uri=f"{provider.origin}{KEYS}")
        assert answer.jwks_uri == f"{provider.origin}{KEYS}"
        assert provider.asked == [KEYS]


# ---- what is believed -------------------------------------------------------------------


async def test_another_issuer_is_not_believed() -> None:
    """Neither another tenant nor the same address spelt otherwise."""
    with Provider() as provider:
        for other in (
            f"{provider.issuer}/",
            provider.issuer.upper(),
            "https://evil.example",
            None,
            5,
        ):
            provider.says["issuer"] = other
            assert "both must be the same text" in await refused(provider)
        assert KEYS not in provider.asked


@pytest.mark.parametrize("value", [None, 5, "", "keys\n"])
async def test_a_document_without_keys(value: Any) -> None:
    with Provider() as provider:
        provider.says["jwks_uri"] = value
        text = await refused(provider)
        assert "(`jwks_uri`)" in text or "is no https address" in text


async def test_keys_are_fetched_by_https_or_on_this_machine() -> None:
    with Provider() as provider:
        for uri in ("http://10.0.0.1/keys", "file:///etc/passwd", "/keys", "https:///keys"):
            provider.says["jwks_uri"] = uri
            assert "is no https address" in await refused(provider)


async def test_keys_may_be_at_another_server() -> None:
    """As Google's are."""
    with Provider() as provider, Provider() as other:
        provider.says["jwks_uri"] = f"{other.origin}{KEYS}"
        assert (await found(provider)).keys.keys[0].spki == other.keys[0].spki


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"', b"\xff"])
async def test_what_is_no_metadata(body: bytes) -> None:
    with Provider() as provider:
        provider.replies[OIDC] = Reply(200, body)
        assert f"{OIDC}: it is " in await refused(provider)


async def test_what_is_no_jwks() -> None:
    with Provider() as provider:
        provider.jwks = b"<html>"
        assert f"{KEYS}: it is not JSON" in await refused(provider)


# ---- introspection ----------------------------------------------------------------------

ASKED = {"client_id": "gateway", "client_secret": "env:SECRET"}


async def test_the_endpoint_for_questions_about_tokens() -> None:
    with Provider() as provider:
        provider.says["introspection_endpoint"] = f"{provider.origin}/ask"
        assert (await found(provider)).introspection == ""  # not asked for
        answer = await found(provider, introspection=ASKED)
        assert (answer.introspection, answer.doubt) == (f"{provider.origin}/ask", "")
        there = {**ASKED, "endpoint": "https://other.example/ask"}
        assert (await found(provider, introspection=there)).introspection == ""


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        (None, "it has no `introspection_endpoint`"),
        (5, "it has no `introspection_endpoint`"),
        ("https://evil.example/ask", "is at another server; if it is right, write it into"),
        ("https://[::1", "is at another server"),
    ],
)
async def test_an_endpoint_elsewhere_is_not_used(endpoint: Any, why: str) -> None:
    """Tokens and the gateway's own secret would be sent there. The keys are good all the same."""
    with Provider() as provider:
        provider.says["introspection_endpoint"] = endpoint
        answer = await found(provider, introspection=ASKED)
        assert answer.introspection == ""
        assert why in answer.doubt
        assert answer.keys.keys


# ---- bounds -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [201, 204, 401, 403, 429, 500, 503])
async def test_any_other_status_is_an_error(status: int) -> None:
    with Provider() as provider:
        provider.fails = status
        assert f"it answered {status}" in await refused(provider)
        assert provider.asked == [OIDC]


async def test_redirects_within_a_server_are_followed() -> None:
    with Provider() as provider:
        provider.replies[KEYS] = Reply(302, b"", {"Location": "/moved"})
        provider.replies["/moved"] = Reply(
            200, json.dumps({"keys": [SigningKey("m").jwk()]}).encode()
        )
        assert (await found(provider)).keys.keys[0].kid == "m"


async def test_redirects_to_another_server_are_not_followed() -> None:
    with Provider() as provider, Provider() as other:
        for location in (f"{other.origin}{KEYS}", "//evil.example/", "file:///etc/passwd"):
            provider.replies[KEYS] = Reply(302, b"", {"Location": location})
            assert "it redirects to another server" in await refused(provider)
        provider.replies[KEYS] = Reply(302, b"", {"Location": "https://[::1"})
        assert "Invalid URL in location header" in await refused(provider)
        assert other.asked == []


async def test_redirects_in_a_circle() -> None:
    with Provider() as provider:
        provider.replies[KEYS] = Reply(302, b"", {"Location": KEYS})
        assert "more than 3 redirects" in await refused(provider)
        assert provider.fetches == 4


async def test_the_largest_answer() -> None:
    with Provider() as provider:
        document = json.dumps({"keys": [provider.keys[0].jwk()]}).encode()
        provider.jwks = document + b" " * (MOST - len(document))
        assert (await found(provider)).keys.keys
        provider.jwks += b" "
        assert "its answer has more than 1 MiB" in await refused(provider)


async def test_compressed_answers_are_refused() -> None:
    """A megabyte could become a thousand."""
    with Provider() as provider:
        provider.headers["Content-Encoding"] = "gzip"
        assert "its answer is compressed" in await refused(provider)


async def test_a_provider_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIME_S", 0.2)
    with Provider() as provider, provider.silent():
        assert f"{OIDC}: no answer within 0.2 s" in await refused(provider)
        assert provider.waiting.is_set()


async def test_a_provider_that_is_not_there() -> None:
    target = decode({"name": "a", "issuer": f"http://127.0.0.1:{free_port()}"}, Issuer)
    with pytest.raises(FetchError, match="openid-configuration: All connection attempts failed"):
        await ask(target, unused, NOW)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with Provider() as provider:
        assert (await found(provider)).keys.keys


async def test_a_configured_proxy_is_used() -> None:
    with Provider() as proxy:
        target = {"issuer": "http://127.0.0.1:1/realms/test", "proxy": proxy.origin}
        told = {"issuer": target["issuer"], "jwks_uri": "http://127.0.0.1:1/keys"}
        keys = json.dumps({"keys": [SigningKey("far").jwk()]}).encode()
        proxy.replies[f"http://127.0.0.1:1{OIDC}"] = Reply(200, json.dumps(told).encode())
        proxy.replies["http://127.0.0.1:1/keys"] = Reply(200, keys)
        assert (await found(proxy, **target)).keys.keys[0].kid == "far"


# ---- https ------------------------------------------------------------------------------


def context_of(path: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    return context


async def test_https_is_verified(tls_material: Material) -> None:
    leaf = tls_material.leaf("127.0.0.1")
    trusting = ssl.create_default_context(cafile=str(tls_material.root.ca))
    stranger = ssl.create_default_context(cafile=str(tls_material.stranger.ca))
    with Provider(context_of(leaf.cert, leaf.key)) as provider:
        asked = issuer(provider)
        assert (await ask(asked, lambda: trusting, NOW)).keys.keys
        with pytest.raises(FetchError, match="its certificate is not accepted: "):
            await ask(asked, lambda: stranger, NOW)


async def test_https_for_another_name(tls_material: Material) -> None:
    leaf = tls_material.leaf("elsewhere.example")
    trusting = ssl.create_default_context(cafile=str(tls_material.root.ca))
    with Provider(context_of(leaf.cert, leaf.key)) as provider:
        with pytest.raises(FetchError, match="its certificate is not accepted: IP address mism"):
            await ask(issuer(provider), lambda: trusting, NOW)
        assert provider.asked == []
