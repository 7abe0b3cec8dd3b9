"""Cancelled at any await, with all objects kept, no balance has two values."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from cancelkit import cancelled_at
from moneykit import World, copy_of, move, records_in
from schedulekit import BillingParts

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.ledger.cell_cache import BalanceRecord, CellCache
from fastgate.billing.subscriptions.lifecycle import Event, State
from fastgate.errors import StoreError
from fastgate.store.engine import Store


async def _world(migrated: Path, folder: Path) -> World:
    world = World(copy_of(migrated, folder), folder)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 100))
    return world


async def _settled(world: World) -> None:
    """What a shutdown still does: the last usage is taken over."""
    while await world.pipeline.step():
        pass


def _cached(world: World) -> int:
    """What a start without the store would fill the cell with."""
    cache = CellCache(world.folder / "accounts.cache")
    found = [record for record in cache.load() if isinstance(record, BalanceRecord)]
    cache.close()
    return found[-1].spendable


async def test_usage_is_charged_once_and_cached_as_charged(
    sqlite_migrated: Path, tmp_path: Path
) -> None:
    at, reached = 0, True
    while reached:
        world = await _world(sqlite_migrated, tmp_path / str(at))
        used = [world.use(3), world.use(4, worker=1)]
        reached = await cancelled_at(at, world.pipeline.step())
        await _settled(world)
        assert await world.agrees() == 93, at
        assert _cached(world) == 93, at
        assert set(await records_in(world.store)) == set(used)
        report = await audit_gateway(world.pipeline)
        assert report.passed, report
        await world.close()
        at += 1
    assert at > 3


async def test_usage_in_the_spool_is_charged_once(sqlite_migrated: Path, tmp_path: Path) -> None:
    """The store was away; it is replayed, and that is cancelled; then comes more of it."""
    at, reached = 0, True
    while reached:
        world = await _world(sqlite_migrated, tmp_path / str(at))
        await world.store.stop()
        used = [world.use(3), world.use(4, worker=1)]

        async def away_and_back(world: World = world) -> None:
            await world.pipeline.step()
            with contextlib.suppress(StoreError):
                await world.store.connect()
            await world.pipeline.step()

        reached = await cancelled_at(at, away_and_back())
        assert world.spool.waiting.get(("acc_a", "EUR"), 0) in (0, 7)
        await world.store.connect()
        await _settled(world)
        assert await world.agrees() == 93, at
        assert _cached(world) == 93, at
        assert set(await records_in(world.store)) == set(used)
        await world.close()
        at += 1
    assert at > 3


async def test_a_movement_is_whole_or_has_not_begun(sqlite_migrated: Path, tmp_path: Path) -> None:
    async def movements(world: World) -> None:
        await world.wallets.credit(move("u", 50))
        await world.wallets.freeze(move("f", 30))
        await world.wallets.release("f")
        await world.wallets.freeze(move("g", 20))
        await world.wallets.pay_out("g")
        await world.wallets.set_overdraft("o", "acc_a", "EUR", 5)
        await world.wallets.dispute(move("d", 10))

    at, reached = 0, True
    while reached:
        world = await _world(sqlite_migrated, tmp_path / str(at))
        reached = await cancelled_at(at, movements(world))
        await movements(world)
        assert await world.agrees() == 120, at
        assert _cached(world) == 125, at
        assert world.cells.open_credits() == []
        await world.close()
        at += 1
    assert at > 10


async def test_cells_are_seeded_and_compared_once(sqlite_migrated: Path, tmp_path: Path) -> None:
    at, reached = 0, True
    while reached:
        world = await _world(sqlite_migrated, tmp_path / str(at))
        await world.ledger.credit(move("v", 7))  # the cell has not heard of it
        await world.reboot(up=False)
        await world.store.connect()
        assert world.use(2) is not None
        reached = await cancelled_at(at, world.pipeline.step())
        await _settled(world)
        assert not world.wallets.seeded
        assert await world.agrees() == 105, at
        assert _cached(world) == 105, at
        await world.close()
        at += 1
    assert at > 3


async def test_an_end_that_takes_too_long_leaves_a_step_its_files(
    sqlite_migrated: Path, tmp_path: Path
) -> None:
    world = await _world(sqlite_migrated, tmp_path / "one")
    reached, go = asyncio.Event(), asyncio.Event()
    charge = world.ledger.charge

    async def slow(*args: object, **more: object) -> object:
        charged = await charge(*args, **more)
        reached.set()
        await go.wait()
        return charged

    world.ledger.charge = slow
    world.use(3)
    end = asyncio.create_task(world.pipeline.close())
    await reached.wait()
    end.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await end
    go.set()
    await _settled(world)
    assert await world.agrees() == 97
    assert _cached(world) == 97
    await world.close()


async def test_rows_follow_subscriptions_that_were_committed(
    sqlite_migrated: Path, tmp_path: Path
) -> None:
    """Whoever keeps the rows in shared memory hears of every step that was committed."""
    at, reached = 0, True
    while reached:
        store = Store(copy_of(sqlite_migrated, tmp_path / str(at)))
        await store.connect()
        parts = BillingParts(store)
        account = await parts.account()
        heard: list[tuple[str, State]] = []

        async def listen(account: str, parts: BillingParts = parts, heard: object = heard) -> None:
            found = await parts.subscriptions.of_account(account)
            heard[:] = [(one.plan, one.state) for one in found]  # type: ignore[index]

        parts.subscriptions.on_change.append(listen)

        async def steps(parts: BillingParts = parts, account: str = account) -> None:
            made = await parts.subscriptions.create(account, "usage")
            await parts.subscriptions.apply(made.id, Event.PAUSE)
            await parts.subscriptions.apply(made.id, Event.RESUME)
            await parts.subscriptions.change_plan(made.id, "free")
            await parts.subscriptions.cancel(made.id, at_period_end=False)

        reached = await cancelled_at(at, steps())
        await parts.subscriptions.changes.idle()
        found = await parts.subscriptions.of_account(account)
        assert heard == [(one.plan, one.state) for one in found], at
        await store.stop()
        at += 1
    assert at > 10
