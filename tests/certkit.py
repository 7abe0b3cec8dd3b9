"""Certificates for tests: authorities, leaves good and bad, revocation lists, written to files.

    def test_x(tls_material: Material) -> None:      # a fixture of conftest.py, one a session
        leaf = tls_material.leaf("shop.example.com", "*.shop.example.com", "127.0.0.1")
        leaf.cert, leaf.key                          # PEM files: chain (leaf first), PKCS#8, 0600
        tls_material.root.ca                         # PEM file of the authority that issued it

Everything is made when first asked for and kept: the same question gives the same files.

| asked for | what is wrong with it |
| --- | --- |
| `leaf(*names, kind=…, issuer=…, usage=…)` | nothing. Usages: SERVER, CLIENT, both |
| `expired()`, `not_yet_valid()` | its time |
| `wrong_name()` | it is for `elsewhere.example` alone |
| `unknown_issuer()` | its authority (`stranger`) is not `root` |
| `self_signed()` | it vouches for itself |
| `revoked()` | it is on the list `crl()` of `root` |
| `without_chain()` | issued by `intermediate`, which is not in its file |
| `reversed_chain()` | its file has the intermediate first |
| `unfitting_key()` | the key is another one's |
| `client()`, `client_of_stranger()` | nothing; its authority. For client certificates |
| `acme()` | nothing: ninety days, from `intermediate`, as an ACME authority issues it |
| `challenge(name, digest)` | tls-alpn-01: self-signed, with a critical acmeIdentifier (RFC 8737) |

An `Identity` also has its pin (`sha256/…` of the public key), DER of key and chain. What else is
needed is made with `Material.issue`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
NAMES = ("localhost", "test.example", "*.test.example", "127.0.0.1", "::1")
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
DAY = timedelta(days=1)

Key = CertificateIssuerPrivateKeyTypes
KINDS: dict[str, Callable[[], Key]] = {
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def subject_of(name: str) -> x509.Name:
    """A distinguished name with a common name alone."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def general_name(name: str) -> x509.GeneralName:
    """A host name or an address, as a subject's alternative name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def digest_for(key: Key) -> hashes.SHA256 | None:
    """What goes with a signature by `key`."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def pem_of(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, in files."""

    cert: Path  # PEM: the certificate, then its intermediates
    key: Path  # PEM, PKCS#8, mode 0600
    certificate: x509.Certificate
    private_key: Key
    chain: tuple[x509.Certificate, ...]  # as in the file

    @property
    def pin(self) -> str:
        """`sha256/` and the base64 of the digest of the public key (SubjectPublicKeyInfo)."""
        spki = self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return "sha256/" + base64.b64encode(hashlib.sha256(spki).digest()).decode()

    @property
    def chain_der(self) -> list[bytes]:
        return [each.public_bytes(serialization.Encoding.DER) for each in self.chain]

    @property
    def key_der(self) -> bytes:
        """PKCS#8."""
        return self.private_key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True)
class Authority:
    """One that issues certificates. `ca` is its own, in a file."""

    ca: Path
    certificate: x509.Certificate
    private_key: Key
    sent: tuple[x509.Certificate, ...]  # what a server sends besides its leaf


@dataclass(frozen=True)
class Validity:
    """From when to when, in days from now."""

    since: float = -1
    until: float = 30


class Material:
    """All that was made, in a folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` must be there."""
        self.folder = folder
        self._kept: dict[tuple[object, ...], Identity] = {}
        self._files = 0
        self._now = datetime.now(UTC).replace(microsecond=0)

    # ---- authorities -------------------------------------------------------------------------

    @functools.cached_property
    def root(self) -> Authority:
        """The one to be trusted."""
        return self._authority("Test Root", None)

    @functools.cached_property
    def intermediate(self) -> Authority:
        """Issued by `root`; servers send its certificate after their own."""
        return self._authority("Test Intermediate", self.root)

    @functools.cached_property
    def stranger(self) -> Authority:
        """Another root, which nobody is asked to trust."""
        return self._authority("Strange Root", None)

    def authority(self, name: str) -> Authority:
        """One more root. A new one at each call."""
        return self._authority(name, None)

    def _authority(self, name: str, parent: Authority | None) -> Authority:
        key = KINDS["ecdsa"]()
        certificate = self._sign(
            self._builder(subject_of(name), key, Validity(until=3650))
            .add_extension(x509.BasicConstraints(True, None if parent is None else 0), True)
            .add_extension(key_usage(signs_certificates=True), True),
            key,
            parent,
            name=subject_of(name),
        )
        sent = () if parent is None else (certificate, *parent.sent)
        return Authority(self._write("ca.pem", pem_of(certificate)), certificate, key, sent)

    # ---- certificates ------------------------------------------------------------------------

    def leaf(
        self,
        *names: str,
        kind: str = "ecdsa",
        issuer: Authority | None = None,
        usage: Sequence[x509.ObjectIdentifier] = (SERVER,),
        validity: Validity = Validity(),
    ) -> Identity:
        """A certificate for host names and addresses (NAMES), by `root` or another issuer."""
        names = names or NAMES
        by = issuer or self.root
        return self._once(
            lambda: self.issue(names, KINDS[kind](), by, usage, validity),
            names, kind, by.ca, tuple(usage), validity,
        )  # fmt: skip

    def issue(
        self,
        names: Sequence[str],
        key: Key,
        issuer: Authority,
        usage: Sequence[x509.ObjectIdentifier] = (SERVER,),
        validity: Validity = Validity(),
    ) -> Identity:
        """A new certificate for a key that is given."""
        subject = subject_of(names[0])
        builder = (
            self._builder(subject, key, validity)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(key_usage(signs_certificates=False), True)
            .add_extension(x509.ExtendedKeyUsage(list(usage)), False)
            .add_extension(x509.SubjectAlternativeName(list(map(general_name, names))), False)
        )
        certificate = self._sign(builder, key, issuer, name=subject)
        return self.identity((certificate, *issuer.sent), key)

    def identity(
        self,
        chain: Sequence[x509.Certificate],
        key: Key,
        certificate: x509.Certificate | None = None,
    ) -> Identity:
        """Files with this chain and this key, whether they fit or not."""
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Identity(
            self._write("cert.pem", pem_of(*chain)),
            self._write("key.pem", private, 0o600),
            certificate or chain[0],
            key,
            tuple(chain),
        )

    def expired(self, *names: str) -> Identity:
        return self.leaf(*names, validity=Validity(-30, -1))

    def not_yet_valid(self, *names: str) -> Identity:
        return self.leaf(*names, validity=Validity(1, 30))

    def wrong_name(self) -> Identity:
        return self.leaf("elsewhere.example")

    def unknown_issuer(self, *names: str) -> Identity:
        return self.leaf(*names, issuer=self.stranger)

    def self_signed(self, *names: str) -> Identity:
        names = names or NAMES
        return self._once(lambda: self._self_signed(names), "self-signed", names)

    def revoked(self, *usage: x509.ObjectIdentifier) -> Identity:
        """One that `crl()` names; for servers unless a usage is given."""
        usage = usage or (SERVER,)
        return self._once(
            lambda: self.issue(NAMES, KINDS["ecdsa"](), self.root, usage), "revoked", usage
        )

    def without_chain(self) -> Identity:
        whole = self.leaf(issuer=self.intermediate)
        return self._once(
            lambda: self.identity((whole.certificate,), whole.private_key), "without chain"
        )

    def reversed_chain(self) -> Identity:
        whole = self.leaf(issuer=self.intermediate)
        return self._once(
            lambda: self.identity(whole.chain[::-1], whole.private_key, whole.certificate),
            "reversed chain",
        )

    def unfitting_key(self) -> Identity:
        chain, key = self.leaf().chain, self.leaf("other.example").private_key
        return self._once(lambda: self.identity(chain, key), "unfitting key")

    def client(self, name: str = "client.example", kind: str = "ecdsa") -> Identity:
        return self.leaf(name, kind=kind, usage=(CLIENT,))

    def client_of_stranger(self, name: str = "client.example") -> Identity:
        return self.leaf(name, issuer=self.stranger, usage=(CLIENT,))

    def acme(self, *names: str) -> Identity:
        return self.leaf(*names, issuer=self.intermediate, validity=Validity(-0.04, 90))

    def challenge(self, name: str, digest: bytes) -> Identity:
        """For tls-alpn-01; `digest` is the SHA-256 of the key authorization."""
        proof = x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest)
        return self._once(lambda: self._self_signed((name,), proof), "challenge", name, digest)

    # ---- revocation --------------------------------------------------------------------------

    def crl(
        self,
        *revoked: Identity,
        issuer: Authority | None = None,
        validity: Validity = Validity(),
    ) -> Path:
        """A PEM file with a list by `issuer` (`root`) of these; without any, of `revoked()`."""
        by = issuer or self.root
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(by.certificate.subject)
            .last_update(self._at(validity.since))
            .next_update(self._at(validity.until))
            .add_extension(x509.CRLNumber(self._files + 1), False)
            .add_extension(_key_identifier(by.certificate), False)
        )
        for each in revoked or (self.revoked(),):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.certificate.serial_number)
                .revocation_date(self._at(validity.since))
                .build()
            )
        made = builder.sign(by.private_key, digest_for(by.private_key))
        return self._write("crl.pem", made.public_bytes(serialization.Encoding.PEM))

    # ---- how ---------------------------------------------------------------------------------

    def _once(self, make: Callable[[], Identity], *question: object) -> Identity:
        if question not in self._kept:
            self._kept[question] = make()
        return self._kept[question]

    def _self_signed(self, names: Sequence[str], *critical: x509.ExtensionType) -> Identity:
        key = KINDS["ecdsa"]()
        subject = subject_of(names[0])
        builder = self._builder(subject, key, Validity()).add_extension(
            x509.SubjectAlternativeName(list(map(general_name, names))), False
        )
        for extension in critical:
            builder = builder.add_extension(extension, True)
        return self.identity((self._sign(builder, key, None, name=subject),), key)

    def _at(self, days: float) -> datetime:
        return self._now + days * DAY

    def _builder(self, subject: x509.Name, key: Key, validity: Validity) -> x509.CertificateBuilder:
        public = key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._at(validity.since))
            .not_valid_after(self._at(validity.until))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        )

    def _sign(
        self, builder: x509.CertificateBuilder, key: Key, issuer: Authority | None, name: x509.Name
    ) -> x509.Certificate:
        """By the issuer, or by itself."""
        if issuer is None:
            by, signer = name, key
        else:
            by, signer = issuer.certificate.subject, issuer.private_key
            builder = builder.add_extension(_key_identifier(issuer.certificate), False)
        return builder.issuer_name(by).sign(signer, digest_for(signer))

    def _write(self, name: str, content: bytes, mode: int = 0o644) -> Path:
        self._files += 1
        path = self.folder / f"{self._files}-{name}"
        path.touch(mode)
        path.chmod(mode)  # whatever the umask
        path.write_bytes(content)
        return path


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Of an authority, or of one who signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)
