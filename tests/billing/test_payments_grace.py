"""Grace is bounded, recorded, and ends with the outage, also when control is killed in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moneykit import Killed, Tripwire, World, move
from paykit import START, Clock, Scripted

from fastgate.billing.payments.base import ProviderUnavailable
from fastgate.billing.payments.breaker import BreakerSettings as BreakerTerms
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.grace import GraceLedger, GraceTerms
from fastgate.model.units import Money
from fastgate.store.payments import AttemptTable, GraceTable, Grant

TERMS = GraceTerms(amount=Money(50, "EUR"), lasts=timedelta(hours=1), window=timedelta(days=1))


class Bench:
    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.provider = Scripted("one", self.clock)
        breaker = BreakerTerms(failures=1, wait=timedelta(seconds=10))
        self.chain = Chain([self.provider], AttemptTable(world.store), self.clock, breaker)
        self.table = GraceTable(world.store)
        self.grace = self.ledger()

    def ledger(self, wire: Tripwire | None = None) -> GraceLedger:
        """A new control's; with a wire, it can be killed between any two steps."""
        table: Any = self.table
        wallets: Any = self.world.wallets
        if wire is not None:
            table = wire.around(table, "open", "move")
            wallets = wire.around(wallets, "add_overdraft")
        return GraceLedger(self.chain, table, wallets, self.clock, TERMS)

    async def outage(self) -> None:
        self.provider.mood = "down"
        with pytest.raises(ProviderUnavailable):
            await self.chain.list_methods("acc_a")
        assert self.chain.down()

    async def back(self) -> None:
        self.provider.mood = "up"
        self.clock.pass_(seconds=10)
        await self.chain.look()
        assert not self.chain.down()

    async def overdraft(self) -> int:
        """As the ledger has it; the cell agrees."""
        wallet = await self.world.ledger.wallet("acc_a", "EUR")
        if wallet is None:
            return 0
        await self.world.agrees()
        return wallet.overdraft

    async def states(self) -> list[tuple[str, str]]:
        found = await self.table.of_account("acc_a")
        return [(item.state, item.ended_by) for item in found]


@pytest.fixture
async def bench(store_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 10))
    yield Bench(world)
    await world.close()


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 10))
    yield Bench(world)
    await world.close()


async def grant(bench: Bench) -> Grant:
    found = await bench.grace.grant("acc_a", "EUR")
    assert found is not None
    return found


async def test_there_is_no_grace_while_a_provider_is_there(lite: Bench) -> None:
    assert await lite.grace.grant("acc_a", "EUR") is None
    assert await lite.overdraft() == 0
    await lite.outage()
    assert await lite.grace.grant("acc_a", "USD") is None  # the terms are in another currency
    assert await lite.states() == []


async def test_grace_serves_up_to_its_amount_and_is_owed_afterwards(bench: Bench) -> None:
    assert bench.world.use(11) is None
    await bench.outage()
    given = await grant(bench)
    assert (given.amount, given.expires) == (50, START + timedelta(hours=1))
    assert given.cause == "one is down"
    assert bench.world.use(60) is not None
    assert bench.world.use(1) is None
    await bench.world.pipeline.step()
    assert await bench.grace.sweep() == []  # still down
    assert await bench.overdraft() == 50
    await bench.back()
    (ended,) = await bench.grace.sweep()
    assert ended.id == given.id
    assert await bench.overdraft() == 0
    assert bench.world.use(1) is None
    wallet = await bench.world.ledger.wallet("acc_a", "EUR")
    assert wallet is not None
    assert wallet.customer_available == -50  # owed, and covered by the next payment
    assert await bench.states() == [("ended", "provider_back")]
    await bench.world.wallets.credit(move("t2", 51))
    assert bench.world.use(1) is not None


async def test_a_grant_ends_with_its_time_though_the_provider_is_still_down(lite: Bench) -> None:
    await lite.outage()
    await grant(lite)
    lite.clock.pass_(minutes=59)
    assert await lite.grace.sweep() == []
    lite.clock.pass_(minutes=1)
    assert len(await lite.grace.sweep()) == 1
    assert await lite.states() == [("ended", "expired")]
    assert await lite.overdraft() == 0
    assert await lite.grace.grant("acc_a", "EUR") is None  # the day's amount was given
    lite.clock.pass_(days=1)
    assert (await grant(lite)).amount == 50


async def test_many_who_ask_at_once_get_the_amount_once(bench: Bench) -> None:
    await bench.outage()
    others = [bench.ledger() for _ in range(5)]  # as if each were another gateway
    given = await asyncio.gather(*(one.grant("acc_a", "EUR") for one in others))
    assert sum(item.amount for item in given if item is not None) == 50
    assert await bench.overdraft() == 50


async def test_grace_is_added_to_an_overdraft_and_taken_from_it(lite: Bench) -> None:
    await lite.world.wallets.set_overdraft("o1", "acc_a", "EUR", 20)
    await lite.outage()
    given = await grant(lite)
    assert await lite.overdraft() == 70
    assert [item.id for item in await lite.table.unended()] == [given.id]
    assert not await lite.grace.end("acc_b", given.id)
    assert await lite.grace.end("acc_a", given.id)
    assert not await lite.grace.end("acc_a", given.id)
    assert await lite.overdraft() == 20
    assert await lite.states() == [("ended", "operator")]


async def test_without_time_there_is_no_grace(lite: Bench) -> None:
    lite.grace.terms = GraceTerms(amount=Money(50, "EUR"), lasts=timedelta(0))
    await lite.outage()
    assert await lite.grace.grant("acc_a", "EUR") is None


async def test_killed_anywhere_it_is_raised_once_and_lowered_once(lite: Bench) -> None:
    """Control is killed at each step in turn; the next one carries on."""
    lite.grace.terms = TERMS
    for at in range(20):
        await lite.outage()
        wire = Tripwire(at)
        dying = lite.ledger(wire)
        killed = False
        try:
            await dying.grant("acc_a", "EUR")
            await lite.back()
            await dying.sweep()
        except Killed:
            killed = True
        if lite.chain.down():
            await lite.ledger().sweep()  # carries on what was begun
            granted = await lite.table.unended()
            assert await lite.overdraft() == sum(item.amount for item in granted)
            await lite.back()
        await lite.ledger().sweep()
        assert await lite.overdraft() == 0, at
        assert {state for state, _ in await lite.states()} <= {"ended"}
        lite.clock.pass_(days=2)
        if not killed:
            break
    else:
        pytest.fail("it never came to an end unharmed")
    assert at == 12  # six steps, before and after each
