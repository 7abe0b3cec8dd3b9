"""Certificates of listeners, client certificates by host, where redirects lead."""

from typing import Any

import pytest

from fastgate.model.check import check
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.resolve_tls import (
    AskedFor,
    acme_of,
    asked_for,
    certificates_of,
    needs_keyring,
    redirect_port,
)

CERTIFICATES = [{"name": name, "cert": f"path:/{name}.pem"} for name in ("a", "b", "c")]


def gateway(**parts: Any) -> Gateway:
    found = decode({"version": 1, "certificates": CERTIFICATES, **parts})
    assert check(found) == []
    return found


def names(tls: Any) -> list[str]:
    one = gateway(listeners=[{"bind": ":443", **tls}])
    return [certificate.name for certificate in certificates_of(one, one.listeners[0])]


def test_certificates_of_a_listener() -> None:
    assert names({}) == []
    assert names({"tls": True}) == ["a", "b", "c"]
    assert names({"tls": {"certificates": ["c", "a"]}}) == ["c", "a"]


@pytest.mark.parametrize(
    ("ports", "more", "leads"),
    [
        ([443], {}, 443),
        ([8443], {}, 8443),
        ([8443, 443], {}, 443),
        ([8443, 443], {"https_port": 9443}, 9443),
        ([0], {"https_port": 9443}, 9443),
        ([], {"https_port": 443}, 443),
    ],
)
def test_where_redirects_lead(ports: list[int], more: dict[str, Any], leads: int) -> None:
    listeners = [{"name": "web", "bind": ":80", "redirect": "https", **more}]
    listeners += [
        {"name": f"tls-{port}", "bind": f"127.0.0.1:{port}", "tls": True} for port in ports
    ]
    one = gateway(listeners=listeners)
    assert redirect_port(one, one.listeners[0]) == leads


def test_known_acme_authorities_need_no_section() -> None:
    one = decode({"version": 1, "acme": [{"name": "letsencrypt", "email": "ops@example.com"}]})
    assert acme_of(one, "letsencrypt") is one.acme[0]
    staging = acme_of(one, "letsencrypt-staging")
    assert staging is not None
    assert "staging" in staging.url
    assert acme_of(one, "other") is None


def asked(client: Any, *routes: tuple[list[str], list[str]]) -> list[AskedFor]:
    one = gateway(
        listeners=[{"bind": ":443", "tls": {} if client is None else {"client": client}}],
        authorities=[{"name": name, "ca": f"path:/{name}.pem"} for name in "pqrs"],
        routes=[
            {"name": f"r{i}", "path": f"/{i}", "respond": 204, "hosts": hosts,
             "client_certificate": authorities}
            for i, (hosts, authorities) in enumerate(routes)
        ],
    )  # fmt: skip
    return asked_for(one, one.listeners[0])


def test_no_client_is_asked_for_a_certificate_that_nothing_needs() -> None:
    assert asked(None) == []


def test_a_listener_asks_under_every_host() -> None:
    assert asked("p") == [AskedFor("", ("p",), True)]
    optional = {"authorities": ["p", "q"], "required": False}
    assert asked(optional) == [AskedFor("", ("p", "q"), False)]


def test_a_route_asks_under_its_hosts() -> None:
    found = asked(None, (["a.example"], ["p"]), (["b.example", "a.example"], ["q"]))
    assert found == [
        AskedFor("a.example", ("p", "q"), False),
        AskedFor("b.example", ("q",), False),
    ]


def test_a_route_without_hosts_asks_under_every_host() -> None:
    found = asked(None, (["a.example"], ["p"]), ([], ["q"]))
    assert found == [AskedFor("a.example", ("p", "q"), False), AskedFor("", ("q",), False)]


def test_a_wildcard_asks_under_all_hosts_below_it() -> None:
    found = asked(
        None,
        (["*.example"], ["p"]),
        (["a.b.example"], ["q"]),
        (["*.b.example"], ["r"]),
        (["b.example"], ["s"]),
    )
    assert found == [
        AskedFor("*.b.example", ("p", "r"), False),
        AskedFor("*.example", ("p",), False),
        AskedFor("a.b.example", ("p", "q", "r"), False),
        AskedFor("b.example", ("p", "s"), False),
    ]


def test_a_listeners_authorities_come_first_and_keep_their_demand() -> None:
    found = asked("p", (["a.example"], ["q", "p"]))
    assert found == [AskedFor("a.example", ("p", "q"), True), AskedFor("", ("p",), True)]


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ({}, False),
        ({"upstreams": [{"name": "u", "targets": "http://a"}]}, False),
        ({"upstreams": [{"name": "u", "targets": "https://a"}]}, True),
        ({"certificates": [{"name": "c", "cert": "env:A"}]}, True),
        ({"authorities": [{"name": "c", "ca": "env:A"}]}, True),
        ({"issuers": [{"name": "c", "issuer": "https://a"}]}, True),
    ],
)
def test_documents_that_need_a_keyring(parts: dict[str, Any], answer: bool) -> None:
    assert needs_keyring(decode({"version": 1, **parts})) is answer
