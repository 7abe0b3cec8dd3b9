"""Differences between documents, resource by resource."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgate.config.diff import Change, diff, diff_data, overridden
from fastgate.model.codec import decode

BASE: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "a", "targets": ["http://a"]}],
    "services": [{"name": "a", "upstream": "a", "timeout": "1s"}],
    "routes": [
        {"name": "one", "path": "/1", "service": "a", "limits": ["5/s"], "auth": "api_key"},
        {"name": "two", "path": "/2", "respond": 204},
    ],
}


def changes(**new: Any) -> list[Change]:
    return diff(decode(BASE), decode({**BASE, **new}))


def test_order_spelling_and_defaults_are_no_difference() -> None:
    assert changes(routes=BASE["routes"][::-1]) == []
    assert changes(services=[{"name": "a", "upstream": "a", "timeout": "1000ms"}]) == []
    assert changes(drain_timeout="30s") == []


def test_a_changed_value_is_named_by_its_resource() -> None:
    one, two = BASE["routes"]
    assert changes(routes=[{**one, "limits": ["6/s"]}, two]) == [
        Change(kind="changed", path="routes[one].limits[0].rate", before="5/s", after="6/s")
    ]


def test_resources_come_and_go() -> None:
    three = {"name": "three", "path": "/3", "respond": 404}
    found = changes(routes=[BASE["routes"][0], three])
    assert [(c.kind, c.path) for c in found] == [
        ("removed", "routes[two]"),
        ("added", "routes[three]"),
    ]
    assert found[1].after == {"name": "three", "path": "/3", "respond": {"status": 404}}


def test_a_first_resource_is_added_by_name_and_a_last_removed() -> None:
    plans = [{"name": "p", "limits": ["5/s"]}]
    assert [c.path for c in changes(plans=plans)] == ["plans[p]"]
    back = diff(decode({**BASE, "plans": plans}), decode(BASE))
    assert [(c.kind, c.path) for c in back] == [("removed", "plans[p]")]


def test_a_value_that_is_set_and_taken_away() -> None:
    assert changes(workers=3) == [Change(kind="added", path="workers", after=3)]


def test_passwords_are_not_shown_but_their_change_is() -> None:
    found = diff_data(
        {"store": {"url": "postgresql://u:one@h/d"}}, {"store": {"url": "postgresql://u:two@h/d"}}
    )
    assert len(found) == 1
    assert "one" not in str(found[0].before)
    assert "another password" in str(found[0].after)
    assert "two" not in str(found[0].after)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy", max_size=1), inner),
    max_leaves=8,
)


@given(plain, plain)
@example([], [[]])
def test_no_change_is_found_exactly_where_there_is_none(one: Any, two: Any) -> None:
    assert diff_data(one, one) == []
    assert (diff_data(one, two) == []) == (repr(one) == repr(two) or one == two)


@pytest.mark.parametrize(
    ("changed", "wanted", "dropped"),
    [
        ({"a": 2}, {"a": 1, "b": 1}, ["a"]),  # undone
        ({"a": 2}, {"a": 3, "b": 1}, ["a"]),  # replaced
        ({"a": 2}, {"a": 2, "b": 1}, []),  # taken over
        ({"a": 1, "c": 4}, {"a": 1, "b": 1}, ["c"]),
        ({}, {"a": 1, "b": 1}, ["a"]),
        ({}, {"b": 1}, []),
        ({"a": {"x": 1}}, {"a": 5}, ["a"]),
        ({"a": 1, "ab": 1}, {"a": 7, "ab": 1}, []),  # another setting that begins like it
    ],
)
def test_changes_that_another_document_drops(
    changed: dict[str, Any], wanted: dict[str, Any], dropped: list[str]
) -> None:
    assert [change.path for change in overridden({"a": 1}, changed, wanted)] == dropped
