"""Cursors and ids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.store.ids import ALPHABET, LENGTH, IdSource, encode, new_id
from fastgate.store.pages import BadCursor, Page, decode_cursor, encode_cursor, page_of

_keys = st.text(st.characters(categories=["L", "N"]), min_size=1) | st.integers(0, 2**31)


@given(_keys)
def test_a_cursor_gives_its_key_back(key: str | int) -> None:
    assert decode_cursor(encode_cursor(key), type(key)) == key


@given(st.text(), st.sampled_from([str, int]))
def test_any_other_text_is_a_bad_cursor(text: str, kind: type[Any]) -> None:
    try:
        found = decode_cursor(text, kind)
    except BadCursor:
        return
    assert isinstance(found, kind)


@given(_keys)
def test_a_cursor_of_another_list_is_bad(key: str | int) -> None:
    with pytest.raises(BadCursor):
        decode_cursor(encode_cursor(key), int if isinstance(key, str) else str)


@given(st.lists(st.integers(0, 10**6), unique=True).map(sorted), st.integers(1, 7))
def test_paging_shows_everything_once(items: list[int], limit: int) -> None:
    seen: list[int] = []
    cursor = None
    while True:
        after = -1 if cursor is None else decode_cursor(cursor, int)
        page = page_of([i for i in items if i > after][: limit + 1], limit, lambda i: i)
        assert len(page.items) <= limit
        seen += page.items
        if page.next is None:
            break
        assert len(page.items) == limit
        cursor = page.next
    assert seen == items


def test_a_page_can_be_mapped() -> None:
    assert Page([1, 2], "next").map(str) == Page(["1", "2"], "next")


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_ids_sort_as_their_numbers(left: int, right: int) -> None:
    assert (encode(left) < encode(right)) == (left < right)


@given(st.lists(st.integers(0, 2**47), min_size=1))
def test_ids_grow_whatever_the_clock_does(times: list[int]) -> None:
    clock = iter(times)
    source = IdSource(lambda: next(clock))
    made = [source.next("con") for _ in times]
    assert made == sorted(set(made))


def test_an_id_has_its_form() -> None:
    made = new_id("crd")
    kind, _, rest = made.partition("_")
    assert kind == "crd"
    assert len(rest) == LENGTH
    assert set(rest) <= set(ALPHABET)
