"""The log rings: order, fullness, records of killed workers, texts cut to fit."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.shared.log_ring import PHASE_NAMES, TEXT_NAMES, ring_state
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.log_records import tear_record, write_numbered, write_record

RECORDS = 16
PRODUCER = """
import sys
from fastgate._core.shared.log_ring import ring_state
from fastgate._core.testing.log_records import write_numbered
from fastgate._core.shared.segment import Segment
segment = Segment.attach(int(sys.argv[1]))
number = int(sys.argv[2])
print("ready", flush=True)
while True:
    number += write_numbered(segment, 0, number, 100)
"""


def segment(workers: int = 2, records: int = RECORDS) -> Segment:
    return Segment.create(
        workers,
        limiter_cells=64,
        quota_cells=64,
        targets=8,
        route_rows=2,
        concurrency_cells=16,
        log_records=records,
    )


def number_of(record: dict[str, object]) -> int:
    """The number that `write_numbered` gave it, after checking that it is whole."""
    raw = bytes.fromhex(str(record["id"]))
    first, second = struct.unpack("<QQ", raw)
    assert first == second == record["bytes_in"] == record["bytes_out"]
    assert record["started_unix_ns"] == first
    assert (record["method"], record["status"], record["worker"]) == ("GET", 200, 0)
    assert record["path"] == raw.decode("utf-8", "replace")
    return first


def taken(drain: LogDrain, recent: RecentRequests) -> list[int]:
    """Numbers of the records that one drain of ring 0 takes, in their order."""
    before = drain.taken
    drain.drain(0)
    new = recent.latest(drain.taken - before)
    return sorted(number_of(record) for record in new)


def test_records_come_out_in_the_order_they_went_in() -> None:
    s = segment()
    recent = RecentRequests(1000)
    drain = LogDrain(s, format="none", recent=recent)
    expected = 0
    for batch in (1, 5, 16, 3, 16, 16, 7):
        assert write_numbered(s, 0, expected, batch) == batch
        assert drain.pending() == batch
        assert taken(drain, recent) == list(range(expected, expected + batch))
        expected += batch
    assert ring_state(s, 0) == (expected, expected, 0)
    assert drain.damaged == 0


def test_a_full_ring_drops_the_newest_and_counts_them() -> None:
    s = segment()
    recent = RecentRequests(100)
    drain = LogDrain(s, format="none", recent=recent)
    assert write_numbered(s, 0, 0, RECORDS) == RECORDS
    assert not write_record(s, 0, status=200)
    assert write_numbered(s, 0, RECORDS, 5) == 0
    assert ring_state(s, 0) == (RECORDS, 0, 2)
    assert taken(drain, recent) == list(range(RECORDS))
    assert write_record(s, 0, status=200)
    assert ring_state(s, 0) == (RECORDS + 1, RECORDS, 2)


def test_rings_of_workers_are_apart() -> None:
    s = segment(3)
    for worker, n in ((0, 2), (2, 5)):
        assert write_numbered(s, worker, 0, n) == n
    assert [ring_state(s, worker)[0] for worker in range(3)] == [2, 0, 5]


def test_a_record_that_was_never_committed_is_never_seen() -> None:
    s = segment()
    recent = RecentRequests(100)
    drain = LogDrain(s, format="none", recent=recent)
    write_numbered(s, 0, 0, 3)
    assert tear_record(s, 0)
    assert taken(drain, recent) == [0, 1, 2]
    # The next worker of that index goes on in the same place.
    assert write_numbered(Segment.attach(s.fd), 0, 3, 2) == 2
    assert taken(drain, recent) == [3, 4]
    assert drain.damaged == 0


def test_a_new_record_has_nothing_left_of_the_one_before_in_its_place() -> None:
    s = segment(records=2)
    drain = LogDrain(s, format="json")
    everything = {
        "trace_id": bytes(range(16)), "span_id": bytes(range(8)), "reason": 60, "fault": 1,
        "attempts": 3, "flags": 0x1FF, "upstream_ns": 5, "amount_micros": 5, "generation": 9,
        "phases": dict.fromkeys(PHASE_NAMES, 5), **dict.fromkeys(TEXT_NAMES, "x"),
    }  # fmt: skip
    for _ in range(2):
        assert write_record(s, 0, **everything)
    drain.drain(0)
    assert write_record(s, 0, status=204)
    assert drain.drain(0) == (
        b'{"time":"1970-01-01T00:00:00.000000Z","id":"00000000000000000000000000000000",'
        b'"client":"::","port":0,"method":"","host":"","path":"","status":204,"bytes_in":0,'
        b'"bytes_out":0,"duration_ms":0.000,"worker":0,"generation":0,"phases":{}}\n'
    )


def test_a_head_that_nobody_can_have_written_is_passed_over() -> None:
    s = segment()
    drain = LogDrain(s, format="json")
    write_numbered(s, 0, 0, 3)
    damaged = _overwrite_head(s, 10_000)
    assert drain.drain(0) == b""
    assert drain.damaged == damaged == 10_000
    assert write_numbered(s, 0, 0, 1) == 1
    assert drain.drain(0).count(b"\n") == 1


def _overwrite_head(s: Segment, value: int) -> int:
    """Put a number into the word that says how many records ring 0 ever had."""
    found = None
    before = os.pread(s.fd, s.bytes, 0)
    write_numbered(s, 0, 3, 1)
    after = os.pread(s.fd, s.bytes, 0)
    for at in range(0, s.bytes, 64):
        old, new = before[at : at + 8], after[at : at + 8]
        if old == struct.pack("<Q", 3) and new == struct.pack("<Q", 4):
            found = at
            break
    assert found is not None
    os.pwrite(s.fd, struct.pack("<Q", value), found)
    return value


texts = st.lists(
    st.text(max_size=320).map(str.encode) | st.binary(max_size=320),
    min_size=len(TEXT_NAMES),
    max_size=len(TEXT_NAMES),
)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_texts_are_kept_whole_or_cut_from_behind(values: list[bytes]) -> None:
    s = segment(1)
    recent = RecentRequests(2)
    write_record(s, 0, **dict(zip(TEXT_NAMES, values, strict=True)))
    LogDrain(s, format="none", recent=recent).drain(0)
    (record,) = recent.latest(1)
    for name, value in zip(TEXT_NAMES, values, strict=True):
        kept = record[name] or ""
        whole = value.decode("utf-8", "replace")
        assert whole.startswith(kept), name
        # Typical lengths survive, however long the others are.
        typical = {"method": 16, "route": 32, "consumer": 36, "target": 28, "limit": 16}
        if len(value) <= typical.get(name, 0):
            assert kept == whole, name


def test_short_texts_need_not_give_way() -> None:
    s = segment(1)
    recent = RecentRequests(2)
    path = "/" + "p" * 100
    write_record(s, 0, method="GET", host="api.example.com", path=path, user_agent="u" * 100)
    LogDrain(s, format="none", recent=recent).drain(0)
    (record,) = recent.latest(1)
    assert (record["path"], record["user_agent"]) == (path, "u" * 100)


def test_a_text_is_not_cut_within_a_character() -> None:
    s = segment(1)
    recent = RecentRequests(2)
    write_record(s, 0, user_agent="\N{SNOWMAN}" * 200)
    LogDrain(s, format="none", recent=recent).drain(0)
    (record,) = recent.latest(1)
    assert set(record["user_agent"]) == {"\N{SNOWMAN}"}


def test_wrong_fields_are_errors() -> None:
    s = segment()
    with pytest.raises(TypeError, match="no such field"):
        write_record(s, 0, colour="red")
    with pytest.raises(IndexError):
        write_record(s, 2)
    with pytest.raises(ValueError, match="request_id is 16 bytes"):
        write_record(s, 0, request_id=b"short")
    with pytest.raises(ValueError, match="not in tuple"):
        write_record(s, 0, phases={"lunch": 1})
    assert ring_state(s, 0) == (0, 0, 0)


def test_a_producer_killed_anywhere_leaves_no_torn_and_no_second_record() -> None:
    """Ten workers of one index, each killed at a moment of chance, under a consumer that runs."""
    s = segment(1, records=64)
    recent = RecentRequests(4096)
    drain = LogDrain(s, format="none", recent=recent)
    chance = random.Random(20261120)
    expected = 0
    for _ in range(10):
        producer = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(s.fd), str(expected)],
            pass_fds=[s.fd],
            stdout=subprocess.PIPE,
        )
        assert producer.stdout is not None
        assert producer.stdout.readline() == b"ready\n"
        ends = time.monotonic() + chance.uniform(0.002, 0.03)
        enough = expected + 128  # twice round the ring, on a machine that is busy too
        while time.monotonic() < ends or expected < enough:
            assert producer.poll() is None
            expected = _continue(taken(drain, recent), expected)
        producer.send_signal(signal.SIGKILL)
        producer.wait()
        producer.stdout.close()
        while drain.pending():
            expected = _continue(taken(drain, recent), expected)
    assert drain.damaged == 0
    assert drain.taken == expected == ring_state(s, 0)[0]


def _continue(numbers: list[int], expected: int) -> int:
    """Each number follows the one before: none twice, none left out."""
    assert numbers == list(range(expected, expected + len(numbers)))
    return expected + len(numbers)
