"""Counters: slots for outcomes, histogram buckets, and the sums over workers and routes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.reason import Reason
from fastgate._core.shared.counters import SLOT_LABELS, STATUSES, counters_snapshot
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.count_bench import bench_count
from fastgate._core.testing.worker_counts import (
    WORKER_COUNTERS,
    bucket_of,
    count_request,
    count_worker,
)

ROWS = 6
REASONS = sorted(
    int(r) for name, r in Reason.__members__.items() if name not in ("REASON_NONE", "REASON_COUNT")
)


def segment(workers: int = 2) -> Segment:
    return Segment.create(
        workers,
        limiter_cells=64,
        quota_cells=64,
        targets=8,
        route_rows=ROWS,
        concurrency_cells=16,
        log_records=8,
    )


def naive_status(status: int) -> str:
    if status in STATUSES:
        return str(status)
    return f"{status // 100}xx" if 100 <= status < 600 else "other"


def naive_bucket(ns: int) -> int:
    for i in range(27):
        if ns < 16_000 << i:
            return i
    return 27


@given(st.integers(0, 2**64 - 1) | st.integers(0, 2**41))
def test_a_duration_falls_into_the_bucket_that_a_loop_finds(ns: int) -> None:
    assert bucket_of(ns) == naive_bucket(ns)


@pytest.mark.parametrize("i", range(27))
def test_buckets_end_where_the_contract_says(i: int) -> None:
    edge = 16_000 << i
    assert (bucket_of(edge - 1), bucket_of(edge)) == (i, i + 1)


def test_every_status_is_told_apart_or_by_its_class() -> None:
    s = segment(1)
    for status in range(1000):
        count_request(s, 0, 0, status)
    (row,) = counters_snapshot(s).routes
    expected = Counter(naive_status(status) for status in range(1000))
    assert {status: n for status, reason, n in row.outcomes} == expected
    assert {reason for _, reason, _ in row.outcomes} == {0}


def test_every_reason_has_a_slot_of_its_own() -> None:
    s = segment(1)
    for n, reason in enumerate(REASONS, start=1):
        for _ in range(n):
            count_request(s, 0, 0, 500, reason=reason)
    (row,) = counters_snapshot(s).routes
    assert sorted((reason, n) for _, reason, n in row.outcomes) == [
        (reason, n) for n, reason in enumerate(REASONS, start=1)
    ]


def test_a_reason_newer_than_the_table_is_counted_as_some_other() -> None:
    s = segment(1)
    for reason in (160, 161, 65_535):
        count_request(s, 0, 0, 500, reason=reason)
    (row,) = counters_snapshot(s).routes
    assert row.outcomes == (("", -1, 3),)


def test_labels_cover_all_slots() -> None:
    assert len(SLOT_LABELS) == 64 + Reason.REASON_COUNT
    named = [label for label in SLOT_LABELS if label[0] not in ("", "other")]
    assert len(named) == len(set(named))


requests = st.lists(
    st.tuples(
        st.integers(0, 2),  # worker
        st.integers(0, ROWS + 2),  # slot; the last row and all behind it are "other"
        st.sampled_from([0, 100, 200, 201, 299, 404, 429, 500, 599, 777]),
        st.sampled_from([0, 0, 0, *REASONS]),
        st.integers(0, 10**12),
        st.integers(0, 10**9),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(requests)
def test_the_snapshot_is_what_a_dictionary_would_have_counted(
    done: list[tuple[int, int, int, int, int, int]],
) -> None:
    s = segment(3)
    outcomes: dict[int | None, Counter[tuple[str, int]]] = {}
    buckets: dict[int | None, Counter[int]] = {}
    sums: dict[int | None, list[int]] = {}
    for worker, slot, status, reason, ns, size in done:
        count_request(
            s,
            worker,
            slot,
            status,
            reason=reason,
            gateway_ns=ns // 2,
            total_ns=ns,
            upstream_ns=ns // 3,
            bytes_in=size,
            bytes_out=2 * size,
        )
        row = slot if slot < ROWS - 1 else None
        label = ("", reason) if reason else (naive_status(status), 0)
        outcomes.setdefault(row, Counter())[label] += 1
        buckets.setdefault(row, Counter())[naive_bucket(ns)] += 1
        before = sums.setdefault(row, [0, 0, 0])
        sums[row] = [before[0] + ns, before[1] + size, before[2] + 2 * size]
    read = counters_snapshot(s).routes
    assert [row.slot for row in read] == sorted(
        outcomes, key=lambda slot: ROWS if slot is None else slot
    )
    for row in read:
        assert {(status, reason): n for status, reason, n in row.outcomes} == outcomes[row.slot]
        assert {i: n for i, n in enumerate(row.total.buckets) if n} == buckets[row.slot]
        assert row.total.count == sum(outcomes[row.slot].values())
        assert [row.total.sum_ns, row.bytes_in, row.bytes_out] == sums[row.slot]


def test_nothing_counted_is_nothing_told() -> None:
    read = counters_snapshot(segment())
    assert read.routes == []
    assert read.upcall_lag.count == 0
    assert all(worker[name] == 0 for worker in read.workers for name in WORKER_COUNTERS)


def test_a_workers_counters_are_told_by_their_names() -> None:
    s = segment()
    for n, name in enumerate(WORKER_COUNTERS, start=1):
        count_worker(s, 1, name, n)
    workers = counters_snapshot(s).workers
    assert {name: workers[1][name] for name in WORKER_COUNTERS} == {
        name: n for n, name in enumerate(WORKER_COUNTERS, start=1)
    }
    assert all(workers[0][name] == 0 for name in WORKER_COUNTERS)


def test_upcall_lag_is_summed_over_workers() -> None:
    s = segment()
    count_worker(s, 0, "upcall_lag", 1_000_000)
    count_worker(s, 1, "upcall_lag", 2_000_000)
    lag = counters_snapshot(s).upcall_lag
    assert (lag.count, lag.sum_ns) == (2, 3_000_000)
    assert lag.buckets[bucket_of(1_000_000)] == 1


def test_a_workers_row_and_the_generation_are_in_the_snapshot() -> None:
    s = segment()
    row = s.worker_row(1)
    row.pid, row.generation, row.connections, row.in_flight = 7, 5, 11, 3
    row.upstream_idle, row.starts, row.state, row.heartbeat_ns = 4, 2, 2, 99
    s.generation = 6
    read = counters_snapshot(s)
    assert read.generation == 6
    told = {
        name: read.workers[1][name]
        for name in ("pid", "generation", "connections", "in_flight", "upstream_idle", "starts")
    }
    assert told == {
        "pid": 7,
        "generation": 5,
        "connections": 11,
        "in_flight": 3,
        "upstream_idle": 4,
        "starts": 2,
    }
    assert (read.workers[1]["state"], read.workers[1]["heartbeat_ns"]) == (2, 99)


def test_counts_are_seen_through_another_mapping_and_survive_their_writer() -> None:
    s = segment()
    writer = Segment.attach(s.fd)
    count_request(writer, 0, 2, 200, total_ns=5)
    del writer
    successor = Segment.attach(s.fd)
    count_request(successor, 0, 2, 200, total_ns=7)
    (row,) = counters_snapshot(s).routes
    assert (row.slot, row.outcomes, row.total.sum_ns) == (2, (("200", 0, 2),), 12)


def test_the_counting_loop_counts_what_it_says() -> None:
    s = segment(1)
    bench_count(s, 1, 1000)
    (row,) = counters_snapshot(s).routes
    assert row.outcomes == (("200", 0, 1000),)
    assert (row.bytes_in, row.bytes_out) == (500_000, 900_000)


def test_workers_that_do_not_exist_are_refused() -> None:
    s = segment(2)
    with pytest.raises(IndexError):
        count_request(s, 2, 0, 200)
    with pytest.raises(IndexError):
        count_worker(s, 2, "polls")
    with pytest.raises(KeyError):
        count_worker(s, 0, "rows_used")


def test_slots_of_reasons_never_move() -> None:
    """They are in shared memory, which may be older than the code that reads it."""
    assert SLOT_LABELS[64:] == [("", n or -1) for n in range(Reason.REASON_COUNT)]
    assert STATUSES[:6] == (101, 200, 201, 202, 204, 206)
