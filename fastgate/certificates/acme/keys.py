"""Private keys, requests for certificates, certificates for challenges, identifiers.

Keys are ECDSA with P-256, which every client and authority supports; each certificate has a new
one. The names are in the request's extension, as authorities want them, not in its subject.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from fastgate.certificates.pairs import Pair

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""The extension of certificates for tls-alpn-01 (RFC 8737)."""
_OCTET_STRING_OF_32 = b"\x04\x20"
_CHALLENGE_LIFE = timedelta(days=7)
_SKEW = timedelta(hours=1)


class Facts(NamedTuple):
    """What the schedule needs to know of a certificate."""

    fingerprint: str
    """SHA-256, in hex."""
    not_before: datetime
    not_after: datetime
    renewal_id: str | None
    """Its identifier for renewal information (RFC 9773, 4.1); None: it has no key identifier."""

    @property
    def lifetime(self) -> timedelta:
        return self.not_after - self.not_before


def new_key() -> str:
    """A new private key: PEM, PKCS #8."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def request(key: str, hosts: Sequence[str]) -> x509.CertificateSigningRequest:
    """A request for a certificate for these hosts."""
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.add_extension(names, critical=False).sign(_load(key), hashes.SHA256())


def _load(key: str) -> ec.EllipticCurvePrivateKey:
    loaded = load_pem_private_key(key.encode(), password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an ECDSA key")
    return loaded


def challenge_certificate(host: str, key_authorization: str) -> tuple[bytes, bytes]:
    """The certificate that proves a host by tls-alpn-01, and its key; both DER (key: PKCS #8)."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    digest = hashlib.sha256(key_authorization.encode()).digest()
    proof = x509.UnrecognizedExtension(ACME_IDENTIFIER, _OCTET_STRING_OF_32 + digest)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _CHALLENGE_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(proof, critical=True)
        .sign(key, hashes.SHA256())
    )
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.DER), der


def facts_of(pair: Pair) -> Facts:
    """What a certificate says."""
    leaf = x509.load_der_x509_certificate(pair.chain[0])
    return Facts(
        fingerprint=pair.fingerprint,
        not_before=datetime.fromtimestamp(pair.not_before, UTC),
        not_after=datetime.fromtimestamp(pair.not_after, UTC),
        renewal_id=_renewal_id(leaf),
    )


def _renewal_id(leaf: x509.Certificate) -> str | None:
    try:
        found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    if found.value.key_identifier is None:
        return None
    # The serial as in DER: an octet of zeros in front if the first bit is set.
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return f"{_base64(found.value.key_identifier)}.{_base64(serial)}"


def _base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
