"""The audit passes on what is right, under traffic too, and finds each thing that can be wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from moneykit import NOW, World, move, pack, used

from fastgate._core.money.usage_block import Line, pack_lines, unpack_lines
from fastgate.billing.audit.audit import FINDINGS_MAX, AuditReport, Check, audit, audit_gateway
from fastgate.billing.ledger.ledger import Ledger
from fastgate.store import ledger as table
from fastgate.store import money_tables as t
from fastgate.store.engine import Store
from fastgate.store.ledger import Book

KEY = ("acc_a", "EUR")


@pytest.fixture
async def world(store_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A gateway where everything that there is has happened, and all is right."""
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    wallets = world.wallets
    await wallets.credit(move("t", 1000), tax=190)
    await wallets.credit(move("u", 1000, "acc_b", "USD"))
    await wallets.promo(move("p", 20))
    for number in range(6):
        world.use(10 * number, "acc_b" if number == 5 else "acc_a")
    await world.pipeline.step()
    await wallets.refund(move("r", 90))
    await wallets.freeze(move("f1", 100))
    await wallets.pay_out("f1")
    await wallets.freeze(move("f2", 100))
    await wallets.release("f2")
    await wallets.freeze(move("f3", 50))
    await wallets.dispute(move("d", 2000))
    await wallets.set_overdraft("o", "acc_a", "EUR", 70)
    await wallets.tax(move("x", 1))
    await wallets.reverse("t")
    yield world
    await world.close()


def of(report: AuditReport, name: str) -> Check:
    (check,) = [check for check in report.checks if check.name == name]
    return check


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


async def test_what_is_right_passes(world: World) -> None:
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
    assert [check.name for check in report.checks] == [
        "entries",
        "books",
        "wallets",
        "overdrawn",
        "credited",
        "held",
        "usage",
        "charges",
        "days",
        "accounts",
        "payments",
        "invoices",
        "x402",
        "credits",
        "cells",
    ]
    assert of(report, "charges").numbers == {
        "records": 6,
        "used": 150,
        "pruned": 0,
        "charged": 150,
        "wrong": 0,
    }
    credited = of(report, "credited").numbers
    assert (credited["EUR.captured"], credited["USD.captured"]) == (10, 50)
    assert of(report, "held").numbers["EUR.held"] == 2050
    assert of(report, "overdrawn").numbers["owing"] == 1
    assert of(report, "books").numbers["USD.customer_available"] == 950
    cells = of(report, "cells").numbers
    assert (cells["compared"], cells["moving"], cells["drift"]) == (2, 0, 0)


async def test_holds_and_usage_on_its_way_are_part_of_the_sum(world: World) -> None:
    slot = world.wallets.slot("acc_b")
    assert slot is not None
    held = world.money.hold(0, slot, 300)
    assert held is not None
    world.use(40, "acc_b", 1)
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
    numbers = of(report, "cells").numbers
    assert (numbers["held"], numbers["waiting"]) == (300, 40)
    await world.store.stop()
    await world.pipeline.step()
    world.use(5, "acc_b", 1)
    await world.store.connect()
    report = await audit(
        world.store,
        world.wallets.cell_balances(),
        (live := world.pipeline.live()).held,
        live.waiting,
    )
    assert report.passed, report
    assert of(report, "cells").numbers["waiting"] == 45
    held.release()


async def test_a_wallet_that_moves_is_looked_at_again(world: World) -> None:
    """A request between any two looks: its numbers do not belong together, and no drift is
    reported; when it stops, they do."""
    money = world.money
    left = 3

    class Busy:
        def __getattr__(self, name: str) -> object:
            return getattr(money, name)

        def open_holds(self, worker: int | None = None) -> object:
            nonlocal left
            if left:
                left -= 1
                world.use(1, "acc_b")
            return money.open_holds(worker)

    world.pipeline.source = Busy()  # type: ignore[assignment]
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
    assert of(report, "cells").numbers["moving"] == 0
    left = 1000
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
    assert of(report, "cells").numbers["moving"] == 1
    assert of(report, "cells").numbers["compared"] == 1
    left = 0


async def test_a_cell_that_drifted_is_found(world: World) -> None:
    slot = world.wallets.slot("acc_b")
    assert slot is not None
    world.cells.set_balance(slot, "USD", 7)
    report = await audit_gateway(world.pipeline)
    assert failed(report) == {"cells"}
    assert of(report, "cells").numbers["drift"] == 943
    assert of(report, "cells").findings == ["acc_b USD: the cell has 7 and should have 950"]
    report = await audit(world.store, {("acc_z", "EUR"): 5})
    assert "acc_z EUR: a cell without a wallet has 5" in of(report, "cells").findings
    assert "acc_a EUR: no cell" in of(report, "cells").findings


@pytest.mark.parametrize("room", [True, False])
async def test_what_is_captured_between_two_looks_moves_its_wallet(
    world: World, room: bool
) -> None:
    """Its hold was there before, so its cell stands still: it is the record that tells. Where the
    ring is full, that stays in the hold's row."""
    money, key = world.money, ("acc_b", "USD")
    slot = world.wallets.slot("acc_b")
    assert slot is not None
    held = money.hold(0, slot, 30)
    assert held is not None
    for _ in range(0 if room else world.ring):
        money.note(0)

    class Busy:
        def __getattr__(self, name: str) -> object:
            return getattr(money, name)

        def open_holds(self, worker: int | None = None) -> object:
            if held.open:
                held.capture(30)
            return money.open_holds(worker)

    world.pipeline.source = Busy()  # type: ignore[assignment]
    live = world.pipeline.live()
    assert (live.moving, live.held, live.waiting) == ({key}, {}, {})
    assert money.state(0).parked == (0 if room else 1)
    live = world.pipeline.live()
    assert (live.moving, live.held, live.waiting) == (set(), {}, {key: 30})


async def test_what_came_by_the_ring_and_is_parked_as_well_waits_once(world: World) -> None:
    """Its worker was killed between publishing it and freeing its row."""
    money, key = world.money, ("acc_b", "USD")
    world.use(7, "acc_b")
    world.use(8, "acc_b")

    class Twice:
        def __getattr__(self, name: str) -> object:
            return getattr(money, name)

        def drain_blocks(self, worker: int, most: int, *, after: int | None = None) -> object:
            found, position, parked = money.drain_blocks(worker, most, after=after)
            if not found:
                return found, position, parked
            (block,) = found
            copy = unpack_lines(block.lines)[-1]
            lines = pack_lines([*unpack_lines(block.lines), copy])
            twice = block._replace(
                records=block.records + 1, amount=block.amount + copy.amount, lines=lines
            )
            return [twice], position, 1

    world.pipeline.source = Twice()  # type: ignore[assignment]
    live = world.pipeline.live()
    assert (live.waiting, live.moving) == ({key: 15}, set())


def one_line(amount: int) -> bytes:
    return pack_lines([Line(1 << 56, 0, amount, 1, bytes(16), 200, 1)])


BREAKS = {
    "one posting is larger": (
        sa.update(t.ledger_postings)
        .where(t.ledger_postings.c.book == Book.REVENUE)
        .values(amount=t.ledger_postings.c.amount + 1),
        {"entries", "books", "wallets"},
    ),
    "one posting is missing": (
        sa.delete(t.ledger_postings).where(t.ledger_postings.c.book == Book.HELD),
        {"entries", "books", "wallets", "held"},
    ),
    "a wallet's sum is wrong": (
        sa.update(t.wallets).values(customer_available=t.wallets.c.customer_available + 5),
        {"wallets"},
    ),
    "a wallet is missing": (
        sa.delete(t.wallets).where(t.wallets.c.account == "acc_b"),
        {"wallets"},
    ),
    "what was captured is wrong": (
        sa.update(t.wallets).values(captured=t.wallets.c.captured - 1),
        {"wallets"},
    ),
    "a block says something else": (
        sa.update(t.usage_blocks).where(t.usage_blocks.c.amount == 50).values(amount=51),
        {"usage", "charges", "days"},
    ),
    "a block is missing": (
        sa.delete(t.usage_blocks).where(t.usage_blocks.c.amount == 50),
        {"charges", "days"},
    ),
    "a block's records are others": (
        sa.update(t.usage_blocks)
        .where(t.usage_blocks.c.amount == 50)
        .values(lines=one_line(amount=60)),
        {"usage"},
    ),
    "a block's records are cut off": (sa.update(t.usage_blocks).values(lines=b"short"), {"usage"}),
    "a block has no charge": (
        sa.update(t.usage_blocks).where(t.usage_blocks.c.amount == 50).values(entry=None),
        {"charges"},
    ),
    "a block has another's charge": (
        sa.update(t.usage_blocks).where(t.usage_blocks.c.amount == 50).values(entry=1),
        {"charges"},
    ),
    "a charge says something else": (
        sa.update(t.ledger_entries)
        .where(t.ledger_entries.c.kind == "charge")
        .values(amount=t.ledger_entries.c.amount + 1),
        {"charges"},
    ),
    "a day's sum is wrong": (sa.update(t.usage_daily).values(requests=9), {"days"}),
    "an account is not known": (
        sa.update(t.ledger_entries)
        .where(t.ledger_entries.c.account == "acc_b")
        .values(account="#00000000000000ff"),
        {"accounts", "wallets"},
    ),
    "what is held was settled already": (
        sa.update(t.ledger_entries)
        .where(t.ledger_entries.c.kind == "pay_out")
        .values(id="something else"),
        {"held"},
    ),
}


@pytest.mark.parametrize("what", BREAKS)
async def test_what_is_wrong_is_found(world: World, what: str) -> None:
    statement, checks = BREAKS[what]
    async with world.store.write() as connection:
        assert (await connection.execute(statement)).rowcount > 0
    report = await audit(world.store)
    assert not report.passed
    assert failed(report) == checks, report
    assert all(check.numbers["wrong"] for check in report.checks if not check.passed)


async def test_charges_beyond_the_balance_are_found(store: Store) -> None:
    """Which a cell would not have let through."""
    ledger = Ledger(store, lambda: NOW)
    for number in range(FINDINGS_MAX + 5):
        account = f"acc_{number:02d}"
        await ledger.credit(move(f"t{number}", 10, account))
        await ledger.charge(pack([used(number, 11, account)]))
    report = await audit(store)
    assert failed(report) == {"overdrawn", "credited"}
    check = of(report, "overdrawn")
    assert check.numbers["wrong"] == FINDINGS_MAX + 5
    assert len(check.findings) == FINDINGS_MAX
    await ledger.set_overdraft(move("o", 1, "acc_00"), 1)
    report = await audit(store)
    assert of(report, "overdrawn").numbers["wrong"] == FINDINGS_MAX + 4


async def test_a_record_that_is_charged_twice_is_found(store: Store) -> None:
    ledger = Ledger(store, lambda: NOW)
    await ledger.credit(move("t", 100))
    await ledger.charge(pack([used(1, 5), used(2, 7)]))
    assert (await audit(store)).passed
    await ledger.charge(pack([used(2, 7), used(3, 1)]), doubtful=False)
    report = await audit(store)
    assert failed(report) == {"usage"}
    (finding,) = of(report, "usage").findings
    assert finding == f"block {used(2, 0).id}: has a record twice, or one that is in another block"


async def test_an_empty_ledger_passes(store: Store) -> None:
    report = await audit(store)
    assert report.passed
    async with store.read() as connection:
        assert await connection.run_sync(table.all_wallets) == []


async def test_a_correction_of_what_is_held_leaves_the_books_right(world: World) -> None:
    """Also when it is reversed: what is set aside, and what corrections say, is what is held."""
    await world.wallets.correct(move("c", 30), {Book.AVAILABLE: -30, Book.HELD: 30})
    assert (await audit_gateway(world.pipeline)).passed
    await world.wallets.correct(move("c2", 10), {Book.HELD: -10, Book.REVENUE: 10})
    assert (await audit_gateway(world.pipeline)).passed
    await world.wallets.reverse("c")
    await world.wallets.reverse("c2")
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
