"""Spending limits: the configured ones, those of their own, and what is spent of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fastgate._core.exchange.charging import spending_key
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Period, stable_hash
from fastgate.model.billing import Spending, SpendingLimit
from fastgate.model.units import Money
from fastgate.runtime.control.caps import Caps
from fastgate.runtime.persist import StateDirectory
from fastgate.store.engine import Store
from fastgate.store.spending import NO_LIMIT

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
DEFAULT = Spending(consumer=SpendingLimit(amount=Money.parse("5 USD"), period="week"))


def make(store: Store, state: Path, changed: list[tuple[str, str]] | None = None) -> Caps:
    segment = Segment.create(1, limiter_cells=64, quota_cells=64, targets=8, route_rows=4)
    told: list[tuple[str, str]] = [] if changed is None else changed
    return Caps(segment, store, StateDirectory(state), lambda: NOW, lambda *what: told.append(what))


async def test_the_configured_limit_is_the_default(sqlite_store: Store, tmp_path: Path) -> None:
    caps = make(sqlite_store, tmp_path)
    assert caps.configure(DEFAULT)
    assert not caps.configure(DEFAULT)
    assert caps.of("consumer", "con_1") == (5_000_000, "week")
    assert caps.cap("consumer", "con_1") == (5_000_000, Period.PERIOD_WEEK)
    assert caps.of("account", "acc_1") is None
    assert caps.cap("credential", "crd_1") == (0, 0)


async def test_a_limit_of_its_own_comes_first_and_can_lift(store: Store, tmp_path: Path) -> None:
    changed: list[tuple[str, str]] = []
    caps = make(store, tmp_path, changed)
    caps.configure(DEFAULT)
    await caps.put("consumer", "con_1", 9_000_000, "day")
    assert caps.of("consumer", "con_1") == (9_000_000, "day")
    await caps.put("consumer", "con_1", 0, "day")  # nothing may be spent
    assert caps.of("consumer", "con_1") == (0, "day")
    assert caps.cap("consumer", "con_1") == (0, Period.PERIOD_DAY)
    found = caps.spent("consumer", "con_1")
    assert found is not None
    assert (found.limit, found.used) == (0, 0)
    await caps.put("consumer", "con_1", NO_LIMIT, "day")
    assert caps.of("consumer", "con_1") is None
    assert caps.cap("consumer", "con_1") == (0, 0)
    await caps.drop("consumer", "con_1")
    assert caps.of("consumer", "con_1") == (5_000_000, "week")
    assert changed == [("consumer", "con_1")] * 4


async def test_they_are_known_after_a_start_with_or_without_the_store(
    sqlite_store: Store, tmp_path: Path
) -> None:
    first = make(sqlite_store, tmp_path)
    await first.put("account", "acc_1", 7, "month")
    assert not first.known  # there may be others
    assert not (tmp_path / "spending.limits").exists()
    await first.load()
    assert first.known
    changed: list[tuple[str, str]] = []
    without = make(sqlite_store, tmp_path, changed)
    without.load_file()
    assert without.known
    assert without.of("account", "acc_1") == (7, "month")
    await without.load()
    assert changed == []
    empty = make(sqlite_store, tmp_path / "elsewhere", changed)
    await empty.load()
    assert empty.of("account", "acc_1") == (7, "month")
    assert changed == [("account", "acc_1")]


async def test_what_is_spent_is_read_where_workers_count_it(
    sqlite_store: Store, tmp_path: Path
) -> None:
    segment = Segment.create(1, limiter_cells=64, quota_cells=64, targets=8, route_rows=4)
    caps = Caps(segment, sqlite_store, StateDirectory(tmp_path), lambda: NOW, lambda *_: None)
    await caps.put("credential", "crd_1", 100, "day")
    key = spending_key("credential", stable_hash("crd_1"))
    QuotaTable(segment).take(key, Period.PERIOD_DAY, int(NOW.timestamp()), 100, 30)
    found = caps.spent("credential", "crd_1")
    assert found is not None
    assert (found.of, found.limit, found.used) == ("key", 100, 30)
    assert caps.spent("account", "acc_1") is None


async def test_a_damaged_file_is_logged(
    sqlite_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spending.limits").write_bytes(b"\xc1")
    caps = make(sqlite_store, tmp_path)
    caps.load_file()
    assert "cannot be used" in caplog.text
    assert (tmp_path / "spending.limits.damaged").exists()
    assert not caps.known
