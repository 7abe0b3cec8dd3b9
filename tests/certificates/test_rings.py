"""Keyrings of documents: who refers to what, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pkikit import Authority

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import TLS_1_2, TLS_1_3, Challenge, Keyring, TicketKey
from fastgate.certificates.material import load
from fastgate.certificates.rings import ROTATE_S, build, same_but_serial, tickets_at
from fastgate.config.targets import tls_id
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway

ROOT = Authority.root()
ISSUED = {name: ROOT.issue(f"{name}.example") for name in ("a", "b", "c")}
PIN = "sha256/" + "A" * 43 + "="


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {"CA": ROOT.pem.decode(), "CRL": ROOT.crl().decode()}
    for name, issued in ISSUED.items():
        found[f"CERT_{name}"] = (issued.chain + issued.key_pem).decode()
    roots = tmp_path_factory.mktemp("roots") / "roots.pem"
    roots.write_bytes(ROOT.pem)
    return {**found, "SSL_CERT_FILE": str(roots)}


def document(**parts: Any) -> Gateway:
    return decode(
        {
            "version": 1,
            "certificates": [{"name": name, "cert": f"env:CERT_{name}"} for name in ISSUED],
            "authorities": [
                {"name": "p", "ca": "env:CA"},
                {"name": "q", "ca": "env:CA", "crl": "env:CRL"},
            ],
            **parts,
        }
    )


def ring(gateway: Gateway, environ: dict[str, str], **more: Any) -> Keyring:
    """The keyring, written and read again as for a worker."""
    fd = keyring.write(build(gateway, load(gateway, environ=environ), serial=3, **more))
    try:
        return keyring.read(fd)
    finally:
        os.close(fd)


def test_only_what_is_used_is_in_a_keyring(environ: dict[str, str]) -> None:
    listeners = [
        {"name": "one", "bind": "127.0.0.1:0", "tls": {"certificates": ["b"], "min": "1.3"}},
        {"name": "clear", "bind": "127.0.0.1:8080"},
    ]
    found = ring(document(listeners=listeners), environ)
    assert found.serial == 3
    (entry,) = found.certificates
    assert (entry.name, entry.hosts) == ("b", ["b.example"])
    assert [bytes(der) for der in entry.chain] == [ISSUED["b"].der]
    assert found.authorities == []
    (listener,) = found.listeners
    assert (listener.key, listener.certificates) == ("one 127.0.0.1:0", [0])
    assert (listener.min_version, listener.policies, listener.strict_names) == (TLS_1_3, [], False)


def test_a_listener_presents_its_certificates_in_its_order(environ: dict[str, str]) -> None:
    listeners = [
        {"name": "x", "bind": ":1443", "tls": {"certificates": ["c", "a"], "strict_names": True}},
        {"name": "y", "bind": ":2443", "tls": True},
    ]
    found = ring(document(listeners=listeners), environ)
    names = [
        [found.certificates[number].name for number in each.certificates]
        for each in found.listeners
    ]
    assert names == [["c", "a"], ["a", "b", "c"]]
    assert [each.strict_names for each in found.listeners] == [True, False]
    assert [each.key for each in found.listeners] == ["0.0.0.0:1443", "0.0.0.0:2443"]


def test_hosts_of_the_document_narrow_a_certificate(environ: dict[str, str]) -> None:
    wild = ROOT.issue("*.example", "example")
    environ = {**environ, "CERT_w": (wild.chain + wild.key_pem).decode()}
    certificates = [{"name": "w", "cert": "env:CERT_w", "hosts": ["a.example"]}]
    gateway = document(certificates=certificates, listeners=[{"bind": ":443", "tls": True}])
    assert ring(gateway, environ).certificates[0].hosts == ["a.example"]


def test_client_certificates(environ: dict[str, str]) -> None:
    gateway = document(
        listeners=[{"bind": ":443", "tls": {"client": "p"}}],
        routes=[
            {"name": "r", "path": "/", "hosts": "a.example", "respond": 204,
             "client_certificate": ["q", "p"]}
        ],
    )  # fmt: skip
    found = ring(gateway, environ)
    (listener,) = found.listeners
    asked = [
        (each.host, [found.authorities[number].name for number in each.authorities], each.required)
        for each in listener.policies
    ]
    assert asked == [("a.example", ["p", "q"], True), ("", ["p"], True)]
    assert [len(each.crls) for each in found.authorities] == [0, 1]
    assert bytes(found.authorities[0].certificates[0]) == ROOT.der


def test_upstreams(environ: dict[str, str]) -> None:
    def upstream(name: str, /, **tls: Any) -> dict[str, Any]:
        return {"name": name, "targets": "https://10.0.0.1", **({"tls": tls} if tls else {})}

    gateway = document(
        upstreams=[
            upstream("plain"),
            upstream("same"),
            upstream("own", name="b.internal", authority="p", certificate="a", min="1.3",
                     pins=[PIN]),
            upstream("none", verify=False),
            {"name": "clear", "targets": "http://10.0.0.1"},
        ]
    )  # fmt: skip
    found = ring(gateway, environ)
    assert len(found.upstreams) == 3  # equal ones share an entry
    plain, own, none = found.upstreams
    ids = [tls_id(each.profile) for each in gateway.upstreams]
    assert ids == [plain.id, plain.id, own.id, none.id, 0]
    assert (plain.name, plain.verify, plain.min_version) == ("", True, TLS_1_2)
    assert found.authorities[plain.authority].name == "system"
    assert (plain.certificate, plain.pins) == (-1, [])
    assert (own.name, own.min_version, own.pins) == ("b.internal", TLS_1_3, [bytes(32)])
    assert found.authorities[own.authority].name == "p"
    assert found.certificates[own.certificate].name == "a"
    assert (none.verify, none.authority) == (False, -1)


def test_a_certificate_that_is_not_issued_yet_is_left_out(environ: dict[str, str]) -> None:
    certificates = [
        {"name": "shop", "hosts": ["shop.example"], "acme": "letsencrypt"},
        {"name": "a", "cert": "env:CERT_a"},
    ]
    listeners = [
        {"name": "web", "bind": ":80", "redirect": "https"},
        {"name": "both", "bind": ":443", "tls": True},
        {"name": "alone", "bind": ":444", "tls": {"certificates": ["shop"]}},
    ]
    found = ring(document(certificates=certificates, listeners=listeners), environ)
    assert [each.name for each in found.certificates] == ["a"]
    assert [each.certificates for each in found.listeners] == [[0], []]


def test_tickets_and_challenges_are_for_listeners(environ: dict[str, str]) -> None:
    more: dict[str, Any] = {
        "tickets": tickets_at([], 1000.0),
        "challenges": [
            Challenge(host="a.example", certificate=memoryview(b"c"), key=memoryview(b"k"))
        ],
    }
    found = ring(document(listeners=[{"bind": ":443", "tls": True}]), environ, **more)
    assert found.tickets == more["tickets"]
    assert found.challenges == more["challenges"]
    upstreams = [{"name": "u", "targets": "https://a"}]
    found = ring(document(upstreams=upstreams), environ, **more)
    assert (found.tickets, found.challenges) == ([], [])


def test_ticket_keys_change_and_the_last_three_are_kept() -> None:
    first = tickets_at([], 1000.0)
    (key,) = first
    assert (len(key.name), len(key.secret), key.made) == (16, 32, 1000)
    assert tickets_at(first, 1000.0 + ROTATE_S - 1) == first
    kept: list[TicketKey] = first
    seen = [key]
    for turn in range(1, 5):
        kept = tickets_at(kept, 1000.0 + turn * ROTATE_S)
        seen.insert(0, kept[0])
        assert kept == seen[:3]
    assert len({bytes(each.secret) for each in seen}) == 5


def test_a_clock_that_was_set_back_makes_a_new_key() -> None:
    """Otherwise one key would be used for as long as the clock had been ahead."""
    ahead = tickets_at([], 10_000.0)
    assert tickets_at(ahead, 9_000.0)[1:] == ahead


def test_keyrings_that_differ_only_in_their_serial(environ: dict[str, str], tmp_path: Path) -> None:
    gateway = document(listeners=[{"bind": ":443", "tls": True}])
    material = load(gateway, environ=environ)
    one, two = (build(gateway, material, serial=serial) for serial in (1, 2))
    assert same_but_serial(one, two)
    other = document(listeners=[{"bind": ":444", "tls": True}])
    assert not same_but_serial(one, build(other, material, serial=1))
