"""Draining: lines to descriptors and as bytes, errors of writing, the recent requests."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.shared.log_ring import ring_state
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.log_records import write_numbered, write_record

IPV4 = bytes(10) + b"\xff\xff\x0a\x00\x00\x07"
STARTED = 1_763_640_000_123_456_789  # 2025-11-20T12:00:00.123456Z


def segment(workers: int = 2, records: int = 1024) -> Segment:
    return Segment.create(
        workers,
        limiter_cells=64,
        quota_cells=64,
        targets=8,
        route_rows=2,
        concurrency_cells=16,
        log_records=records,
    )


def ident(n: int) -> bytes:
    return n.to_bytes(16, "big")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def lines_of(fd: int) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in os.pread(fd, 1 << 24, 0).splitlines()]


# ---- lines ------------------------------------------------------------------------------


def test_all_rings_are_written_in_one_go(file: int) -> None:
    s = segment(3)
    for worker in range(3):
        for n in range(worker + 1):
            write_record(s, worker, request_id=ident(10 * worker + n))
    drain = LogDrain(s)
    assert drain.pending() == 6
    assert drain.write(file) == (6, 0, 0, False)
    assert drain.pending() == 0
    assert [(line["worker"], line["id"]) for line in lines_of(file)] == [
        (worker, ident(10 * worker + n).hex()) for worker in range(3) for n in range(worker + 1)
    ]
    assert drain.write(file) == (0, 0, 0, False)


def test_more_lines_than_the_buffer_holds_are_all_written(file: int) -> None:
    s = segment(2)
    for worker in range(2):
        for n in range(1024):
            assert write_record(s, worker, request_id=ident(n), user_agent="\x01" * 255)
    drain = LogDrain(s)
    assert drain.write(file) == (2048, 0, 0, False)
    assert os.fstat(file).st_size > 3_000_000
    found = [line["id"] for line in lines_of(file)]
    assert found == [ident(n).hex() for n in range(1024)] * 2


def test_bytes_take_at_most_what_is_asked_for() -> None:
    s = segment()
    for n in range(10):
        write_record(s, 1, request_id=ident(n))
    drain = LogDrain(s)
    first = drain.drain(1, 3).splitlines()
    rest = drain.drain(1).splitlines()
    assert [orjson.loads(line)["id"] for line in first + rest] == [
        ident(n).hex() for n in range(10)
    ]
    assert (len(first), len(rest), drain.drain(0)) == (3, 7, b"")


def test_with_no_format_records_are_only_kept() -> None:
    s = segment()
    recent = RecentRequests(10)
    drain = LogDrain(s, format="none", recent=recent)
    write_record(s, 0, request_id=ident(1))
    assert drain.write(-1) == (1, 0, 0, False)
    assert len(recent) == 1


def test_arguments_that_make_no_sense() -> None:
    s = segment()
    with pytest.raises(ValueError, match="json, combined"):
        LogDrain(s, format="xml")
    with pytest.raises(IndexError):
        LogDrain(s).drain(2)
    with pytest.raises(ValueError, match="capacity"):
        RecentRequests(0)


# ---- errors of writing ------------------------------------------------------------------


def test_what_cannot_be_written_is_counted_and_given_up() -> None:
    s = segment()
    write_numbered(s, 0, 0, 5)
    drain = LogDrain(s)
    with open("/dev/full", "wb") as full:
        assert drain.write(full.fileno()) == (5, 5, errno.ENOSPC, False)
    assert drain.pending() == 0


def test_after_an_error_the_other_rings_are_emptied_all_the_same() -> None:
    s = segment(3)
    for worker in range(3):
        write_numbered(s, worker, 0, 1000)
    drain = LogDrain(s)
    with open("/dev/full", "wb") as full:
        taken, lost, error, _ = drain.write(full.fileno())
    assert (taken, lost, error) == (3000, 3000, errno.ENOSPC)


def test_a_closed_pipe_is_an_error_not_the_end() -> None:
    s = segment()
    write_numbered(s, 0, 0, 3)
    reader, writer = os.pipe()
    os.close(reader)
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        assert LogDrain(s).write(writer) == (3, 3, errno.EPIPE, False)
    finally:
        signal.signal(signal.SIGPIPE, before)
        os.close(writer)


def test_a_line_cut_off_by_a_full_disk_damages_no_other(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: it cuts a write at an exact byte."""
    s = segment()
    path = tmp_path / "log"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    drain = LogDrain(s)
    write_record(s, 0, request_id=ident(1))
    drain.write(fd)
    size = os.fstat(fd).st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, limits[1]))
        write_record(s, 0, request_id=ident(2))
        write_record(s, 0, request_id=ident(3))
        assert drain.write(fd) == (2, 2, errno.EFBIG, True)
        write_record(s, 0, request_id=ident(4))
        assert drain.write(fd, True) == (1, 1, errno.EFBIG, True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    write_record(s, 0, request_id=ident(5))
    assert drain.write(fd, True) == (1, 0, 0, False)
    lines = path.read_bytes().splitlines()
    os.close(fd)
    assert len(lines) == 3
    assert [orjson.loads(line)["id"] for line in (lines[0], lines[2])] == [
        ident(1).hex(), ident(5).hex(),
    ]  # fmt: skip
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(lines[1])


def test_a_pipe_that_is_read_gets_every_line() -> None:
    """Far more than a pipe holds: the writer waits for the reader, in small steps."""
    s = segment(1)
    for n in range(1024):
        write_record(s, 0, request_id=ident(n), user_agent="x" * 200)
    reader, writer = os.pipe()
    chunks: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 65_536):
            chunks.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    result = LogDrain(s).write(writer)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert result == (1024, 0, 0, False)
    found = [orjson.loads(line)["id"] for line in b"".join(chunks).splitlines()]
    assert found == [ident(n).hex() for n in range(1024)]


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_writer() -> None:
    s = segment(1)
    for n in range(1024):
        write_record(s, 0, request_id=ident(n), user_agent="x" * 200)
    reader, writer = os.pipe()
    taken, lost, error, cut = LogDrain(s).write(writer)
    os.set_blocking(reader, False)
    arrived = b""
    while True:
        try:
            arrived += os.read(reader, 65_536)
        except BlockingIOError:
            break
    os.close(reader)
    os.close(writer)
    assert (taken, error) == (1024, errno.ETIMEDOUT)
    assert lost == 1024 - arrived.count(b"\n")
    assert cut == (not arrived.endswith(b"\n"))


# ---- recent requests --------------------------------------------------------------------


def test_a_request_is_found_by_its_id_phase_by_phase() -> None:
    s = segment()
    recent = RecentRequests(100)
    phases = {"read_head": 0, "route": 12, "authenticate": 14, "admit": 20, "settle": 30, "log": 31}
    write_record(
        s, 1, request_id=ident(0xABC), started_unix_ns=STARTED, address=IPV4, port=5000,
        status=429, reason=60, duration_ns=32_500, generation=4, flags=2, bytes_in=100,
        bytes_out=200, phases=phases, method="GET", host="h", path="/p", route="orders",
        consumer="demo", limit="burst", user_agent="curl",
    )  # fmt: skip
    LogDrain(s, format="none", recent=recent).write(-1)
    found = recent.find(ident(0xABC).hex().upper())
    assert found is not None
    assert found.pop("phases") == [
        {"name": "read_head", "start_us": 0, "duration_us": 12},
        {"name": "route", "start_us": 12, "duration_us": 2},
        {"name": "authenticate", "start_us": 14, "duration_us": 6},
        {"name": "admit", "start_us": 20, "duration_us": 10},
        {"name": "settle", "start_us": 30, "duration_us": 1},
        {"name": "log", "start_us": 31, "duration_us": 1},
    ]
    assert found == {
        "id": ident(0xABC).hex(), "time": "2025-11-20T12:00:00.123456Z",
        "started_unix_ns": STARTED, "outcome": "refused", "status": 429, "reason": "rate_limited",
        "fault": None, "client": "10.0.0.7", "port": 5000, "method": "GET", "host": "h",
        "path": "/p", "query": None, "route": "orders", "service": None, "consumer": "demo",
        "target": None, "user_agent": "curl", "limit": "burst", "route_slot": 0, "attempts": 0,
        "reused": False,
        "keep_alive": True, "tls": False, "client_certificate": False, "http_1_0": False,
        "upcall": False, "tunnel": False, "aborted": False, "delayed": False,
        "bytes_in": 100, "bytes_out": 200, "duration_us": 32, "upstream_us": 0,
        "amount_micros": 0, "trace": None, "span": None, "sampled": False, "worker": 1,
        "generation": 4,
    }  # fmt: skip


def test_phases_stand_in_the_order_of_time_also_after_a_retry() -> None:
    s = segment()
    recent = RecentRequests(10)
    phases = {"select": 10, "connect": 900, "forward": 40, "relay": 1000}
    write_record(s, 0, request_id=ident(1), duration_ns=1_500_000, phases=phases)
    LogDrain(s, format="none", recent=recent).write(-1)
    found = recent.find(ident(1).hex())
    assert found is not None
    assert [(p["name"], p["duration_us"]) for p in found["phases"]] == [
        ("select", 30), ("forward", 860), ("connect", 100), ("relay", 500),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"status": 200}, "answered"),
        ({"status": 502}, "answered"),
        ({"status": 401, "reason": 10}, "refused"),
        ({"status": 429, "reason": 63}, "refused"),
        ({"status": 503, "reason": 64}, "refused"),  # on purpose
        ({"status": 500, "reason": 70}, "failed"),
        ({"status": 504, "reason": 88}, "failed"),
        ({"status": 499, "reason": 100}, "aborted"),
        ({"status": 200, "flags": 16}, "aborted"),
        ({"status": 200, "reason": 101}, "truncated"),
        ({"status": 101, "reason": 102}, "tunnelled"),
    ],
)
def test_how_it_ended_in_a_word(fields: dict[str, int], outcome: str) -> None:
    s = segment()
    recent = RecentRequests(1)
    write_record(s, 0, **fields)  # type: ignore[arg-type]
    LogDrain(s, format="none", recent=recent).write(-1)
    assert recent.latest(1)[0]["outcome"] == outcome


def test_only_the_newest_are_kept() -> None:
    s = segment(1)
    recent = RecentRequests(100)
    drain = LogDrain(s, format="none", recent=recent)
    for n in range(333):
        write_record(s, 0, request_id=ident(n), started_unix_ns=n)
        if n % 7 == 0:
            drain.write(-1)
    drain.write(-1)
    assert len(recent) == 100
    assert [r["id"] for r in recent.latest(1000)] == [ident(n).hex() for n in range(332, 232, -1)]
    assert [r["id"] for r in recent.latest(2)] == [ident(332).hex(), ident(331).hex()]
    assert recent.find(ident(232).hex()) is None
    assert recent.find(ident(233).hex()) is not None


def test_the_newest_of_two_with_one_id_is_found() -> None:
    s = segment(1)
    recent = RecentRequests(10)
    for status in (500, 200):
        write_record(s, 0, request_id=ident(9), status=status)
    LogDrain(s, format="none", recent=recent).write(-1)
    found = recent.find(ident(9).hex())
    assert found is not None
    assert found["status"] == 200


def test_requests_of_several_workers_come_in_the_order_they_ended() -> None:
    s = segment(2)
    recent = RecentRequests(10)
    for n, worker in enumerate((0, 1, 1, 0, 1)):
        write_record(s, worker, request_id=ident(n), started_unix_ns=n * 1_000_000)
    LogDrain(s, format="none", recent=recent).write(-1)
    assert [r["id"] for r in recent.latest(5)] == [ident(n).hex() for n in (4, 3, 2, 1, 0)]


def test_nothing_kept_nothing_found() -> None:
    recent = RecentRequests()
    assert (len(recent), recent.latest(5), recent.find("00" * 16)) == (0, [], None)
    for wrong in ("", "zz", "00" * 15, "00" * 17):
        with pytest.raises(ValueError, match="hex"):
            recent.find(wrong)


def test_an_idle_keep_takes_no_memory() -> None:
    """10 GB would be noticed: they are reserved with the first record, and touched as it fills."""
    s = segment(1)
    recent = RecentRequests(10_000_000)
    write_record(s, 0, request_id=ident(5))
    before = _resident()
    LogDrain(s, format="none", recent=recent).write(-1)
    assert recent.find(ident(5).hex()) is not None
    assert _resident() - before < 8 << 20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_several_threads_may_drain_and_look_up_at_once() -> None:
    """Each record is taken by exactly one of two drains, while a third thread reads."""
    s = segment(1, records=64)
    recent = RecentRequests(256)
    drain = LogDrain(s, recent=recent)
    seen: list[bytes] = []
    done = threading.Event()

    def consume() -> None:
        while not done.is_set() or drain.pending():
            seen.append(drain.drain(0))

    def look() -> None:
        while not done.is_set():
            for record in recent.latest(50):
                assert record["bytes_in"] == record["bytes_out"]

    threads = [threading.Thread(target=work) for work in (consume, consume, look)]
    for thread in threads:
        thread.start()
    written = 0
    while written < 20_000:
        written += write_numbered(s, 0, written, 50)
    done.set()
    for thread in threads:
        thread.join()
    numbers = [orjson.loads(line)["bytes_in"] for part in seen for line in part.splitlines()]
    assert sorted(numbers) == list(range(written))
    assert (drain.taken, drain.damaged, ring_state(s, 0)[1]) == (written, 0, written)
