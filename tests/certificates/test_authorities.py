"""Authorities, revocation lists and the operating system's root certificates."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from certkit import pem_of
from pkikit import Authority

from fastgate.certificates import authorities
from fastgate.certificates.authorities import Trusted, read_authority, system_roots
from fastgate.certificates.pem import PemError
from fastgate.certificates.sources import Content

ROOT = Authority.root()
MIDDLE = ROOT.intermediate()
API = MIDDLE.issue("api.example.com")
BOTH = ROOT.pem + MIDDLE.pem


def read(ca: bytes, crl: bytes | None = None) -> Trusted:
    return read_authority(Content("/ca.pem", ca), None if crl is None else Content("/ca.crl", crl))


def error(ca: bytes, crl: bytes | None = None) -> PemError:
    with pytest.raises(PemError) as caught:
        read(ca, crl)
    return caught.value


def test_an_authority_with_lists() -> None:
    lists = ROOT.crl(end=9) + MIDDLE.crl(API, end=5)
    found = read(BOTH, lists)
    assert found.certificates == (ROOT.der, MIDDLE.der)
    assert len(found.crls) == 2
    assert found.not_after == int(ROOT.certificate.not_valid_after_utc.timestamp())
    assert 4 < (found.crls_until - time.time()) / 86_400 < 6  # the first that expires
    assert found.remarks == ()


def test_a_self_signed_certificate_may_be_its_own_authority() -> None:
    """As of an upstream that has one: it is trusted, and nothing else is."""
    assert read(ROOT.pem).crls == ()


@pytest.mark.parametrize(
    ("ca", "crl", "field", "says"),
    [
        (b"", None, "ca", "/ca.pem is empty"),
        (API.key_pem, None, "ca", "/ca.pem has no certificate"),
        (API.pem, None, "ca", "api.example.com is not an authority: its certificate may not issue"),
        (BOTH, ROOT.pem, "crl", "/ca.crl has no revocation list"),
        (BOTH, Authority.root("Other").crl(), "crl", "issued by CN=Other, whose certificate is"),
        (BOTH, Authority.root().crl(), "crl", "the list of Test Root is not signed with its key"),
    ],
)
def test_files_that_cannot_be_used(ca: bytes, crl: bytes | None, field: str, says: str) -> None:
    found = error(ca, crl)
    assert says in str(found)
    assert found.field == field


def test_an_authority_without_a_list_is_said() -> None:
    (remark,) = read(BOTH, ROOT.crl()).remarks
    assert remark == (
        "/ca.crl has no list of Test Intermediate, so certificates that it has issued are refused"
    )


# ---- the operating system's -------------------------------------------------------------


def test_a_file_of_roots(tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(b"# comment\n" + BOTH + ROOT.pem)
    found, contents = system_roots({"SSL_CERT_FILE": str(file)})
    assert found.certificates == (ROOT.der, MIDDLE.der)  # each once
    assert [each.path for each in contents] == [str(file)]


def test_a_directory_of_roots(tmp_path: Path) -> None:
    for name, content in (("a.pem", ROOT.pem), ("b.0", MIDDLE.pem), ("c.crt", b"x"), ("d", b"")):
        (tmp_path / name).write_bytes(content)
    found, contents = system_roots({"SSL_CERT_DIR": str(tmp_path)})
    assert set(found.certificates) == {ROOT.der, MIDDLE.der}
    assert [each.path for each in contents] == [str(tmp_path / "a.pem"), str(tmp_path / "b.0")]


def test_no_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(PemError, match=f"there are no root certificates in {empty}"):
        system_roots({"SSL_CERT_FILE": str(empty)})
    monkeypatch.setattr(authorities, "_BUNDLES", ())
    monkeypatch.setattr(
        ssl,
        "get_default_verify_paths",
        lambda: ssl.DefaultVerifyPaths(None, None, "", str(empty), "", str(tmp_path / "none")),
    )
    with pytest.raises(PemError) as caught:
        system_roots({})
    assert str(caught.value) == "this machine has no root certificates"
    assert "Install the package ca-certificates, or set SSL_CERT_FILE" in caught.value.hint


def test_this_machines_roots() -> None:
    """What is found is what Python's ssl trusts."""
    context = ssl.create_default_context()
    known = set(context.get_ca_certs(binary_form=True))
    if not known:
        pytest.skip("install the Debian package 'ca-certificates' to run this")
    found, _ = system_roots({})
    assert known <= set(found.certificates)
    assert pem_of(ROOT.certificate) not in found.certificates
