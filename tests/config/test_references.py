"""References in documents: looked up in files, refused in what is sent to the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.config.references import References, escaped, literal
from fastgate.errors import ConfigurationError

TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["$", "{", "}", "A", "file:", "x", ":-"]), max_size=12).map("".join),
)
DATA = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "key"]), inner, max_size=3)
    ),
)


@given(DATA)
def test_what_was_escaped_means_itself_in_bodies_and_in_files(data: Any) -> None:
    assert literal(escaped(data)) == data
    assert References({}, "/nowhere").resolve(escaped(data)) == data


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("${NAME}", "${NAME}"),
        ("Bearer ${NAME}", "${NAME}"),
        ("${NAME:-hunter2}", "${NAME}"),
        ("${}", "${}"),
        ("file:/etc/passwd", "file:"),
        ("file:${NAME}", "file:"),
    ],
)
def test_a_reference_in_a_body_is_refused(text: str, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        literal({"consumers": [{"keys": [text]}]})
    assert caught.value.path == "consumers[0].keys[0]"
    assert f"references such as {name} are" in caught.value.message
    assert "hunter2" not in str(caught.value)


def test_every_reference_is_reported() -> None:
    with pytest.raises(ConfigurationError) as caught:
        literal({"a": "${X}", "b": ["ok", {"file": "/etc/passwd"}], "c": "$${Y}"})
    assert [one.path for one in caught.value] == ["a", "b[1]"]
    with pytest.raises(ConfigurationError) as caught:
        References({"X": "x"}, "/nowhere").resolve({"a": "${Y}", "b": ["${X}", "file:no"]})
    assert [one.path for one in caught.value] == ["a", "b[1]"]


def test_escapes_stand_for_the_characters(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("held")
    found = References({"A": "a"}, str(tmp_path))
    data = {"a": "$${A} ${A}", "b": "$file:f", "c": "file:f", "d": "$$file:f"}
    assert found.resolve(data) == {"a": "${A} a", "b": "file:f", "c": "held", "d": "$file:f"}
    assert literal({"a": "$${A}", "b": "$file:f"}) == {"a": "${A}", "b": "file:f"}
