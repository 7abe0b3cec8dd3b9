"""Usage records go after their time, and nothing that is counted goes with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from moneykit import NOW, World, move

from fastgate.billing.audit.audit import audit, audit_gateway
from fastgate.billing.ledger.retention import prune_usage
from fastgate.billing.reports import By, ReportQuery, ReportRow, report
from fastgate.store import money_tables as t
from fastgate.store import usage_prune

KEEP = timedelta(days=90)
LATER = NOW + KEEP + timedelta(days=1)


@pytest.fixture
async def world(store_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """On both kinds of store: charges, requests that cost nothing, and units of a meter."""
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("a", 1000))
    await world.wallets.credit(move("b", 1000, "acc_b", "USD"))
    for number in range(8):
        world.use(number % 3, "acc_b" if number % 2 else "acc_a")
        world.use(7, "acc_a", units=40, meter="tokens")
        if number == 3:
            await world.pipeline.step()
    await world.pipeline.step()
    yield world
    await world.close()


async def kept(world: World) -> int:
    async with world.store.read() as connection:
        found = await connection.scalar(sa.select(sa.func.sum(t.usage_blocks.c.records)))
    return int(found or 0)


async def by_everything(world: World) -> list[ReportRow]:
    return await report(world.store, ReportQuery(by=(By.DAY, By.ACCOUNT, By.ROUTE, By.METER)))


async def test_units_of_a_meter_are_no_requests(world: World) -> None:
    rows = await report(world.store, ReportQuery(by=(By.METER,), account="acc_a"))
    assert [(row.meter, row.requests, row.units, row.amount) for row in rows] == [
        ("", 4, 0, 3),
        ("tokens", 0, 320, 56),
    ]


async def test_what_is_old_goes_and_reports_and_audit_stay(world: World) -> None:
    before = await by_everything(world)
    total = await kept(world)
    assert await prune_usage(world.pipeline, NOW + KEEP - timedelta(days=1), KEEP) == 0
    assert await kept(world) == total
    assert await prune_usage(world.pipeline, LATER, KEEP) == total
    assert await kept(world) == 0
    assert await by_everything(world) == before
    checked = await audit_gateway(world.pipeline)
    assert checked.passed, checked
    assert await prune_usage(world.pipeline, LATER, KEEP) == 0


async def test_a_batch_may_end_amid_a_charge(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_prune, "MOST", 1)  # blocks
    cutoff = LATER - KEEP
    left = await kept(world)
    for account in ("acc_a", "acc_b"):
        gone = 1
        while gone:
            async with world.store.write() as connection:
                gone = await usage_prune.prune(connection, account, cutoff)
            left -= gone
            assert await kept(world) == left
            checked = await audit(world.store)
            assert checked.passed, checked
    assert left == 0


async def test_later_usage_is_audited_beside_what_was_pruned(world: World) -> None:
    await prune_usage(world.pipeline, LATER, KEEP)
    world.ledger.clock = lambda: LATER
    world.use(5)
    await world.pipeline.step()
    assert await kept(world) == 1
    checked = await audit_gateway(world.pipeline)
    assert checked.passed, checked
    async with world.store.write() as connection:
        await connection.execute(sa.update(t.usage_blocks).values(amount=6))
    found = {check.name for check in (await audit(world.store)).checks if not check.passed}
    assert found == {"usage", "charges", "days"}


@pytest.mark.parametrize(
    ("statement", "checks"),
    [
        (sa.update(t.usage_pruned).values(amount=t.usage_pruned.c.amount + 1), {"charges", "days"}),
        (sa.update(t.usage_pruned).values(requests=99), {"days"}),
        (
            sa.update(t.ledger_entries)
            .where(t.ledger_entries.c.kind == "charge")
            .values(amount=t.ledger_entries.c.amount + 1),
            {"charges"},
        ),
        (sa.delete(t.usage_pruned), {"charges", "days"}),
    ],
    ids=["sum", "count", "charge", "no sums"],
)
async def test_what_is_wrong_with_pruned_usage_is_found(
    world: World, statement: sa.Executable, checks: set[str]
) -> None:
    await prune_usage(world.pipeline, LATER, KEEP)
    async with world.store.write() as connection:
        await connection.execute(statement)
    assert {c.name for c in (await audit(world.store)).checks if not c.passed} == checks


async def test_nothing_goes_while_usage_is_on_its_way(world: World) -> None:
    total = await kept(world)
    await world.store.stop()
    world.use(1)
    await world.pipeline.step()  # to the spool
    assert await prune_usage(world.pipeline, LATER, KEEP) == 0
    await world.store.connect()
    assert await prune_usage(world.pipeline, LATER, KEEP) == 0
    await world.pipeline.step()
    assert await prune_usage(world.pipeline, LATER, KEEP) == total + 1


async def test_records_are_kept_until_nobody_can_offer_them_again(world: World) -> None:
    assert await prune_usage(world.pipeline, NOW + timedelta(days=29), timedelta(days=1)) == 0
