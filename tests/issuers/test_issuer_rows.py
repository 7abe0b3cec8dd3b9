"""Rows of counters: one for each issuer, for as long as the workers live."""

from __future__ import annotations

from fastgate._core.tls.keyring import IssuerEntry
from fastgate.issuers.rows import OTHERS, IssuerRows


def test_a_row_stays_with_its_name() -> None:
    rows = IssuerRows()
    assert rows.allot(["a", "b"]) == {"a": 1, "b": 2}
    assert rows.allot(["b"]) == {"b": 2}
    assert rows.allot(["c", "b", "a"]) == {"c": 3, "b": 2, "a": 1}
    assert rows.names() == {1: "a", 2: "b", 3: "c"}


def test_further_issuers_share_the_last_row() -> None:
    rows = IssuerRows()
    names = [f"i{number}" for number in range(OTHERS + 2)]
    found = rows.allot(names)
    assert [found[name] for name in names] == [*range(1, OTHERS), OTHERS, OTHERS, OTHERS]
    assert OTHERS not in rows.names()


def test_rows_of_names_that_are_gone_are_the_last_to_be_used() -> None:
    rows = IssuerRows()
    names = [f"i{number}" for number in range(OTHERS - 2)]
    rows.allot(names)
    assert rows.allot([*names[1:], "new"])["new"] == OTHERS - 1
    assert rows.allot([*names[1:], "new", "newer"])["newer"] == 1
    assert rows.names()[1] == "newer"


def test_a_successor_goes_on_with_the_rows_of_workers() -> None:
    rows = IssuerRows()
    entries = [("a", 4), ("b", 0), ("c", OTHERS)]
    rows.take(IssuerEntry(id=1, name=name, issuer="x", row=row) for name, row in entries)
    assert rows.allot(["b", "a", "c"]) == {"b": 1, "a": 4, "c": 2}
