"""Random lives of a gateway's money: changes, requests, cancellations, kills, outages and lost
answers in any order. What was acknowledged is in the ledger once, what was served is charged once,
and in the end every balance is the same everywhere."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from balancekit import Failing, homes_agree, no_more_than_the_ledger, quiet
from cancelkit import cancelled_at, killed_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moneykit import WORKERS, World, copy_of, move, records_in

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.ledger.ledger import LedgerError
from fastgate.errors import NotFoundError, StoreError
from fastgate.store.ledger import Book

ACCOUNTS = ("acc_a", "acc_b")
KINDS = (
    "credit",
    "promo",
    "end_promo",
    "freeze",
    "dispute",
    "release",
    "pay_out",
    "correct",
    "overdraft",
    "step",
)
WAYS = ("made", "made", "cancelled", "killed", "failed", "lost")

changes = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(ACCOUNTS),
    st.integers(1, 60),
    st.sampled_from(WAYS),
    st.integers(0, 12),
)
requests = st.tuples(
    st.just("use"), st.sampled_from(ACCOUNTS), st.integers(0, 30), st.integers(0, WORKERS - 1)
)
events = st.tuples(st.sampled_from(["down", "up", "restart", "reboot", "step", "step"]))


class Life:
    """A world, and what its users know of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.acknowledged: set[str] = set()
        self.aside: list[str] = []
        self.served: dict[str, int] = {}
        self.number = 0

    async def change(self, kind: str, account: str, amount: int) -> None:
        """One change with an id of its own; noted when it returns."""
        self.number += 1
        wallets, ident = self.world.wallets, f"{kind}{self.number}"
        if kind == "step":
            await self.world.pipeline.step()
            return
        if kind == "correct":
            postings = {Book.AVAILABLE: -amount, Book.REVENUE: amount}
            posted = await wallets.correct(move(ident, amount, account), postings)
        elif kind == "overdraft":
            posted = await wallets.set_overdraft(ident, account, "EUR", amount // 2)
        elif kind in ("release", "pay_out"):
            if not self.aside:
                return
            posted = await getattr(wallets, kind)(self.aside[amount % len(self.aside)])
        else:
            posted = await getattr(wallets, kind)(move(ident, amount, account))
        if kind in ("freeze", "dispute"):
            self.aside.append(ident)
        self.acknowledged.add(posted.entry.id)

    async def changed(self, what: tuple[str, str, int], way: str, at: int) -> None:
        """The same, interrupted in a way at the `at`-th await, or transaction."""
        with contextlib.suppress(StoreError, LedgerError, NotFoundError):
            if way == "cancelled":
                await cancelled_at(at, self.change(*what))
            elif way == "killed":
                await killed_at(at, self.change(*what))
            elif way == "made":
                await self.change(*what)
            else:
                failing = Failing(self.world, at, StoreError, lost=way == "lost")
                async with failing.failing():
                    await self.change(*what)
        if way == "killed":
            await (self.world.reboot if at % 2 else self.world.restart)(up=False)
        await quiet(self.world)

    def use(self, account: str, amount: int, worker: int) -> None:
        ident = self.world.use(amount, account, worker)
        if ident is not None:
            self.served[ident] = amount

    async def event(self, what: str) -> None:
        if what == "step":
            await self.world.pipeline.step()
        elif what == "down":
            await self.world.store.stop()
        elif what == "up":
            await self.world.store.connect()
        else:
            await getattr(self.world, what)(up=False)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.one_of(changes, requests, events), max_size=25))
def test_whatever_interrupts_it_every_balance_is_the_same_everywhere(
    sqlite_migrated: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("life") / "one"
    asyncio.run(_play(copy_of(sqlite_migrated, folder), folder, steps))


async def _play(url: str, folder: Path, steps: list[tuple[Any, ...]]) -> None:
    world = World(url, folder)
    await world.pipeline.begin()
    await world.up()
    for account in ACCOUNTS:
        await world.wallets.credit(move(f"t{account}", 100, account))
    life = Life(world)
    for step in steps:
        if step[0] == "use":
            life.use(*step[1:])
        elif len(step) == 1:
            await life.event(*step)
        else:
            await life.changed(step[:3], *step[3:])
        if world.store.ready:
            await no_more_than_the_ledger(world)
    await world.store.connect()
    while await world.pipeline.step():
        pass
    await homes_agree(world)
    for ident in life.acknowledged:
        assert await world.ledger.find(ident) is not None, ident
    assert await records_in(world.store) == life.served
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
    await world.close()
