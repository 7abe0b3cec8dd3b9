"""In-flight counts: several workers' tables in one process, against plain counting."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.cell_keys import mix_key_py

WORKERS = 3


def workers(cells: int = 16) -> list[Concurrency]:
    segment = Segment.create(
        WORKERS, limiter_cells=16, quota_cells=16, targets=1, concurrency_cells=cells
    )
    return [Concurrency(segment, i) for i in range(WORKERS)]


operations = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "enter", "leave", "leave", "clear"]),
        st.integers(0, WORKERS - 1),
        st.integers(1, 9),  # key: small ones are neighbours and collide
        st.integers(0, 5),  # limit
    ),
    max_size=120,
)


@given(operations)
@settings(max_examples=400)
def test_it_counts(history: list[tuple[str, int, int, int]]) -> None:
    tables = workers()
    held: Counter[tuple[int, int]] = Counter()
    for what, worker, key, limit in history:
        key = key if key < 6 else key * 16  # some share a home row
        total = sum(held[w, key] for w in range(WORKERS))
        if what == "enter":
            entered, running = tables[worker].enter(key, limit)
            assert entered == (total < limit)
            held[worker, key] += entered
            assert running == total + entered
        elif what == "leave":
            tables[worker].leave(key)
            held[worker, key] = max(0, held[worker, key] - 1)
        elif limit == 0:
            tables[worker].clear()
            for w, k in list(held):
                if w == worker:
                    del held[w, k]
        for w in range(WORKERS):
            assert tables[w].rows == sum(1 for (i, _), n in held.items() if i == w and n)
        for k in {k for _, k in held}:
            assert tables[0].count(k) == sum(held[w, k] for w in range(WORKERS))


def test_the_limit_is_of_all_workers_together() -> None:
    tables = workers()
    assert [tables[i % 3].enter(7, 4) for i in range(5)] == [
        (True, 1),
        (True, 2),
        (True, 3),
        (True, 4),
        (False, 4),
    ]
    tables[0].leave(7)
    assert tables[2].enter(7, 4) == (True, 4)
    assert tables[1].enter(7, 4) == (False, 4)


def test_a_limit_of_nothing_lets_nothing_in() -> None:
    (table, *_) = workers()
    assert table.enter(7, 0) == (False, 0)
    assert table.rows == 0


def test_rows_are_freed_at_zero() -> None:
    (table, *_) = workers(64)
    keys = [mix_key_py(k, 0) for k in range(64)]
    for _ in range(50):
        for key in keys:
            assert table.enter(key, 2)[0]
            assert table.enter(key, 2)[0]
        assert table.rows == 64
        for key in keys:
            table.leave(key)
            table.leave(key)
        assert table.rows == 0
        assert [table.count(key) for key in keys] == [0] * 64
    assert table.full == 0


def test_a_full_table_refuses_and_counts_it() -> None:
    table, other, _ = workers(16)
    for key in range(1, 17):
        assert table.enter(key * 1000, 5)[0]
    assert other.enter(99, 5) == (True, 1)
    assert table.enter(99, 5) == (False, 1)
    assert table.enter(2000, 5) == (True, 2)
    assert (table.full, other.full) == (1, 0)
    table.leave(1000)
    assert table.enter(99, 5) == (True, 2)
    assert [table.count(key * 1000) for key in range(2, 17)] == [2] + [1] * 14


def test_leaving_where_nobody_entered() -> None:
    table, other, _ = workers()
    other.enter(5, 3)
    table.leave(5)
    table.leave(6)
    assert table.count(5) == 1
    assert (table.rows, other.rows) == (0, 1)


def test_a_dead_worker_s_counts_vanish_and_the_others_stay() -> None:
    tables = workers()
    for table in tables:
        for _ in range(3):
            table.enter(7, 100)
        table.enter(8, 100)
    tables[1].segment.worker_stopped(1)
    assert (tables[0].count(7), tables[0].count(8)) == (6, 2)
    assert (tables[0].rows, tables[1].rows, tables[2].rows) == (2, 0, 2)
    assert tables[1].enter(7, 7) == (True, 7)


def test_entering_many() -> None:
    table, other, _ = workers(64)
    keys = array("Q", [5, 6, 5, 5, 7])
    entered = array("Q", bytes(8 * 5))
    assert other.enter(7, 2)[0]
    assert table.enter_all(keys, 2, entered) == 4
    assert list(entered) == [1, 1, 1, 0, 1]
    assert [table.count(key) for key in (5, 6, 7)] == [2, 1, 2]
    with pytest.raises(ValueError, match="one word"):
        table.enter_all(keys, 2, array("Q", [0]))


def test_wrong_calls() -> None:
    tables = workers()
    with pytest.raises(IndexError):
        Concurrency(tables[0].segment, WORKERS)
    with pytest.raises(ValueError, match="cannot be 0"):
        tables[0].enter(0, 1)
