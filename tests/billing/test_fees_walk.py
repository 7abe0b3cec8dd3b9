"""Fees at random: whatever happens to them, nobody gets more than was paid."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from feekit import Till
from moneykit import World
from playkit import PLANS

from fastgate.billing.payments.base import (
    EventKind,
    ProviderRefused,
)
from fastgate.errors import ConflictError
from fastgate.model.units import Money
from fastgate.store.payments import Payment


@pytest.mark.parametrize("seed", range(12))
async def test_nobody_gets_more_than_was_paid(
    seed: int, sqlite_migrated: Path, tmp_path: Path
) -> None:
    """Plans change, fees go back, in part and whole, are contested, and everything is told again
    in any order: wallet and refunds together are never more than what was paid."""
    shutil.copyfile(sqlite_migrated, tmp_path / "one.db")
    world = World(f"sqlite:///{tmp_path / 'one.db'}", tmp_path)
    await world.pipeline.begin()
    await world.up()
    till, random = Till(world), Random(seed)
    ident = await till.begin(random.choice(["basic", "big"]))
    open_disputes: dict[str, Payment] = {}
    touched: set[str] = set()
    for number in range(14):
        payments = await till.paid()
        payment = random.choice(payments)
        what = random.choice(["change", "change", "refund", "part", "dispute", "close", "tell"])
        try:
            if what == "change":
                await till.change(ident, random.choice([*PLANS]))
            elif what in ("refund", "part") and payment.reference not in touched:
                some = Money(random.randint(1, payment.amount // 10_000) * 10_000, "USD")
                amount = None if what == "refund" else some
                await till.refunds.refund("one", payment.reference, amount, f"r{number}")
            elif what == "dispute" and not await till.payments.returns("one", payment.reference):
                open_disputes[f"dp_{number}"] = payment
                touched.add(payment.reference)
                await till.fact(EventKind.DISPUTE_OPENED, payment, f"dp_{number}")
            elif what == "close" and open_disputes:
                dispute, of = open_disputes.popitem()
                won = random.random() < 0.5
                kind = EventKind.DISPUTE_WON if won else EventKind.DISPUTE_LOST
                await till.fact(kind, of, dispute)
            elif what == "tell":
                for each in random.sample(payments, len(payments)):
                    await till.told(each)
        except (ConflictError, ProviderRefused):
            pass  # the subscription has ended, or there is nothing left to give back
        till.stage.clock.pass_(hours=random.randint(0, 60))
        await till.stage.settle()
        wallet = await world.ledger.wallet(till.account, "USD")
        assert wallet is not None
        there = sum(one.amount for one in await till.paid())
        for one in await till.paid():
            for back in await till.payments.returns("one", one.reference):
                there -= back.amount if back.state == "returned" else 0
        assert -wallet.provider_clearing == there
        contested = sum(one.amount for one in open_disputes.values())
        assert wallet.customer_held == contested
        assert wallet.customer_available <= there
        await till.audited()
    await world.close()
