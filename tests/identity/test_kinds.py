"""Credentials to be, and tokens to be revoked: digests, and what identifies them to people."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from providerkit import SigningKey

from fastgate.identity import kinds
from fastgate.model import digests
from fastgate.model.keys import is_key, key_digest
from fastgate.model.party import PARTY_NAME, SUBJECT_MOST
from fastgate.model.values import KEY_PATTERN

PIN = "sha256/" + base64.b64encode(b"p" * 32).decode()


def test_credentials_of_each_kind() -> None:
    key = kinds.api_key(environment="live")
    assert is_key(key.shown)
    assert (key.kind, key.digest, key.about) == ("key", key_digest(key.shown), {})
    assert key.shown.startswith(key.prefix)
    assert kinds.api_key("a-given-key-1").digest == key_digest("a-given-key-1")
    subject = kinds.subject("corp", "user-1")
    assert subject.digest == digests.subject("corp", "user-1")
    assert (subject.about, subject.shown) == ({"issuer": "corp", "subject": "user-1"}, "")
    certificate = kinds.certificate(PIN)
    assert certificate.digest == digests.certificate(b"p" * 32)
    assert (certificate.about, certificate.shown) == ({"pin": PIN}, "")
    basic = kinds.basic("acme")
    secret = hashlib.sha256(basic.shown.encode()).digest()
    assert basic.digest == digests.basic("acme", secret)
    assert basic.about == {"user": "acme"}
    assert re.fullmatch(KEY_PATTERN, basic.shown)
    assert kinds.basic("acme").shown != basic.shown
    assert kinds.basic("acme", basic.shown).digest == basic.digest


# ---- consumers of subjects --------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=SUBJECT_MOST))
def test_any_subject_can_have_a_consumer(subject: str) -> None:
    digest = digests.subject("corp", subject)
    for name in kinds.names_of(subject, digest):
        assert re.fullmatch(PARTY_NAME.removesuffix("(?!\\n)"), name), name
    assert re.fullmatch(r"con_s[0-9a-f]{40}", kinds.consumer_of(digest))


def test_names_are_readable() -> None:
    digest = digests.subject("corp", "x")
    assert kinds.names_of("jane@example.com", digest)[0] == "jane@example.com"
    assert kinds.names_of("auth0|7", digest)[0] == "auth0-7"
    assert kinds.names_of("_x", digest)[0] == "subject _x"
    assert kinds.names_of(" ", digest)[0] == "subject"
    assert [len(name) for name in kinds.names_of("_" * 255, digest)] == [80, 93]
    first, second = kinds.names_of("a", digest)
    assert second == f"a {digest.hex()[:12]}"
    assert first != second


# ---- tokens -----------------------------------------------------------------------------

KEY = SigningKey()
CLAIMS: dict[str, Any] = {"iss": "https://a", "sub": "user", "jti": "id-1", "exp": 1_800_000_000}


def test_a_jwt_is_known_by_what_is_signed() -> None:
    """Two signatures of an ECDSA key are different texts, and the same token."""
    one, two = KEY.token(CLAIMS), KEY.token(CLAIMS)
    assert one != two
    first, second = kinds.token(one), kinds.token(two)
    assert first.digest == second.digest == digests.token(one.rpartition(".")[0])
    assert first.whole == digests.token(one)
    assert first.about == {"iss": "https://a", "sub": "user", "jti": "id-1"}
    assert first.expires_at == 1_800_000_000


@pytest.mark.parametrize(
    ("claims", "expires_at"),
    [
        ({"exp": 1.5}, 1),
        ({"exp": "1800000000"}, None),
        ({"exp": -1}, None),
        ({"exp": 1 << 40}, None),
        ({}, None),
    ],
)
def test_when_a_token_expires(claims: dict[str, Any], expires_at: int | None) -> None:
    assert kinds.token(KEY.token(claims)).expires_at == expires_at


def test_what_a_token_says_about_itself_is_bounded() -> None:
    about = kinds.token(KEY.token({"sub": "s" * 5000, "jti": ["a"], "iss": 7})).about
    assert about == {"iss": "7", "sub": "s" * 200}


@pytest.mark.parametrize(
    "text",
    ["opaque", "ya29.a0Af", "a.b.c", "a.b", "a.b.c.d", "e30.e30.e30", "v4.public.eyJhIjoxfQ",
     "eyJhbGciOiJub25lIn0.bm90IGpzb24.c2ln", "..", "é.é.é"],
)  # fmt: skip
def test_an_opaque_token_is_known_by_its_whole_text(text: str) -> None:
    """Also one with dots: else a token would be revoked with all that begin like it."""
    new = kinds.token(text)
    assert (new.digest, new.whole, new.expires_at) == (digests.token(text), None, None)
    assert new.about == {}


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{1,9}(\.[A-Za-z0-9_-]{1,9}){2}"))
def test_any_text_can_be_revoked(text: str) -> None:
    assert len(kinds.token(text).digest) == 32


def test_a_token_by_its_id() -> None:
    new = kinds.token_id("corp", "id-1")
    assert new.digest == digests.token_id("corp", "id-1")
    assert (new.about, new.expires_at) == ({"issuer": "corp", "jti": "id-1"}, None)
