"""Certificates and keys from files: what is accepted, in which order, and what each error says."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from certkit import pem_of
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st
from pkikit import Authority, key_pem, new_key, openssl

from fastgate.certificates.pairs import Pair, pair_of, read_pair, validity
from fastgate.certificates.pem import PemError, blocks
from fastgate.certificates.sources import Content

T = TypeVar("T")
ROOT = Authority.root()
MIDDLE = ROOT.intermediate()
API = MIDDLE.issue("api.example.com", "*.Shop.example.com", "10.0.0.1")


def read(cert: bytes, key: bytes | None) -> Pair:
    return read_pair(
        Content("/etc/cert.pem", cert), None if key is None else Content("/etc/cert.key", key)
    )


def error(cert: bytes, key: bytes | None) -> PemError:
    with pytest.raises(PemError) as caught:
        read(cert, key)
    return caught.value


def test_what_a_pair_says() -> None:
    pair = read(API.chain, API.key_pem)
    assert pair.hosts == ("api.example.com", "*.shop.example.com")
    assert pair.addresses == ("10.0.0.1",)
    assert (pair.subject, pair.issuer) == ("api.example.com", "Test Intermediate")
    assert pair.key_type == "ECDSA P-256"
    assert pair.chain == (API.der, MIDDLE.der)
    assert pair.not_after == int(API.certificate.not_valid_after_utc.timestamp())
    assert pair.not_before == int(API.certificate.not_valid_before_utc.timestamp())
    assert pair.fingerprint == API.certificate.fingerprint(hashes.SHA256()).hex()
    assert pair.usable_for == {"server", "client"}
    assert pair.remarks == ()
    assert pair_of(pair.chain, pair.key) == pair


def test_a_key_is_never_in_the_text_of_a_pair() -> None:
    pair = read(API.chain, API.key_pem)
    assert str(pair.key) not in repr(pair)
    assert repr(pair) == f"Pair('api.example.com', '{pair.fingerprint[:16]}')"


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_blocks_makes_no_difference(shuffle: random.Random, apart: bool) -> None:
    parts = [API.pem, pem_of(MIDDLE.certificate), pem_of(ROOT.certificate)]
    parts += [] if apart else [API.key_pem]
    shuffle.shuffle(parts)
    found = read(b"text between\n".join(parts), API.key_pem if apart else None)
    assert found == read(API.chain, API.key_pem)  # also without the root


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA 2048", "Ed25519"])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_kinds_of_keys(kind: str, form: str) -> None:
    if kind == "Ed25519" and form != "PKCS8":
        return  # there is no such form
    issued = ROOT.issue("a.example", key=kind)
    pair = read(issued.pem, key_pem(issued.key, form=form))
    assert pair.key_type in (kind, f"ECDSA {kind}")
    assert pair.key == read(issued.pem, issued.key_pem).key


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("RSA 1024", "an RSA key of 1024 bits; at least 2048 are needed"),
        ("secp256k1", "on the curve secp256k1; clients know P-256, P-384, P-521"),
    ],
)
def test_keys_that_clients_refuse(kind: str, says: str) -> None:
    issued = ROOT.issue("a.example", key=kind)
    found = error(issued.pem, issued.key_pem)
    assert says in str(found)
    assert found.field == "key"


def test_a_key_that_does_not_fit() -> None:
    other = ROOT.issue("b.example")
    found = error(API.chain, other.key_pem)
    assert str(found) == (
        "the key in /etc/cert.key does not belong to the certificate of api.example.com in "
        "/etc/cert.pem"
    )
    assert found.field == "key"
    assert "take both from the same" in found.hint


def test_a_renewed_certificate_with_the_same_key_wins_over_the_old_one() -> None:
    old = MIDDLE.issue("api.example.com", key=API.key, end=1)
    pair = read(old.pem + API.chain, API.key_pem)
    assert pair.chain[0] == API.der
    assert "not part of the chain, and ignored: api.example.com" in pair.remarks[0]


def encrypted(form: str) -> bytes:
    return key_pem(API.key, b"secret word", form)


@pytest.mark.parametrize(
    ("cert", "key", "field", "says", "hint"),
    [
        (API.chain, encrypted("PKCS8"), "key", "in /etc/cert.key is encrypted", "openssl pkey"),
        (API.chain, encrypted("TraditionalOpenSSL"), "key", "is encrypted", "openssl pkey"),
        (API.chain, key_pem(new_key(), form="OpenSSH"), "key", "OpenSSH's form", "ssh-keygen"),
        (API.chain, API.pem, "key", "has no private key, only CERTIFICATE", ""),
        (API.chain, None, "cert", "/etc/cert.pem has no private key", "as `key`"),
        (API.chain, API.key_pem * 2, "key", "has 2 private keys", "Leave only"),
        (API.key_pem, API.key_pem, "cert", "no certificate, only PRIVATE KEY", "exchanged"),
        (b"", API.key_pem, "cert", "/etc/cert.pem is empty", "BEGIN CERTIFICATE"),
        (b"hello", API.key_pem, "cert", "has no PEM block", "BEGIN CERTIFICATE"),
        (API.der, API.key_pem, "cert", "is in binary form", "openssl x509 -inform der"),
        (API.pem[:-30], API.key_pem, "cert", "a block begins and does not end", "was cut"),
        (
            API.pem.replace(b"END CERTIFICATE", b"END PRIVATE KEY"),
            API.key_pem,
            "cert",
            "block 1 begins as CERTIFICATE and ends as PRIVATE KEY",
            "",
        ),
        (API.pem.replace(b"M", b"*"), API.key_pem, "cert", "is not valid base64", "damaged"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            API.key_pem,
            "cert",
            "certificate 1 cannot be read",
            "openssl x509",
        ),
    ],
)
def test_files_that_cannot_be_used(
    cert: bytes, key: bytes | None, field: str, says: str, hint: str
) -> None:
    found = error(cert, key)
    assert says in str(found)
    assert hint in found.hint
    assert found.field == field


def test_a_broken_chain() -> None:
    """Another intermediate certificate with the same name, as after a renewal of it."""
    other = ROOT.intermediate()
    found = error(API.pem + pem_of(other.certificate), API.key_pem)
    assert "the chain is broken: the certificate of api.example.com names Test Inter" in str(found)
    assert found.field == "cert"
    # With the right one beside it, the wrong one is only ignored.
    pair = read(API.chain + pem_of(other.certificate), API.key_pem)
    assert pair.chain == (API.der, MIDDLE.der)
    assert "ignored: Test Intermediate" in pair.remarks[0]


def test_a_certificate_whose_issuer_is_missing() -> None:
    public = MIDDLE.issue("api.example.com", with_issuer_address=True)
    (remark,) = read(public.pem, public.key_pem).remarks
    assert "the certificate of its issuer, Test Intermediate, is missing" in remark
    assert read(public.chain, public.key_pem).remarks == ()
    assert read(API.pem, API.key_pem).remarks == ()  # those of private ones do not say where it is


def test_an_issuer_that_expires_before_what_it_has_issued() -> None:
    short = ROOT.intermediate(end=10)
    issued = short.issue("a.example", end=20)
    (remark,) = read(issued.chain, issued.key_pem).remarks
    assert "the certificate of Test Intermediate in the chain expires on" in remark


def test_a_certificate_without_hosts() -> None:
    issued = ROOT.issue(name="old style")
    pair = read(issued.pem, issued.key_pem)
    assert (pair.subject, pair.hosts) == ("old style", ())
    assert "no subjectAltName" in pair.remarks[0]


def test_a_self_signed_certificate_is_its_own_chain() -> None:
    root = Authority.root("localhost")
    assert read(root.pem, root.key_pem).chain == (root.der,)


@pytest.mark.parametrize(
    ("start", "end", "state"),
    [(-2, -1, "expired"), (1, 2, "not yet valid"), (-1, 1, "valid")],
)
def test_validity(start: int, end: int, state: str) -> None:
    issued = ROOT.issue("a.example", start=start, end=end)
    assert validity(read(issued.pem, issued.key_pem), time.time()) == state


@pytest.mark.parametrize(
    ("purposes", "usable"),
    [
        (("server",), {"server"}),
        (("client", "mail"), {"client"}),
        (("mail",), set()),
        ((), {"server", "client"}),
    ],
)
def test_purposes(purposes: tuple[str, ...], usable: set[str]) -> None:
    issued = ROOT.issue("a.example", purposes=purposes)
    assert read(issued.pem, issued.key_pem).usable_for == usable


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("api.example.com", True),
        ("www.api.example.com", False),
        ("a.shop.example.com", True),
        ("a.b.shop.example.com", False),
        ("shop.example.com", False),
        ("*.shop.example.com", True),
        ("*.example.com", False),
        ("com", False),
    ],
)
def test_hosts_that_a_pair_covers(host: str, covered: bool) -> None:
    assert read(API.chain, API.key_pem).covers(host) is covered


def test_a_certificate_signed_with_a_broken_hash(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("install the Debian package 'openssl' to run this")
    ca, ca_key = ROOT.write(tmp_path / "root")
    _, key = API.write(tmp_path / "api")
    ask = openssl("req", "-new", "-key", key, "-subj", "/CN=a.example")
    signing = ("-CA", ca, "-CAkey", ca_key, "-set_serial", 7, "-days", 9)
    found = error(openssl("x509", "-req", "-sha1", *signing, given=ask), key.read_bytes())
    assert "the certificate of a.example is signed with SHA1" in str(found)
    assert found.field == "cert"


def tried(work: Callable[[], T]) -> T | PemError:
    try:
        return work()
    except PemError as problem:
        return problem


@given(st.binary(max_size=400))
def test_any_bytes_give_blocks_or_an_error(data: bytes) -> None:
    for content in (data, API.pem[: len(data)] + data, b"-----BEGIN X-----\n" + data):
        found = tried(lambda content=content: blocks(content, "file"))  # type: ignore[misc]
        assert str(found).startswith("file") if isinstance(found, PemError) else found


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_any_damage_is_an_error_of_ours_or_makes_no_difference(at: int, byte: int) -> None:
    whole = bytearray(API.chain + API.key_pem)
    whole[at % len(whole)] = byte
    found = tried(lambda: read(bytes(whole), None))
    if isinstance(found, PemError):
        assert "/etc/cert.pem" in str(found)
    else:
        assert found.hosts == read(API.chain, API.key_pem).hosts
