"""Quotas against the calendar of `datetime` and a dictionary; export and import."""

from __future__ import annotations

import errno
import os
from array import array
from calendar import timegm
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memorykit import taken

from fastgate._core.shared.quota import QuotaTable, export_quotas, import_quotas
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.cell_keys import mix_key_py
from fastgate._core.testing.limit_bench import bench_quota
from fastgate._core.testing.windows import window_of_py
from fastgate.errors import SegmentError

SECOND, MINUTE, HOUR, DAY, MONTH, WEEK, YEAR = range(7)
PERIODS = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEK, YEAR)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEY = mix_key_py(1, 1)
NOON = timegm((2026, 11, 20, 12, 0, 0))
MOST = {SECOND: 28, MINUTE: 35, HOUR: 40, DAY: 44, MONTH: 49, WEEK: 47, YEAR: 52}

moments = st.integers(0, timegm((2290, 1, 1, 0, 0, 0)))


def segment(cells: int = 64) -> Segment:
    return Segment.create(1, limiter_cells=16, quota_cells=cells, targets=1, route_rows=1)


def unix(moment: datetime) -> int:
    return timegm(moment.timetuple())


def by_datetime(period: int, unix_s: int) -> tuple[datetime, datetime]:
    """Begin and end of the calendar window, by the standard library."""
    now = EPOCH + timedelta(seconds=unix_s)
    day = now.replace(hour=0, minute=0, second=0)
    if period == SECOND:
        return now, now + timedelta(seconds=1)
    if period == MINUTE:
        begin = now.replace(second=0)
        return begin, begin + timedelta(minutes=1)
    if period == HOUR:
        begin = now.replace(minute=0, second=0)
        return begin, begin + timedelta(hours=1)
    if period == DAY:
        return day, day + timedelta(days=1)
    if period == WEEK:
        begin = day - timedelta(days=day.isocalendar().weekday - 1)
        return begin, begin + timedelta(days=7)
    if period == MONTH:
        begin = day.replace(day=1)
        return begin, (begin + timedelta(days=32)).replace(day=1)
    begin = day.replace(day=1, month=1)
    return begin, begin.replace(year=begin.year + 1)


# ---- the calendar -----------------------------------------------------------------------------


@given(st.sampled_from(PERIODS), moments)
@settings(max_examples=1000)
def test_windows_are_the_calendar_s(period: int, unix_s: int) -> None:
    begin, end = by_datetime(period, unix_s)
    number, ends = window_of_py(period, unix_s)
    assert ends == unix(end)
    if unix(begin) >= 0:
        assert window_of_py(period, unix(begin)) == (number, ends)
    if unix(begin) > 0:
        assert window_of_py(period, unix(begin) - 1) == (number - 1, unix(begin))
    assert window_of_py(period, ends)[0] == number + 1


def test_every_day_has_its_month_and_year() -> None:
    day = EPOCH
    number = 0
    while day.year < 2200:
        at = number * 86400
        assert window_of_py(MONTH, at)[0] == (day.year - 1970) * 12 + day.month - 1
        assert window_of_py(YEAR, at)[0] == day.year - 1970
        day += timedelta(days=1)
        number += 1


@pytest.mark.parametrize("unix_s", [-(10**12), -1, 0])
@pytest.mark.parametrize("period", PERIODS)
def test_before_1970_is_1970(period: int, unix_s: int) -> None:
    assert window_of_py(period, unix_s) == window_of_py(period, 0)


def test_far_beyond_the_table_of_months_nothing_breaks() -> None:
    far = timegm((2500, 6, 1, 0, 0, 0))
    assert window_of_py(MONTH, far) == window_of_py(MONTH, timegm((2311, 4, 1, 0, 0, 0)))
    assert window_of_py(YEAR, far)[0] == 341
    with pytest.raises(ValueError, match="period 7"):
        window_of_py(7, 0)


# ---- counting -----------------------------------------------------------------------------------

operations = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "give back", "peek"]),
        st.integers(0, 2),  # key
        st.sampled_from(PERIODS),
        st.sampled_from([0, 1, 20, 1800, 40000, 86400 * 3, 86400 * 20, 86400 * 200]),  # later
        st.integers(0, 8),  # cost
        st.integers(0, 10),  # amount
    ),
    max_size=60,
)


@given(operations)
@settings(max_examples=300)
def test_it_counts_as_a_dictionary_does(history: list[tuple[str, int, int, int, int, int]]) -> None:
    quota = QuotaTable(segment(256))
    counts: dict[tuple[int, int, datetime], int] = {}
    now = NOON
    for what, k, period, later, cost, amount in history:
        now += later
        key = mix_key_py(k, 0)
        begin, end = by_datetime(period, now)
        window = (k, period, begin)
        used = counts.get(window, 0)
        if what == "take":
            seen = quota.take(key, period, now, amount, cost)
            assert seen.allowed == (used + cost <= amount)
            if seen.allowed:
                counts[window] = used = used + cost
            assert seen.retry_s == (0 if seen.allowed else seen.reset_s)
        elif what == "give back":
            quota.give_back(key, period, now, cost)
            if used:
                counts[window] = used = max(0, used - cost)
            continue
        else:
            seen = quota.peek(key, period, now, amount)
            assert seen.allowed == (used < amount)
        assert (seen.used, seen.remaining) == (used, max(0, amount - used))
        assert (seen.resets_at, seen.reset_s) == (unix(end), unix(end) - now)
    assert quota.full == 0


@pytest.mark.parametrize("period", PERIODS)
def test_counts_go_up_to_their_bits(period: int) -> None:
    quota = QuotaTable(segment())
    most = 2 ** MOST[period] - 1
    huge = 2**64 - 1
    assert quota.take(KEY, period, NOON, huge, most - 1).allowed
    assert quota.take(KEY, period, NOON, huge).used == most
    assert not quota.take(KEY, period, NOON, huge).allowed
    assert not quota.take(KEY, period, NOON, huge, huge).allowed
    assert quota.peek(KEY, period, NOON, huge).used == most
    ends = window_of_py(period, NOON)[1]
    assert quota.take(KEY, period, ends, huge).used == 1


def test_amounts_hold_from_the_next_request_on() -> None:
    quota = QuotaTable(segment())
    assert [quota.take(KEY, DAY, NOON, 3).allowed for _ in range(4)] == [True, True, True, False]
    assert quota.take(KEY, DAY, NOON, 5).remaining == 1
    lowered = quota.take(KEY, DAY, NOON, 2)
    assert (lowered.allowed, lowered.used, lowered.remaining) == (False, 4, 0)


def test_giving_back_only_within_the_window() -> None:
    quota = QuotaTable(segment())
    quota.take(KEY, MINUTE, NOON, 2, 2)
    quota.give_back(KEY, MINUTE, NOON + 59, 1)
    assert quota.peek(KEY, MINUTE, NOON, 2).used == 1
    quota.take(KEY, MINUTE, NOON + 60, 5, 3)
    quota.give_back(KEY, MINUTE, NOON, 1)
    assert quota.peek(KEY, MINUTE, NOON + 60, 5).used == 3


def test_a_worker_that_is_late_counts_in_the_newer_window() -> None:
    quota = QuotaTable(segment())
    assert quota.take(KEY, MINUTE, NOON, 1).allowed
    late = quota.take(KEY, MINUTE, NOON - 1, 1)
    assert (late.allowed, late.resets_at, late.reset_s) == (False, NOON + 60, 61)
    assert quota.take(KEY, MINUTE, NOON - 1, 2).allowed
    assert not quota.take(KEY, MINUTE, NOON, 2).allowed


def test_a_clock_set_back_far_begins_anew() -> None:
    quota = QuotaTable(segment())
    assert quota.take(KEY, DAY, NOON + 30 * 86400, 1).allowed
    assert quota.take(KEY, DAY, NOON, 1).allowed
    assert not quota.take(KEY, DAY, NOON, 1).allowed


def test_cells_of_windows_gone_by_are_free() -> None:
    quota = QuotaTable(segment(16))
    for k in range(16):
        quota.take(mix_key_py(k, 0), MINUTE if k < 8 else MONTH, NOON, 5)
    for k in range(100, 110):
        quota.take(mix_key_py(k, 0), HOUR, NOON + 60, 5)
    assert quota.full == 10  # for two seconds, a worker may be behind
    for k in range(100, 110):
        quota.take(mix_key_py(k, 0), HOUR, NOON + 62, 5)
    assert quota.full == 12
    assert sorted({period for _, period, _, _ in quota.cells()}) == [HOUR, MONTH]
    assert sum(period == MONTH for _, period, _, _ in quota.cells()) == 8


def test_periods_of_one_key_are_counted_apart() -> None:
    quota = QuotaTable(segment())
    for period in PERIODS:
        assert quota.take(KEY, period, NOON, 1).used == 1
    assert len(quota.cells()) == len(PERIODS)


def test_taking_many() -> None:
    quota = QuotaTable(segment())
    keys = array("Q", [mix_key_py(k % 3, 0) for k in range(12)])
    passed = array("Q", bytes(8 * 12))
    assert quota.take_all(keys, DAY, NOON, 2, passed) == 6
    assert list(passed) == [1] * 6 + [0] * 6
    with pytest.raises(ValueError, match="one word"):
        quota.take_all(keys, DAY, NOON, 2, array("Q", [0]))


def test_the_benchmark_counts() -> None:
    assert bench_quota(1000, 100) > 0


# ---- persistence -------------------------------------------------------------------------------

entries = st.dictionaries(
    st.tuples(st.integers(0, 50), st.sampled_from(PERIODS)), st.integers(1, 1000), max_size=60
)


@given(entries, st.sampled_from([0, 1, 61, 3601, 86400, 86400 * 8, 86400 * 40]))
@settings(max_examples=100)
def test_what_still_matters_comes_back(counts: dict[tuple[int, int], int], later: int) -> None:
    old = segment(1024)
    quota = QuotaTable(old)
    for (k, period), count in counts.items():
        quota.take(mix_key_py(k, 0), period, NOON, 10**6, count)
    data = export_quotas(old, NOON)
    assert len(data) == 24 + 16 * len(counts)
    new = segment(2048)
    alive = {
        (k, period): count
        for (k, period), count in counts.items()
        if by_datetime(period, NOON) == by_datetime(period, NOON + later)
    }
    assert import_quotas(new, data, NOON + later) == len(alive)
    restored = QuotaTable(new)
    for (k, period), count in counts.items():
        seen = restored.peek(mix_key_py(k, 0), period, NOON + later, 10**6)
        assert seen.used == (count if (k, period) in alive else 0)


def test_exports_leave_out_what_is_over_and_what_is_nothing() -> None:
    old = segment()
    quota = QuotaTable(old)
    assert len(export_quotas(old, NOON)) == 24
    quota.take(mix_key_py(1, 0), MINUTE, NOON, 5)
    quota.take(mix_key_py(2, 0), DAY, NOON, 5)
    quota.take(mix_key_py(3, 0), DAY, NOON, 5)
    quota.give_back(mix_key_py(3, 0), DAY, NOON)
    assert len(export_quotas(old, NOON)) == 24 + 32
    assert len(export_quotas(old, NOON + 60)) == 24 + 16


def test_importing_keeps_the_higher_count_and_may_be_repeated() -> None:
    old = segment()
    QuotaTable(old).take(KEY, DAY, NOON, 100, 10)
    data = export_quotas(old, NOON)
    new = segment()
    quota = QuotaTable(new)
    quota.take(KEY, DAY, NOON, 100, 4)
    for _ in range(3):
        assert import_quotas(new, data, NOON) == 1
        assert quota.peek(KEY, DAY, NOON, 100).used == 10
    quota.take(KEY, DAY, NOON, 100, 5)
    import_quotas(new, data, NOON)
    assert quota.peek(KEY, DAY, NOON, 100).used == 15
    # And what is imported replaces a window gone by.
    stale = segment()
    QuotaTable(stale).take(KEY, DAY, NOON - 86400, 100, 90)
    import_quotas(stale, data, NOON)
    assert QuotaTable(stale).peek(KEY, DAY, NOON, 100).used == 10


def test_a_table_too_small_takes_what_it_can() -> None:
    old = segment(1024)
    quota = QuotaTable(old)
    for k in range(100):
        quota.take(mix_key_py(k, 0), DAY, NOON, 5)
    new = segment(16)
    assert import_quotas(new, export_quotas(old, NOON), NOON) == 16


def test_a_kernel_that_knows_no_holes_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment.create(1, quota_cells=1024)
    quota = QuotaTable(segment)
    for k in range(3):
        quota.take(mix_key_py(k, 0), DAY, NOON, 5)
    before = export_quotas(segment, NOON)
    assert len(before) == 24 + 3 * 16

    def lseek(fd: int, position: int, whence: int) -> int:
        raise OSError(errno.EINVAL, "this place has no SEEK_DATA")

    monkeypatch.setattr(os, "lseek", lseek)
    assert export_quotas(segment, NOON) == before


def test_exporting_touches_no_unused_memory() -> None:
    big = Segment.create(1, quota_cells=2**17)
    quota = QuotaTable(big)
    for k in range(3):
        quota.take(mix_key_py(k, 0), DAY, NOON, 5)
    before = taken(big.fd)
    assert len(export_quotas(big, NOON)) == 24 + 3 * 16
    assert taken(big.fd) == before


def test_damage_is_noticed_wherever_it_is() -> None:
    old = segment()
    quota = QuotaTable(old)
    for k in range(3):
        quota.take(mix_key_py(k, 0), DAY, NOON, 5)
    data = export_quotas(old, NOON)
    new = segment()
    for at in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[at] ^= bit
            with pytest.raises(SegmentError, match="saved quotas"):
                import_quotas(new, bytes(damaged), NOON)
    for cut in range(len(data)):
        with pytest.raises(SegmentError, match="saved quotas"):
            import_quotas(new, data[:cut], NOON)
    with pytest.raises(SegmentError, match="saved quotas"):
        import_quotas(new, data + b"\0", NOON)
    assert QuotaTable(new).cells() == []
    assert import_quotas(new, data, NOON) == 3


def test_the_clock_of_the_system_is_the_default() -> None:
    old = segment()
    year = 6
    now = int(datetime.now(UTC).timestamp())
    QuotaTable(old).take(KEY, year, now, 5)
    exported = export_quotas(old)
    restored = import_quotas(segment(), exported)
    # One, unless the year ended in between.
    if window_of_py(year, now) == window_of_py(year, int(datetime.now(UTC).timestamp())):
        assert restored == 1
