"""Digests: what proves who calls, as the one index of credentials knows it.

The digest of an API key is the SHA-256 of the key, which can be any bytes. Everything else that
leads to a consumer is SHA-512/256 (FIPS 180-4), another function, so that nobody can choose a key
whose digest is that of a subject or a certificate:

    SHA-512/256( "fastgate " kind 00 part 00 part ... )

    kind         parts
    subject      name of the issuer in the configuration, subject
    certificate  SHA-256 of the SubjectPublicKeyInfo
    basic        user, SHA-256 of the secret
    consumer     id of the consumer: for requests without a credential that count as it
    token        the token: a token that is revoked
    token id     name of the issuer in the configuration, `jti`: a token that is revoked

Text is UTF-8. No part but the last contains 00, or the last has a fixed length; so different parts
never make the same input.

**A revoked token** is known by what is signed: of a JWT, `signed_part` is everything before the
last dot. With ECDSA, whoever has a token can make another valid signature for it, and so another
text. The issuer's answer about an opaque token is for its whole text.

The core computes the same. `subject("corp", "user-1")` is
d0951848fad2e5577a0fb48c8429eb1cce67f081a23850ac1112a43475d547cf.
"""

from __future__ import annotations

import hashlib

LENGTH = 32
"""Bytes of a digest."""
NAMES = {"key": "key", "subject": "subject", "certificate": "certificate", "basic": "user"}
"""The kinds of credentials that consumers have, in messages."""


def subject(issuer: str, subject: str) -> bytes:
    """What tokens of an issuer say about who it is. `issuer`: its name in the configuration."""
    return _digest("subject", issuer.encode(), subject.encode())


def certificate(spki_sha256: bytes) -> bytes:
    """A client certificate, by the SHA-256 of its SubjectPublicKeyInfo."""
    return _digest("certificate", _whole(spki_sha256))


def basic(user: str, secret_sha256: bytes) -> bytes:
    """A user of HTTP Basic with the SHA-256 of the secret."""
    return _digest("basic", user.encode(), _whole(secret_sha256))


def consumer(ident: str) -> bytes:
    """A consumer as whom requests without a credential count."""
    return _digest("consumer", ident.encode())


def token(text: str) -> bytes:
    """A token: the `signed_part` of a JWT, the whole text of an opaque token."""
    return _digest("token", text.encode())


def token_id(issuer: str, jti: str) -> bytes:
    """A token by its `jti`. `issuer`: its name in the configuration."""
    return _digest("token id", issuer.encode(), jti.encode())


def signed_part(jwt: str) -> str:
    """What the signature of a JWT is for: everything before the last dot."""
    return jwt.rpartition(".")[0]


def _digest(kind: str, *parts: bytes) -> bytes:
    return hashlib.new("sha512_256", b"\0".join([f"fastgate {kind}".encode(), *parts])).digest()


def _whole(sha256: bytes) -> bytes:
    if len(sha256) != LENGTH:
        raise ValueError(f"a SHA-256 has {LENGTH} bytes, not {len(sha256)}")
    return sha256
