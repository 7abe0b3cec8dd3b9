"""Authentication in the document: forms, short forms, what a struct refuses by itself."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model.auth import METHODS
from fastgate.model.codec import decode, encode
from fastgate.model.gateway import ApiKeyAuth, Auth, AuthMethod, JwtAuth
from fastgate.model.short import SHORT


def refused(data: Any, struct: Any = Auth) -> tuple[str, str]:
    """Place and message of the first error."""
    with pytest.raises(ConfigurationError) as caught:
        decode(data, struct)
    return caught.value.path, str(caught.value)


CORP = {"jwt": {"issuer": ["corp"]}}


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("none", {}),
        ("api_key", {"api_key": {}}),
        ("basic", {"basic": {}}),
        ("signature", {"signature": {}}),
        ("hmac", {"hmac": {}}),
        ({"api_key": None}, {"api_key": {}}),
        ({"basic": None}, {"basic": {}}),
        ({"basic": "shop"}, {"basic": {"realm": "shop"}}),
        ({"jwt": "corp"}, CORP),
        ({"jwt": ["corp", "other"]}, {"jwt": {"issuer": ["corp", "other"]}}),
        ({"jwt": {"issuer": "corp"}}, CORP),
        ({"introspection": "corp"}, {"introspection": {"issuer": "corp"}}),
        ({"mtls": "partners"}, {"mtls": {"authorities": ["partners"]}}),
        ({"mtls": ["a", "b"]}, {"mtls": {"authorities": ["a", "b"]}}),
        ({"forward": "http://auth:4181/"}, {"forward": {"url": "http://auth:4181/"}}),
        ({"any": ["api_key", {"jwt": "corp"}]}, {"any": [{"api_key": {}}, CORP]}),
        (
            {"all": [{"mtls": "a"}, "basic"]},
            {"all": [{"mtls": {"authorities": ["a"]}}, {"basic": {}}]},
        ),
        ({"any": ["hmac", {"signature": None}]}, {"any": [{"hmac": {}}, {"signature": {}}]}),
        ({**CORP, "scopes": "a"}, {**CORP, "scopes": {"*": ["a"]}}),
        ({**CORP, "scopes": ["a", "b"]}, {**CORP, "scopes": {"*": ["a", "b"]}}),
        (
            {**CORP, "scopes": {"GET": "a", "POST": ["b"], "*": []}},
            {**CORP, "scopes": {"GET": ["a"], "POST": ["b"], "*": []}},
        ),
        (
            {"jwt": {"issuer": "corp", "scopes": "a"}},
            {"jwt": {"issuer": ["corp"], "scopes": {"*": ["a"]}}},
        ),
        (
            {"introspection": {"issuer": "corp", "scopes": ["a"]}},
            {"introspection": {"issuer": "corp", "scopes": {"*": ["a"]}}},
        ),
    ],
)
def test_short_forms(short: Any, full: dict[str, Any]) -> None:
    auth = decode(short, Auth)
    assert auth == decode(full, Auth)
    assert decode(encode(auth), Auth) == auth
    assert encode(decode(encode(auth), Auth)) == encode(auth)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_with_nothing_behind_it_is_not_open(method: str) -> None:
    """YAML's `jwt:` without a value must ask for something, or be refused."""
    for data in ({method: None}, {"any": [{method: None}]}):
        try:
            auth = decode(data, Auth)
        except ConfigurationError as error:
            assert f"{method} needs more: `{{{method}: " in str(error)  # noqa: PT017
        else:
            assert [kind for kind, _ in auth.methods] == [method]


def test_every_method_has_its_place() -> None:
    """The words that stand alone, the fields of the structs and METHODS are the same methods."""
    fields = set(AuthMethod.__struct_fields__)
    assert fields == set(METHODS) == fields & set(Auth.__struct_fields__)
    words = set(SHORT[AuthMethod][0].schema["enum"])
    assert {*words, "none"} == set(SHORT[Auth][0].schema["enum"])
    for word in METHODS:
        if word not in words:
            assert f"{word} needs more" in refused(word)[1]


ALONE = "give exactly one of api_key, jwt, introspection, mtls, basic, signature, hmac, forward"


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ("jwtt", "", "'jwtt' is not a way to authenticate; write none, api_key, basic, signature"),
        ({"jwt": "a", "api_key": {}}, "", "api_key and jwt together: write `any: [api_key, jwt]`"),
        ({"any": ["api_key"], "basic": {}}, "", "basic and any together"),
        ({"any": ["api_key"], "all": ["basic"]}, "", "any and all together"),
        ({"any": []}, "", "any: list the methods"),
        ({"all": None}, "", "all: list the methods"),
        ({"any": [{}]}, "any[0]", ALONE),
        ({"any": [{"basic": {}, "hmac": {}}]}, "any[0]", "not basic and hmac together"),
        ({"any": ["none"]}, "any[0]", "'none' is not a way to authenticate"),
        ({"any": ["api_key", "api_key"]}, "any[1]", "api_key is there twice"),
        ({"any": [CORP, {"jwt": "b"}]}, "any[1]", "list the issuers in one: `{jwt: [a, b]}`"),
        ({"any": [{"api_key": {"optional": True}}]}, "any[0]", "write `optional` beside `any`"),
        ({"any": [{"forward": "http://a"}, "basic"]}, "any[0]", "write it last"),
        ({"all": ["basic"] * 9}, "all", "at most 8 entries"),
        ({"optional": True}, "optional", "no method is given"),
        ({"anonymous": "guest"}, "anonymous", "no method is given"),
        ({"scopes": ["a"]}, "scopes", "no method is given"),
        ({**CORP, "optional": True, "anonymous": "g"}, "optional", "says who those callers are"),
        (
            {"api_key": {"optional": True}, "anonymous": "g"},
            "api_key.optional",
            "`anonymous` says who they are",
        ),
        ({"api_key": {}, "scopes": "a"}, "scopes", "api_key is no token; leave them out"),
        ({"any": [CORP, "basic"], "scopes": "a"}, "scopes", "write them into jwt"),
        (
            {"jwt": {"issuer": "a", "scopes": "b"}, "scopes": "a"},
            "scopes",
            "they are in jwt, too; write them once",
        ),
        ({**CORP, "scopes": "a b"}, "scopes.*[0]", "not a scope: 1 to 128 characters without"),
        ({**CORP, "scopes": {"G T": "a"}}, "scopes", "the key 'G T' is not an HTTP token"),
        ({**CORP, "scopes": None}, "scopes", "The key has no value"),
        ({"jwt": {"scopes": ["a"]}}, "jwt", "'issuer' is missing"),
        ({"jwt": []}, "jwt.issuer", "at least 1 entry"),
        ({"jwt": ["a", "a"]}, "jwt.issuer[1]", "'a' is there twice"),
        ({"mtls": ["a", "a"]}, "mtls.authorities[1]", "'a' is there twice"),
        ({"basic": 'x"'}, "basic.realm", "is not a realm"),
        ({"hmac": {"components": ["@foo"]}}, "hmac.components[0]", "not a component of RFC 9421"),
        ({"hmac": {"components": ["date", "date"]}}, "hmac.components[1]", "there twice"),
        ({"signature": {"max_age": "2h"}}, "signature.max_age", "2h is not from 1s to 1h"),
        ({"forward": {}}, "forward", "give url or upstream"),
        ({"forward": {"url": "http://a", "upstream": "b"}}, "forward", "not url and upstream"),
        ({"forward": {"url": "http://a", "path": "/b"}}, "forward.path", "a part of url"),
        ({"forward": "ftp://a"}, "forward.url", "begins with 'http://' or 'https://'"),
        ({"forward": {"url": "http://a", "timeout": "2m"}}, "forward.timeout", "1ms to 1m"),
        (
            {"forward": {"url": "http://a", "headers": ["X-User", "x_user"]}},
            "forward.headers",
            "'X-User' and 'x_user' are the same field to some servers",
        ),
        (
            {"forward": {"url": "http://a", "headers": ["X-User", "X-User"]}},
            "forward.headers",
            "'X-User' is there twice",
        ),
        *[
            (
                {"forward": {"url": "http://a", "headers": [name]}},
                "forward.headers",
                f"{name!r} has another meaning and cannot be used",
            )
            for name in ("Host", "X_Consumer.Id", "X-Forwarded-Any", "Client-Cert", "traceparent")
        ],
    ],
)
def test_what_is_refused(data: Any, path: str, words: str) -> None:
    place, message = refused(data)
    assert place == path
    assert words in message


# ---- what follows from it ---------------------------------------------------------------


def test_methods_are_in_the_order_in_which_they_are_tried() -> None:
    auth = decode({"any": [CORP, "api_key", {"mtls": "p"}]}, Auth)
    assert [kind for kind, _ in auth.methods] == ["jwt", "api_key", "mtls"]
    assert [(place, kind) for place, kind, _ in auth.places()] == [
        ("any[0].jwt", "jwt"),
        ("any[1].api_key", "api_key"),
        ("any[2].mtls", "mtls"),
    ]
    assert [place for place, _, _ in decode("api_key", Auth).places()] == ["api_key"]
    assert decode("none", Auth).methods == []


@pytest.mark.parametrize(
    ("data", "identifies", "passes_nobody"),
    [
        ("none", False, False),
        ("api_key", True, False),
        ({"api_key": {"optional": True}}, True, True),
        ({"api_key": {}, "optional": True}, True, True),
        ({"any": ["api_key", CORP], "optional": True}, True, True),
        ({"any": ["api_key", CORP]}, True, False),
        ({**CORP, "anonymous": "guest"}, True, False),
        ({"forward": "http://a"}, False, False),
        ({"forward": {"url": "http://a", "consumer": "X-Consumer"}}, True, False),
        ({"all": [{"forward": "http://a"}, "basic"]}, True, False),
    ],
)
def test_who_passes(data: Any, identifies: bool, passes_nobody: bool) -> None:
    auth = decode(data, Auth)
    assert (auth.identifies, auth.passes_nobody) == (identifies, passes_nobody)


def test_scopes_are_those_beside_the_methods_or_of_the_method() -> None:
    beside = decode({"any": [CORP], "scopes": {"GET": "a", "*": "b"}}, Auth)
    within = decode({"any": ["api_key", {"jwt": {"issuer": "corp", "scopes": "c"}}]}, Auth)
    for auth, scopes in ((beside, {"GET": ["a"], "*": ["b"]}), (within, {"*": ["c"]})):
        [jwt] = [method for _, method in auth.methods if isinstance(method, JwtAuth)]
        assert auth.scopes_of(jwt) == scopes


def test_api_keys_are_as_they_were() -> None:
    """Documents from before there were other methods mean the same."""
    auth = decode({"api_key": {"header": None, "query": "key", "optional": True}}, Auth)
    assert auth == Auth(api_key=ApiKeyAuth(header=None, query="key", optional=True))
    assert encode(auth) == {"api_key": {"header": None, "query": "key", "optional": True}}
