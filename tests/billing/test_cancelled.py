"""A shutdown that is cancelled, and rows of subscriptions whose change is. Changes of balances:
`test_balances`."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from cancelkit import cancelled_at
from moneykit import World, copy_of, move
from schedulekit import BillingParts

from fastgate.billing.ledger.cell_cache import BalanceRecord, CellCache
from fastgate.billing.subscriptions.lifecycle import Event, State
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
