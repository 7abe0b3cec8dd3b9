"""Stripe's webhooks late, twice, out of order, or not at all: the books are right in the end."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moneykit import World
from stripekit import FixedSecrets, StripeKit

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.audit.money import audit_providers
from fastgate.billing.audit.provider_balance import audit_balances
from fastgate.billing.audit.report import Check
from fastgate.billing.payments.base import ProviderUnavailable
from fastgate.billing.payments.breaker import BreakerSettings
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.reconcile import Reconciler
from fastgate.billing.payments.refunds import Refunds
from fastgate.billing.payments.stripe import StripeProvider
from fastgate.billing.payments.webhooks_in import Applier, Inbox
from fastgate.model.units import Money
from fastgate.store.payment_events import EventTable
from fastgate.store.payments import AttemptTable, CustomerTable, PaymentTable

START = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
ACCOUNTS = ("acc_a", "acc_b", "acc_c")


class StripeSetup:
    """A gateway with Stripe as its provider, and people who pay, regret and contest."""

    def __init__(self, kit: StripeKit, world: World, seed: int) -> None:
        self.kit, self.world = kit, world
        self.random = random.Random(seed)
        self.now = START
        self.provider = StripeProvider(
            FixedSecrets(kit.key, (kit.secret,)),
            CustomerTable(world.store, self.clock),
            self.clock,
            api_base=kit.url,
            timeout=2,
        )
        self.chain = Chain(
            [self.provider], AttemptTable(world.store), self.clock, BreakerSettings(failures=1000)
        )
        payments = PaymentTable(world.store)
        applier = Applier(self.chain, world.wallets, payments, self.clock)
        self.chain.on_success.append(applier.apply)
        self.inbox = Inbox(self.chain, EventTable(world.store), applier, self.clock)
        self.reconciler = Reconciler(self.chain, self.inbox, self.clock)
        self.refunds = Refunds(self.chain, payments, world.wallets, world.ledger, self.clock)
        # The oracle: cents by account.
        self.paid = dict.fromkeys(ACCOUNTS, 0)
        self.contested = dict.fromkeys(ACCOUNTS, 0)
        self.payments: list[tuple[str, str]] = []
        self.mail: list[dict[str, Any]] = []
        self.seen = 0

    def clock(self) -> datetime:
        return self.now

    def pass_(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.kit.now += seconds

    # ---- what happens ---------------------------------------------------------------------

    async def top_up(self) -> None:
        account = self.random.choice(ACCOUNTS)
        cents = self.random.randint(100, 5000)
        page = await self.chain.create_top_up(account, Money(cents * 10_000, "EUR"), "https://b")
        if self.random.random() < 0.2:
            self.kit.expire(page.reference)
            return
        self.kit.pay(page.reference)
        self.paid[account] += cents
        intent = self.kit.objects[page.reference]["payment_intent"]
        self.payments.append((account, intent))

    async def recharge(self) -> None:
        account = self.random.choice(ACCOUNTS)
        customer = await self.provider.customers.customer_of("stripe", account)
        if customer is None:
            return
        if not await self.provider.list_methods(account):
            self.kit.method(customer, behaves=self.random.choice(["", "", "insufficient_funds"]))
        cents = self.random.randint(100, 5000)
        key = f"recharge-{self.random.random()}"
        self.kit.faults = ["", self.random.choice(["", "", "hang after", "500"])]
        money = Money(cents * 10_000, "EUR")
        if self.kit.faults[1] == "hang after":
            self.provider._timeout = 0.1
        await self.chain.charge_saved(account, money, key)
        self.kit.faults = []
        made = [
            item
            for item in self.kit.objects.values()
            if item.get("metadata", {}).get("fastgate_key") == key
        ]
        if made and made[0]["status"] == "succeeded":
            self.paid[account] += cents
            self.payments.append((account, made[0]["id"]))

    async def refund(self) -> None:
        if not self.payments:
            return
        account, intent = self.random.choice(self.payments)
        contested = any(
            item["object"] == "dispute" and item["payment_intent"] == intent
            for item in self.kit.objects.values()
        )
        back = sum(
            item["amount"]
            for item in self.kit.objects.values()
            if item["object"] == "refund" and item["payment_intent"] == intent
        )
        left = self.kit.objects[intent]["amount"] - back
        if contested or left < 2:
            return
        cents = self.random.randint(1, left)
        made = self.kit.refund(intent, cents)  # in Stripe's dashboard
        self.paid[account] -= cents
        if self.random.random() < 0.3:
            self.kit.fail_refund(made["id"])
            made["amount"] = cents
            self.paid[account] += cents

    async def dispute(self) -> None:
        if not self.payments:
            return
        account, intent = self.random.choice(self.payments)
        touched = any(
            item["object"] in ("dispute", "refund") and item["payment_intent"] == intent
            for item in self.kit.objects.values()
        )
        if touched:
            return
        cents = self.kit.objects[intent]["amount"]
        end = self.random.choice(["open", "won", "lost", "inquiry"])
        status = "warning_needs_response" if end == "inquiry" else "needs_response"
        event = self.kit.dispute(intent, status=status)
        dispute = self.kit.objects[event["data"]["object"]["id"]]
        if end == "open":
            self.contested[account] += cents
        elif end == "inquiry":
            dispute["status"] = "warning_closed"
        else:
            self.kit.end_dispute(dispute["id"], end)
            self.paid[account] -= cents if end == "lost" else 0

    async def pay_out(self) -> None:
        """Some of the balance goes to the bank, and Stripe bills something of its own."""
        self.kit.pay_out(self.random.randint(1, 900), "eur")
        self.kit.moved("fee", self.kit.new("fee", currency="eur"), -self.random.randint(1, 9))

    async def sell(self) -> None:
        """Something else is sold through the same account."""
        self.kit.sell(self.random.randint(100, 900), self.random.choice(["eur", "usd"]))

    async def balanced(self) -> Check:
        """What Stripe has is what the ledger says, whatever it kept and paid out."""
        (check,) = await audit_balances(self.world.store, self.chain.providers)
        assert check.passed, check
        return check

    # ---- the mail -------------------------------------------------------------------------

    def post(self) -> None:
        """New events: some lost, some twice, all shuffled."""
        for event in self.kit.events[self.seen :]:
            copies = self.random.choice([0, 1, 1, 1, 2])
            self.mail += [event] * copies
        self.seen = len(self.kit.events)
        self.random.shuffle(self.mail)

    async def deliver(self, most: int) -> None:
        for _ in range(min(most, len(self.mail))):
            event = self.mail.pop()
            if self.random.random() < 0.1:
                self.kit.faults = ["500"]  # while it is resolved
            await self.inbox.receive("stripe", *self.kit.webhook(event))
            await self.inbox.work()
            self.kit.faults = []

    async def settle(self) -> None:
        """Hours later: everything delivered or reconciled."""
        await self.deliver(len(self.mail))
        self.pass_(3 * 3600)
        await self.reconciler.run("stripe")
        for _ in range(3):
            while await self.inbox.work():
                pass
            self.pass_(3600)
        await self.chain.settle()

    async def check(self) -> None:
        for account in ACCOUNTS:
            wallet = await self.world.ledger.wallet(account, "EUR")
            if wallet is None:
                assert self.paid[account] == 0
                continue
            held = self.contested[account] * 10_000
            paid = self.paid[account] * 10_000
            assert wallet.customer_held == held
            assert wallet.customer_available == paid - held
            assert -wallet.provider_clearing == paid
            await self.world.agrees(account)


@pytest.mark.parametrize("seed", range(4))
async def test_the_books_are_right_in_the_end(
    seed: int, sqlite_migrated: Path, tmp_path: Path
) -> None:
    shutil.copyfile(sqlite_migrated, tmp_path / "one.db")
    world = World(f"sqlite:///{tmp_path / 'one.db'}", tmp_path)
    await world.pipeline.begin()
    await world.up()
    async with StripeKit(int(START.timestamp())).serving() as kit:
        setup = StripeSetup(kit, world, seed)
        actions: list[Callable[[], Any]] = [
            setup.top_up,
            setup.top_up,
            setup.recharge,
            setup.refund,
            setup.dispute,
            setup.pay_out,
            setup.sell,
        ]
        kit.dispute_fee = 15
        for _ in range(30):
            await setup.random.choice(actions)()
            setup.post()
            await setup.deliver(setup.random.randint(0, 3))
            setup.pass_(setup.random.randint(1, 120))
        await setup.settle()
        await setup.check()
        assert sum(setup.paid.values()) > 0
        numbers = (await setup.balanced()).numbers
        assert numbers["EUR.clearing"] == sum(setup.paid.values()) * 10_000
        assert numbers.get("EUR.contested", 0) == sum(setup.contested.values()) * 10_000
        # Everything is told once more, the oldest last.
        for event in reversed(kit.events):
            await setup.inbox.revive("stripe", event["id"])
        while await setup.inbox.work():
            pass
        await setup.check()
        await setup.balanced()
        await setup.provider.close()
    await world.close()


async def test_our_own_refund_and_its_news_cross(sqlite_url: str, tmp_path: Path) -> None:
    """The answer to a refund is lost, its webhook comes, and it is asked for again."""
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    async with StripeKit(int(START.timestamp())).serving() as kit:
        setup = StripeSetup(kit, world, 0)
        setup.provider._timeout = 0.2
        page = await setup.chain.create_top_up("acc_a", Money.parse("10 EUR"), "https://b")
        kit.pay(page.reference)
        await setup.reconciler.run("stripe")
        await setup.inbox.work()
        payment = kit.only("payment_intent")["id"]
        kit.faults = ["hang after"]
        part = Money.parse("4 EUR")
        with pytest.raises(ProviderUnavailable):
            await setup.refunds.refund("stripe", payment, part, "r1")
        setup.paid["acc_a"], setup.contested["acc_a"] = 1000, 400  # set aside, not yet paid out
        await setup.check()
        await setup.reconciler.run("stripe")
        while await setup.inbox.work():
            pass
        setup.paid["acc_a"], setup.contested["acc_a"] = 600, 0
        await setup.check()
        result = await setup.refunds.refund("stripe", payment, part, "r1")
        assert result.reference == kit.only("refund")["id"]
        await setup.check()
        together = [setup.refunds.refund("stripe", payment, None, "r2") for _ in range(3)]
        done = await asyncio.gather(*together)
        assert {item.reference for item in done} == {done[0].reference}
        setup.paid["acc_a"] = 0
        await setup.check()
        await setup.provider.close()
    await world.close()


@pytest.mark.parametrize(("settles", "known"), [("", 89), ("usd", 0)])
async def test_what_stripe_keeps_for_itself_is_booked_once(
    sqlite_url: str, tmp_path: Path, settles: str, known: int
) -> None:
    """In the payment's own currency; what is kept in another is not taken for it."""
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    async with StripeKit(int(START.timestamp())).serving() as kit:
        setup = StripeSetup(kit, world, 0)
        kit.fee, kit.settles = 89, settles
        page = await setup.chain.create_top_up("acc_a", Money.parse("10 EUR"), "https://b")
        kit.pay(page.reference)
        await setup.reconciler.run("stripe")
        for _ in range(2):
            while await setup.inbox.work():
                pass
            for event in kit.events:
                await setup.inbox.revive("stripe", event["id"])
        wallet = await world.ledger.wallet("acc_a", "EUR")
        assert wallet is not None
        assert wallet.customer_available == 1000 * 10_000
        assert -wallet.provider_clearing == (1000 - known) * 10_000
        assert wallet.revenue == -known * 10_000
        since = START - timedelta(days=1)
        (check,) = await audit_providers(world.store, setup.chain.providers, since)
        assert check.passed, check
        report = await audit_gateway(world.pipeline)
        assert report.passed, report
        payment = kit.only("payment_intent")["id"]
        kit.refund(payment, 300)  # and no webhook of it
        (check,) = await audit_providers(world.store, setup.chain.providers, since)
        assert check.findings == [f"payment {payment}: 3000000 micros refunded there, 0 here"]
        await setup.provider.close()
    await world.close()
