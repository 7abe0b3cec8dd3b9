"""Digests: the values that the core computes too, and that no two things have the same one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.model import digests
from fastgate.model.keys import key_digest

SPKI = hashlib.sha256(b"spki").digest()
SECRET = hashlib.sha256(b"secret").digest()

VECTORS = [
    (
        digests.subject("corp", "user-1"),
        "d0951848fad2e5577a0fb48c8429eb1cce67f081a23850ac1112a43475d547cf",
    ),
    (digests.certificate(SPKI), "f4610b39e31cec3578b4b9fad4443b365daaa1995f7e653e0e9ad63f5f3059f5"),
    (
        digests.basic("acme", SECRET),
        "ec11978d26c39e6682aa24670bd8c78444cc1f7821664925c4850a36a397ddc7",
    ),
    (digests.consumer("con_1"), "7e05b3e74fae59c385d257ad4852a75db9ca8467918b227bfa928d3c07395c0e"),
    (
        digests.token("header.payload"),
        "65a97a4f891776d11d32ba3d3ebd5890f044861e5d65a7e12da90b689f812b40",
    ),
    (
        digests.token_id("corp", "id-1"),
        "dba3fdd7e62457ac7b618e19ac08fe9b389e50febf8a12182893a2ed020c9356",
    ),
    (
        digests.subject("corp", "Jürgen 東京"),
        "05e521c738b571afcbea60326e0ac811c725ec37a55bf741d5f2e14bc0e00de4",
    ),
    (
        digests.subject("corp", ""),
        "ad7013604375646f921f01ddba6baec88709ca32f94d3154a4aff784d01c7833",
    ),
]


@pytest.mark.parametrize(("digest", "value"), VECTORS)
def test_vectors(digest: bytes, value: str) -> None:
    assert digest.hex() == value
    assert len(digest) == digests.LENGTH


def test_it_is_what_the_docstring_says() -> None:
    """SHA-512/256 of FIPS 180-4, whose first vector is this one."""
    assert hashlib.new("sha512_256", b"abc").hexdigest() == (
        "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
    )
    made = hashlib.new("sha512_256", b"fastgate subject\0corp\0user-1").digest()
    assert digests.subject("corp", "user-1") == made
    assert VECTORS[0][1] in (digests.__doc__ or "")


def test_a_key_with_the_same_bytes_has_another_digest() -> None:
    assert key_digest("fastgate subject\0corp\0user-1") != digests.subject("corp", "user-1")


names = st.text("ab", min_size=1, max_size=3)
texts = st.text("ab\0", max_size=4)
secrets = st.sampled_from([SPKI, SECRET, b"\0" * 32, b"\0a" * 16])


@given(
    st.tuples(names, texts) | st.tuples(texts, secrets),
    st.tuples(names, texts) | st.tuples(texts, secrets),
)
def test_different_parts_have_different_digests(one: tuple[str, object], two: object) -> None:
    def digests_of(parts: object) -> set[bytes]:
        first, second = parts  # type: ignore[misc]
        if isinstance(second, bytes):
            return {digests.basic(first, second)}
        return {digests.subject(first, second), digests.token_id(first, second)}

    assert digests_of(one).isdisjoint(digests_of(two)) == (one != two)


def test_parts_of_fixed_length_have_it() -> None:
    for short in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(ValueError, match="a SHA-256 has 32 bytes"):
            digests.certificate(short)
        with pytest.raises(ValueError, match="a SHA-256 has 32 bytes"):
            digests.basic("acme", short)


def test_what_is_signed_of_a_token() -> None:
    assert digests.signed_part("aa.bb.cc") == "aa.bb"
    assert digests.signed_part("opaque") == ""
