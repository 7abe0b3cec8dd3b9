"""The keyring's entries: everything that workers need of an issuer, and their ids."""

from __future__ import annotations

import os
from typing import Any

import pytest
from providerkit import SigningKey

from fastgate._core.tls.keyring import Keyring, TokenHeader, read, write
from fastgate.config.issuer_ids import id_of
from fastgate.issuers.entries import entry_of, type_of
from fastgate.issuers.files import NOTHING, LoadedIssuer
from fastgate.issuers.jwks import IssuerKey
from fastgate.issuers.service import Known
from fastgate.model.codec import decode
from fastgate.model.gateway import Issuer

CORP: dict[str, Any] = {"name": "corp", "issuer": "https://id.example.com"}
RSA = SigningKey("rsa", "RS256")
EC = SigningKey("ec", "ES256")


def issuer(**more: Any) -> Issuer:
    return decode({**CORP, **more}, Issuer)


def key(signing: SigningKey, *algorithms: str) -> IssuerKey:
    return IssuerKey(kid=signing.kid, kind="", algorithms=algorithms, spki=signing.spki)


KNOWN = Known((key(RSA, "RS256", "PS256"), key(EC, "ES256")), "https://id.example.com/ask?x=1")


def test_an_issuer_with_its_defaults() -> None:
    entry = entry_of(issuer(), NOTHING, KNOWN)
    assert (entry.id, entry.name, entry.issuer) == (id_of(issuer()), "corp", CORP["issuer"])
    assert (entry.audiences, entry.types, entry.leeway_s, entry.lifetime_s) == ([], [], 30, 0)
    assert (entry.subject, entry.plan, entry.default_plan) == (["sub"], [], "")
    assert entry.scopes == [["scope"], ["scp"]]
    assert (entry.headers, entry.unknown, entry.fetches) == ([], "refuse", True)
    assert (entry.authorization, entry.introspection) == ("", "")
    assert [(each.kid, each.algorithms, bytes(each.key)) for each in entry.keys] == [
        ("rsa", ["RS256", "PS256"], RSA.spki),
        ("ec", ["ES256"], EC.spki),
    ]


def test_an_issuer_with_everything() -> None:
    given = issuer(
        audience=["orders", "shop"],
        types=["AT+JWT", "application/JWT"],
        leeway="1500ms",
        max_lifetime="1h",
        consumer="realm_access.user",
        plan={"claim": "https://a.b/tier", "default": "free"},
        scopes=["roles"],
        headers={"X-Email": "email", "X-Org": "org.id"},
        unknown="create",
    )
    entry = entry_of(given, NOTHING, KNOWN)
    assert entry.audiences == ["orders", "shop"]
    assert entry.types == ["at+jwt", "jwt"]
    assert (entry.leeway_s, entry.lifetime_s) == (2, 3600)
    assert entry.subject == ["realm_access", "user"]
    assert (entry.plan, entry.default_plan) == (["https://a.b/tier"], "free")
    assert entry.scopes == [["roles"]]
    assert entry.headers == [
        TokenHeader(name="X-Email", claim=["email"]),
        TokenHeader(name="X-Org", claim=["org", "id"]),
    ]
    assert entry.unknown == "create"


def test_keys_are_for_the_algorithms_that_both_allow() -> None:
    entry = entry_of(issuer(algorithms=["PS256", "ES384"]), NOTHING, KNOWN)
    assert [(each.kid, each.algorithms) for each in entry.keys] == [("rsa", ["PS256"])]


def test_keys_of_a_file() -> None:
    given = issuer(keys="path:/keys")
    entry = entry_of(given, LoadedIssuer((key(EC, "ES256"),)), KNOWN)
    assert ([each.kid for each in entry.keys], entry.fetches) == (["ec"], False)


def test_a_shared_secret() -> None:
    given = issuer(secret="env:S", algorithms=["HS256", "HS384"])
    [only] = entry_of(given, LoadedIssuer(secret=b"x" * 48), Known()).keys
    assert (only.kid, only.algorithms, bytes(only.key)) == ("", ["HS256", "HS384"], b"x" * 48)


ASKED = {"client_id": "gateway", "client_secret": "env:S"}


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("discovered", "/ask?x=1"),
        ("https://other.example", "/"),
        ("https://other.example/a/b?c=d", "/a/b?c=d"),
    ],
)
def test_introspection(endpoint: str, path: str) -> None:
    given = issuer(introspection={**ASKED, "endpoint": endpoint})
    entry = entry_of(given, LoadedIssuer(authorization="Basic x"), KNOWN)
    assert (entry.introspection, entry.authorization) == (path, "Basic x")


def test_an_endpoint_that_is_not_known_yet() -> None:
    assert entry_of(issuer(introspection=ASKED), NOTHING, Known()).introspection == ""


def test_types_are_compared_in_one_form() -> None:
    assert [type_of(text) for text in ("at+JWT", "application/at+jwt", "JWT")] == [
        "at+jwt", "at+jwt", "jwt",
    ]  # fmt: skip


def test_entries_survive_the_keyring() -> None:
    ring = Keyring(serial=1, issuers=[entry_of(issuer(), NOTHING, KNOWN)])
    fd = write(ring)
    try:
        assert read(fd).issuers == ring.issuers
    finally:
        os.close(fd)


def test_ids() -> None:
    """Everything that the document says is in the id; how it is written is not."""
    assert id_of(issuer()) == id_of(issuer(leeway="30s", scopes=["scope", "scp"]))
    changes: list[dict[str, Any]] = [
        {"audience": "a"}, {"audience": "b"}, {"types": "jwt"}, {"leeway": "1s"}, {"name": "other"},
        {"issuer": "https://other"}, {"consumer": "email"}, {"scopes": "roles"}, {"plan": "free"},
        {"headers": {"X-A": "a"}}, {"unknown": "anonymous"}, {"algorithms": ["ES256"]},
        {"max_lifetime": "1h"}, {"jwks_uri": "https://a"}, {"keys": "env:A"}, {"secret": "env:A"},
        {"introspection": ASKED},
    ]  # fmt: skip
    ids = {id_of(issuer()), *(id_of(issuer(**change)) for change in changes)}
    assert len(ids) == 1 + len(changes)
    assert all(0 < each < 2**64 for each in ids)
