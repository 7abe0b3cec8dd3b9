"""Strict JSON, as tokens are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.testing.token_sample import read_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


def deep(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(deep, inner), default=0)
    return 0


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_is_read_as_python_reads_it(value: Any, escape: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=escape, indent=indent).encode("utf-8", "surrogatepass")
    if deep(value) > 8:
        with pytest.raises(ValueError, match="refused"):
            read_json(text)
        return
    try:
        text.decode()
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="refused"):
            read_json(text)
        return
    if any(0xD800 <= ord(c) <= 0xDFFF for c in json.dumps(value, ensure_ascii=False)):
        with pytest.raises(ValueError, match="refused"):
            read_json(text)
        return
    assert read_json(text) == json.loads(text)


@given(
    st.binary(max_size=40)
    | st.text('{}[]",:0123456789.eE+-truefalsn \\u', max_size=24).map(str.encode)
)
def test_json_takes_nothing_that_python_refuses(text: bytes) -> None:
    try:
        found = read_json(text)
    except ValueError:
        return
    assert found == json.loads(text.decode())


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"x": {"b": 1, "b": 1}}',
        b'{"a": 1,}',
        b"[1,]",
        b"[,1]",
        b"{,}",
        b'{"a" 1}',
        b'{"a": 1} x',
        b'{"a": 1}{',
        b"",
        b" ",
        b"[",
        b"]",
        b"{]",
        b"[}",
        b'{"a": [}',
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"1e",
        b"--1",
        b"NaN",
        b"Infinity",
        b"'a'",
        b"nul",
        b"True",
        b'"a\nb"',
        b'"\\x"',
        b'"\\ud800"',
        b'"\\ud800\\u0041"',
        b'"\\udc00"',
        b'"\\u12"',
        b'"abc',
        b"\xff\xfe",
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe0\x80\x80"',
        b'"\xc3"',
        b"/**/1",
        b"\xef\xbb\xbf1",
        b"[[[[[[[[[1]]]]]]]]]",
        b"[" + b"1," * 511 + b"1]",
        b'"' + b"a" * 70000 + b'"',
    ],
)
def test_json_that_could_be_read_in_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="refused"):
        read_json(text)
