"""Certificates and authorities of a document: loaded, refreshed when files change, judged."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pkikit import Authority, Issued

from fastgate.certificates.judge import doubts, expiring, out_of_date
from fastgate.certificates.material import Material, load, problems, refresh
from fastgate.certificates.pairs import Pair, read_pair
from fastgate.certificates.sources import Content
from fastgate.errors import ConfigurationError
from fastgate.model.codec import decode
from fastgate.model.gateway import Certificate, Gateway

ROOT = Authority.root()
API = ROOT.issue("api.example", "www.example")
DAY = 86_400


class Files:
    """A document with the certificate `api` and the authority `partners`, and its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert, self.key = API.write(folder / "api")
        self.ca, self.crl = folder / "ca.pem", folder / "ca.crl"
        self.ca.write_bytes(ROOT.pem)
        self.document: dict[str, Any] = {
            "version": 1,
            "listeners": [{"bind": "127.0.0.1:8443", "tls": {"client": "partners"}}],
            "certificates": [
                {"name": "api", "cert": f"path:{self.cert}", "key": f"path:{self.key}"}
            ],
            "authorities": [{"name": "partners", "ca": f"path:{self.ca}"}],
        }

    @property
    def gateway(self) -> Gateway:
        return decode(self.document)

    def replace(self, issued: Issued) -> None:
        """As tools for renewal do: new files are renamed over the old ones."""
        for path, content in ((self.cert, issued.chain), (self.key, issued.key_pem)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.chmod(0o600)
            new.replace(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def chain(material: Material, name: str = "api") -> tuple[bytes, ...]:
    pair = material.certificates[name].pair
    assert pair is not None
    return pair.chain


def refused(gateway: Gateway, environ: Mapping[str, str] = os.environ) -> list[ConfigurationError]:
    with pytest.raises(ConfigurationError) as caught:
        load(gateway, environ=environ)
    return list(caught.value)


def test_everything_is_loaded(files: Files) -> None:
    files.document["upstreams"] = [{"name": "u", "targets": "https://a"}]
    (files.folder / "roots.pem").write_bytes(ROOT.pem)
    environ = {"SSL_CERT_FILE": str(files.folder / "roots.pem")}
    found = load(files.gateway, environ=environ)
    assert chain(found) == (API.der,)
    assert set(found.authorities) == {"partners", "system"}
    assert found.authorities["system"].trusted == found.authorities["partners"].trusted._replace(  # type: ignore[union-attr]
        not_after=0
    )
    assert not found.changed()


def test_the_systems_authorities_are_only_loaded_for_upstreams(files: Files) -> None:
    """And only for those that are verified with them."""
    environ = {"SSL_CERT_FILE": str(files.folder / "none")}
    files.document["upstreams"] = [
        {"name": "a", "targets": "https://a", "tls": {"authority": "partners"}},
        {"name": "b", "targets": "https://b", "tls": {"verify": False}},
        {"name": "c", "targets": "http://c"},
    ]
    assert set(load(files.gateway, environ=environ).authorities) == {"partners"}
    files.document["upstreams"] += [{"name": "d", "targets": "https://d"}]
    (error,) = refused(files.gateway, environ)
    assert error.path == "upstreams[3].tls"
    assert "there are no root certificates in" in error.message
    assert "so 'd' cannot be verified" in error.message


def test_all_files_that_cannot_be_used_are_said_at_once(files: Files) -> None:
    files.key.chmod(0o644)
    files.ca.unlink()
    files.document["certificates"] += [{"name": "b", "cert": "env:NO_SUCH"}]
    first, second, third = refused(files.gateway)
    assert (first.path, second.path) == ("certificates[0].key", "certificates[1].cert")
    assert "its mode 0644 lets others read" in first.message
    assert "the variable NO_SUCH is empty or not set" in second.message
    assert third.path == "authorities[0].ca"
    assert "No such file" in third.message


def test_certificates_from_variables(files: Files) -> None:
    files.document["certificates"][0].update(cert="env:CERT", key="env:KEY")
    environ = {"CERT": API.pem.decode(), "KEY": API.key_pem.decode()}
    found = load(files.gateway, environ=environ)
    assert chain(found) == (API.der,)
    assert [path for path, _ in found.certificates["api"].files] == []


def test_a_certificate_must_be_for_the_hosts_of_the_document(files: Files) -> None:
    files.document["certificates"][0]["hosts"] = ["www.example", "api.example"]
    load(files.gateway)
    files.document["certificates"][0]["hosts"] += ["other.example"]
    (error,) = refused(files.gateway)
    assert error.path == "certificates[0].hosts"
    assert "is not valid for 'other.example', but for api.example, www.example" in error.message


def test_a_certificate_that_is_not_issued_yet(files: Files) -> None:
    files.document["listeners"] += [{"name": "web", "bind": "127.0.0.1:8080"}]
    files.document["certificates"] += [
        {"name": "shop", "hosts": ["shop.example"], "acme": "letsencrypt"}
    ]
    found = load(files.gateway)
    assert found.certificates["shop"].pair is None
    assert out_of_date(files.gateway, found, time.time()) == []
    assert doubts(files.gateway, found) == []
    asked: list[str] = []

    def issued(certificate: Certificate) -> Pair | None:
        asked.append(certificate.name)
        return pair_of(API)

    assert chain(load(files.gateway, issued=issued), "shop") == (API.der,)
    assert asked == ["shop"]


# ---- changes ----------------------------------------------------------------------------


def test_a_replaced_pair_is_read(files: Files) -> None:
    before = load(files.gateway)
    renewed = ROOT.issue("api.example", "www.example")
    files.replace(renewed)
    assert before.changed()
    after = refresh(files.gateway, before)
    assert chain(after) == (renewed.der,)
    assert not after.changed()


def test_what_did_not_change_is_not_read_again(files: Files) -> None:
    before = load(files.gateway)
    files.replace(ROOT.issue("api.example"))
    after = refresh(files.gateway, before)
    assert after.authorities["partners"] is before.authorities["partners"]
    assert after.certificates["api"] is not before.certificates["api"]
    assert refresh(files.gateway, after).certificates["api"] is after.certificates["api"]


def test_half_a_replacement_keeps_the_old_pair(files: Files) -> None:
    """Tools write the certificate and the key one after the other."""
    before = load(files.gateway)
    renewed = ROOT.issue("api.example")
    files.cert.write_bytes(renewed.chain)
    half = refresh(files.gateway, before)
    assert chain(half) == (API.der,)
    assert not half.changed()  # it is not tried again and again
    (problem,) = problems(files.gateway, half)
    assert problem.path == "certificates[0].key"
    assert "does not belong to the certificate" in problem.message
    with pytest.raises(ConfigurationError):  # an apply says it
        load(files.gateway, half)
    files.key.write_bytes(renewed.key_pem)
    whole = refresh(files.gateway, half)
    assert chain(whole) == (renewed.der,)
    assert problems(files.gateway, whole) == []


def test_a_file_that_is_gone_keeps_its_last_content(files: Files) -> None:
    before = load(files.gateway)
    files.ca.unlink()
    files.cert.unlink()
    gone = refresh(files.gateway, before)
    assert gone.certificates["api"].pair == before.certificates["api"].pair
    assert gone.authorities["partners"].trusted == before.authorities["partners"].trusted
    assert len(problems(files.gateway, gone)) == 2
    assert not gone.changed()
    files.ca.write_bytes(ROOT.pem)
    files.cert.write_bytes(API.chain)
    assert gone.changed()
    assert problems(files.gateway, refresh(files.gateway, gone)) == []


def test_the_operating_systems_certificates_are_read_again(files: Files) -> None:
    roots = files.folder / "roots.pem"
    roots.write_bytes(ROOT.pem)
    environ = {"SSL_CERT_FILE": str(roots)}
    files.document["upstreams"] = [{"name": "u", "targets": "https://a"}]
    before = load(files.gateway, environ=environ)
    other = Authority.root("Other")
    roots.write_bytes(ROOT.pem + other.pem)
    assert before.changed()
    after = refresh(files.gateway, before, environ=environ)
    assert after.authorities["system"].trusted is not None
    assert other.der in after.authorities["system"].trusted.certificates
    assert not after.changed()


def test_another_place_is_read(files: Files) -> None:
    before = load(files.gateway)
    other = ROOT.issue("api.example")
    cert, key = other.write(files.folder / "other")
    files.document["certificates"][0].update(cert=f"path:{cert}", key=f"path:{key}")
    assert chain(load(files.gateway, before)) == (other.der,)


def test_a_problem_keeps_no_key_in_memory(files: Files) -> None:
    """A traceback would have the frames that read it."""
    files.key.write_bytes(ROOT.issue("x").key_pem)
    problem = refresh(files.gateway, Material({}, {})).certificates["api"].problem
    assert problem is not None
    assert problem.__traceback__ is None
    assert problem.__context__ is None


# ---- judgements -------------------------------------------------------------------------


def pair_of(issued: Issued) -> Pair:
    return read_pair(Content("c", issued.chain), Content("k", issued.key_pem))


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (-2, -1, "expired on"),
        (1, 2, "is not valid before"),
    ],
)
def test_certificates_that_are_out_of_date(start: int, end: int, says: str, files: Files) -> None:
    files.replace(ROOT.issue("api.example", start=start, end=end))
    (error,) = out_of_date(files.gateway, load(files.gateway), time.time())
    assert error.path == "certificates[0]"
    assert f"the certificate 'api' (path:{files.cert}) {says}" in error.message


def test_authorities_and_lists_that_are_out_of_date(files: Files) -> None:
    old = Authority.root(end=-1)
    files.ca.write_bytes(old.pem)
    files.crl.write_bytes(old.crl(start=-3, end=-2))
    files.document["authorities"][0]["crl"] = f"path:{files.crl}"
    found = out_of_date(files.gateway, load(files.gateway), time.time())
    assert [error.path for error in found] == ["authorities[0].ca", "authorities[0].crl"]
    assert all("expired on" in error.message for error in found)


def test_what_is_doubtful(files: Files) -> None:
    files.replace(
        ROOT.issue("api.example", "old.example", purposes=["client"], with_issuer_address=True)
    )
    same = ROOT.issue("api.example", "old.example", purposes=["server"])
    cert, key = same.write(files.folder / "same")
    files.document["certificates"] += [
        {"name": "same", "cert": f"path:{cert}", "key": f"path:{key}"}
    ]
    files.document["upstreams"] = [
        {"name": "u", "targets": "https://a", "tls": {"authority": "partners",
         "certificate": "same"}}
    ]  # fmt: skip
    found = [(error.path, error.message) for error in doubts(files.gateway, load(files.gateway))]
    (missing, server, client, twice) = found
    assert missing[0] == "certificates[0].cert"
    assert "the certificate of its issuer, Test Root, is missing" in missing[1]
    assert server[0] == "listeners[0].tls"
    assert "'api' was not issued for servers" in server[1]
    assert client[0] == "upstreams[0].tls.certificate"
    assert "'same' was not issued for clients" in client[1]
    assert twice[0] == "listeners[0].tls"
    assert "'api' and 'same' are both for api.example with ECDSA keys; 'api' is used" in twice[1]


def test_two_kinds_of_keys_for_a_host_are_no_doubt(files: Files) -> None:
    cert, key = ROOT.issue("api.example", key="RSA 2048").write(files.folder / "rsa")
    files.document["certificates"] += [
        {"name": "rsa", "cert": f"path:{cert}", "key": f"path:{key}"}
    ]
    assert doubts(files.gateway, load(files.gateway)) == []


@pytest.mark.parametrize(
    ("days", "limit"), [(-1, 0), (0.5, 1), (1.5, 7), (6.5, 7), (7.5, 30), (29.5, 30), (30.5, 0)]
)
def test_what_expires_soon(days: float, limit: int) -> None:
    pair = pair_of(API)
    assert expiring(pair, pair.not_after - days * DAY) == limit


def test_a_certificate_for_a_few_days_is_not_always_about_to_expire() -> None:
    pair = pair_of(ROOT.issue("api.example", start=0, end=6))
    assert [expiring(pair, pair.not_after - days * DAY) for days in (5, 2, 0.5)] == [0, 0, 1]
