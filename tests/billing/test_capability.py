"""Tokens of links: what was made is read back, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.billing.capability import FILE, Capabilities, Capability, load_key
from fastgate.errors import IdentityError, ProcessError

KEY = bytes(range(16))
REQUEST = "0af7651916cd43dd8448eb211c80319c"
NOW = 1_800_000_000


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1), st.integers(1, 86_400))
def test_a_token_says_what_it_was_made_with(ident: bytes, consumer: int, seconds: int) -> None:
    capabilities = Capabilities(KEY)
    token = capabilities.make(ident.hex(), consumer, NOW, seconds)
    assert len(token) == 38
    read = capabilities.read(ident.hex(), token, NOW + seconds - 1)
    assert read == Capability(ident.hex(), consumer, NOW + seconds)
    with pytest.raises(IdentityError, match="too old"):
        capabilities.read(ident.hex(), token, NOW + seconds)


def test_every_character_of_a_token_counts() -> None:
    capabilities = Capabilities(KEY)
    token = capabilities.make(REQUEST, 7, NOW)
    for at, was in enumerate(token):
        for other in "AZaz09-_":
            if other == was:
                continue
            changed = token[:at] + other + token[at + 1 :]
            try:
                read = capabilities.read(REQUEST, changed, NOW)
            except IdentityError:
                continue
            # The last character has two bits that stand for nothing.
            assert at == len(token) - 1
            assert read.consumer == 7


@pytest.mark.parametrize("token", ["", "x", "a" * 37, "a" * 39, "ä" * 38, "+" * 38, "a=" * 19])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(IdentityError):
        Capabilities(KEY).read(REQUEST, token, NOW)


@pytest.mark.parametrize("request_id", ["", "zz" * 16, REQUEST[2:], REQUEST + "00"])
def test_what_is_no_request(request_id: str) -> None:
    token = Capabilities(KEY).make(REQUEST, 7, NOW)
    with pytest.raises(IdentityError, match="not complete"):
        Capabilities(KEY).read(request_id, token, NOW)


def test_a_token_is_of_one_gateway_and_one_request() -> None:
    token = Capabilities(KEY).make(REQUEST, 7, NOW)
    with pytest.raises(IdentityError, match="not made by this gateway"):
        Capabilities(KEY[::-1]).read(REQUEST, token, NOW)
    with pytest.raises(IdentityError, match="not made by this gateway"):
        Capabilities(KEY).read(REQUEST[::-1], token, NOW)
    with pytest.raises(ValueError, match="16 bytes"):
        Capabilities(KEY[1:])


def test_the_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert len(key) == 16
    assert load_key(tmp_path) == key
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    (tmp_path / FILE).write_bytes(b"torn")
    assert load_key(tmp_path) not in (key, b"torn")


def test_a_key_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="cannot be kept"):
        load_key(tmp_path / "nowhere")
