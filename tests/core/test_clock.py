"""The time that windows go by: a jump of the system's clock is believed only when it lasts."""

from __future__ import annotations

import time

import orjson
import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.shared.clock import HOLD_SECONDS, JUMP_SECONDS, held_seconds
from fastgate._core.shared.quota import QuotaTable, export_quotas, import_quotas
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Period
from fastgate._core.testing.windows import window_time

S = 10**9
NOON = 1_795_176_000  # 2026-11-20 12:00 UTC
DAY = 86_400


def segment() -> Segment:
    return Segment.create(1, limiter_cells=16, quota_cells=64, targets=1, route_rows=1)


class Machine:
    """A clock that can be set, and one that counts seconds since the start."""

    def __init__(self) -> None:
        self.segment = segment()
        self.real, self.boot = NOON, 1000
        self.look()

    def look(self) -> int:
        return window_time(self.segment, self.real * S, self.boot * S) // S

    def wait(self, seconds: int, step: int = 1) -> int:
        for _ in range(seconds // step):
            self.real += step
            self.boot += step
            now = self.look()
        return now

    def set(self, seconds: int) -> int:
        self.real += seconds
        return self.look()


@pytest.mark.parametrize("jump", [DAY, -DAY, 2 * DAY, 40 * DAY, 366 * DAY, JUMP_SECONDS + 1])
def test_a_jump_forth_and_back_is_none(jump: int) -> None:
    m = Machine()
    assert m.set(jump) == NOON
    assert m.wait(30) == NOON + 30
    assert m.set(-jump) == NOON + 30
    assert m.wait(2 * HOLD_SECONDS) == NOON + 30 + 2 * HOLD_SECONDS


@pytest.mark.parametrize("correction", [1, -1, JUMP_SECONDS, -JUMP_SECONDS])
def test_small_corrections_are_followed_at_once(correction: int) -> None:
    m = Machine()
    assert m.set(correction) == NOON + correction
    assert m.wait(5) == NOON + correction + 5


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_jump_that_lasts_is_believed(jump: int) -> None:
    m = Machine()
    m.set(jump)
    assert m.wait(HOLD_SECONDS - 1) == NOON + HOLD_SECONDS - 1
    assert m.wait(2) == NOON + HOLD_SECONDS + 1 + jump


def test_a_clock_that_jumps_again_and_again_is_believed_when_it_is_at_rest() -> None:
    m = Machine()
    for _ in range(5):
        m.set(DAY)
        assert m.wait(HOLD_SECONDS - 10, 10) < NOON + DAY
    m.wait(20)
    assert m.look() == m.real


def test_sleep_of_the_machine_is_no_jump() -> None:
    m = Machine()
    m.real += 8 * 3600
    m.boot += 8 * 3600
    assert m.look() == NOON + 8 * 3600


def test_a_new_worker_goes_by_the_time_of_the_others() -> None:
    m = Machine()
    m.set(DAY)
    other = Segment.attach(m.segment.fd)
    assert window_time(other, m.real * S, m.boot * S) // S == NOON


def test_no_new_quota_for_a_clock_that_jumped() -> None:
    """The quota of a day, used up: a jump forth gives none, nor does the way back."""
    m = Machine()
    quotas = QuotaTable(m.segment)
    day = int(Period.PERIOD_DAY)
    assert quotas.take(1, day, m.look(), 1).allowed
    for jump in (DAY, 5 * DAY):
        assert not quotas.take(1, day, m.set(jump), 1).allowed
        m.wait(60, 10)
        assert not quotas.take(1, day, m.look(), 1).allowed
        assert not quotas.take(1, day, m.set(-jump), 1).allowed
    m.wait(DAY, 60)
    assert quotas.take(1, day, m.look(), 1).allowed


def behind(seconds: int) -> Segment:
    """A segment whose workers see the system's clock jump by so much right now."""
    s = Segment.create(1, log_records=1024)
    real = time.time_ns() - seconds * S
    window_time(s, real, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    return s


async def test_a_worker_counts_by_it_and_saving_does_too() -> None:
    backend = await Backend().start()
    document = proxied(backend.url, quotas=[{"by": ["address"], "period": "day", "requests": 1}])
    s = behind(3 * DAY)
    assert 3 * DAY - 2 <= held_seconds(s) <= 3 * DAY + 2
    async with Plane(document, segment=s) as plane:
        assert (await plane.get("/")).status == 200
        refused = await plane.get("/")
        assert refused.status == 429
        resets = orjson.loads(refused.body)["resets_at"]
        before = time.gmtime(time.time() - 3 * DAY)
        after = time.gmtime(time.time() - 2 * DAY)
        assert resets[:10] in (
            time.strftime("%Y-%m-%d", before),
            time.strftime("%Y-%m-%d", after),
        )
        # The clock comes back: the same window goes on, also for one that starts from the file.
        saved = export_quotas(s)
        fresh = Segment.create(1, log_records=1024)
        assert import_quotas(fresh, saved, int(time.time()) - 3 * DAY) == 1
    await backend.stop()
