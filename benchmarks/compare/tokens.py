"""Signed tokens (JWT, RFC 7519) for the scenarios that measure how callers are identified.

One issuer with one key, RSA 2048 or ECDSA P-256. A token has the claims that a gateway checks
(issuer, audience, time) and some that it only reads, and names one of SUBJECTS_KNOWN subjects. All
are made before anything is measured, and written as files of requests: `known` has a few tokens
that are sent over and over, and each other file has tokens that no other file has.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.subjects import Unavailable

ISSUER = "https://id.example.com/realms/bench"
AUDIENCE = "orders"
KID = "bench-1"
LIFETIME = 86_400  # seconds: longer than any run
FEW = 8  # tokens of a row whose tokens are known
SUBJECTS_KNOWN = 1000  # as many as there are keys in the rows with policies
SPEED = {"RS256": ("rsa2048", "+F2"), "ES256": ("ecdsap256", "+F4")}  # `openssl speed`, its line


@dataclass(frozen=True)
class Tokens:
    """What the requests of a scenario carry."""

    algorithm: str = "RS256"  # or ES256
    first: bool = False  # each request has a token of its own, which was never seen before
    requests: int = 10_000  # in each visit


def subject(number: int) -> str:
    """The subject of the token with this number."""
    return f"subject-{number % SUBJECTS_KNOWN}"


def b64(data: bytes) -> str:
    """base64url without padding (RFC 7515)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """An issuer's private key. Raises Unavailable without `cryptography`."""

    def __init__(self, algorithm: str) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric import ec, rsa
        except ImportError as e:
            raise Unavailable("pip install cryptography") from e
        self.algorithm = algorithm
        self._key: Any
        if algorithm == "RS256":
            self._key = rsa.generate_private_key(65537, 2048)
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())

    def _sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        if self.algorithm == "RS256":
            return bytes(self._key.sign(data, padding.PKCS1v15(), SHA256()))
        r, s = utils.decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def token(self, number: int, now: int, **others: Any) -> str:
        """The token with this number: another one for each. `others`: claims that differ."""
        header = {"alg": self.algorithm, "typ": "JWT", "kid": KID}
        claims = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject(number), "iat": now,
            "exp": now + LIFETIME, "jti": f"5c1d2f7e-9a4b-4c55-8d10-{number:012d}",
            "azp": "bench-client", "scope": "openid orders:read orders:write",
            **others,
        }  # fmt: skip
        parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
        signed = ".".join(map(b64, parts))
        return f"{signed}.{b64(self._sign(signed.encode()))}"

    def pem(self) -> bytes:
        """The public key, as HAProxy reads it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self._key.public_key()
        return bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def jwks(self) -> dict[str, Any]:
        """The public key, as issuers publish it (RFC 7517)."""
        numbers = self._key.public_key().public_numbers()
        if self.algorithm == "RS256":
            own = {"kty": "RSA", "n": _number(numbers.n, 256), "e": _number(numbers.e, 3)}
        else:
            own = {"kty": "EC", "crv": "P-256", "x": _number(numbers.x), "y": _number(numbers.y)}
        return {"keys": [{**own, "kid": KID, "alg": self.algorithm, "use": "sig"}]}


def _number(value: int, size: int = 32) -> str:
    return b64(value.to_bytes(size, "big"))


@dataclass(frozen=True)
class Issued:
    """Files of an issuer, and of the requests that carry its tokens."""

    pem: Path
    jwks: Path
    sample: str  # a token that is in none of the files
    visits: tuple[Path, ...]  # the requests of each visit; where tokens are known, all the same


def issue(folder: Path, wanted: Tokens, visits: int, path: str) -> Issued:
    """Makes a key, tokens for so many visits, and requests for `path` with them.

    Raises Unavailable.
    """
    signer = Signer(wanted.algorithm)
    folder.mkdir(parents=True, exist_ok=True)
    pem, jwks = folder / "issuer.pem", folder / "issuer.json"
    pem.write_bytes(signer.pem())
    jwks.write_text(json.dumps(signer.jwks()))
    now = int(time.time())
    numbers = iter(range(1, 1_000_000_000))

    def requests(count: int) -> Iterator[str]:
        for _ in range(count):
            yield f"{path}\tAuthorization: Bearer {signer.token(next(numbers), now)}\n"

    if wanted.first:
        files = [folder / f"requests-{i}" for i in range(visits)]
        for file in files:
            file.write_text("".join(requests(wanted.requests)))
    else:
        known = folder / "requests-known"
        known.write_text("".join(requests(FEW)))
        files = [known] * visits
    return Issued(pem, jwks, signer.token(0, now), tuple(files))


def floor_us(algorithm: str, core: int) -> float | None:
    """What a verification by libcrypto alone takes on a core, µs, as `openssl speed` measures it;
    None without it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    name, mark = SPEED[algorithm]
    command = ["taskset", "-c", str(core), openssl, "speed", "-mr", "-seconds", "1", name]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return verify_us(said, mark)


def verify_us(said: str, mark: str) -> float | None:
    """Reads the line of `openssl speed -mr` that begins with `mark`."""
    found = re.search(rf"^{re.escape(mark)}:\d+:\d+:([\d.]+):([\d.]+)$", said, re.MULTILINE)
    return 1e6 / float(found.group(2)) if found and float(found.group(2)) else None
