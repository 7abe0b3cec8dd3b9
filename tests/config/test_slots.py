"""Slots stay with their names."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fastgate.config.slots import SlotBook

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


def test_new_names_get_the_next_numbers() -> None:
    book = SlotBook()
    assert book.allot("routes", ["b", "a"]) == {"b": 0, "a": 1}
    assert book.allot("routes", ["c", "a", "b"]) == {"c": 2, "a": 1, "b": 0}
    assert book.routes == {"c": 2, "a": 1, "b": 0}


def test_a_name_that_comes_back_gets_its_number_back() -> None:
    book = SlotBook()
    book.allot("plans", ["gold", "silver"])
    book.allot("plans", ["silver"])
    assert book.allot("plans", ["bronze"]) == {"bronze": 2}
    assert book.allot("plans", ["gold", "bronze"]) == {"gold": 0, "bronze": 2}


def test_targets_use_the_lowest_free_number() -> None:
    book = SlotBook()
    book.allot("targets", ["a", "b", "c"])
    assert book.allot("targets", ["c", "d", "e", "f"]) == {"c": 2, "d": 0, "e": 1, "f": 3}


def test_forgetting_frees_numbers_but_those_of_plans() -> None:
    book = SlotBook()
    for kind in ("routes", "plans"):
        book.allot(kind, ["a", "b"])
        book.allot(kind, [])
    book.forget_retired()
    assert book.allot("routes", ["new"]) == {"new": 0}
    assert book.allot("plans", ["new"]) == {"new": 2}


def test_a_book_outlives_its_process() -> None:
    book = SlotBook()
    book.allot("routes", ["a", "b"])
    book.allot("routes", ["b"])
    again = msgspec.json.decode(msgspec.json.encode(book), type=SlotBook)
    assert again == book
    assert again.allot("routes", ["c", "a"]) == {"c": 2, "a": 0}


def test_a_copy_is_its_own() -> None:
    book = SlotBook()
    book.allot("routes", ["a"])
    other = book.copy()
    other.allot("routes", ["b"])
    assert book.routes == {"a": 0}
    assert book.retired == {"routes": {}}


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_no_two_names_share_and_no_name_moves(steps: list[list[str]]) -> None:
    book = SlotBook()
    ever: dict[str, int] = {}
    for names in steps:
        now = book.allot("routes", names)
        assert list(now) == names
        for name, slot in now.items():
            assert ever.setdefault(name, slot) == slot
        assert len(set(ever.values())) == len(ever)


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_targets_never_take_more_numbers_than_there_were_at_once(steps: list[list[str]]) -> None:
    book = SlotBook()
    before: dict[str, int] = {}
    most = 0
    for names in steps:
        now = book.allot("targets", names)
        most = max(most, len(names))
        assert len(set(now.values())) == len(now) == len(names)
        assert all(now[name] == slot for name, slot in before.items() if name in now)
        assert all(slot < most for slot in now.values())
        before = now
