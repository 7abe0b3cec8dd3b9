"""What must hold between certificates, authorities, listeners, upstreams and routes."""

import copy
from typing import Any

import pytest

from fastgate.model.check import check, warnings
from fastgate.model.codec import decode

BASE: dict[str, Any] = {
    "version": 1,
    "listeners": [
        {"name": "web", "bind": ":80", "redirect": "https"},
        {"name": "public", "bind": ":443", "tls": {"certificates": ["api", "shop"]}},
    ],
    "certificates": [
        {"name": "api", "cert": "path:/api.pem"},
        {"name": "shop", "hosts": ["shop.example"], "acme": "letsencrypt"},
    ],
    "authorities": [{"name": "partners", "ca": "path:/partners.pem"}],
    "upstreams": [
        {
            "name": "up",
            "targets": "https://a",
            "tls": {"authority": "partners", "certificate": "api"},
        }
    ],
    "services": [{"name": "orders", "upstream": "up"}],
    "routes": [{"name": "r", "path": "/", "service": "orders", "client_certificate": "partners"}],
    "control": {"bind": "0.0.0.0:8081", "tls": "api"},
}


def faults(**changes: Any) -> list[tuple[str, str]]:
    document = {**copy.deepcopy(BASE), **changes}
    return [(error.path, str(error)) for error in check(decode(document))]


def test_a_sound_document() -> None:
    assert faults() == []
    assert warnings(decode(BASE)) == []


WEB, PUBLIC = BASE["listeners"]
CLEAR = {"name": "public", "bind": ":8080"}
OPEN = [{"name": "r", "path": "/", "respond": 204}]
LOCAL = "127.0.0.1:8081"


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (
            {"listeners": [WEB, {**PUBLIC, "tls": {"certificates": ["apy"]}}]},
            "listeners[1].tls.certificates[0]",
            "there is no certificate 'apy'. Did you mean 'api'? Certificates: api, shop.",
        ),
        (
            {"listeners": [WEB, {**PUBLIC, "tls": {"certificates": ["api", "api"]}}]},
            "listeners[1].tls.certificates[1]",
            "'api' is there twice",
        ),
        (
            {"listeners": [WEB, {**PUBLIC, "tls": {"client": "friends"}}]},
            "listeners[1].tls.client.authorities[0]",
            "there is no authority 'friends'. Authorities: partners.",
        ),
        (
            {"routes": [{**BASE["routes"][0], "client_certificate": ["partners", "system"]}]},
            "routes[0].client_certificate.authorities[1]",
            "any of them would be accepted from clients",
        ),
        (
            {"upstreams": [{"name": "up", "targets": "https://a", "tls": {"authority": "b"}}]},
            "upstreams[0].tls.authority",
            "there is no authority 'b'. Authorities: partners, system.",
        ),
        (
            {"upstreams": [{"name": "up", "targets": "https://a", "tls": {"certificate": "b"}}]},
            "upstreams[0].tls.certificate",
            "there is no certificate 'b'",
        ),
        (
            {"control": {"bind": LOCAL, "tls": "b"}},
            "control.tls.certificate",
            "there is no certificate 'b'",
        ),
        (
            {"acme": [{"name": "own", "directory": "https://a/d"}, {"name": "own",
             "directory": "https://b/d"}]},
            "acme[1].name",
            "'own' is already used by acme[0]",
        ),
        (
            {"certificates": [*BASE["certificates"], {"name": "api", "cert": "path:/b.pem"}]},
            "certificates[2].name",
            "'api' is already used by certificates[0]",
        ),
    ],
)  # fmt: skip
def test_names(changes: dict[str, Any], path: str, words: str) -> None:
    found = [(where, said) for where, said in faults(**changes) if where == path]
    assert len(found) == 1, faults(**changes)
    assert words in found[0][1]


def test_an_acme_authority_needs_a_section_unless_it_is_known() -> None:
    certificates = [BASE["certificates"][0], {**BASE["certificates"][1], "acme": "letsencrpyt"}]
    ((path, said),) = faults(certificates=certificates)
    assert path == "certificates[1].acme"
    assert "there is no ACME authority 'letsencrpyt'. Did you mean 'letsencrypt'?" in said


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (
            {"listeners": [PUBLIC | {"tls": True}], "certificates": [], "upstreams": [],
             "services": [], "routes": OPEN, "control": LOCAL},
            "listeners[0].tls",
            "this listener has TLS, but there are no certificates. Add one under `certificates`. "
            "`fastgate certificates self-signed HOST` makes one",
        ),
        (
            {"listeners": [WEB, CLEAR], "routes": OPEN},
            "listeners[0].redirect",
            "this leads to https, but no listener has TLS. Add a listener with `tls`, or give "
            "`https_port`",
        ),
        (
            {"listeners": [WEB, {**PUBLIC, "bind": "unix:/run/x"}]},
            "listeners[0].redirect",
            "no listener has TLS",
        ),
        (
            {"listeners": [WEB, {**PUBLIC, "bind": ":0"}]},
            "listeners[0].redirect",
            "it is not clear where this leads to: the system chooses the port",
        ),
        (
            {"listeners": [WEB, {**PUBLIC, "bind": ":1443"},
                           {**PUBLIC, "name": "b", "bind": ":2443"}]},
            "listeners[0].redirect",
            "listeners have TLS on 2 ports, none of them 443",
        ),
        (
            {"listeners": [CLEAR]},
            "routes[0].client_certificate",
            "no listener has TLS, so no client can present a certificate",
        ),
        ({"control": "0.0.0.0:8081"}, "control.bind", "its tokens would be sent in clear. Bind it"),
        ({"control": "[::]:8081"}, "control.bind", "its tokens would be sent in clear"),
        (
            {"control": {"bind": "unix:/run/x", "tls": "api"}},
            "control.tls",
            "a Unix socket needs no TLS",
        ),
        (
            {"certificates": [BASE["certificates"][0], {"name": "shop", "hosts": ["*.shop.example"],
             "acme": "letsencrypt"}]},
            "certificates[1].hosts[0]",
            "http-01 proves control of one host, so no ACME authority issues a certificate for "
            "'*.shop.example' with it",
        ),
        (
            {"certificates": [*BASE["certificates"], {"name": "again", "hosts": ["b.example",
             "shop.example"], "acme": "letsencrypt-staging"}]},
            "certificates[2].hosts[1]",
            "'shop.example' is already in the certificate 'shop'",
        ),
        (
            {"listeners": [PUBLIC]},
            "certificates[1].acme",
            "http-01 is answered by a listener without TLS, and there is none. Add one, which port "
            "80",
        ),
        (
            {"acme": [{"name": "letsencrypt", "challenge": "tls-alpn-01"}], "listeners": [CLEAR],
             "routes": OPEN},
            "certificates[1].acme",
            "tls-alpn-01 is answered by a listener with TLS, and there is none",
        ),
    ],
)  # fmt: skip
def test_relations(changes: dict[str, Any], path: str, words: str) -> None:
    ((where, said),) = faults(**changes)
    assert where == path
    assert words in said


def test_a_redirect_may_lead_to_another_program() -> None:
    listeners = [{**WEB, "https_port": 8443}, CLEAR]
    assert faults(listeners=listeners, routes=OPEN) == []


def test_loopback_and_unix_sockets_need_no_tls() -> None:
    for bind in (LOCAL, "[::1]:8081", "unix:/run/control.sock"):
        assert faults(control=bind) == []


def test_what_is_not_verified_is_said_loudly_and_first() -> None:
    document = {
        **BASE,
        "upstreams": [{"name": "up", "targets": "https://a", "tls": {"verify": False}}],
        "policies": [{"name": "unused"}],
    }
    first, *others = warnings(decode(document))
    assert first.path == "upstreams[0].tls.verify"
    assert first.message.startswith("NOT VERIFIED: 'up' accepts any certificate")
    assert [warning.path for warning in others] == ["policies[0]"]


def test_what_nothing_uses() -> None:
    document = {
        "version": 1,
        "listeners": [WEB, {**PUBLIC, "tls": {"certificates": ["api"]}}],
        "certificates": BASE["certificates"],
        "authorities": BASE["authorities"],
        "acme": [{"name": "letsencrypt-staging"}],
    }
    assert [(warning.path, warning.message) for warning in warnings(decode(document))] == [
        ("certificates[1]", "'shop': nothing uses it"),
        ("authorities[0]", "'partners': nothing uses it"),
        ("acme[0]", "'letsencrypt-staging': nothing uses it"),
    ]
    document["listeners"] = [WEB, {**PUBLIC, "tls": True}]  # with all certificates
    assert [warning.path for warning in warnings(decode(document))] == ["authorities[0]", "acme[0]"]
