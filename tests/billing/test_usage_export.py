"""Usage reported to a payment provider: each unit once, whoever is killed or does not answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa
from moneykit import pack, used
from paykit import START, Clock, Scripted
from stripekit import FixedSecrets, StripeKit

from fastgate.billing.payments.base import ProviderRefused
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.stripe import StripeProvider
from fastgate.billing.payments.usage_export import IN_DOUBT, UsageExport, end_of
from fastgate.errors import StoreError
from fastgate.store import usage as usage_table
from fastgate.store import usage_exports
from fastgate.store.engine import Store
from fastgate.store.payment_tables import usage_exports as rows
from fastgate.store.payments import AttemptTable, CustomerTable

EVENTS = {"paid": {"requests": "api_requests", "tokens": "api_tokens"}}
TODAY = START.date()


class Bench:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.provider = Scripted("paid", self.clock)
        self.chain = Chain([self.provider], AttemptTable(store), self.clock)
        self.export = UsageExport(store, self.chain, self.clock, EVENTS)
        self.number = 0

    async def use(self, account: str, units: int, meter: str = "", ago: int = 0) -> None:
        """Units of a meter, or one request."""
        self.number += 1
        moment = self.clock() - timedelta(days=ago)
        usage = used(
            self.number,
            0,
            account,
            units=units,
            meter=meter,
            time_us=int(moment.timestamp() * 1e6),
        )
        async with self.store.write() as connection:
            await connection.run_sync(usage_table.insert, pack([usage]), {}, moment)

    def reported(self) -> dict[tuple[str, str], int]:
        """Units by account and event, as the provider has them."""
        sums: dict[tuple[str, str], int] = {}
        for account, event, units, _ in self.provider.reported.values():
            sums[account, event] = sums.get((account, event), 0) + units
        return sums


@pytest.fixture
async def bench(store: Store) -> Bench:
    """On both kinds of store; acc_a and acc_b are customers, acc_c is not."""
    customers = CustomerTable(store, lambda: START)
    for account in ("acc_a", "acc_b"):
        await customers.link("paid", account, f"cus_{account}")
    made = Bench(store)
    await made.export.run()  # set up: from this day on
    return made


async def test_new_usage_is_reported_once(bench: Bench) -> None:
    await bench.use("acc_a", 700, "tokens")
    await bench.use("acc_a", 1)
    await bench.use("acc_a", 1)
    await bench.use("acc_b", 5, "tokens")
    await bench.use("acc_c", 9, "tokens")
    assert await bench.export.run() == 3
    assert await bench.export.run() == 0
    await bench.use("acc_a", 12, "tokens")
    assert await bench.export.run() == 1
    assert bench.reported() == {
        ("acc_a", "api_tokens"): 712,
        ("acc_a", "api_requests"): 2,
        ("acc_b", "api_tokens"): 5,
    }


async def test_days_are_reported_separately_and_not_before_the_first(bench: Bench) -> None:
    await bench.use("acc_a", 3, "tokens", ago=1)  # before it was set up
    bench.clock.pass_(days=2)
    await bench.use("acc_a", 4, "tokens", ago=1)
    await bench.use("acc_a", 5, "tokens")
    await bench.export.run()
    found = sorted((units, at) for _, _, units, at in bench.provider.reported.values())
    assert found == [(4, end_of(TODAY + timedelta(days=1))), (5, bench.clock())]


async def test_late_usage_is_reported_with_its_day(bench: Bench) -> None:
    await bench.use("acc_a", 4, "tokens")
    await bench.export.run()
    bench.clock.pass_(days=3)
    await bench.use("acc_a", 6, "tokens", ago=3)
    await bench.export.run()
    assert bench.reported() == {("acc_a", "api_tokens"): 10}
    assert {at.date() for _, _, _, at in bench.provider.reported.values()} == {TODAY}


@pytest.mark.parametrize("mood", ["down", "doubt", "lost"])
async def test_a_provider_that_does_not_answer_is_told_later_and_once(
    bench: Bench, mood: str
) -> None:
    await bench.use("acc_a", 7, "tokens")
    bench.provider.mood = mood
    assert await bench.export.run() == 0
    await bench.use("acc_a", 2, "tokens")
    bench.provider.mood = "up"
    assert await bench.export.run() >= 1
    assert bench.reported() == {("acc_a", "api_tokens"): 9}


async def test_what_was_in_doubt_for_too_long_is_not_told_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.use("acc_a", 7, "tokens")
    bench.provider.mood = "lost"
    await bench.export.run()
    bench.provider.mood = "up"
    bench.provider.sent.clear()
    bench.clock.pass_(seconds=IN_DOUBT.total_seconds() + 1)
    await bench.use("acc_a", 1, "tokens", ago=1)
    await bench.export.run()
    assert "is unknown; they are not reported again" in caplog.text
    assert bench.reported() == {("acc_a", "api_tokens"): 8}


async def test_random_failures_and_kills_lose_and_double_nothing(bench: Bench) -> None:
    """Killed between any two steps: the process is replaced, rows and provider stay."""
    draw = random.Random(4)
    wanted = 0
    put = usage_exports.put

    async def torn(connection: object, export: usage_exports.Export) -> None:
        if draw.random() < 0.2:
            raise StoreError("killed")
        await put(connection, export)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage_exports, "put", torn)
        for _ in range(60):
            bench.provider.mood = draw.choice(["up", "down", "doubt", "lost"])
            units = draw.randrange(1, 50)
            await bench.use("acc_a", units, "tokens")
            wanted += units
            bench.clock.pass_(minutes=10)
            try:
                await bench.export.run()
            except StoreError:
                bench.export = UsageExport(bench.store, bench.chain, bench.clock, EVENTS)
    bench.provider.mood = "up"
    bench.clock.pass_(minutes=10)
    await bench.export.run()
    assert bench.reported() == {("acc_a", "api_tokens"): wanted}


async def test_a_meter_that_is_not_known_does_not_stop_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.use("acc_a", 1)
    await bench.use("acc_a", 7, "tokens")
    bench.provider.mood = "refuse"
    assert await bench.export.run() == 0
    assert bench.provider.sent == ["usage", "usage"]
    assert "refused 1 reports of tokens" in caplog.text


@pytest.mark.parametrize("mood", ["refuse", "down"])
async def test_what_was_certainly_not_accepted_is_reported_even_late(
    bench: Bench, mood: str
) -> None:
    await bench.use("acc_a", 7, "tokens")
    bench.provider.mood = mood
    await bench.export.run()
    bench.provider.mood = "up"
    bench.clock.pass_(days=3)
    await bench.export.run()
    assert bench.reported() == {("acc_a", "api_tokens"): 7}


async def test_one_account_that_is_refused_does_not_stop_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = bench.provider.report_usage

    async def picky(account: str, *more: object) -> None:
        if account == "acc_a":
            raise ProviderRefused("No such customer")
        await report(account, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.provider, "report_usage", picky)
    await bench.use("acc_a", 7, "tokens")
    await bench.use("acc_b", 8, "tokens")
    assert await bench.export.run() == 1
    assert bench.reported() == {("acc_b", "api_tokens"): 8}


async def test_it_is_looked_at_now_and_then(bench: Bench) -> None:
    await bench.export.step()
    await bench.use("acc_a", 7, "tokens")
    await bench.export.step()
    assert bench.reported() == {}
    bench.clock.pass_(minutes=10)
    await bench.export.step()
    assert bench.reported() == {("acc_a", "api_tokens"): 7}


# ---- Stripe ----------------------------------------------------------------------------------


@pytest.fixture
async def kit() -> AsyncIterator[StripeKit]:
    async with StripeKit(int(START.timestamp())).serving() as made:
        yield made


async def test_stripes_meters_get_events(sqlite_store: Store, kit: StripeKit) -> None:
    customers = CustomerTable(sqlite_store, lambda: START)
    await customers.link("stripe", "acc_a", "cus_1")
    secrets = FixedSecrets(kit.key, (kit.secret,))
    stripe = StripeProvider(secrets, customers, lambda: START, api_base=kit.url, timeout=30)
    bench = Bench(sqlite_store)
    chain = Chain([stripe], AttemptTable(sqlite_store), bench.clock)
    events = {"stripe": {"tokens": "api_tokens", "requests": "no_such_meter"}}
    export = UsageExport(sqlite_store, chain, bench.clock, events)
    await export.run()
    await bench.use("acc_a", 812, "tokens")
    await bench.use("acc_a", 1)
    kit.faults = ["garbage"]
    assert await export.run() == 0
    assert await export.run() == 1
    (event,) = kit.meter_events
    assert event["event_name"] == "api_tokens"
    assert event["payload"] == {"stripe_customer_id": "cus_1", "value": "812"}
    assert datetime.fromtimestamp(int(event["timestamp"]), UTC) == START
    # The same once more, as after a kill: Stripe knows it, and nothing is wrong.
    async with sqlite_store.write() as connection:
        await connection.execute(
            sa.update(rows).where(rows.c.told == 812).values(told=0, sending=812)
        )
    assert await export.run() == 1
    assert len(kit.meter_events) == 1
    await stripe.report_usage("acc_nobody", "api_tokens", 1, START, "fg-x")
    assert len(kit.meter_events) == 1
    await stripe.close()


def test_a_day_ends_within_itself() -> None:
    assert end_of(date(2031, 5, 4)) == datetime(2031, 5, 4, 23, 59, 59, tzinfo=UTC)
