"""The shared segment: layout, memory, attaching, rows, what a dead worker leaves."""

from __future__ import annotations

import mmap
import os
import struct

import pytest
from memorykit import taken

from fastgate._core.shared.cells import limit_key_py
from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.limiter import LimiterTable
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate.errors import SegmentError

SMALL = {
    "limiter_cells": 64,
    "quota_cells": 64,
    "targets": 8,
    "route_rows": 4,
    "concurrency_cells": 16,
    "log_records": 8,
}
PAGE = 4096
# The children do nothing that a thread of the tests' process could have left half done.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
# Offsets of header words that the tests damage.
VERSION_AT = 8
WORKERS_AT = 12
LIMITER_OFF_AT = 64


def small(workers: int = 2, **other: int) -> Segment:
    return Segment.create(workers, **{**SMALL, **other})


def copy_of(segment: Segment) -> int:
    """A descriptor of a memfd with the same bytes; it can be damaged."""
    fd = os.memfd_create("copy")
    with mmap.mmap(segment.fd, segment.bytes) as whole:
        os.write(fd, whole)
    return fd


def test_areas_follow_one_another_on_pages_of_their_own() -> None:
    segment = Segment.create(3)
    layout = segment.layout
    size = layout.pop("per_worker_size")
    starts = list(layout.values())
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts)
    assert all(start % PAGE == 0 for start in starts)
    assert layout["quota"] - layout["limiter"] == segment.limiter_cells * 16 + PAGE
    assert layout["targets"] - layout["quota"] == segment.quota_cells * 16
    assert layout["counters"] - layout["targets"] == segment.targets * 64
    assert layout["concurrency"] - layout["counters"] >= segment.route_rows * 8 * 224
    assert layout["logring"] - layout["concurrency"] >= 64 + segment.concurrency_cells * 16
    assert size >= layout["logring"] - layout["counters"] + segment.log_records * 512
    assert segment.bytes == layout["counters"] + 3 * size
    assert os.fstat(segment.fd).st_size == segment.bytes


def test_untouched_pages_take_no_memory() -> None:
    segment = Segment.create(4)
    assert segment.bytes > 16 << 20
    assert taken(segment.fd) <= 2 * PAGE
    Segment.attach(segment.fd)
    assert taken(segment.fd) <= 2 * PAGE
    LimiterTable(segment).take(limit_key_py(1), 10**12, 10**9, 10**10)
    QuotaTable(segment).take(limit_key_py(1), 4, 1_800_000_000, 10)
    # The header, and for each table its head and the one or two pages of the key's window.
    assert taken(segment.fd) <= 8 * PAGE


def test_a_dead_worker_s_pages_are_given_back() -> None:
    segment = Segment.create(1)
    before = taken(segment.fd)
    counts = Concurrency(segment, 0)
    for key in range(1, 4000):
        counts.enter(key, 1)
    assert taken(segment.fd) > before + 10 * PAGE
    segment.worker_stopped(0)
    assert taken(segment.fd) <= before + 2 * PAGE
    assert counts.count(17) == 0


def test_attached_segments_are_the_same_memory() -> None:
    segment = small()
    other = Segment.attach(segment.fd)
    assert other.fd != segment.fd
    assert other.layout == segment.layout
    assert other.boot_id == segment.boot_id
    segment.generation = 7
    other.draining = 1
    other.worker_row(1).pid = 4711
    assert other.generation == 7
    assert segment.draining == 1
    assert segment.worker_row(1).pid == 4711
    assert segment.worker_row(0).pid == 0


def test_an_attached_segment_outlives_the_first() -> None:
    segment = small()
    segment.generation = 3
    other = Segment.attach(segment.fd)
    del segment
    assert other.generation == 3


def test_forked_children_share_it() -> None:
    segment = small()
    child = os.fork()
    if child == 0:
        segment.worker_row(0).generation = 99
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert segment.worker_row(0).generation == 99


def test_every_segment_has_an_id_of_its_own() -> None:
    ids = {small().boot_id for _ in range(4)}
    assert len(ids) == 4
    assert all(len(boot) == 32 for boot in ids)


def test_the_size_is_sealed() -> None:
    segment = small()
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, segment.bytes * 2)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"limiter_cells": 8}, "limiter_cells"),
        ({"limiter_cells": 100}, "limiter_cells"),
        ({"quota_cells": 0}, "quota_cells"),
        ({"concurrency_cells": 3}, "concurrency_cells"),
        ({"log_records": 1 << 31}, "log_records"),
        ({"targets": 0}, "targets"),
        ({"route_rows": 0}, "route_rows"),
    ],
)
def test_counts_that_cannot_be(changes: dict[str, int], name: str) -> None:
    with pytest.raises(SegmentError, match=name):
        small(**changes)


@pytest.mark.parametrize("workers", [0, 65])
def test_numbers_of_workers_that_cannot_be(workers: int) -> None:
    with pytest.raises(SegmentError, match="1 to 64 workers"):
        small(workers)


def test_the_constructor_is_not_for_use() -> None:
    with pytest.raises(TypeError, match=r"Segment\.create"):
        Segment()


def test_attaching_to_something_else() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(SegmentError, match="not a shared segment"):
        Segment.attach(reader)
    os.close(reader)
    with pytest.raises(SegmentError, match="not a shared segment"):
        Segment.attach(reader)
    fd = os.memfd_create("empty")
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(SegmentError, match="begins with other bytes"):
        Segment.attach(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (VERSION_AT, struct.pack("<I", 77), "version 77"),
        (WORKERS_AT, struct.pack("<I", 0), "1 to 64 workers"),
        (LIMITER_OFF_AT, struct.pack("<Q", 3 * PAGE), "another build"),
        (LIMITER_OFF_AT + 8, struct.pack("<Q", 48), "limiter_cells=48"),
        (LIMITER_OFF_AT + 8, struct.pack("<Q", 512), "another build"),
    ],
)
def test_attaching_to_a_segment_of_another_kind(at: int, value: bytes, message: str) -> None:
    fd = copy_of(small())
    os.pwrite(fd, value, at)
    with pytest.raises(SegmentError, match=message):
        Segment.attach(fd)
    os.close(fd)


def test_attaching_to_a_cut_segment() -> None:
    segment = small()
    fd = copy_of(segment)
    os.ftruncate(fd, segment.bytes - PAGE)
    with pytest.raises(SegmentError, match="bytes"):
        Segment.attach(fd)
    os.close(fd)


def test_attaching_while_generation_and_draining_move() -> None:
    segment = small()
    segment.generation = 2**40
    segment.draining = 1
    assert Segment.attach(segment.fd).generation == 2**40


def test_worker_rows() -> None:
    segment = small()
    row = segment.worker_row(1)
    names = ("generation", "connections", "in_flight", "upstream_idle", "credentials_epoch")
    for value, name in enumerate(names, 1):
        setattr(row, name, value)
    again = Segment.attach(segment.fd).worker_row(1)
    assert [getattr(again, name) for name in names] == [1, 2, 3, 4, 5]
    assert all(getattr(segment.worker_row(0), name) == 0 for name in names)
    row.state = 2
    assert again.state_name == "serving"
    with pytest.raises(ValueError, match="state 4"):
        row.state = 4
    with pytest.raises(IndexError):
        segment.worker_row(2)


def test_a_row_keeps_its_segment() -> None:
    row = small().worker_row(0)
    row.connections = 5
    assert row.connections == 5


def test_the_life_of_a_worker() -> None:
    segment = small()
    row = segment.worker_row(0)
    assert segment.heartbeat_age(0) is None
    segment.worker_started(0, 100)
    assert (row.pid, row.starts, row.state_name) == (100, 1, "starting")
    age = segment.heartbeat_age(0)
    assert age is not None
    assert age >= 0
    row.state = 2
    row.generation = 4
    row.connections = 10
    row.in_flight = 3
    row.upstream_idle = 2
    row.heartbeat_ns = 1
    age = segment.heartbeat_age(0)
    assert age is not None
    assert age > 0
    segment.worker_stopped(0)
    assert (row.pid, row.starts, row.state_name) == (0, 1, "down")
    assert (row.generation, row.connections, row.in_flight, row.upstream_idle) == (0, 0, 0, 0)
    assert segment.heartbeat_age(0) is None
    segment.worker_started(0, 101)
    assert (row.pid, row.starts) == (101, 2)
    for wrong in (segment.worker_stopped, segment.heartbeat_age):
        with pytest.raises(IndexError):
            wrong(2)
    with pytest.raises(IndexError):
        segment.worker_started(2, 1)


def test_a_worker_that_was_faster_than_its_supervisor() -> None:
    segment = small()
    row = segment.worker_row(0)
    row.state = 2
    row.heartbeat_ns = 12345
    segment.worker_started(0, 100)
    assert (row.state, row.heartbeat_ns) == (2, 12345)


def test_a_heartbeat_from_the_future_has_no_age() -> None:
    segment = small()
    segment.worker_row(0).heartbeat_ns = 2**63
    assert segment.heartbeat_age(0) == 0.0


def test_stopping_drops_what_the_worker_held_and_nothing_else() -> None:
    segment = small()
    layout = segment.layout
    with mmap.mmap(segment.fd, segment.bytes) as whole:
        for worker in range(2):
            shift = worker * layout["per_worker_size"]
            for area in ("counters", "logring"):
                at = layout[area] + shift
                whole[at : at + 64] = b"x" * 64
        held = Concurrency(segment, 0), Concurrency(segment, 1)
        for table in held:
            for key in (1, 2, 17):
                assert table.enter(key, 10)[0]
        segment.clear_worker(0)
        assert [held[0].count(key) for key in (1, 2, 17)] == [1, 1, 1]
        for worker in range(2):
            shift = worker * layout["per_worker_size"]
            for area in ("counters", "logring"):
                at = layout[area] + shift
                assert whole[at : at + 64] == b"x" * 64
    assert (held[0].rows, held[1].rows) == (0, 3)


def test_target_rows() -> None:
    segment = small()
    row = segment.target_row(7)
    row.claim(0xABC)
    row.health = 2
    row.failures = 3
    row.ejected_until_ns = 10**15
    again = Segment.attach(segment.fd).target_row(7)
    assert (again.identity, again.health, again.failures) == (0xABC, 2, 3)
    again.claim(0xABC)
    assert (row.health, row.failures, row.ejected_until_ns) == (2, 3, 10**15)
    again.claim(0xDEF)
    assert (row.identity, row.health, row.failures, row.ejected_until_ns) == (0xDEF, 0, 0, 0)
    assert row.ejected == 0
    assert row.ejections == 0
    with pytest.raises(ValueError, match="health 3"):
        row.health = 3
    with pytest.raises(IndexError):
        segment.target_row(8)
