"""Whether the homes of a balance agree: the ledger, the cell, what control knows, and the cache."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moneykit import World, records_in

from fastgate._core.money.usage_block import unpack_lines
from fastgate.billing.ledger.spool import Batch
from fastgate.store.ledger import Key, Wallet
from fastgate.store.usage_blocks import BOOT

FILES = ("accounts.cache", "usage.spool", "money.map")


async def homes_agree(world: World) -> None:
    """Nothing is half-way: every balance is the same to the micro-unit, wherever it is kept."""
    assert world.cells.open_credits() == []
    assert not world.wallets.unsettled
    live = world.pipeline.live()
    for key, wallet in (await _wallets(world)).items():
        on_its_way = live.waiting.get(key, 0) + live.held.get(key, 0)
        assert live.cells[key] == wallet.spendable - on_its_way, key
        known = world.wallets.balance(*key)
        assert known.settled == wallet.spendable - world.spool.waiting.get(key, 0), key
        assert known.overdraft == wallet.overdraft, key
    await no_more_than_the_ledger(world, exactly=True)


async def no_more_than_the_ledger(world: World, *, exactly: bool = False) -> None:
    """A gateway that is started now without the store fills no cell with more than the ledger will
    have of it when all usage is booked; nor has a cell more now."""
    wallets = await _wallets(world)
    booked = await records_in(world.store)
    with TemporaryDirectory() as folder:
        for name in FILES:
            if (world.folder / name).exists():
                shutil.copyfile(world.folder / name, Path(folder) / name)
        other = World("sqlite:///nowhere.db", Path(folder))
        await other.pipeline.begin()
        filled = other.wallets.cell_balances()
        waiting = dict[Key, int]()
        while (found := other.spool.next()) is not None:
            frame, after = found
            for block in frame.blocks if isinstance(frame, Batch) else ():
                for line in unpack_lines(block.lines):
                    if f"{block.low[:BOOT]}{line.number:016x}" not in booked:
                        key = (block.account, block.currency)
                        waiting[key] = waiting.get(key, 0) + line.amount
            other.spool.take(frame, after)
        await other.close()
    cells = world.wallets.cell_balances()
    for key, wallet in wallets.items():
        left = wallet.spendable - waiting.get(key, 0)
        if exactly:
            assert filled[key] == left, key
        assert filled.get(key, left) <= left, key
        assert cells.get(key, left) <= left, key


async def _wallets(world: World) -> dict[Key, Wallet]:
    return {(found.account, found.currency): found for found in await world.ledger.all_wallets()}


class Failing:
    """A store whose `at`-th transaction fails: before it began, or, `lost`, after its commit."""

    def __init__(self, world: World, at: int, kind: type[Exception], *, lost: bool) -> None:
        self._store = world.store
        self._at = at
        self._kind = kind
        self._lost = lost
        self.failed = False

    @asynccontextmanager
    async def failing(self) -> Any:
        store: Any = self._store
        read, write = store.run_read, store.run_write
        store.run_read, store.run_write = self._around(read), self._around(write)
        try:
            yield self
        finally:
            del store.run_read, store.run_write

    def _around(self, run: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def runs(work: Any) -> Any:
            at, self._at = self._at, self._at - 1
            if at:
                return await run(work)
            self.failed = True
            if self._lost:
                await run(work)
            raise self._kind("failed")

        return runs


async def quiet(world: World) -> None:
    """Changes whose callers have gone are over, too."""
    await world.pipeline._steps.idle()
    await world.wallets.idle()
    await asyncio.sleep(0)
