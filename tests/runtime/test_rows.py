"""Account rows: what is told of accounts, over reloads and starts without the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgate._core.shm import Segment
from fastgate._core.snapshot import Period, stable_hash
from fastgate._core.wallet import ANY, Accounts
from fastgate.runtime.persist import StateDirectory
from fastgate.runtime.rows import SUBSCRIPTIONS, Claim, Row, Rows
from fastgate.slots import SlotBook


class World:
    def __init__(self, state: Path) -> None:
        segment = Segment.create(
            1, limiter_cells=64, quota_cells=64, targets=8, route_rows=4, accounts=8
        )
        self.cells = Accounts(segment)
        self.slots = {"acc_a": 0, "acc_b": 1}
        for account, slot in self.slots.items():
            self.cells.put(slot, stable_hash(account))
        self.book = SlotBook(services={"maps": 3}, plans={"gold": 1, "free": 0})
        self.rows = Rows(self.cells, lambda: self.slots, lambda: self.book, StateDirectory(state))

    def told(self, slot: int) -> list[tuple[int, int, int]]:
        return [tuple(one) for one in self.cells.get(slot).subscriptions]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_names_become_slots(world: World) -> None:
    claims = [Claim("maps", "gold", 0), Claim("", "free", 17)]
    world.rows.put("acc_a", Row(claims=claims, limits=[(5_000_000, "day")]))
    assert sorted(world.told(0)) == [(3, 1, 0), (ANY, 0, 17)]
    assert world.cells.get(0).limits == ((5_000_000, Period.PERIOD_DAY),)
    assert world.told(1) == []


def test_of_two_for_one_service_the_first_counts(world: World) -> None:
    world.rows.put("acc_a", Row(claims=[Claim("maps", "gold", 0), Claim("maps", "free", 17)]))
    assert world.told(0) == [(3, 1, 0)]


def test_what_the_configuration_does_not_have_is_left_out_until_it_has(world: World) -> None:
    world.rows.put("acc_a", Row(claims=[Claim("tiles", "gold", 0)]))
    assert world.told(0) == []
    world.book = SlotBook(services={"tiles": 7}, plans={"gold": 4})
    world.rows.rewrite()
    assert world.told(0) == [(7, 4, 0)]


def test_an_account_without_a_slot_gets_its_row_with_it(world: World) -> None:
    world.rows.put("acc_c", Row(claims=[Claim("", "gold", 5)]))
    world.slots["acc_c"] = 2
    world.cells.put(2, 99)
    world.rows.rewrite()
    assert world.told(2) == [(ANY, 1, 5)]


def test_more_than_there_is_room_for_are_said_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"s{number}" for number in range(SUBSCRIPTIONS + 1)]
    world.book = SlotBook(services={name: n for n, name in enumerate(names)}, plans={"gold": 0})
    world.rows.put("acc_a", Row(claims=[Claim(name, "gold", 0) for name in names]))
    assert len(world.told(0)) == SUBSCRIPTIONS
    assert "9 subscriptions; 8 count" in caplog.text


def test_the_file_brings_rows_back(world: World, tmp_path: Path) -> None:
    world.rows.put("acc_a", Row(claims=[Claim("", "gold", 21)], limits=[(1, "month")]))
    world.rows.save()
    later = World(tmp_path)
    later.rows.load()
    later.rows.rewrite()
    assert later.told(0) == [(ANY, 1, 21)]
    assert later.rows.get("acc_a") == world.rows.get("acc_a")
    assert later.rows.get("acc_b") == Row()


def test_it_is_written_when_something_has_changed(world: World, tmp_path: Path) -> None:
    world.rows.save()
    file = tmp_path / "accounts.rows"
    assert not file.exists()
    assert not world.rows.unsaved
    world.rows.put("acc_a", Row(claims=[Claim("", "gold", 0)]))
    assert world.rows.unsaved
    world.rows.save()
    assert not world.rows.unsaved
    written = file.stat().st_mtime_ns
    world.rows.put("acc_a", Row(claims=[Claim("", "gold", 0)]))
    assert not world.rows.unsaved
    world.rows.save()
    assert file.stat().st_mtime_ns == written


def test_a_damaged_file_is_set_aside(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "accounts.rows").write_bytes(b"\xc1 no msgpack")
    world.rows.load()
    assert (tmp_path / "accounts.rows.damaged").exists()
    assert "cannot be used" in caplog.text
    assert world.rows.get("acc_a") == Row()
