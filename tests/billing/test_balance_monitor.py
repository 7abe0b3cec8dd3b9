"""The balance monitor: all balances that have moved are read from the store in one query."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from moneykit import World, move
from paykit import Scripted
from schedulekit import BillingParts

from fastgate.billing.payments.base import ProviderUnavailable
from fastgate.billing.payments.chain import Chain
from fastgate.model.units import Money
from fastgate.runtime.control.balance_monitor import BalanceMonitor
from fastgate.runtime.control.billing_deps import LimitSources
from fastgate.store.payments import AttemptTable

EUR = 1_000_000


class Bench:
    """A gateway's wallets, billing, and the monitor over them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parts = BillingParts(world.store, {"notices": {"low_balance": "5 EUR"}})
        self.down: list[str] = []
        self.graced: list[tuple[str, str]] = []
        self.questions = 0
        billing: Any = SimpleNamespace(
            ledger=world.ledger,
            wallets=world.wallets,
            recharges=self.parts.recharges,
            providers=SimpleNamespace(down=lambda: self.down, look=self.look_at_providers),
            payments=SimpleNamespace(of_account=self.payments),
            grace=SimpleNamespace(grant=self.grant),
        )
        services: Any = SimpleNamespace(api=billing, alerts=self.parts.alerts, look_again=None)
        limits: Any = LimitSources(consumers=list, of=lambda consumer, plan: [], rows=None)  # type: ignore[arg-type]
        self.monitor = BalanceMonitor(services, world.segment, limits)
        self._ask = world.store.run_read
        world.store.run_read = self.ask  # type: ignore[method-assign]

    async def ask(self, work: Any) -> Any:
        self.questions += 1
        return await self._ask(work)

    async def look_at_providers(self) -> None:
        pass

    async def payments(self, account: str, limit: int) -> list[str]:
        return ["a payment"]

    async def grant(self, account: str, currency: str) -> None:
        self.graced.append((account, currency))

    async def look(self) -> int:
        """One round; how often the store was asked."""
        before = self.questions
        await self.monitor.look()
        return self.questions - before


@pytest.fixture
async def bench(store_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("a", 6 * EUR))
    await world.wallets.credit(move("b", 6 * EUR, "acc_b"))
    await world.wallets.credit(move("c", 6 * EUR, "acc_b", "USD"))
    yield Bench(world)
    await world.close()


async def test_only_what_moved_is_looked_at_and_all_of_it_at_once(bench: Bench) -> None:
    assert await bench.look() == 1
    assert await bench.look() == 0
    for account in ("acc_a", "acc_b"):
        bench.world.use(2 * EUR, account)
    assert await bench.look() == 1
    assert await bench.look() == 0
    for account in ("acc_a", "acc_b"):
        assert await bench.parts.kinds(account) == ["balance.low"]
    bench.monitor.look_again("acc_b")
    assert await bench.look() == 1
    assert await bench.parts.kinds("acc_b") == ["balance.low"]


async def test_what_an_account_says_itself_counts_for_it_alone(bench: Bench) -> None:
    await bench.parts.notices.profiles.update("acc_b", low_balance=1 * EUR)
    for account in ("acc_a", "acc_b"):
        bench.world.use(2 * EUR, account)
    await bench.look()
    assert await bench.parts.kinds("acc_a") == ["balance.low"]
    assert await bench.parts.kinds("acc_b") == []


async def test_a_rule_recharges_its_account_in_its_currency(bench: Bench) -> None:
    threshold, amount, cap = (Money(coins * EUR, "EUR") for coins in (5, 10, 100))
    await bench.parts.recharges.set("acc_b", threshold, amount, cap)
    await bench.look()
    assert bench.parts.charger.calls == []
    for account in ("acc_a", "acc_b"):
        bench.world.use(2 * EUR, account)
    await bench.look()
    assert [micros for _, micros, _ in bench.parts.charger.calls] == [10 * EUR]
    assert bench.graced == []


async def test_who_cannot_be_charged_since_nobody_can_be_asked_goes_on(
    bench: Bench,
) -> None:
    threshold, amount, cap = (Money(coins * EUR, "EUR") for coins in (5, 10, 10))
    await bench.parts.recharges.set("acc_b", threshold, amount, cap)
    bench.world.use(2 * EUR, "acc_b")
    await bench.look()
    assert len(bench.parts.charger.calls) == 1
    bench.down = ["play"]
    assert await bench.look() >= 1  # it is looked at again, though it has not moved
    assert bench.graced == [("acc_b", "EUR")]


@pytest.mark.parametrize("mood", ["down", "doubt"])
async def test_grace_begins_within_seconds_of_an_outage(bench: Bench, mood: str) -> None:
    """The clock stands still: each look is a second, and nothing else goes on."""
    provider = Scripted("one", bench.parts.clock)  # type: ignore[arg-type]
    chain = Chain([provider], AttemptTable(bench.world.store), bench.parts.clock)
    bench.monitor._billing.providers = chain  # type: ignore[misc]
    bench.parts.recharges.charger = chain
    threshold, amount, cap = (Money(coins * EUR, "EUR") for coins in (5, 10, 100))
    await bench.parts.recharges.set("acc_b", threshold, amount, cap)
    provider.mood = mood
    bench.world.use(2 * EUR, "acc_b")
    looks = 0
    while not bench.graced:
        await bench.look()
        looks += 1
        assert looks <= 6
    assert bench.graced == [("acc_b", "EUR")]
    provider.mood = "up"
    bench.parts.clock.pass_(minutes=1)  # not an hour
    await chain.look()
    await bench.parts.recharges.run()
    charged = [] if mood == "doubt" else ["recharge:acc_b:1"]  # in doubt it is looked for first
    assert list(provider.charges) == charged


async def test_one_failure_that_passes_is_no_outage(bench: Bench) -> None:
    provider = Scripted("one", bench.parts.clock)  # type: ignore[arg-type]
    chain = Chain([provider], AttemptTable(bench.world.store), bench.parts.clock)
    bench.monitor._billing.providers = chain  # type: ignore[misc]
    provider.mood = "down"
    with pytest.raises(ProviderUnavailable):
        await chain.list_methods("acc_b")
    assert not (await chain.look())["one"].ok
    provider.mood = "up"
    assert (await chain.look())["one"].ok
    assert chain.breakers["one"].failures == 0
    assert not chain.down()
