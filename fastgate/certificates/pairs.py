"""A certificate with its key and its chain: found in PEM blocks of any order, and checked.

    blocks ── key ──▶ leaf: the certificate with the key's public key
                        └─ issuer, by name and signature ─▶ … ─▶ chain, without the root

What makes the pair useless is a PemError: no certificate for the key, an encrypted key, a link of
the chain whose signature is wrong, a key that clients refuse. What may be right for the clients at
hand is a remark: an incomplete chain, certificates of something else in the file, no host names. A
pair that is expired or not valid yet can be read; `validity` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from fastgate.certificates import facts
from fastgate.certificates.pem import ENCRYPTED, KEYS, OPENSSH, Block, PemError, blocks
from fastgate.certificates.sources import Content, check_private

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


class Pair(NamedTuple):
    """A certificate and its key, as workers need them, and what people want to know."""

    subject: str
    issuer: str
    hosts: tuple[str, ...]
    """Lower case; "*.example.com" for one label."""
    addresses: tuple[str, ...]
    """IP addresses that it is valid for."""
    key_type: str
    """ "RSA 2048", "ECDSA P-256", "Ed25519"."""
    not_before: int
    """Unix seconds."""
    not_after: int
    fingerprint: str
    """SHA-256 of the certificate, in hex."""
    usable_for: frozenset[str]
    """ "server", "client"."""
    chain: tuple[bytes, ...]
    """DER, the leaf first; without the root."""
    key: bytes
    """DER, PKCS #8."""
    remarks: tuple[str, ...]
    """What may be wrong with it, as sentences without a full stop."""

    def __repr__(self) -> str:
        return f"Pair({self.subject!r}, {self.fingerprint[:16]!r})"  # never the key

    def covers(self, host: str) -> bool:
        """Whether it is valid for a host name, or for all that a wildcard stands for."""
        if host in self.hosts:
            return True
        _, dot, rest = host.partition(".")
        return bool(dot) and not host.startswith("*.") and f"*.{rest}" in self.hosts


def validity(pair: Pair, now: float) -> str:
    """ "valid", "expired" or "not yet valid"."""
    if now > pair.not_after:
        return "expired"
    return "not yet valid" if now < pair.not_before else "valid"


def read_pair(cert: Content, key: Content | None) -> Pair:
    """The pair in these files; without `key`, the key is in `cert` too. Raises PemError."""
    try:
        return _read(cert, key)
    except PemError:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # An extension that cannot be parsed, or a kind of key that the library does not know.
        raise PemError(
            f"{cert.where}: the certificate cannot be used: {error}", "", "cert"
        ) from None


def _read(cert: Content, key: Content | None) -> Pair:
    with _field("cert"):
        found = blocks(cert.data, cert.where)
        certificates = facts.certificates_in(found, cert.where)
    if not certificates:
        raise PemError(
            f"{cert.where} has no certificate, only {_labels(found)}",
            "`cert` is the file with the certificate; was it exchanged with `key`?",
            "cert",
        )
    holder = key or cert
    with _field("cert" if key is None else "key"):
        private, key_type = _private_key(holder)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    leaves = [each for each in certificates if facts.public_key_of(each) == public]
    if not leaves:
        raise PemError(
            f"the key in {holder.where} does not belong to the certificate of "
            f"{facts.name_of(certificates[0])} in {cert.where}",
            "Each renewal may make a new key: take both from the same one. `openssl x509 -noout "
            "-pubkey -in CERT` and `openssl pkey -pubout -in KEY` print the same if they fit.",
            "key",
        )
    leaf = max(leaves, key=facts.ends)
    with _field("cert"):
        chain = _chain(leaf, certificates, cert.where)
    remarks = _remarks(chain, certificates, cert.where)
    if facts.self_issued(chain[-1]) and len(chain) > 1:
        chain.pop()  # clients have the root, or do not trust it
    return _pair(chain, private, key_type, remarks)


def pair_of(chain: Sequence[bytes], key: bytes) -> Pair:
    """The pair of a chain and a key in DER form that were a pair before. Raises ValueError."""
    private = load_der_private_key(key, password=None)
    assert isinstance(private, PrivateKey)
    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    return _pair(certificates, private, facts.kind_of_key(private), [])


def _pair(
    chain: Sequence[x509.Certificate], private: PrivateKey, key_type: str, remarks: Sequence[str]
) -> Pair:
    leaf = chain[0]
    ders = tuple(facts.der_of(each) for each in chain)
    return Pair(
        subject=facts.name_of(leaf),
        issuer=facts.issuer_of(leaf),
        hosts=tuple(facts.hosts_of(leaf)),
        addresses=tuple(facts.addresses_of(leaf)),
        key_type=key_type,
        not_before=facts.begins(leaf),
        not_after=facts.ends(leaf),
        fingerprint=facts.fingerprint(ders[0]),
        usable_for=facts.usable_for(leaf),
        chain=ders,
        key=private.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        remarks=tuple(remarks),
    )


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Errors are about this field of the document."""
    try:
        yield
    except PemError as error:
        error.field = error.field or name
        raise


def _labels(found: Sequence[Block]) -> str:
    return ", ".join(dict.fromkeys(block.label for block in found))


def _private_key(content: Content) -> tuple[PrivateKey, str]:
    """The private key in a file, and its kind."""
    where = content.where
    found = blocks(content.data, where)
    keys = [block for block in found if block.label in KEYS or block.label == ENCRYPTED]
    if not keys:
        if any(block.label == OPENSSH for block in found):
            raise PemError(
                f"{where} has a key in OpenSSH's form",
                f"Convert a copy of it: `ssh-keygen -p -m PKCS8 -f {where}`.",
            )
        raise PemError(
            f"{where} has no private key, only {_labels(found)}",
            "Write the file with the key as `key`.",
        )
    check_private(content)
    if len(keys) > 1:
        raise PemError(f"{where} has {len(keys)} private keys", "Leave only the certificate's.")
    if keys[0].encrypted:
        raise PemError(
            f"the private key in {where} is encrypted, and nobody could enter its password when "
            "the gateway starts",
            f"Decrypt it: `openssl pkey -in {where} -out NEW && chmod 640 NEW`.",
        )
    try:
        key = load_der_private_key(keys[0].der, password=None)
        kind = facts.kind_of_key(key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Texts of our own say which key it is; those of the library never quote it.
        raise PemError(
            f"the private key in {where} cannot be used: {error}",
            "Make one with `openssl ecparam -name prime256v1 -genkey` or `openssl genrsa 2048`.",
        ) from None
    assert isinstance(key, PrivateKey)
    return key, kind


def _chain(
    leaf: x509.Certificate, certificates: Sequence[x509.Certificate], where: str
) -> list[x509.Certificate]:
    """The leaf and its issuers, as far as they are in the file. Raises PemError."""
    chain = [leaf]
    while not facts.self_issued(chain[-1]):
        last = chain[-1]
        named = [each for each in certificates if each.subject == last.issuer and each not in chain]
        issuer = next((each for each in named if facts.issued_by(last, each)), None)
        if issuer is None and named:
            raise PemError(
                f"{where}: the chain is broken: the certificate of {facts.name_of(last)} names "
                f"{facts.name_of(named[0])} as its issuer, but was not signed with the key of the "
                "one in the file",
                "Use the intermediate certificates that came with this certificate.",
            )
        if issuer is None:
            break
        chain.append(issuer)
    for each in chain:
        name = facts.hash_of_signature(each)
        if name in facts.BROKEN_HASHES and not facts.self_issued(each):
            raise PemError(
                f"{where}: the certificate of {facts.name_of(each)} is signed with "
                f"{name.upper()}, which TLS libraries refuse",
                "Have it issued again.",
            )
    return chain


def _remarks(
    chain: Sequence[x509.Certificate], certificates: Sequence[x509.Certificate], where: str
) -> list[str]:
    remarks = []
    leaf = chain[0]
    if not facts.hosts_of(leaf) and not facts.addresses_of(leaf):
        remarks.append(
            f"{where}: the certificate has no subjectAltName, so it is valid for no host"
        )
    if len(chain) == 1 and not facts.self_issued(leaf) and facts.has_issuer_address(leaf):
        remarks.append(
            f"{where}: the certificate of its issuer, {facts.issuer_of(leaf)}, is missing; add it "
            "after the certificate, or clients that do not know it refuse the connection"
        )
    others = [each for each in certificates if each not in chain]
    if others:
        names = ", ".join(facts.name_of(each) for each in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        remarks.append(f"{where}: not part of the chain, and ignored: {names}{more}")
    for each in chain[1:]:
        if facts.ends(each) < facts.ends(leaf):
            remarks.append(
                f"{where}: the certificate of {facts.name_of(each)} in the chain expires on "
                f"{facts.day(facts.ends(each))}, before the one it has issued"
            )
    return remarks
