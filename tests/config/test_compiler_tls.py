"""Listeners with TLS and redirects, and client certificates of routes, in the image."""

from __future__ import annotations

from typing import Any

import pytest
from compilerkit import compiled, decode

from fastgate._core.snapshot.snapshot import ListenerFlag, RouteFlag
from fastgate._core.tls.keyring import authority_id, listener_id
from fastgate.config.listener_records import key_of
from fastgate.runtime.control.publisher import listeners_of

CERTIFICATES = [{"name": "api", "cert": "path:/api.pem"}]
AUTHORITIES = [{"name": name, "ca": f"path:/{name}.pem"} for name in ("partners", "staff")]
TLS, REDIRECT = ListenerFlag.LISTENER_TLS, ListenerFlag.LISTENER_REDIRECT_HTTPS
SUBDOMAINS, PRELOAD = ListenerFlag.LISTENER_HSTS_SUBDOMAINS, ListenerFlag.LISTENER_HSTS_PRELOAD
CLEAR = {"name": "clear", "bind": "127.0.0.1:8080"}
SECURED = {"name": "public", "bind": "127.0.0.1:8443", "tls": True}


def records(*listeners: dict[str, Any]) -> list[tuple[int, int, int, bytes]]:
    with compiled({"listeners": list(listeners), "certificates": CERTIFICATES}) as snapshot:
        return [
            (each["id"], each["flags"], each["redirect_port"], each["hsts"])
            for each in snapshot.listeners()
        ]


def test_a_clear_listener_has_no_record() -> None:
    assert records(CLEAR) == []


@pytest.mark.parametrize(
    ("listener", "flags", "port", "hsts"),
    [
        ({"tls": True}, TLS, 0, b""),
        ({"tls": {"hsts": "180d"}}, TLS, 0, b"max-age=15552000"),
        ({"tls": {"hsts": "0s"}}, TLS, 0, b"max-age=0"),
        (
            {"tls": {"hsts": {"max_age": "1d", "include_subdomains": True}}},
            TLS | SUBDOMAINS,
            0,
            b"max-age=86400; includeSubDomains",
        ),
        (
            {"tls": {"hsts": {"max_age": "365d", "include_subdomains": True, "preload": True}}},
            TLS | SUBDOMAINS | PRELOAD,
            0,
            b"max-age=31536000; includeSubDomains; preload",
        ),
        ({"redirect": "https", "https_port": 9443}, REDIRECT, 9443, b""),
        ({"redirect": "https"}, REDIRECT, 8443, b""),
    ],
)
def test_records_of_listeners(listener: dict[str, Any], flags: int, port: int, hsts: bytes) -> None:
    one = {"name": "one", "bind": "127.0.0.1:0", **listener}
    others = [CLEAR] if "tls" in listener else [CLEAR, SECURED]
    found = records(one, *others)
    line = b"Strict-Transport-Security: %b\r\n" % hsts if hsts else b""
    assert found[0] == (listener_id("one 127.0.0.1:0"), flags, port, line)
    assert len(found) == len(others)


def test_listeners_have_the_same_key_in_all_processes() -> None:
    binds = ("127.0.0.1:0", ":8080", "[::1]:9443", "unix:/run/f.sock")
    listeners = [{"name": f"l{i}", "bind": bind} for i, bind in enumerate(binds)]
    gateway = decode({"version": 1, "listeners": listeners})
    sent = [listener.key for listener in listeners_of(gateway)]
    assert [key_of(listener) for listener in gateway.listeners] == sent


def route(certificate: object) -> tuple[RouteFlag, list[int]]:
    document = {
        "listeners": [SECURED],
        "certificates": CERTIFICATES,
        "authorities": AUTHORITIES,
        "upstreams": [{"name": "u", "targets": "http://10.0.0.1"}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [{"name": "r", "path": "/", "service": "s"}],
    }
    if certificate is not None:
        document["routes"][0]["client_certificate"] = certificate  # type: ignore[index]
    with compiled(document) as snapshot:
        found = snapshot.route(0)
        return RouteFlag(found["flags"]), found["client_auth"]


def test_client_certificates_of_routes() -> None:
    there, required = RouteFlag.ROUTE_CERTIFICATES, RouteFlag.ROUTE_CERTIFICATE_REQUIRED
    partners, staff = authority_id("partners"), authority_id("staff")
    assert route(None) == (RouteFlag(0), [])
    assert route("partners") == (there | required, [partners])
    assert route(["staff", "partners", "staff"]) == (there | required, [partners, staff])
    optional = {"authorities": "staff", "required": False, "forward": True}
    assert route(optional) == (there | RouteFlag.ROUTE_CERTIFICATE_FORWARD, [staff])
