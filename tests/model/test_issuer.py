"""Issuers in the document: forms, what follows from them, what a struct refuses by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.errors import ConfigurationError
from fastgate.model.claims import ClaimPath
from fastgate.model.codec import decode, encode
from fastgate.model.gateway import Consumer, Issuer, TokenPlan
from fastgate.model.issuer import ASYMMETRIC, is_loopback, origin_of

CORP: dict[str, Any] = {"name": "corp", "issuer": "https://id.example.com/realms/corp"}
SERVICE: dict[str, Any] = {"name": "service", "issuer": "service", "keys": "path:/keys.json"}
SHARED: dict[str, Any] = {"name": "shared", "issuer": "shared", "secret": "env:SHARED"}
ASKED = {"client_id": "gateway", "client_secret": "env:SECRET"}


def refused(data: Any, struct: Any = Issuer) -> tuple[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        decode(data, struct)
    return caught.value.path, str(caught.value)


def test_an_issuer_in_short() -> None:
    issuer = decode(CORP, Issuer)
    assert issuer.discovers
    assert issuer.fetches
    assert issuer.accepted == list(ASYMMETRIC)
    assert [path.names for path in issuer.scopes] == [("scope",), ("scp",)]
    assert issuer.consumer.names == ("sub",)
    assert encode(issuer) == CORP


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ({"plan": "free"}, {"plan": {"default": "free"}}),
        ({"plan": {"claim": "tier"}}, {"plan": {"claim": "tier"}}),
        ({"scopes": "roles"}, {"scopes": ["roles"]}),
        ({"scopes": [["realm_access", "roles"]]}, {"scopes": ["realm_access.roles"]}),
        ({"consumer": ["a", "b.c"]}, {"consumer": "a.b\\.c"}),
        ({"audience": "orders"}, {"audience": ["orders"]}),
        ({"types": "at+jwt"}, {"types": ["at+jwt"]}),
        (
            {"headers": {"X-Tier": ["https://a.b/tier"]}},
            {"headers": {"X-Tier": "https://a.b/tier"}},
        ),
        ({"introspection": ASKED}, {"introspection": ASKED}),
    ],
)
def test_canonical_forms(given: dict[str, Any], canonical: dict[str, Any]) -> None:
    issuer = decode({**CORP, **given}, Issuer)
    assert encode(issuer) == {**CORP, **canonical}
    assert decode(encode(issuer), Issuer) == issuer


def test_where_keys_are() -> None:
    for more, discovers, fetches in (
        ({}, True, True),
        ({"jwks_uri": "https://id.example.com/keys"}, False, True),
        ({"keys": "env:KEYS"}, False, False),
        ({"secret": "env:SECRET"}, False, False),
    ):
        issuer = decode({**CORP, **more}, Issuer)
        assert (issuer.discovers, issuer.fetches) == (discovers, fetches)


def test_a_secret_is_for_its_own_algorithms() -> None:
    assert decode(SHARED, Issuer).accepted == ["HS256"]
    assert decode({**SHARED, "algorithms": ["HS512"]}, Issuer).accepted == ["HS512"]
    assert decode({**CORP, "algorithms": ["ES256"]}, Issuer).accepted == ["ES256"]


HTTP = "http://id.example.com"


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ({**CORP, "jwks_uri": "https://a", "keys": "path:/a"}, "keys", "are in jwks_uri already"),
        ({**CORP, "keys": "path:/a", "secret": "env:A"}, "secret", "are in keys already"),
        ({**CORP, "keys": "{}"}, "keys", "never write keys themselves"),
        ({**SERVICE, "authority": "internal"}, "authority", "leave out authority or keys"),
        ({**SHARED, "proxy": "http://proxy:3128"}, "proxy", "leave out proxy or secret"),
        ({**CORP, "algorithms": ["HS256"]}, "algorithms", "HS256 needs `secret`"),
        ({**CORP, "algorithms": ["none"]}, "algorithms[0]", "not one of the choices"),
        ({**SHARED, "algorithms": ["HS256", "RS256"]}, "algorithms", "is for HS256, HS384 and"),
        ({**CORP, "algorithms": ["ES256", "ES256"]}, "algorithms[1]", "ES256 is there twice"),
        ({**CORP, "issuer": "corp"}, "issuer", "does not begin with 'https://' and a host"),
        ({**CORP, "issuer": HTTP}, "issuer", "write https, or `insecure: true`"),
        ({**CORP, "issuer": "https://a/?b"}, "issuer", "there is no discovery; give jwks_uri"),
        ({**CORP, "issuer": "https://a/#b"}, "issuer", "has a fragment"),
        ({**CORP, "issuer": "https://u:p@a/"}, "issuer", "names and passwords"),
        ({**CORP, "issuer": "https://a_b!/"}, "issuer", "is not a host"),
        ({**CORP, "issuer": "https://[::1/"}, "issuer", "is not an address"),
        ({**CORP, "issuer": "https://a:99999/"}, "issuer", "is not an address"),
        ({**SERVICE, "issuer": " a"}, "issuer", "spaces around it"),
        ({**SERVICE, "issuer": "a\nb"}, "issuer", "control characters"),
        ({**CORP, "jwks_uri": f"{HTTP}/keys"}, "jwks_uri", "write https"),
        ({**CORP, "jwks_uri": "https://a b"}, "jwks_uri", "without spaces or quotes"),
        ({**CORP, "introspection": {}}, "introspection", "who may ask"),
        ({**CORP, "introspection": {**ASKED, "token": "env:T"}}, "introspection", "who may ask"),
        (
            {**CORP, "introspection": {"client_id": "a"}},
            "introspection.client_secret",
            "belong together",
        ),
        (
            {**CORP, "introspection": {**ASKED, "endpoint": "id.example.com"}},
            "introspection.endpoint",
            "'discovered', or an address",
        ),
        (
            {**CORP, "introspection": {**ASKED, "endpoint": f"{HTTP}/ask"}},
            "introspection.endpoint",
            "write https",
        ),
        (
            {**SERVICE, "introspection": ASKED},
            "introspection.endpoint",
            "without discovery, write the address",
        ),
        ({**CORP, "introspection": {**ASKED, "cache": "2h"}}, "introspection.cache", "than 1h"),
        ({**CORP, "introspection": {**ASKED, "timeout": "0s"}}, "introspection.timeout", "1ms"),
        ({**CORP, "leeway": "1h"}, "leeway", "longer than 10m"),
        ({**CORP, "max_lifetime": "5ms"}, "max_lifetime", "shorter than 1s"),
        ({**CORP, "types": ["a b"]}, "types[0]", "not a type such as 'at+jwt'"),
        ({**CORP, "scopes": []}, "scopes", "at least one claim"),
        ({**CORP, "plan": {}}, "plan", "give claim, default or both"),
        ({**CORP, "unknown": "create"}, "unknown", "need a plan"),
        (
            {**CORP, "unknown": "create", "plan": {"claim": "tier"}},
            "unknown",
            "`plan: {claim: CLAIM, default: NAME}`",
        ),
        ({**CORP, "headers": {"X-A": "a", "x_a": "b"}}, "headers", "'X-A' and 'x_a' are the same"),
        ({**CORP, "headers": {"Authorization": "a"}}, "headers", "has another meaning"),
        ({**CORP, "headers": {"Content-Length": "a"}}, "headers", "has another meaning"),
        ({**CORP, "headers": {f"X-{i}": "a" for i in range(17)}}, "headers", "16 is the most"),
        ({**CORP, "consumer": "a..b"}, "consumer", "'a..b' is not a claim"),
        ({**CORP, "headers": {"X-A": []}}, "headers.X-A", "names no claim"),
    ],
)
def test_what_is_refused(data: Any, path: str, words: str) -> None:
    place, message = refused(data)
    assert place == path
    assert words in message


@pytest.mark.parametrize(
    "data",
    [
        {**CORP, "issuer": "http://127.0.0.1:8080/realms/corp"},
        {**CORP, "issuer": "http://localhost"},
        {**CORP, "issuer": "http://[::1]:1"},
        {**CORP, "issuer": HTTP, "insecure": True},
        {**CORP, "issuer": "accounts", "jwks_uri": "https://id.example.com/keys?v=2"},
        {
            **SERVICE,
            "introspection": {**ASKED, "endpoint": "https://a/ask"},
            "authority": "internal",
        },
        {**CORP, "introspection": {"token": "path:/run/secrets/token"}},
        {**CORP, "unknown": "create", "plan": "free"},
        {**CORP, "proxy": "http://proxy.internal:3128"},
    ],
)
def test_what_is_accepted(data: Any) -> None:
    issuer = decode(data, Issuer)
    assert decode(encode(issuer), Issuer) == issuer


def test_where_control_may_ask() -> None:
    plain, insecure = decode(CORP, Issuer), decode({**CORP, "insecure": True}, Issuer)
    for url, answer in (
        ("https://other.example/keys", True),
        ("http://127.0.0.1/keys", True),
        ("http://10.0.0.1/keys", False),
        ("http://localhost.example/keys", False),
        ("file:///etc/passwd", False),
        ("https:///keys", False),
        ("https://[::1", False),
    ):
        assert plain.reachable(url) is answer, url
    assert insecure.reachable("http://10.0.0.1/keys")
    assert not insecure.reachable("file:///etc/passwd")
    assert [is_loopback(host) for host in ("::1", "127.9.9.9", "a")] == [True, True, False]
    assert origin_of("https://a/b") == ("https", "a", 443)
    assert origin_of("http://A:8080") == ("http", "a", 8080)


# ---- claims -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ("sub", ("sub",)),
        (" sub ", ("sub",)),
        ("a.b.c", ("a", "b", "c")),
        ("a\\.b", ("a.b",)),
        ("a\\\\.b", ("a\\", "b")),
        ("https://example.com/tier", ("https://example.com/tier",)),
        ("urn:example:tier.v1", ("urn:example:tier.v1",)),
        (["https://example.com/claims", "tier"], ("https://example.com/claims", "tier")),
        (["a.b", "c"], ("a.b", "c")),
    ],
)
def test_claims(raw: Any, names: tuple[str, ...]) -> None:
    path = ClaimPath.parse(raw)
    assert path.names == names
    assert ClaimPath.parse(str(path)) == path == ClaimPath.read(raw)


@given(
    st.lists(
        st.text("ab.\\:/", min_size=1, max_size=6)
        | st.sampled_from(["https://a.b", "urn:a", "http://\\", "é", "a b"]),
        min_size=1,
        max_size=8,
    )
)
def test_any_claim_has_a_text(names: list[str]) -> None:
    path = ClaimPath.parse(names)
    assert path.names == tuple(names)
    assert ClaimPath.parse(str(path)) == path


@pytest.mark.parametrize(
    "raw",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a\\b",
        "a\\",
        "a\tb",
        [],
        [""],
        ["a", 1],
        [" a"],
        ["x" * 129],
        ["a"] * 9,
        5,
        True,
        None,
        {"claim": "a"},
    ],
)
def test_what_is_no_claim(raw: Any) -> None:
    with pytest.raises(ValueError, match=r"claim"):
        ClaimPath.parse(raw)


def test_the_plan_of_a_token() -> None:
    assert decode("free", TokenPlan) == TokenPlan(default="free")
    both = decode({"claim": "tier", "default": "free"}, TokenPlan)
    assert (str(both.claim), both.default) == ("tier", "free")


# ---- consumers --------------------------------------------------------------------------

PIN = "sha256/" + "A" * 43 + "="


def test_what_a_consumer_can_show() -> None:
    consumer = decode(
        {
            "name": "acme",
            "subjects": {"corp": "build-server", "other": ["a", "b|c"]},
            "certificates": PIN,
            "basic": {"acme": "a-long-secret"},
        },
        Consumer,
    )
    assert consumer.subjects == {"corp": ["build-server"], "other": ["a", "b|c"]}
    assert consumer.certificates == [PIN]
    assert str(consumer.basic["acme"]).startswith("sha256:")
    assert "a-long-secret" not in str(encode(consumer))
    assert decode(encode(consumer), Consumer) == consumer


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ({"subjects": {"corp": ["a", "a"]}}, "subjects.corp[1]", "'a' is there twice"),
        ({"subjects": {"corp": [""]}}, "subjects.corp[0]", "is not a subject"),
        ({"subjects": {"corp": ["a\x00"]}}, "subjects.corp[0]", "is not a subject"),
        ({"subjects": {"corp": ["x" * 256]}}, "subjects.corp[0]", "is not a subject"),
        ({"subjects": {"corp": ["ü" * 128]}}, "subjects.corp[0]", "at most 255 bytes"),
        ({"subjects": {"a b": ["x"]}}, "subjects", "the key 'a b' is not a name"),
        ({"certificates": [PIN, PIN]}, "certificates[1]", "is there twice"),
        ({"certificates": ["sha256/AAAA"]}, "certificates[0]", "is not a pin"),
        ({"basic": {"a:b": "a-long-secret"}}, "basic", "the key 'a:b' is not a user"),
        ({"basic": {"a": "short"}}, "basic.a", "expected a key of 8 to 512"),
    ],
)
def test_what_a_consumer_cannot_show(data: Any, path: str, words: str) -> None:
    place, message = refused({"name": "acme", **data}, Consumer)
    assert place == path
    assert words in message
