"""Account rows: what is row_of of accounts, over reloads and starts without the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgate._core.money.wallet import ANY, Accounts, Bill
from fastgate._core.reason import Reason
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Period, stable_hash
from fastgate.config.slots import SlotBook
from fastgate.runtime.control.account_rows import (
    FILE,
    SUBSCRIPTIONS,
    AccountRow,
    AccountRows,
    RowSubscription,
)

UNKNOWN = int(Reason.ACCOUNT_NOT_LOADED)


class World:
    def __init__(self, state: Path) -> None:
        segment = Segment.create(
            1, limiter_cells=64, quota_cells=64, targets=8, route_rows=4, accounts=8
        )
        self.cells = Accounts(segment)
        self.slots = {"acc_a": 0, "acc_b": 1}
        for account, slot in self.slots.items():
            self.cells.put(slot, stable_hash(account), access=UNKNOWN)
        self.book = SlotBook(services={"maps": 3}, plans={"gold": 1, "free": 0})
        self.complete = True
        self.rows = AccountRows(
            self.cells,
            lambda: self.slots,
            lambda: self.book,
            state / FILE,
            lambda: self.complete,
        )
        self.rows.load()

    def row_of(self, slot: int) -> list[tuple[int, int, int]]:
        return [tuple(one)[:3] for one in self.cells.get(slot).subscriptions]

    def access(self, slot: int) -> int:
        return self.cells.get(slot).access


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.rows.close()


def later(state: Path, world: World) -> World:
    """What a start finds after this one was killed."""
    found = World(state)
    found.rows.rewrite()
    found.rows.close()
    return found


def test_names_become_slots(world: World) -> None:
    subscriptions = [RowSubscription("maps", "gold", 0), RowSubscription("", "free", 17)]
    world.rows.put("acc_a", AccountRow(subscriptions=subscriptions, limits=[(5_000_000, "day")]))
    assert sorted(world.row_of(0)) == [(3, 1, 0), (ANY, 0, 17)]
    assert world.cells.get(0).limits == ((5_000_000, Period.PERIOD_DAY),)
    assert world.row_of(1) == []


def test_refusals_are_given_what_is_owed_and_since_when(world: World) -> None:
    bill = Bill("INV-2026-000007", 5_000_000, "EUR", 1_800_000_000)
    row = AccountRow(subscriptions=[RowSubscription("maps", "gold", 22, 1_790_000_000)], bill=bill)
    world.rows.put("acc_a", row)
    assert world.cells.get(0).subscriptions[0].ended == 1_790_000_000
    assert world.cells.bill(0) == bill
    assert world.cells.bill(1) is None
    world.rows.put("acc_a", AccountRow())
    assert world.cells.bill(0) is None


def test_the_plan_in_force_is_that_of_the_subscription_for_all_services(world: World) -> None:
    assert world.rows.plan_of("acc_a") is None
    world.rows.put(
        "acc_a",
        AccountRow(
            subscriptions=[RowSubscription("maps", "gold", 0), RowSubscription("", "free", 0)]
        ),
    )
    assert world.rows.plan_of("acc_a") == "free"


def test_of_two_for_one_service_the_first_counts(world: World) -> None:
    world.rows.put(
        "acc_a",
        AccountRow(
            subscriptions=[RowSubscription("maps", "gold", 0), RowSubscription("maps", "free", 17)]
        ),
    )
    assert world.row_of(0) == [(3, 1, 0)]


def test_what_the_configuration_does_not_have_is_left_out_until_it_has(world: World) -> None:
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("tiles", "gold", 0)]))
    assert world.row_of(0) == []
    world.book = SlotBook(services={"tiles": 7}, plans={"gold": 4})
    world.rows.rewrite()
    assert world.row_of(0) == [(7, 4, 0)]


def test_an_account_without_a_slot_gets_its_row_with_it(world: World) -> None:
    world.rows.put("acc_c", AccountRow(subscriptions=[RowSubscription("", "gold", 5)]))
    world.slots["acc_c"] = 2
    world.cells.put(2, 99)
    world.rows.rewrite()
    assert world.row_of(2) == [(ANY, 1, 5)]


def test_more_subscriptions_than_fit_are_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"s{number}" for number in range(SUBSCRIPTIONS + 1)]
    world.book = SlotBook(services={name: n for n, name in enumerate(names)}, plans={"gold": 0})
    world.rows.put(
        "acc_a", AccountRow(subscriptions=[RowSubscription(name, "gold", 0) for name in names])
    )
    assert len(world.row_of(0)) == SUBSCRIPTIONS
    assert "9 subscriptions; 8 apply" in caplog.text


def test_a_row_is_refused_until_its_rules_are_known(world: World) -> None:
    assert [world.access(slot) for slot in (0, 1)] == [UNKNOWN, UNKNOWN]
    assert "acc_a" not in world.rows
    world.rows.put("acc_a", AccountRow())
    assert "acc_a" in world.rows
    assert [world.access(slot) for slot in (0, 1)] == [0, UNKNOWN]


def test_a_row_is_refused_until_all_else_is_known_too(world: World) -> None:
    world.complete = False
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", 0)]))
    assert world.access(0) == UNKNOWN
    world.complete = True
    world.rows.rewrite()
    assert world.access(0) == 0


def test_a_subscription_to_a_plan_that_is_gone_is_refused(world: World) -> None:
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "silver", 0)]))
    ((_, _, reason),) = world.row_of(0)
    assert reason == Reason.NOT_SUBSCRIBED
    world.book.plans["silver"] = 5
    world.rows.rewrite()
    assert world.row_of(0) == [(ANY, 5, 0)]


def test_what_was_told_is_there_after_a_kill(world: World, tmp_path: Path) -> None:
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "free", 0)]))
    world.rows.put("acc_b", AccountRow())
    world.rows.put(
        "acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", 21)], limits=[(0, "month")])
    )
    found = later(tmp_path, world)
    assert found.row_of(0) == [(ANY, 1, 21)]
    assert found.cells.get(0).limits == ((0, Period.PERIOD_MONTH),)
    assert [found.access(slot) for slot in (0, 1)] == [0, 0]


def test_limits_change_with_the_configuration(world: World, tmp_path: Path) -> None:
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", 0)]))
    world.rows.relimit(lambda account: [(7, "day")] if account == "acc_a" else [])
    assert world.cells.get(0).limits == ((7, Period.PERIOD_DAY),)
    assert later(tmp_path, world).cells.get(0).limits == ((7, Period.PERIOD_DAY),)


def test_what_does_not_change_is_not_written(world: World, tmp_path: Path) -> None:
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", 0)]))
    size = (tmp_path / FILE).stat().st_size
    world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", 0)]))
    assert (tmp_path / FILE).stat().st_size == size


def test_the_file_is_written_again_when_most_of_it_is_outdated(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgate.runtime.control.account_rows.SLACK", 4)
    for reason in range(20):
        world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", reason)]))
    assert (tmp_path / FILE).stat().st_size < 10 * 40
    assert later(tmp_path, world).row_of(0) == [(ANY, 1, 19)]


@pytest.mark.parametrize("how", ["no frames", "an octet"])
def test_a_damaged_file_tells_nothing(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    for number in range(3):
        world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", number)]))
    file = tmp_path / FILE
    if how == "no frames":
        file.write_bytes(b"\xc1 nothing that was ever written here")
    else:
        content = bytearray(file.read_bytes())
        content[20] ^= 1  # of the first frame: what came last is lost with it
        file.write_bytes(content)
    found = later(tmp_path, world)
    assert "acc_a" not in found.rows
    assert found.access(0) == UNKNOWN
    assert "cannot be used" in caplog.text
    assert (tmp_path / f"{FILE}.damaged").exists()
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_removed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.rows.put("acc_a", AccountRow())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fastgate.billing.ledger.frames.FrameFile.append", full)
        world.rows.put("acc_a", AccountRow(subscriptions=[RowSubscription("", "gold", 21)]))
        assert world.row_of(0) == [(ANY, 1, 21)]
        assert not (tmp_path / FILE).exists()  # what it says is no longer so
        assert "No space left" in caplog.text
    world.rows.put("acc_b", AccountRow())
    assert later(tmp_path, world).row_of(0) == [(ANY, 1, 21)]
