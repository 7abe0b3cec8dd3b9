"""Fees at random: whatever happens to them, nobody gets more than was paid, and nobody pays for
more than was used."""

from __future__ import annotations

import os
import shutil
from calendar import monthrange
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import Random

import pytest
from feekit import FeeWorld
from moneykit import World
from schedulekit import PLANS
from storekit import Cluster

from fastgate.billing.payments.base import (
    EventKind,
    ProviderRefused,
)
from fastgate.billing.subscriptions.lifecycle import Event, State
from fastgate.errors import ConflictError
from fastgate.model.units import Money
from fastgate.store.payments import Payment

SEEDS = range(*map(int, os.environ.get("FASTGATE_WALKS", "0:24").split(":")))
COIN = 10_000
QUIET = ["change"] * 3 + ["unpaid"] * 2 + ["pay", "tell", "leap", "back", "pause", "late"]
"""Nothing goes back: then what was kept is what was used."""
BACK = ["refund", "part", "dashboard", "dashpart", "failed"] + ["dispute", "close"] * 2


class Walk:
    """A customer, and all that can happen to what he pays."""

    def __init__(self, fees: FeeWorld, random: Random, what: list[str]) -> None:
        self.fees, self.random, self.what = fees, random, what
        self.disputes: dict[str, Payment] = {}
        self.refused: list[tuple[Payment, str, int]] = []
        self.number = 0
        self.used = 0.0
        """What the time on each plan cost so far, micro-units."""

    async def begin(self) -> None:
        plan = self.random.choice(["basic", "big", "yearly"])
        self.fees.provider.mood = "up"
        if hasattr(self, "ident"):
            made = await self.fees.parts.subscriptions.create(self.fees.account, plan)
            await self.fees.parts.settle()
            self.ident = made.id
        else:
            self.ident = await self.fees.begin(plan)

    async def step(self) -> None:
        self.number += 1
        payments = await self.fees.paid()
        # Perhaps the subscription has ended, or there is nothing left to give back.
        with suppress(ConflictError, ProviderRefused):
            await getattr(self, self.random.choice(self.what))(self.random.choice(payments))
        await self.passes(self.random.randint(0, 60))
        found = await self.fees.parts.subscriptions.get(self.ident)
        if found.state in (State.EXPIRED, State.CANCELED):
            await self.passes(1)
            await self.begin()
        await self.holds()

    # ---- what happens -------------------------------------------------------------------

    async def change(self, _: Payment) -> None:
        await self.fees.change(self.ident, self.random.choice([*PLANS]))

    async def unpaid(self, _: Payment) -> None:
        """A change whose invoice, if there is one, is declined."""
        self.fees.provider.mood = "failed"
        await self.fees.change(self.ident, self.random.choice(["big", "yearly"]))

    async def pay(self, _: Payment) -> None:
        self.fees.provider.mood = "up"
        await self.fees.parts.dunning.method_attached(self.fees.account)

    def some(self, payment: Payment) -> Money:
        return Money(self.random.randint(1, payment.amount // COIN) * COIN, "USD")

    async def refund(self, payment: Payment, amount: Money | None = None) -> None:
        if not any(one.reference == payment.reference for one in self.disputes.values()):
            mood, self.fees.provider.mood = self.fees.provider.mood, "up"
            key = f"r{self.number}"
            await self.fees.refunds.refund("one", payment.reference, amount, key)
            self.fees.provider.mood = mood

    async def part(self, payment: Payment) -> None:
        await self.refund(payment, self.some(payment))

    async def dashboard(self, payment: Payment) -> None:
        """All that is left of it, in the provider's own pages."""
        left = payment.amount - await self.gone(payment)
        if left:
            await self.fees.fact(EventKind.REFUND, payment, f"re_{self.number}", amount=left)

    async def dashpart(self, payment: Payment) -> None:
        left = payment.amount - await self.gone(payment)
        some = min(left, self.some(payment).micros)
        if some:
            await self.fees.fact(EventKind.REFUND, payment, f"re_{self.number}", amount=some)

    async def failed(self, payment: Payment) -> None:
        """A refund in the provider's own pages that fails later, or is told of so."""
        left = payment.amount - await self.gone(payment)
        if left:
            name = f"re_{self.number}"
            for kind in (EventKind.REFUND, EventKind.REFUND_FAILED) * 2:
                await self.fees.fact(kind, payment, name, amount=left)

    async def dispute(self, payment: Payment) -> None:
        if not await self.gone(payment):
            name = f"dp_{self.number}"
            self.disputes[name] = payment
            await self.fees.fact(EventKind.DISPUTE_OPENED, payment, name)

    async def close(self, _: Payment) -> None:
        if self.disputes:
            dispute, of = self.disputes.popitem()
            won = self.random.random() < 0.5
            await self.fees.fact(
                EventKind.DISPUTE_WON if won else EventKind.DISPUTE_LOST, of, dispute
            )

    async def pause(self, _: Payment) -> None:
        """By an operator, and perhaps not at once again: what is open may be paid meanwhile."""
        await self.fees.parts.subscriptions.apply(self.ident, Event.PAUSE)
        await self.passes(self.random.choice([1, 30, 24 * 33]))
        if self.random.random() < 0.5:
            await self.pay(_)
            await self.fees.parts.settle()
        await self.fees.parts.subscriptions.apply(self.ident, Event.RESUME)

    async def late(self, _: Payment) -> None:
        """A period's fee is declined, and paid in the next one."""
        self.fees.provider.mood = "failed"
        await self.passes(24 * 35)
        await self.pay(_)

    async def tell(self, _: Payment) -> None:
        payments = await self.fees.paid()
        for each in self.random.sample(payments, len(payments)):
            await self.fees.deliver(each)

    async def leap(self, _: Payment) -> None:
        for _days in range(self.random.randint(3, 20)):
            await self.passes(24)

    async def back(self, _: Payment) -> None:
        """The clock is put right: it was fast."""
        self.fees.parts.clock.pass_(minutes=-self.random.randint(1, 50))

    # ---- what holds ---------------------------------------------------------------------

    async def gone(self, payment: Payment) -> int:
        returns = await self.fees.payments.returns("one", payment.reference)
        return sum(one.amount for one in returns if one.state != "kept")

    async def passes(self, hours: int) -> None:
        await self.fees.parts.settle()
        found = await self.fees.parts.subscriptions.get(self.ident)
        for _ in range(hours):
            now = self.fees.parts.clock()
            served = found.state in (State.ACTIVE, State.PAST_DUE, State.GRACE)
            # What was invoiced for a period that began is not given back for a pause.
            if served or (found.state is State.PAUSED and now < found.period_end):
                price = self.fees.parts.subscriptions._price(found.plan)
                self.used += price.micros * per_hour(price.period, now)
            self.fees.parts.clock.pass_(hours=1)
        await self.fees.parts.settle()

    async def holds(self) -> None:
        wallet = await self.fees.world.ledger.wallet(self.fees.account, "USD")
        assert wallet is not None
        there = 0
        for one in await self.fees.paid():
            there += one.amount
            for back in await self.fees.payments.returns("one", one.reference):
                there -= back.amount if back.state == "returned" else 0
        assert -wallet.provider_clearing == there
        contested = sum(one.amount for one in self.disputes.values())
        assert wallet.customer_held == contested
        assert wallet.customer_available + contested <= there
        await self.fees.audited()

    async def ends(self) -> None:
        """In the end nothing is paid for what was not used."""
        self.fees.provider.mood = "up"
        await self.fees.change(self.ident, "free")
        wallet = await self.fees.world.ledger.wallet(self.fees.account, "USD")
        assert wallet is not None
        assert wallet.revenue <= self.used + 100 * COIN, (wallet.revenue, self.used)


def per_hour(period: str, now: datetime) -> float:
    """The part of a fee for an hour."""
    days = 365 if period == "year" else monthrange(now.year, now.month)[1]
    return 1 / (24 * days)


async def walked(url: str, folder: Path, seed: int, steps: int = 14) -> None:
    world = World(url, folder)
    await world.pipeline.begin()
    await world.up()
    quiet = seed % 3 == 0
    walk = Walk(FeeWorld(world), Random(seed), QUIET if quiet else QUIET + BACK)
    try:
        await walk.begin()
        for _ in range(steps):
            await walk.step()
        if quiet:
            await walk.ends()
    finally:
        await world.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_nobody_gets_more_than_was_paid(
    seed: int, sqlite_migrated: Path, tmp_path: Path
) -> None:
    """Plans change, are paid or not, fees go back, here or at the provider, in part and whole,
    are contested, and everything is told again in any order: wallet, refunds and what is
    contested together are never more than what was paid, and the audit agrees at each step."""
    shutil.copyfile(sqlite_migrated, tmp_path / "one.db")
    await walked(f"sqlite:///{tmp_path / 'one.db'}", tmp_path, seed)


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    return postgres_cluster.database(template="migrated")


@pytest.mark.parametrize("seed", [1, 3])
async def test_the_same_on_postgresql(seed: int, postgres_url: str, tmp_path: Path) -> None:
    await walked(postgres_url, tmp_path, seed, steps=8)
