"""Facts of X.509 certificates, in words and numbers."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from fastgate.certificates.pem import CERTIFICATES, Block, PemError

RSA_LEAST = 2048
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
BROKEN_HASHES = frozenset({"md5", "sha1"})


def certificates_in(found: Sequence[Block], where: str) -> list[x509.Certificate]:
    """The certificates among the blocks of a file. Raises PemError."""
    parsed = []
    for block in found:
        if block.label in CERTIFICATES:
            try:
                with warnings.catch_warnings():  # such as about the serial number 0
                    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
                    parsed.append(x509.load_der_x509_certificate(block.der))
            except ValueError as error:
                raise PemError(
                    f"{where}: certificate {len(parsed) + 1} cannot be read: {error}",
                    "`openssl x509 -in FILE -text` shows what openssl makes of it.",
                ) from None
    return parsed


def name_of(certificate: x509.Certificate) -> str:
    """The common name of its subject, or its subject, or its hosts, for people."""
    return _name(certificate.subject) or ", ".join(hosts_of(certificate)) or "a nameless one"


def issuer_of(certificate: x509.Certificate) -> str:
    """The name of its issuer, for people."""
    return _name(certificate.issuer)


def _name(name: x509.Name) -> str:
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(kind):
            return str(attribute.value)
    return name.rfc4514_string()


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The host names that it is valid for, in lower case, each once."""
    names = _alternatives(certificate)
    return [] if names is None else _once(names.get_values_for_type(x509.DNSName))


def addresses_of(certificate: x509.Certificate) -> list[str]:
    """The IP addresses that it is valid for."""
    names = _alternatives(certificate)
    return [] if names is None else _once(map(str, names.get_values_for_type(x509.IPAddress)))


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.lower().rstrip(".") for name in names))


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may issue others."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def usable_for(certificate: x509.Certificate) -> frozenset[str]:
    """ "server" and "client": what its extended key usage allows."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset({"server", "client"})
    allowed = {
        ExtendedKeyUsageOID.SERVER_AUTH: {"server"},
        ExtendedKeyUsageOID.CLIENT_AUTH: {"client"},
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: {"server", "client"},
    }
    return frozenset(use for each in usage for use in allowed.get(each, ()))


def has_issuer_address(certificate: x509.Certificate) -> bool:
    """Whether it says where its issuer's certificate can be had, as those of public authorities
    do."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except x509.ExtensionNotFound:
        return False
    return any(
        each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in found.value
    )


def self_issued(certificate: x509.Certificate) -> bool:
    """Whether it was issued by its own subject: a root, or self-signed."""
    return certificate.issuer == certificate.subject


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key has signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def begins(certificate: x509.Certificate) -> int:
    """Unix time from which it is valid."""
    return int(certificate.not_valid_before_utc.timestamp())


def ends(certificate: x509.Certificate) -> int:
    """Unix time after which it is expired."""
    return int(certificate.not_valid_after_utc.timestamp())


def day(unix: int) -> str:
    """A Unix time as a date, for people."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, in hex."""
    return hashlib.sha256(der).hexdigest()


def public_key_of(certificate: x509.Certificate) -> bytes:
    """Its SubjectPublicKeyInfo, in DER."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def kind_of_key(key: object) -> str:
    """The kind of a public or private key, such as "RSA 2048", "ECDSA P-256", "Ed25519".

    Raises ValueError, with the reason, for one that TLS clients do not accept."""
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        if key.key_size < RSA_LEAST:
            raise ValueError(f"an RSA key of {key.key_size} bits; at least {RSA_LEAST} are needed")
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        if key.curve.name not in CURVES:
            known = ", ".join(CURVES.values())
            raise ValueError(f"an ECDSA key on the curve {key.curve.name}; clients know {known}")
        return f"ECDSA {CURVES[key.curve.name]}"
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return "Ed25519"
    raise ValueError("a key that is neither RSA nor ECDSA nor Ed25519")


def hash_of_signature(certificate: x509.Certificate) -> str:
    """The hash that its signature is made of; empty if the algorithm has none of its own."""
    try:
        found = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return "" if found is None else found.name
