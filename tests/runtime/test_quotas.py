"""Quotas on disk: saved when they change, restored at the start, never half."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Period
from fastgate.runtime.control import quotas
from fastgate.runtime.control.quotas import QuotaSaver
from fastgate.runtime.persist import StateDirectory, StateError

YEAR = int(Period.PERIOD_YEAR)


def used(segment: Segment, key: int) -> int:
    return QuotaTable(segment).peek(key, YEAR, int(time.time()), 100).used


def take(segment: Segment, key: int, cost: int) -> None:
    assert QuotaTable(segment).take(key, YEAR, int(time.time()), 100, cost).allowed


def test_counts_go_on_in_another_segment(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    first, second = Segment.create(1), Segment.create(1)
    take(first, 5, 7)
    QuotaSaver(first, state).save()
    QuotaSaver(second, state).restore()
    assert used(second, 5) == 7


def test_nothing_is_written_that_has_not_changed(tmp_path: Path) -> None:
    segment = Segment.create(1)
    take(segment, 5, 1)
    saver = QuotaSaver(segment, StateDirectory(tmp_path))
    saver.save()
    written = (tmp_path / "quotas.bin").stat().st_ino
    saver.save()
    assert (tmp_path / "quotas.bin").stat().st_ino == written
    take(segment, 5, 1)
    saver.save()
    assert (tmp_path / "quotas.bin").stat().st_ino != written


def test_a_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "quotas.bin").write_bytes(b"damaged")
    segment = Segment.create(1)
    QuotaSaver(segment, StateDirectory(tmp_path)).restore()
    assert (tmp_path / "quotas.bin.damaged").read_bytes() == b"damaged"
    assert "quotas count from zero" in caplog.text
    assert used(segment, 5) == 0


async def test_what_cannot_be_written_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quotas, "EVERY_S", 0)
    segment = Segment.create(1)
    take(segment, 5, 3)
    state = StateDirectory(tmp_path)
    tries, enough, write = [0], asyncio.Event(), state.write
    loop = asyncio.get_running_loop()

    def failing(name: str, content: bytes) -> None:
        tries[0] += 1
        if tries[0] <= 3:
            raise StateError("no space left")
        write(name, content)
        loop.call_soon_threadsafe(enough.set)

    monkeypatch.setattr(state, "write", failing)
    task = asyncio.ensure_future(QuotaSaver(segment, state).run())
    async with asyncio.timeout(20):
        await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert caplog.text.count("no space left") == 1
    second = Segment.create(1)
    QuotaSaver(second, state).restore()
    assert used(second, 5) == 3
