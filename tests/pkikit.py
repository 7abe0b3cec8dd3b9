"""Authorities and certificates in memory, for tests of what reads them: parts of files in any
order, unusual keys and purposes, renewals with the same key. For files that servers and clients
use, see `certkit`.

    root = Authority.root()
    api = root.issue("api.example")             # or several hosts, or IP addresses
    api.write(tmp_path / "api")                 # api.pem with its chain, api.key

A certificate can be expired, not valid yet, for another purpose, with another kind of key.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from certkit import DAY, digest_for, general_name, key_usage, pem_of, subject_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

PURPOSES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "mail": ExtendedKeyUsageOID.EMAIL_PROTECTION,
}


def new_key(kind: str = "P-256") -> Any:
    """A private key: "P-256", "P-384", "secp256k1", "RSA 2048", "RSA 1024", "Ed25519"."""
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind.split()[1]))
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "secp256k1": ec.SECP256K1}
    return ec.generate_private_key(curves[kind]())


def key_pem(key: Any, password: bytes | None = None, form: str = "PKCS8") -> bytes:
    """A key in PEM form. form: "PKCS8", "TraditionalOpenSSL", "OpenSSH"."""
    secret: Any = serialization.NoEncryption()
    if password is not None:
        secret = serialization.BestAvailableEncryption(password)
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), secret
        )
    )


@dataclass
class Issued:
    """A certificate with its key and those that have issued it, without the root."""

    certificate: x509.Certificate
    key: Any
    issuers: list[x509.Certificate] = field(default_factory=list)

    @property
    def pem(self) -> bytes:
        """The certificate alone."""
        return pem_of(self.certificate)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def chain(self) -> bytes:
        """The certificate and its issuers, in PEM form."""
        return pem_of(self.certificate, *self.issuers)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    def write(self, path: Path) -> tuple[Path, Path]:
        """Write PATH.pem, with the chain, and PATH.key (0600); returns both."""
        cert, key = path.with_suffix(".pem"), path.with_suffix(".key")
        cert.write_bytes(self.chain)
        key.write_bytes(self.key_pem)
        key.chmod(0o600)
        return cert, key


@dataclass
class Authority(Issued):
    """A certificate that may issue others."""

    @classmethod
    def root(cls, name: str = "Test Root", **options: Any) -> Authority:
        """A root. Options as in `issue`."""
        return cls(*_make(name, [], None, authority=True, **{"end": 365, **options}))

    def intermediate(self, name: str = "Test Intermediate", **options: Any) -> Authority:
        """An authority below this one."""
        made = _make(name, [], self, authority=True, **{"end": 365, **options})
        return Authority(*made, self._path)

    def issue(self, *hosts: str, name: str = "", **options: Any) -> Issued:
        """A certificate for hosts or IP addresses. Options:

        key: its key, or a kind of key. start, end: days from now. purposes: of PURPOSES.
        with_issuer_address: say where the issuer's certificate is.
        """
        name = name or (hosts[0] if hosts else "nobody")
        return Issued(*_make(name, hosts, self, **options), self._path)

    def crl(self, *revoked: Issued, start: float = -1, end: float = 30) -> bytes:
        """A revocation list in PEM form."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now + start * DAY)
            .next_update(now + end * DAY)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.certificate.serial_number)
                .revocation_date(now - DAY)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def _path(self) -> list[x509.Certificate]:
        """What goes into the chain of those that this one issues."""
        if self.certificate.issuer == self.certificate.subject:
            return []
        return [self.certificate, *self.issuers]


def _make(
    name: str,
    hosts: Sequence[str],
    issuer: Authority | None,
    *,
    authority: bool = False,
    key: Any = "P-256",
    start: float = -1,
    end: float = 90,
    purposes: Sequence[str] = ("server", "client"),
    with_issuer_address: bool = False,
) -> tuple[x509.Certificate, Any]:
    own = new_key(key) if isinstance(key, str) else key
    signer = own if issuer is None else issuer.key
    subject = subject_of(name)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * DAY)
        .not_valid_after(now + end * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
    )
    if authority:
        builder = builder.add_extension(key_usage(signs_certificates=True), True)
    elif purposes:
        usage = x509.ExtendedKeyUsage([PURPOSES[each] for each in purposes])
        builder = builder.add_extension(usage, False)
    if hosts:
        names = x509.SubjectAlternativeName([general_name(host) for host in hosts])
        builder = builder.add_extension(names, False)
    if with_issuer_address:
        place = x509.UniformResourceIdentifier("http://ca.test/issuer.der")
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), False)
    return builder.sign(signer, digest_for(signer)), own


def openssl(*arguments: object, given: bytes = b"") -> bytes:
    """Run openssl; returns its output. Raises CalledProcessError."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], input=given, capture_output=True, check=True
    )
    return done.stdout
