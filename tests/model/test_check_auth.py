"""What must hold between issuers, routes and consumers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fastgate.model.check import check, warnings
from fastgate.model.codec import decode
from fastgate.model.resolve_tls import asked_for, client_authorities

PIN = "sha256/" + "A" * 43 + "="
ASKED = {"client_id": "gateway", "client_secret": "env:SECRET"}
CORP = {
    "name": "corp",
    "issuer": "https://id.example.com",
    "audience": "orders",
    "introspection": ASKED,
}
OTHER = {"name": "other", "issuer": "https://login.example.net", "audience": "orders"}
PUBLIC = {"name": "public", "bind": ":443", "tls": True}
ROUTE: dict[str, Any] = {
    "name": "orders",
    "path": "/orders",
    "service": "orders",
    "auth": {"any": ["api_key", {"jwt": ["corp", "other"]}, {"mtls": "partners"}]},
    "limits": [{"by": "consumer", "rate": "5/s"}],
}
BASE: dict[str, Any] = {
    "version": 1,
    "listeners": [PUBLIC],
    "certificates": [{"name": "api", "cert": "path:/api.pem"}],
    "authorities": [{"name": "partners", "ca": "path:/partners.pem"}],
    "issuers": [CORP, OTHER],
    "upstreams": [{"name": "up", "targets": "http://a"}],
    "services": [{"name": "orders", "upstream": "up"}],
    "plans": [{"name": "free"}],
    "consumers": [
        {
            "name": "acme",
            "subjects": {"corp": "a"},
            "certificates": PIN,
            "basic": {"acme": "secret-1"},
        }
    ],
    "routes": [ROUTE],
}


def document(**changes: Any) -> Any:
    return decode({**copy.deepcopy(BASE), **changes})


def faults(**changes: Any) -> list[tuple[str, str]]:
    return [(error.path, str(error)) for error in check(document(**changes))]


def said(**changes: Any) -> list[tuple[str, str]]:
    return [(error.path, str(error)) for error in warnings(document(**changes))]


def route(auth: Any, **more: Any) -> dict[str, Any]:
    return {"routes": [{**ROUTE, "auth": auth, **more}]}


def test_a_sound_document() -> None:
    assert faults() == []
    assert said() == []


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (
            route({"jwt": ["corp", "othr"]}),
            "routes[0].auth.jwt.issuer[1]",
            "there is no issuer 'othr'. Did you mean 'other'? Issuers: corp, other.",
        ),
        (
            route({"any": ["api_key", {"introspection": "crop"}]}),
            "routes[0].auth.any[1].introspection.issuer",
            "there is no issuer 'crop'. Did you mean 'corp'?",
        ),
        (
            route({"introspection": "other"}),
            "routes[0].auth.introspection.issuer",
            "the issuer 'other' is not asked about tokens",
        ),
        (
            route({"mtls": ["partners", "friends"]}),
            "routes[0].auth.mtls.authorities[1]",
            "there is no authority 'friends'",
        ),
        (
            route({"mtls": "system"}),
            "routes[0].auth.mtls.authorities[0]",
            "any of them would be accepted from clients",
        ),
        (
            route({"forward": {"upstream": "auth", "consumer": "X-Id"}}),
            "routes[0].auth.forward.upstream",
            "there is no upstream 'auth'. Upstreams: up.",
        ),
        (
            {"issuers": [{**CORP, "authority": "internal"}, OTHER]},
            "issuers[0].authority",
            "there is no authority 'internal'. Authorities: partners, system.",
        ),
        (
            {"issuers": [CORP, {**OTHER, "plan": "fre"}]},
            "issuers[1].plan.default",
            "there is no plan 'fre'. Did you mean 'free'?",
        ),
        ({"issuers": [CORP, OTHER, CORP]}, "issuers[2].name", "already used by issuers[0]"),
        (
            {"consumers": [{"name": "acme", "subjects": {"corpp": "a"}}]},
            "consumers[0].subjects.corpp",
            "there is no issuer 'corpp'. Did you mean 'corp'?",
        ),
        (
            {"consumers": [*BASE["consumers"], {"name": "b", "subjects": {"corp": ["b", "a"]}}]},
            "consumers[1].subjects.corp[1]",
            "the subject 'a' of 'corp' is already at consumers[0].subjects.corp[0]",
        ),
        (
            {"consumers": [*BASE["consumers"], {"name": "b", "certificates": PIN}]},
            "consumers[1].certificates[0]",
            "this public key is already at consumers[0].certificates[0]",
        ),
        (
            {"consumers": [*BASE["consumers"], {"name": "b", "basic": {"acme": "secret-2"}}]},
            "consumers[1].basic.acme",
            "the user 'acme' is already at consumers[0].basic.acme",
        ),
        (
            {"issuers": [CORP, {**OTHER, "issuer": CORP["issuer"]}]},
            "routes[0].auth.any[1].jwt.issuer[1]",
            "'corp' and 'other' have the same `iss` 'https://id.example.com'",
        ),
        (
            {"listeners": [":80"], "certificates": []},
            "routes[0].auth.any[2].mtls",
            "no listener has TLS, so no client can present a certificate",
        ),
        (
            route({"mtls": "partners"}, client_certificate="partners"),
            "routes[0].client_certificate",
            "`auth` asks for a client certificate already",
        ),
        (
            route({"jwt": "corp", "scopes": {"GET": "a"}}),
            "routes[0].auth.scopes",
            "it does not say which scopes methods other than GET need",
        ),
        (
            route({"jwt": "corp", "scopes": {"GET": "a"}}, methods=["GET", "POST", "PUT"]),
            "routes[0].auth.scopes",
            'it does not say which scopes POST and PUT need. Add them, or `"*": [SCOPE]`',
        ),
        (
            route(
                {"any": [{"jwt": {"issuer": "corp", "scopes": {"get": "a", "*": "b"}}}]},
                methods=["GET"],
            ),
            "routes[0].auth.any[0].jwt.scopes.get",
            "the route does not take get. Did you mean 'GET'? Its methods: GET.",
        ),
        (
            route("none"),
            "routes[0].limits[0].by",
            "counts by consumer, but this route does not identify the caller",
        ),
        (
            route({"forward": "http://auth.internal"}),
            "routes[0].limits[0].by",
            "counts by consumer, but this route does not identify the caller",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], path: str, words: str) -> None:
    found = faults(**changes)
    assert [place for place, _ in found] == [path]
    assert words in found[0][1]


@pytest.mark.parametrize(
    "changes",
    [
        route({"jwt": "corp"}),
        route({"introspection": "corp"}),
        route({"mtls": "partners", "anonymous": "acme"}),
        route({"forward": {"upstream": "up", "consumer": "X-Id"}}),
        route({"jwt": "corp", "scopes": {"GET": "a", "POST": []}}, methods=["GET", "POST"]),
        route({"jwt": "corp", "scopes": {"GET": "a", "*": []}}, methods=["GET"]),
        route({"jwt": "corp", "scopes": {"GET": "a"}}, methods=["GET", "HEAD"]),
        route({"jwt": {"issuer": "corp", "scopes": "a"}}),
        # The same name at two issuers, and the same issuer for two audiences on two routes.
        {"consumers": [{"name": "a", "subjects": {"corp": "x", "other": "x"}}]},
    ],
)
def test_what_is_accepted(changes: dict[str, Any]) -> None:
    assert faults(**changes) == []


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (
            {"issuers": [CORP, {**OTHER, "audience": []}]},
            "issuers[1].audience",
            "'other' accepts every token of the issuer, also one that was issued for another",
        ),
        (
            {"issuers": [CORP, OTHER, {**OTHER, "name": "unused"}]},
            "issuers[2]",
            "'unused': no route uses it",
        ),
        (
            {"issuers": [CORP, {**OTHER, "issuer": "http://login", "insecure": True}]},
            "issuers[1].issuer",
            "NOT ENCRYPTED",
        ),
        (
            {"issuers": [CORP, {**OTHER, "jwks_uri": "http://login", "insecure": True}]},
            "issuers[1].jwks_uri",
            "NOT ENCRYPTED",
        ),
        (
            {
                "issuers": [
                    {
                        **CORP,
                        "introspection": {**ASKED, "endpoint": "http://id.internal"},
                        "insecure": True,
                    },
                    OTHER,
                ]
            },
            "issuers[0].introspection.endpoint",
            "NOT ENCRYPTED",
        ),
    ],
)
def test_what_is_doubtful(changes: dict[str, Any], path: str, words: str) -> None:
    assert faults(**changes) == []
    found = said(**changes)
    assert [place for place, _ in found] == [path]
    assert words in found[0][1]


def test_an_authority_of_an_issuer_or_of_mtls_is_used() -> None:
    alone = route({"jwt": "corp"})
    assert said(**alone) == [
        ("authorities[0]", "authorities[0]: 'partners': nothing uses it"),
        ("issuers[1]", "issuers[1]: 'other': no route uses it"),
    ]
    assert said(**alone, issuers=[{**CORP, "authority": "partners"}]) == []


def test_http_on_loopback_is_no_danger() -> None:
    assert said(issuers=[CORP, {**OTHER, "issuer": "http://127.0.0.1:8000"}]) == []


def test_clients_are_asked_for_the_certificates_of_mtls() -> None:
    gateway = document(
        authorities=[{"name": name, "ca": "path:/a"} for name in ("partners", "staff")],
        routes=[
            {**ROUTE, "hosts": ["a.example"]},
            {"name": "b", "path": "/b", "respond": 204, "client_certificate": "staff"},
            {
                "name": "c",
                "path": "/c",
                "hosts": ["c.example"],
                "retired": True,
                "auth": {"mtls": "partners"},
            },
        ],
    )
    assert [client_authorities(each) for each in gateway.routes[:2]] == [["partners"], ["staff"]]
    assert [each[:2] for each in asked_for(gateway, gateway.listeners[0])] == [
        ("a.example", ("partners", "staff")),
        ("", ("staff",)),
    ]


def test_a_route_that_asks_for_any_credential_is_guarded() -> None:
    """Empty segments must not lead around any method of authentication."""
    found = said(
        merge_slashes=False,
        routes=[
            {"name": "all", "path": "/{rest*}", "service": "orders"},
            {
                "name": "admin",
                "path": "/admin/{rest*}",
                "service": "orders",
                "auth": {"jwt": "corp"},
            },
        ],
        issuers=[CORP],
        authorities=[],
    )
    assert [path for path, _ in found] == ["routes[0]"]
    assert "requires no credential and matches paths with empty segments" in found[0][1]
