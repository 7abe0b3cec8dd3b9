"""Pins: public keys of certificates by their SHA-256, as the configuration writes them."""

from __future__ import annotations

import base64
import hashlib

from fastgate.certificates.facts import certificates_in, public_key_of
from fastgate.certificates.pem import PemError, blocks


def pins_of(content: bytes, where: str) -> list[str]:
    """The pins of the certificates in PEM form, in their order; at least one. `where`: what it is,
    for errors. Raises PemError."""
    certificates = certificates_in(blocks(content, where), where)
    if not certificates:
        raise PemError(f"{where} has no certificate")
    return [pin_of(public_key_of(each)) for each in certificates]


def pin_of(spki: bytes) -> str:
    """The pin of a SubjectPublicKeyInfo (DER)."""
    return f"sha256/{base64.b64encode(hashlib.sha256(spki).digest()).decode()}"
