"""The access log: destinations, rotation, failures that are told once, recent requests."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from pathlib import Path

import orjson
import pytest

from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.shared.log_ring import PHASE_NAMES, TEXT_NAMES
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.log_records import write_record
from fastgate.observability.accesslog import AccessLog


def segment(records: int = 64) -> Segment:
    return Segment.create(
        2,
        limiter_cells=64,
        quota_cells=64,
        targets=8,
        route_rows=2,
        concurrency_cells=16,
        log_records=records,
    )


def ident(n: int) -> bytes:
    return n.to_bytes(16, "big")


def put(s: Segment, *numbers: int, worker: int = 0) -> None:
    for n in numbers:
        assert write_record(s, worker, request_id=ident(n), status=200, path="/x")


def ids(path: Path) -> list[int]:
    return [int(orjson.loads(line)["id"], 16) for line in path.read_bytes().splitlines()]


def test_lines_of_all_workers_come_into_the_file(tmp_path: Path) -> None:
    s = segment()
    log = AccessLog(s, to=str(tmp_path / "log"))
    put(s, 1, 2)
    put(s, 3, worker=1)
    assert log.pending == 3
    assert log.drain() == 3
    assert log.drain() == 0
    assert ids(tmp_path / "log") == [1, 2, 3]
    log.close()
    assert (log.taken, log.lost, log.errors, log.damaged) == (3, 0, 0, 0)


def test_the_file_is_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    s = segment()
    path = tmp_path / "log"
    for n in (1, 2):
        log = AccessLog(s, to=str(path))
        put(s, n)
        log.close()  # what waits is written first
    assert ids(path) == [1, 2]
    assert path.stat().st_mode & 0o007 == 0


def test_a_line_left_unfinished_by_an_earlier_process_is_closed(tmp_path: Path) -> None:
    s = segment()
    path = tmp_path / "log"
    path.write_bytes(b'{"time":"2026-')
    log = AccessLog(s, to=str(path))
    put(s, 1)
    log.close()
    first, second = path.read_bytes().splitlines()
    assert first == b'{"time":"2026-'
    assert orjson.loads(second)["id"] == ident(1).hex()


def test_the_combined_format(tmp_path: Path) -> None:
    s = segment()
    log = AccessLog(s, to=str(tmp_path / "log"), format="combined")
    write_record(s, 0, method="GET", path="/x", status=204, bytes_out=7, user_agent="curl/8")
    log.close()
    assert (tmp_path / "log").read_text() == (
        ':: - - [01/Jan/1970:00:00:00 +0000] "GET /x HTTP/1.1" 204 7 "-" "curl/8"\n'
    )


def test_phases_are_written_when_asked_for_also_from_a_reload_on(tmp_path: Path) -> None:
    s = segment()
    path = tmp_path / "log"
    log = AccessLog(s, to=str(path))
    for phases in (False, True, False):
        log.configure(str(path), "json", phases=phases)
        write_record(s, 0, phases={"route": 7})
        log.drain()
    log.close()
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line.get("phases") for line in lines] == [None, {"route": 7}, None]


@pytest.mark.parametrize("to", ["stdout", "stderr"])
def test_standard_streams(to: str, capfd: pytest.CaptureFixture[str]) -> None:
    s = segment()
    log = AccessLog(s, to=to)
    put(s, 5)
    log.close()
    out, err = capfd.readouterr()
    assert orjson.loads(out if to == "stdout" else err)["id"] == ident(5).hex()
    assert (err if to == "stdout" else out) == ""
    os.fstat(1 if to == "stdout" else 2)  # still open


def test_off_is_off_but_recent_requests_are_kept() -> None:
    s = segment()
    recent = RecentRequests(10)
    log = AccessLog(s, recent=recent)
    put(s, 1, 2)
    assert log.drain() == 2
    assert recent.find(ident(2).hex()) is not None
    log.close()
    assert log.lost == 0


def test_after_a_rotation_the_file_is_reopened(tmp_path: Path) -> None:
    s = segment()
    path = tmp_path / "log"
    log = AccessLog(s, to=str(path))
    put(s, 1)
    log.drain()
    path.rename(tmp_path / "log.1")
    put(s, 2)
    log.drain()
    log.reopen()
    put(s, 3)
    log.drain()
    log.close()
    assert ids(tmp_path / "log.1") == [1, 2]
    assert ids(path) == [3]


def test_a_path_that_cannot_be_reopened_leaves_the_old_file_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s = segment()
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(s, to=str(folder / "log"))
    folder.rename(tmp_path / "moved")
    log.reopen()
    put(s, 1)
    log.drain()
    log.close()
    assert ids(tmp_path / "moved" / "log") == [1]
    assert log.errors == 1
    assert "still used" in caplog.text


def test_a_file_that_cannot_be_opened_at_first_is_the_callers_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(segment(), to=str(tmp_path / "no" / "such" / "folder"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        AccessLog(segment(), to=str(tmp_path / "pipe"))


def test_a_write_error_is_logged_once_and_counted_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    s = segment()
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    log = AccessLog(s, to=str(path))
    for n in range(3):
        put(s, n)
        assert log.drain() == 1
    assert (log.taken, log.lost, log.errors) == (3, 3, 3)
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert os.strerror(errno.ENOSPC) in caplog.text
    path.unlink()
    log.reopen()
    put(s, 7)
    log.drain()
    assert [r.levelname for r in caplog.records] == ["ERROR", "INFO"]
    assert "3 lines were lost" in caplog.text
    log.close()
    assert ids(path) == [7]


def test_going_on_elsewhere(tmp_path: Path) -> None:
    s = segment()
    recent = RecentRequests(10)
    log = AccessLog(s, to=str(tmp_path / "a"), recent=recent)
    put(s, 1)
    log.drain()
    log.configure(str(tmp_path / "b"), "json")
    log.configure(str(tmp_path / "c"), "combined")
    put(s, 2)
    log.drain()
    with pytest.raises(FileNotFoundError):
        log.configure(str(tmp_path / "no" / "folder"), "json")
    put(s, 3)
    log.drain()
    log.configure("off", "json")
    put(s, 4)
    log.drain()
    log.close()
    assert ids(tmp_path / "a") == [1]
    assert (tmp_path / "b").read_bytes() == b""
    assert (tmp_path / "c").read_bytes().count(b"\n") == 2
    assert (len(recent), log.taken) == (4, 4)


def test_the_same_destination_again_changes_nothing(tmp_path: Path) -> None:
    s = segment()
    path = tmp_path / "log"
    log = AccessLog(s, to=str(path))
    path.rename(tmp_path / "moved")
    log.configure(str(path), "json")
    put(s, 1)
    log.drain()
    log.close()
    assert ids(tmp_path / "moved") == [1]
    assert not path.exists()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    s = segment()
    log = AccessLog(s, to=str(tmp_path / "a"))
    log.configure(str(tmp_path / "b"), "json")
    log.drain()
    log.configure(str(tmp_path / "c"), "json")
    log.reopen()
    log.close()
    del s, log
    assert sorted(os.listdir("/proc/self/fd")) == before


class Drains:
    """Tells the event loop's side whenever the log's thread has drained."""

    def __init__(self, log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.event = asyncio.Event()
        loop = asyncio.get_running_loop()
        drain = log.drain

        def observed() -> int:
            taken = drain()
            loop.call_soon_threadsafe(self.event.set)
            return taken

        monkeypatch.setattr(log, "drain", observed)

    async def next(self) -> None:
        await self.event.wait()
        self.event.clear()


async def test_the_loop_drains_what_comes_and_stops_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = segment()
    log = AccessLog(s, to=str(tmp_path / "log"))
    drains = Drains(log, monkeypatch)
    task = asyncio.create_task(log.run())
    n = 1
    while n < 1000:  # many times what the ring holds, as fast as it is emptied
        while write_record(s, 0, request_id=ident(n)):
            n += 1
        await drains.next()
    while log.taken < n - 1:
        await drains.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    put(s, n)
    log.close()
    assert ids(tmp_path / "log") == list(range(1, n + 1))


async def test_the_loop_reopens_a_file_even_without_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    log = AccessLog(segment(), to=str(path))
    drains = Drains(log, monkeypatch)
    task = asyncio.create_task(log.run())
    path.unlink()
    log.reopen()
    await drains.next()
    assert path.exists()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    log.close()


def test_the_documentation_names_every_field() -> None:
    s = segment()
    recent = RecentRequests(1)
    write_record(
        s, 0, trace_id=b"\x01" * 16, status=200, reason=60, fault=1, attempts=1, flags=1023,
        amount_micros=1, phases=dict.fromkeys(PHASE_NAMES, 1), **dict.fromkeys(TEXT_NAMES, "x"),
    )  # fmt: skip
    line = orjson.loads(LogDrain(s, recent=recent).drain(0))
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    sections = {part.split("\n")[0]: part for part in page.split("\n## ")}
    assert re.findall(r"^\| `(\w+)` \|", sections["Access log"], re.M) == list(line)
    assert re.findall(r"^\| `(\w+)` \|", sections["Phases"], re.M) == list(PHASE_NAMES)
    told = set(re.findall(r"`(\w+)`", sections["Recent requests"]))
    assert told >= set(recent.latest(1)[0]) - set(line)
