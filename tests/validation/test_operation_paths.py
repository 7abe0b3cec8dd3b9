"""Which operation a path and method lead to."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.validation.paths import Paths
from fastgate.validation.program import Operation, Path


def paths(*templates: str, prefix: str | None = None, bases: tuple[str, ...] = ("",)) -> Paths:
    found = [Path(bases, template, (Operation("GET"),)) for template in templates]
    return Paths(found, prefix)


def parameters(tree: Paths, path: str) -> Any:
    found = tree.find(path)
    return None if found is None else found.parameters


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/", "/", {}),
        ("/", "/a", None),
        ("/a", "/a", {}),
        ("/a", "/a/", None),
        ("/a", "/A", None),
        ("/a/", "/a/", {}),
        ("/a/{b}", "/a/1", {"b": "1"}),
        ("/a/{b}", "/a/", None),
        ("/a/{b}", "/a", None),
        ("/a/{b}", "/a/1/2", None),
        ("/a/{b}/{c}", "/a/1/2", {"b": "1", "c": "2"}),
        ("/a/{b}.json", "/a/x.json", {"b": "x"}),
        ("/a/{b}.json", "/a/.json", None),
        ("/a/{b}.json", "/a/x.xml", None),
        ("/a/{b}-{c}", "/a/1-2", {"b": "1", "c": "2"}),
        ("/a/x{b}(y)", "/a/x1(y)", {"b": "1"}),
        ("/a/{b}", "/a/%2F", {"b": "%2F"}),
        ("/{a}/{b}", "/x/y", {"a": "x", "b": "y"}),
    ],
)
def test_templates(template: str, path: str, expected: object) -> None:
    assert parameters(paths(template), path) == expected


def test_literal_text_goes_first_and_a_dead_end_is_left() -> None:
    tree = paths("/a/{b}", "/a/me", "/a/{b}/x", "/a/{b}.json", "/a/me{b}.json", "/{z}/me/y")
    assert parameters(tree, "/a/me") == {}
    assert parameters(tree, "/a/me/x") == {"b": "me"}
    assert parameters(tree, "/a/you") == {"b": "you"}
    assert parameters(tree, "/a/you.json") == {"b": "you"}
    assert parameters(tree, "/a/me1.json") == {"b": "1"}
    assert parameters(tree, "/a/me/y") == {"z": "a"}


def test_what_servers_put_before_paths() -> None:
    tree = paths("/a", bases=("/v1", "/v2/x", ""))
    for path in ("/v1/a", "/v2/x/a", "/a"):
        assert parameters(tree, path) == {}
    assert parameters(tree, "/v2/a") is None


@pytest.mark.parametrize(
    ("prefix", "path"), [("/", "/a"), ("/shop", "/shop/a"), ("/shop/v1/", "/shop/v1/a")]
)
def test_a_prefix_replaces_the_servers(prefix: str, path: str) -> None:
    tree = paths("/a", bases=("/v1",), prefix=prefix)
    assert parameters(tree, path) == {}
    assert parameters(tree, "/v1/a") is None


def test_operations_of_one_path_are_together() -> None:
    tree = Paths(
        [
            Path(("",), "/a/{x}", (Operation("GET"),)),
            Path(("/v1", ""), "/a/{x}", (Operation("PUT"),)),
        ],
        None,
    )
    found = tree.find("/a/1")
    assert found is not None
    assert set(found.operations) == {"GET", "PUT"}
    other = tree.find("/v1/a/1")
    assert other is not None
    assert set(other.operations) == {"PUT"}
