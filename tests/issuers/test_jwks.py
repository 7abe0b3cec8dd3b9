"""Keys of JWKS documents: taken one by one, left out or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from providerkit import SigningKey, b64

from fastgate.issuers.jwks import (
    EXPONENT_MOST,
    MOST_KEYS,
    RSA_ALGORITHMS,
    KeysError,
    KeySet,
    read_jwks,
)

ONE = SigningKey("one")
RSA = SigningKey("rsa", "RS256")


def read(*jwks: Any) -> KeySet:
    return read_jwks(json.dumps({"keys": list(jwks)}).encode())


@pytest.mark.parametrize(
    ("key", "kind", "algorithms"),
    [
        (SigningKey("a", "RS256"), "RSA 2048", RSA_ALGORITHMS),
        (SigningKey("b", "ES256"), "ECDSA P-256", ("ES256",)),
        (SigningKey("c", "ES384"), "ECDSA P-384", ("ES384",)),
        (SigningKey("d", "ES512"), "ECDSA P-521", ("ES512",)),
        (SigningKey("e", "EdDSA"), "Ed25519", ("EdDSA",)),
    ],
)
def test_keys_of_every_type(key: SigningKey, kind: str, algorithms: tuple[str, ...]) -> None:
    [found] = read(key.jwk(alg=None)).keys
    assert (found.kid, found.kind, found.algorithms) == (key.kid, kind, algorithms)
    assert found.spki == key.spki
    [narrow] = read(key.jwk()).keys
    assert narrow.algorithms == (key.alg,)


def test_members_that_say_nothing_are_not_needed() -> None:
    [found] = read(ONE.jwk(kid=None, use=None, alg=None, x5t="ignored", x5c=["ignored"])).keys
    assert (found.kid, found.algorithms) == ("", ("ES256",))
    assert read(ONE.jwk(key_ops=["verify"])).keys
    assert read(SigningKey("e", "EdDSA").jwk(alg="Ed25519")).keys[0].algorithms == ("EdDSA",)


def private(key: SigningKey) -> dict[str, Any]:
    return {**key.jwk(), "d": b64(b"x" * 32)}


def point(name: str) -> dict[str, Any]:
    """A key whose point is not on the curve."""
    return ONE.jwk(**{name: b64(b"\1" * 32)})


EVEN = RSA.jwk(n=b64((1 << 2047).to_bytes(256, "big")), e="AQ")
KOBLITZ = ec.generate_private_key(ec.SECP256K1()).public_key().public_numbers()


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        (ONE.jwk(kid="x", use="enc"), "the key 'x' is for encryption"),
        (ONE.jwk(kid="x", use="other"), "the key 'x' is for 'other'"),
        (ONE.jwk(kid="x", use=5), "the key 'x' is for 5"),
        (ONE.jwk(kid="x", key_ops=["encrypt"]), "the key 'x' is not for verifying"),
        (ONE.jwk(kid="x", key_ops="verify"), "the key 'x' is not for verifying"),
        (ONE.jwk(kid="x", kty="PQ"), "the key 'x' has the type 'PQ', which is not known"),
        (ONE.jwk(kid="x", kty=None), "the key 'x' has the type None"),
        (ONE.jwk(kid="x", kty=["EC"]), "the key 'x' has the type ['EC']"),
        (ONE.jwk(kid="x", alg="ES384"), "is for 'ES384', which ECDSA P-256 cannot be used for"),
        (RSA.jwk(kid="x", alg="RSA-OAEP"), "is for 'RSA-OAEP', which RSA 2048 cannot"),
        (RSA.jwk(kid="x", alg="HS256"), "is for 'HS256', which RSA 2048 cannot"),
        (RSA.jwk(kid="x", alg="none"), "is for 'none'"),
        (ONE.jwk(kid="x", alg=["ES256"]), "is for ['ES256']"),
        (ONE.jwk(kid=5), "the key number 2 has an id that is no text"),
        (ONE.jwk(kid="x" * 257), "has an id that is no text of at most 256"),
        (ONE.jwk(kid="x", x=None), "the key 'x' has no valid 'x'"),
        (ONE.jwk(kid="x", y="a+b/"), "the key 'x' has no valid 'y'"),
        (ONE.jwk(kid="x", x=ONE.jwk()["x"] + "\n"), "the key 'x' has no valid 'x'"),
        (ONE.jwk(kid="x", y=7), "the key 'x' has no valid 'y'"),
        (point("y"), "the key 'one' cannot be used"),
        (ONE.jwk(kid="x", crv="P-999"), "the key 'x' cannot be used"),
        (
            {"kty": "EC", "crv": "secp256k1", "kid": "x",
             "x": b64(KOBLITZ.x.to_bytes(32, "big")), "y": b64(KOBLITZ.y.to_bytes(32, "big"))},
            "the key 'x'",
        ),
        (SigningKey("x", "EdDSA").jwk(x=b64(b"short")), "the key 'x' cannot be used"),
        (SigningKey("x", "EdDSA").jwk(crv="X25519"), "the key 'x'"),
        (RSA.jwk(kid="x", n=b64(b"\xff" * 128)), "is RSA with 1024 bits; 2048 to 8192 are"),
        (RSA.jwk(kid="x", n=b64(b"\xff" * 1025)), "is RSA with 8200 bits"),
        (RSA.jwk(kid="x", e=b64(b"\xff" * 9)), f"an exponent of more than {EXPONENT_MOST} bits"),
        (RSA.jwk(kid="x", n="A"), "is not valid base64url"),
        ({**EVEN, "kid": "x"}, "the key 'x' has the exponent 1; odd numbers from 3 are secure"),
        ("text", "the key number 2 is not an object"),
        (None, "the key number 2 is not an object"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_verify_is_left_out(jwk: Any, why: str) -> None:
    good = SigningKey("good")
    found = read(good.jwk(), jwk)
    assert [key.kid for key in found.keys] == ["good"]
    [said] = found.left_out
    assert why in said
    assert found.refused == ()


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        (private(ONE), "the key 'one' is a private key: whoever has read it can issue tokens"),
        (private(RSA), "the key 'rsa' is a private key"),
        ({**RSA.jwk(), "p": "AQAB"}, "the key 'rsa' is a private key"),
        ({"kty": "oct", "kid": "s", "k": "c2VjcmV0"}, "the key 's' is a secret"),
        ({"kty": "oct"}, "the key number 2 is a secret"),
        ({**ONE.jwk(), "k": "c2VjcmV0"}, "the key 'one' is a secret"),
    ],
)
def test_what_must_not_be_there_is_refused(jwk: Any, why: str) -> None:
    found = read(SigningKey("good").jwk(), jwk)
    assert [key.kid for key in found.keys] == ["good"]
    [said] = found.refused
    assert said.startswith(why)
    assert "c2VjcmV0" not in said
    assert found.left_out == ()


def test_two_keys_with_one_id() -> None:
    """The first is used: which of them a token means cannot be known."""
    other = SigningKey("one")
    found = read(ONE.jwk(), other.jwk())
    assert [key.spki for key in found.keys] == [ONE.spki]
    assert found.left_out == ("the key 'one' has the id of another key before it",)


def test_the_same_key_twice() -> None:
    """Some providers publish a key once for each of its algorithms."""
    found = read(RSA.jwk(alg="RS256"), RSA.jwk(alg="PS256"), RSA.jwk(alg="RS256"))
    [key] = found.keys
    assert key.algorithms == ("RS256", "PS256")
    assert found.left_out == ()


def test_keys_without_an_id_are_all_used() -> None:
    two = [SigningKey().jwk(kid=None), SigningKey().jwk(kid=None)]
    assert len(read(*two).keys) == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not JSON"),
        (b"<html>", "it is not JSON"),
        (b"\xff\xfe{}", "it is not JSON"),
        (b"[]", "it is not a JWKS"),
        (b"{}", "it is not a JWKS"),
        (b'{"keys": {}}', "it is not a JWKS"),
        (b'{"keys": []}', "it has no key that can be used"),
        (b'{"keys": [{"kty": "EC", "kid": "x"}]}', "has no valid 'crv'"),
    ],
)
def test_what_is_no_document_of_keys(content: bytes, why: str) -> None:
    with pytest.raises(KeysError, match=why):
        read_jwks(content)


def test_too_many_keys() -> None:
    jwk = ONE.jwk()
    assert len(read(*[jwk] * MOST_KEYS).keys) == 1
    with pytest.raises(KeysError, match="it has 101 keys; 100 is the most"):
        read(*[jwk] * (MOST_KEYS + 1))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
members = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "key_ops", "alg", "kid"])


@given(st.sampled_from([ONE.jwk(), RSA.jwk()]), st.dictionaries(members, json_values))
def test_no_member_can_break_the_reading(jwk: dict[str, Any], changes: dict[str, Any]) -> None:
    good = SigningKey("good").jwk()
    found = read(good, {**jwk, **changes})
    assert found.keys[0].kid == "good"
    assert len(found.keys) + len(found.left_out) + len(found.refused) == 2
