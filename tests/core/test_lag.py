"""How long what is ready has waited for the loop: the measure, driven by hand."""

from __future__ import annotations

import pytest

from fastgate._core.testing.load_sample import Lag

MS = 1_000_000
FULL = 256  # events of one wait, at most


def test_a_worker_that_takes_all_there_is_in_short_rounds_has_no_lag_though_it_never_sleeps() -> (
    None
):
    lag = Lag()
    for i in range(1, 100_000):
        mean = lag.round(i * MS // 10, 200)
    assert mean == pytest.approx(MS / 10)


def test_long_rounds_are_lag_for_what_waits_meanwhile() -> None:
    lag = Lag()
    means = [lag.round(i * 60 * MS) for i in range(1, 30)]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(60 * MS, rel=0.01)
    # short rounds between them take nothing away
    mean = means[-1]
    for i in range(30, 60):
        lag.round(i * 60 * MS)
        mean = lag.round(i * 60 * MS + MS // 100)
    assert mean == pytest.approx(60 * MS, rel=0.01)


def test_a_single_long_round_counts_by_a_quarter() -> None:
    lag = Lag()
    assert lag.round(199 * MS) == pytest.approx(199 * MS / 4)
    again = [lag.round(199 * MS + i * MS) for i in range(1, 200)]
    assert again == sorted(again, reverse=True)
    assert again[-1] < 10 * MS


def test_nothing_waits_for_a_worker_that_sleeps_or_finds_nothing() -> None:
    lag = Lag()
    assert lag.round(500 * MS, before=400 * MS) == 0
    assert lag.round(1000 * MS, 0) == 0
    assert lag.round(1000 * MS + 1, before=1000 * MS) == pytest.approx(0, abs=1)


def test_lag_is_gone_after_a_sleep() -> None:
    lag = Lag()
    now = 0
    for _ in range(20):
        now += 60 * MS
        lag.round(now)
    before = now
    half = lag.round(before + 50 * MS, before=before)
    assert half == pytest.approx(30 * MS, rel=0.01)
    assert lag.round(before + 200 * MS, before=before + 50 * MS) == 0


def test_a_wait_that_only_took_what_was_ready_is_no_sleep() -> None:
    lag = Lag()
    assert lag.round(40 * MS + 50_000, before=40 * MS) == pytest.approx(0.25 * 40_050_000)


def test_a_backlog_has_waited_since_it_began() -> None:
    """With more members than are taken, the oldest may have been ready all the time."""
    lag = Lag()
    mean = 0.0
    for i in range(1, 501):
        mean = lag.round(i * MS, FULL, members=1_000_000)
    assert mean > 300 * MS
    # one round that takes all there was ends it
    lag.round(501 * MS, 10)
    assert lag.round(502 * MS, 10) < mean


def test_a_backlog_that_turns_over_is_as_old_as_two_turns_at_most() -> None:
    """1024 members, all of them ready all the time: each waits for four rounds."""
    lag = Lag()
    for i in range(1, 2000):
        mean = lag.round(i * MS, FULL, members=1024)
    assert 4 * MS <= mean <= 9 * MS


def test_a_round_after_a_full_one_that_slept_counts_from_the_sleep() -> None:
    lag = Lag()
    assert lag.round(1000 * MS, FULL, before=500 * MS) == 0
    assert lag.round(1002 * MS, FULL) == pytest.approx(2 * MS * 0.02)
