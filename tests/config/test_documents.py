"""YAML as its core schema means it, and the way from a place back to its line."""

import json
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fastgate.config import documents
from fastgate.config.documents import Lines, parse
from fastgate.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0x1F", 31),
        ("100_000", 100_000),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # What YAML 1.1 would turn into something else:
        ("yes", "yes"),
        ("off", "off"),
        ("0660", "0660"),
        ("12:30", "12:30"),
        ("2026-11-20", "2026-11-20"),
        ("1_0", "1_0"),
        (".inf", ".inf"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("50/s", "50/s"),
        ("- ", [None]),
        ("{a: , b: [x, 2]}", {"a": None, "b": ["x", 2]}),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = parse(f"v: {text}" if not text.startswith("- ") else f"v:\n  {text}", "yaml")
    assert found == {"v": value}
    assert type(found["v"]) is type(value)


def test_merge_keys_give_way_to_what_is_written() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {z: 3}\nc: {<<: [*a, *b], y: 9}\n'<<': {k: v}\n"
    data = parse(text, "yaml")
    assert data["c"] == {"x": 1, "y": 9, "z": 3}
    assert data["<<"] == {"k": "v"}


def test_aliases_are_values_of_their_own() -> None:
    data = parse("a: &a [1]\nb: *a\n", "yaml")
    data["a"].append(2)
    assert data["b"] == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [*a]", "alias to itself"),
        ("a: &a {b: *a}", "alias to itself"),
        ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
        ("<<: 5", "only merge mappings"),
        ("1: a\n1: b", "there twice"),
        ("a: !x b", "tags such as"),
        ("a: !!binary aGk=", "tags such as"),
        ("a: !!set {x}", "tags such as"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse(text, "yaml")


def test_a_bomb_of_aliases_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MAX_NODES", 10_000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigurationError, match="too large"):
        parse("\n".join(lines), "yaml")


def test_without_libyaml_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x {b: [1, yes, 'c']}\nd: *x\n"
    fast = parse(text, "yaml")
    monkeypatch.setitem(__import__("sys").modules, "yaml._yaml", None)
    assert parse(text, "yaml") == fast
    assert Lines(text, "yaml").of("a.b[1]") == 1


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc.[]-", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_what_pyyaml_writes_is_read(data: Any) -> None:
    assert parse(yaml.safe_dump({"v": data}), "yaml") == {"v": data}


@given(st.dictionaries(st.text("abc.[]-", min_size=1, max_size=4), plain, min_size=1, max_size=4))
def test_every_place_has_its_line(data: dict[str, Any]) -> None:
    """With one key a line, the line of each top-level key is known."""
    text = "".join(f"{json.dumps(key)}: {json.dumps(value)}\n" for key, value in data.items())
    lines = Lines(text, "yaml")
    for number, key in enumerate(data, 1):
        assert lines.of(key) == number


def test_places_that_are_not_written_out_have_their_parents_line() -> None:
    lines = Lines("a:\n  b:\n    - x\n    - {c: 1}\n", "yaml")
    assert lines.of("a.b[1].c") == 4
    assert lines.of("a.b[1].d.e") == 4
    assert lines.of("a.b[7]") == 2
    assert lines.of("a.b[0].short.form") == 3
    assert lines.of("z") == 1
    assert lines.of("") == 1


def test_places_inside_merged_mappings() -> None:
    lines = Lines("x: &x\n  deep: 1\na:\n  <<: *x\n  own: 2\n", "yaml")
    assert lines.of("a.deep") == 2
    assert lines.of("a.own") == 5


LEVELS = [
    ("a: &a [x, x, x, x, x, x, x, x, x]", "{n}: &{n} [{many}]"),
    ("a: &a {k: x}", "{n}: &{n} {{<<: [{many}]}}"),
]


@pytest.mark.parametrize(("first", "level"), LEVELS)
def test_a_few_lines_do_not_stand_for_billions_of_nodes(first: str, level: str) -> None:
    lines = [first]
    for before, name in pairwise("abcdefghijkl"):
        lines.append(level.format(n=name, many=", ".join([f"*{before}"] * 9)))
    with pytest.raises(ConfigurationError, match="too large once its aliases") as caught:
        parse("\n".join(lines), "yaml")
    assert caught.value.path in set("abcdefghijkl")


def test_defaults_may_be_used_by_every_route() -> None:
    text = "d: &d {" + ", ".join(f"key{n}: value" for n in range(20)) + "}\nroutes:\n"
    text += "".join(f"- {{<<: *d, name: r{n}, path: /r{n}}}\n" for n in range(20_000))
    assert len(parse(text, "yaml")["routes"]) == 20_000


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("a = " + "[" * 100_000 + "]" * 100_000, "toml", "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "json", "nested too deeply"),
        ("a: " + "9" * 5000, "yaml", "100 digits"),
        ("a = " + "9" * 5000, "toml", "100 digits"),
        ('{"a": ' + "9" * 5000 + "}", "json", "100 digits"),
        (r'{"a": "\ud83d"}', "json", "half of a pair"),
        (r'a: "\ud83d"', "yaml", "not valid YAML"),
        (r'a = "\ud83d"', "toml", "not valid TOML"),
    ],
)
def test_what_python_itself_would_stumble_over(text: str, kind: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse(text, kind)


def test_whole_pairs_are_characters() -> None:
    assert parse(r'{"a": "\ud83d\ude00"}', "json") == {"a": "\N{GRINNING FACE}"}
