"""Patterns of path segments match what Python's do, or are errors that help."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate.model.paths import patterned_bits, segment_patterns, shape_of
from fastgate.model.segment_pattern import MOST_STATES, compile_pattern

PATTERNS = [
    r"[0-9]+",
    r"\d{3}",
    r"[a-c]{2,4}",
    r"(ab|c)+",
    r"(?:v\d+)(\.\d+)?",
    r"[^x]+",
    r"a?b*c",
    r"\w{2}-\w{1,2}",
    r"x{2,}",
    r".+",
    r"(a|b)*abb",
    r"(a{0,3}b){2,5}",
    r"%20[-.~]+",
    r"[]a]+",
    r"[a-]+",
    r"x{0,2}y",
    r"(x*)+y",
    r"\D\W?",
    r"(|a)b",
]


@pytest.mark.parametrize("text", PATTERNS)
@given(data=st.data())
@settings(max_examples=200)
def test_it_matches_what_python_matches(text: str, data: st.DataObject) -> None:
    alphabet = st.text(st.sampled_from("abcvxy0123-._]%2~"), min_size=1, max_size=10)
    sample = data.draw(alphabet | st.from_regex(text, fullmatch=True, alphabet=st.characters(
        min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/?#")))  # fmt: skip
    expected = re.fullmatch(text, sample, re.ASCII) is not None
    assert compile_pattern(text).matches(sample.encode()) == expected


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", "1"])


def _extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "{1,}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    )


@given(st.recursive(ATOMS, _extend, max_leaves=6), st.text("ab1x", min_size=1, max_size=7))
@settings(max_examples=1000, deadline=None)
def test_patterns_of_any_shape(text: str, sample: str) -> None:
    if re.fullmatch(text, "") is not None:
        with pytest.raises(ValueError, match=r"matches nothing|too complex"):
            compile_pattern(text)
        return
    found = compile_pattern(text)
    assert len(found.moves) <= MOST_STATES
    assert found.matches(sample.encode()) == (re.fullmatch(text, sample, re.ASCII) is not None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a pattern is missing"),
        ("^a$", "at character 1: a pattern always matches the whole segment"),
        ("a$", "at character 2: a pattern always matches the whole segment"),
        ("(a", "a ')' is missing"),
        ("a)", "a ')' that closes nothing"),
        ("[a", "a ']' is missing"),
        ("[", "a ']' is missing"),
        ("a**", "one repetition after another"),
        ("a+?", "one repetition after another"),
        ("*a", r"nothing to repeat; write '\*' for the character itself"),
        ("{x}", r"nothing to repeat; write '\{' for the character itself"),
        ("a{x}", r"write '\{' for the character, or {3}, {1,3} or {2,}"),
        ("a{300}", "more than 256 repetitions"),
        ("a{3,2}", "it can never be repeated so often"),
        ("a{0}", "it can never be repeated so often"),
        (r"\s", r"'\s' is not supported"),
        ("a\\", "is not supported"),
        (r"\1", r"'\1' is not supported"),
        ("é", "write it percent-encoded"),
        ("a b", "write it percent-encoded"),
        ("a?b#", "write it percent-encoded"),
        ("(?=a)", "no look-ahead and no names"),
        ("(?P<x>a)", "no look-ahead and no names"),
        ("[b-a]", "a range goes from one character to a later one"),
        (r"[\d-z]", "a range goes from one character to a later one"),
        ("(a|b)*a(a|b){12}", "too complex"),
        ("(a{200}){200}", "too long"),
        ("[^!-~]", "matches no segment"),
        ("a*", "also matches nothing"),
        ("a|", "also matches nothing"),
    ],
)
def test_patterns_with_mistakes(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_pattern(text)


def test_parts_of_a_path() -> None:
    path = r"/v1/{id:[0-9]{2}}/{name}/{key:a:b|c}"
    assert shape_of(path) == "/v1/{id}/{name}/{key}"
    assert segment_patterns(path) == ((1, "[0-9]{2}"), (3, "a:b|c"))
    assert patterned_bits(shape_of(path), segment_patterns(path)) == 0b101 << 13
    assert segment_patterns("/a:b/{c}") == ()
