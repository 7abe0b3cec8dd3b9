"""Keys that verify tokens, read from JWKS documents (RFC 7517).

Keys are taken one by one. Those that cannot verify our tokens are *left out*: for encryption, of an
unknown type or curve, too short, with an algorithm that is not accepted, with the id of another
key. Private keys and secrets are *refused*: they must not be there, and whoever has read them can
issue tokens. Both are reported by name; the other keys are used.

`joserfc` builds the keys. It is imported with this module, late and only in control.
"""

from __future__ import annotations

import base64
import re
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives import serialization
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from fastgate.certificates.facts import kind_of_key
from fastgate.errors import FastGateError
from fastgate.issuers.roca import is_roca

MOST_KEYS = 100
"""Of one issuer."""
MOST_KID = 256
"""Characters of a key's id."""
RSA_LEAST, RSA_MOST = 2048, 8192
"""Bits: shorter keys are not secure, longer ones take too long to verify with."""
EXPONENT_LEAST, EXPONENT_MOST = 3, 64
"""An RSA key's public exponent: the least number, the most bits."""

RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
EC_ALGORITHMS = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",)}
ED_ALGORITHMS = ("EdDSA",)
_SAME = {"Ed25519": "EdDSA"}
"""Names of RFC 9864."""

_TYPES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "RSA": (RSAKey, ("n", "e")),
    "EC": (ECKey, ("crv", "x", "y")),
    "OKP": (OKPKey, ("crv", "x")),
}
"""Type → joserfc's class, and the members that make the key."""
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.A)


class KeysError(FastGateError):
    """A document has no keys that could be used, or is no document of keys."""


class IssuerKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key that verifies tokens."""

    kid: str
    """"": it has none."""
    kind: str
    """For people: "RSA 2048", "ECDSA P-256", "Ed25519"."""
    algorithms: tuple[str, ...]
    """That it may verify, as its issuer says."""
    spki: bytes
    """SubjectPublicKeyInfo, DER."""


class KeySet(NamedTuple):
    """The keys of a document."""

    keys: tuple[IssuerKey, ...]
    left_out: tuple[str, ...] = ()
    """Why keys are not used, one sentence each, which names the key."""
    refused: tuple[str, ...] = ()
    """The same, for private keys and secrets."""


class _LeftOut(ValueError):
    """Why a key is not used."""


class _Refused(_LeftOut):
    """The same, for what must not be there."""


def read_jwks(content: bytes) -> KeySet:
    """The keys of a JWKS document. Raises KeysError if it is none, or has no key to use."""
    try:
        document = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise KeysError(f"it is not JSON: {error}") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeysError('it is not a JWKS, `{"keys": [...]}`')
    if len(listed) > MOST_KEYS:
        raise KeysError(f"it has {len(listed)} keys; {MOST_KEYS} is the most")
    keys: dict[tuple[str, bytes], IssuerKey] = {}
    left_out, refused = [], []
    for number, jwk in enumerate(listed, 1):
        try:
            key = _read_key(jwk)
            _add(keys, key)
        except _Refused as reason:
            refused.append(f"the key {_name(jwk, number)} {reason}")
        except _LeftOut as reason:
            left_out.append(f"the key {_name(jwk, number)} {reason}")
    found = KeySet(tuple(keys.values()), tuple(left_out), tuple(refused))
    if not keys:
        raise KeysError("; ".join(["it has no key that can be used", *refused, *left_out]))
    return found


def _name(jwk: Any, number: int) -> str:
    """What a key is called in messages."""
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return repr(kid[:MOST_KID]) if isinstance(kid, str) and kid else f"number {number}"


def _add(keys: dict[tuple[str, bytes], IssuerKey], key: IssuerKey) -> None:
    """Raises _LeftOut for an id that another key has."""
    if key.kid and any(kid == key.kid and spki != key.spki for kid, spki in keys):
        raise _LeftOut("has the id of another key before it")
    same = keys.get((key.kid, key.spki))
    if same is not None:  # the same key, for another algorithm
        both = tuple(dict.fromkeys((*same.algorithms, *key.algorithms)))
        key = msgspec.structs.replace(key, algorithms=both)
    keys[key.kid, key.spki] = key


def _read_key(jwk: Any) -> IssuerKey:
    if not isinstance(jwk, dict):
        raise _LeftOut("is not an object")
    kty = jwk.get("kty")
    if kty == "oct" or "k" in jwk:
        raise _Refused("is a secret, which must not be among public keys")
    if any(name in jwk for name in _PRIVATE):
        raise _Refused("is a private key: whoever has read it can issue tokens")
    if not isinstance(kty, str) or kty not in _TYPES:
        raise _LeftOut(f"has the type {kty!r}, which is not known")
    _check_use(jwk)
    kid = jwk.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MOST_KID:
        raise _LeftOut(f"has an id that is no text of at most {MOST_KID} characters")
    public = _public_key(kty, jwk)
    kind, allowed = algorithms_of(public)
    return IssuerKey(
        kid=kid, kind=kind, algorithms=_algorithms(jwk, kind, allowed), spki=spki_of(public)
    )


def _check_use(jwk: dict[str, Any]) -> None:
    use, operations = jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if use != "sig":
        raise _LeftOut("is for encryption" if use == "enc" else f"is for {use!r}")
    if not isinstance(operations, list) or "verify" not in operations:
        raise _LeftOut("is not for verifying (`key_ops`)")


def _algorithms(jwk: dict[str, Any], kind: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    said = jwk.get("alg")
    if said is None:
        return allowed
    alg = _SAME.get(said, said) if isinstance(said, str) else said
    if alg not in allowed:
        raise _LeftOut(f"is for {said!r}, which {kind} cannot be used for here")
    return (alg,)


def _public_key(kty: str, jwk: dict[str, Any]) -> Any:
    """The key, as an object of `cryptography`. Raises _LeftOut."""
    kind, members = _TYPES[kty]
    made = {"kty": kty}
    for name in members:
        value = jwk.get(name)
        if not isinstance(value, str) or (name != "crv" and not _BASE64URL.fullmatch(value)):
            raise _LeftOut(f"has no valid {name!r}")
        made[name] = value
    if kty == "RSA":
        _check_rsa(_number(made["n"]), _number(made["e"]))
    try:
        return kind.import_key(made).public_key
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise _LeftOut(f"cannot be used: {error or type(error).__name__}") from None


def _number(text: str) -> int:
    try:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
    except ValueError:
        raise _LeftOut("is not valid base64url") from None


def _check_rsa(modulus: int, exponent: int) -> None:
    bits = modulus.bit_length()
    if not RSA_LEAST <= bits <= RSA_MOST:
        raise _LeftOut(f"is RSA with {bits} bits; {RSA_LEAST} to {RSA_MOST} are accepted")
    if exponent.bit_length() > EXPONENT_MOST:
        raise _LeftOut(f"has an exponent of more than {EXPONENT_MOST} bits")
    if exponent < EXPONENT_LEAST or not exponent & 1:
        raise _LeftOut(f"has the exponent {exponent}; odd numbers from {EXPONENT_LEAST} are secure")
    if is_roca(modulus):
        raise _LeftOut("is a weak RSA key of a smart card (ROCA, CVE-2017-15361); replace it")


def algorithms_of(public: Any) -> tuple[str, tuple[str, ...]]:
    """The kind of a public key, and what it can verify. Raises ValueError, with the reason."""
    try:
        kind = kind_of_key(public)
    except ValueError as error:
        raise _LeftOut(f"is {error}") from None
    if kind.startswith("RSA"):
        numbers = public.public_numbers()
        _check_rsa(numbers.n, numbers.e)
        return kind, RSA_ALGORITHMS
    if kind == "Ed25519":
        return kind, ED_ALGORITHMS
    return kind, EC_ALGORITHMS[kind.removeprefix("ECDSA ")]


def spki_of(public: Any) -> bytes:
    """The SubjectPublicKeyInfo of a public key, in DER."""
    return bytes(
        public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
