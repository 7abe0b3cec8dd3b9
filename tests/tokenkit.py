"""Tokens for tests: an issuer with its keys, and what a keyring says about it."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import IssuerEntry, Keyring, TokenKey

HASHES: dict[str, type[HashAlgorithm]] = {"256": SHA256, "384": SHA384, "512": SHA512}
CURVES: dict[str, ec.EllipticCurve] = {
    "256": ec.SECP256R1(),
    "384": ec.SECP384R1(),
    "512": ec.SECP521R1(),
}
Private = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | bytes
)


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Key:
    """A key that signs with one algorithm."""

    def __init__(self, algorithm: str, kid: str = "", private: Private | None = None) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private = private if private is not None else self._new()

    def _new(self) -> Private:
        kind, size = self.algorithm[:2], self.algorithm[2:]
        if kind in ("RS", "PS"):
            return rsa.generate_private_key(65537, 2048)
        if kind == "ES":
            return ec.generate_private_key(CURVES[size])
        if self.algorithm == "Ed448":
            return ed448.Ed448PrivateKey.generate()
        return b"a secret of 32 octets or more..." if kind == "HS" else _ed25519()

    @property
    def public(self) -> bytes:
        """DER; of HS algorithms, the secret."""
        if isinstance(self.private, bytes):
            return self.private
        found = self.private.public_key()
        return found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def entry(self, algorithms: list[str] | None = None) -> TokenKey:
        name = "EdDSA" if self.algorithm.startswith("Ed") else self.algorithm
        return TokenKey(algorithms=algorithms or [name], key=memoryview(self.public), kid=self.kid)

    def sign(self, text: bytes, algorithm: str | None = None) -> bytes:
        name = algorithm or self.algorithm
        key = self.private
        if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
            return key.sign(text)
        digest = HASHES[name[2:]]()
        if isinstance(key, bytes):
            mac = HMAC(key, digest)
            mac.update(text)
            return mac.finalize()
        if isinstance(key, ec.EllipticCurvePrivateKey):
            size = (key.key_size + 7) // 8
            r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(digest)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if name.startswith("PS"):
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            return key.sign(text, pss, digest)
        return key.sign(text, padding.PKCS1v15(), digest)


def _ed25519() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def token(
    key: Key, claims: dict[str, Any] | str | bytes, header: dict[str, Any] | str | None = None
) -> str:
    """A signed token. Texts instead of dictionaries are taken as they are."""
    if header is None:
        header = {"alg": key.algorithm, "typ": "JWT"} | ({"kid": key.kid} if key.kid else {})
    head = header if isinstance(header, str) else json.dumps(header)
    body = claims if isinstance(claims, str | bytes) else json.dumps(claims)
    body = body.encode() if isinstance(body, str) else body
    signed = f"{b64(head.encode())}.{b64(body)}"
    return f"{signed}.{b64(key.sign(signed.encode()))}"


class Issuer:
    """An issuer with one key or more."""

    def __init__(self, *keys: Key, url: str = "https://id.example.com", **entry: Any) -> None:
        self.keys = list(keys) or [Key("ES256", "k1")]
        self.url = url
        self.settings: dict[str, Any] = {
            "id": 7,
            "name": "corp",
            "subject": ["sub"],
            "scopes": [["scope"], ["scp"]],
            **entry,
        }

    def claims(self, **more: Any) -> dict[str, Any]:
        """The claims of a good token; None leaves one out."""
        now = int(time.time())
        usual = {"iss": self.url, "sub": "alice", "iat": now, "exp": now + 600}
        return {name: value for name, value in {**usual, **more}.items() if value is not None}

    def token(self, **claims: Any) -> str:
        """A good token, signed with the newest key."""
        return token(self.keys[-1], self.claims(**claims))

    @property
    def entry(self) -> IssuerEntry:
        return IssuerEntry(
            issuer=self.url, keys=[key.entry() for key in self.keys], **self.settings
        )


def ring_of(issuers: Iterable[Issuer], serial: int = 1) -> Keyring:
    """A keyring with these issuers, as a worker gets it."""
    written = Keyring(serial=serial, issuers=[each.entry for each in issuers])
    fd = keyring.write(written)
    try:
        return keyring.read(fd)
    finally:
        os.close(fd)
