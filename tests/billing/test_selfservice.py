"""Self-service over the real parts of billing: what a diagnosis names, the owner mends alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moneykit import World, move
from paykit import Clock, Scripted
from schedulekit import PLANS, BillingParts

from fastgate._core.money.wallet import ANY
from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.diagnosis.diagnosis import Diagnosis, Question, diagnose
from fastgate.billing.diagnosis.sources import MoneySources, Sources
from fastgate.billing.ledger.ledger import LedgerError
from fastgate.billing.payments.base import Capability, ChargeStatus, Decline, Unsupported
from fastgate.billing.payments.chain import Chain
from fastgate.billing.self_service import SelfService, terms_of
from fastgate.billing.subscriptions.lifecycle import Event, State
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.errors import ConflictError, NotFoundError
from fastgate.identity.directory import Directory
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.keys import key_digest
from fastgate.model.party import Plan
from fastgate.model.units import Money
from fastgate.runtime.control.dry_runs import DryRuns
from fastgate.store.cache import ConsumerRecord, KeyRecord
from fastgate.store.parties import Parties
from fastgate.store.payments import AttemptTable

KEY = "fg_a-key"


class SelfServiceSetup:
    """One account with a key, a subscription service, a wallet and a provider."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parts = BillingParts(world.store)
        self.provider = Scripted("play", Clock())
        self.chain = Chain([self.provider], AttemptTable(world.store), self.parts.clock)
        self.gateway: Gateway = decode(
            {
                "version": 1,
                "billing": {"seller": {"email": "money@acme.example"}},
                "upstreams": [{"name": "u", "targets": ["http://10.0.0.1:1"]}],
                "services": [{"name": "maps", "upstream": "u"}],
                "plans": [{"name": name, **more} for name, more in PLANS.items()],
                "routes": [
                    {
                        "name": "paid",
                        "path": "/m",
                        "service": "maps",
                        "auth": "api_key",
                        "price": "0.25 EUR",
                    }
                ],
            }
        )
        self.service = SelfService(
            wallets=world.wallets,
            subscriptions=self.parts.subscriptions,
            invoices=self.parts.invoices,
            dunning=self.parts.dunning,
            providers=self.chain,
            gateway=lambda: self.gateway,
            open_account=self._open,
            clock=self.parts.clock,
        )
        self.directory = Directory(CredentialIndex.create(64), lambda index: None)
        self.slots = SlotBook()
        image = compile_gateway(self.gateway, generation=1, slots=self.slots, addresses={})
        self.snapshot = Snapshot(image.fd)
        os.close(image.fd)
        self.directory.set_slots(self.slots.plans)

    async def _open(self, account: str) -> None:
        await self.world.wallets.ensure(account)

    async def begin(self) -> None:
        self.account = await self.parts.account("acme")
        self.directory.put_consumer(
            ConsumerRecord("con_1", "acme app", self.account, None, False), seed=False
        )
        self.directory.put_key(KeyRecord(key_digest(KEY), "crd_1", "con_1", 0, 0))

    async def publish(self) -> None:
        """As control does: shared memory is told who pays, and what is subscribed to."""
        await self.world.wallets.ensure(self.account)
        slots = self.world.wallets.accounts()
        self.directory.pay_from(dict(slots))
        entries = [
            (
                ANY if entry.service is None else self.slots.services[entry.service],
                self.slots.plans[entry.plan],
                entry.reason.number if entry.reason is not None else 0,
            )
            for entry in await self.parts.subscriptions.entries(self.account)
        ]
        by_service = {entry[0]: entry for entry in reversed(entries)}
        self.world.cells.set_subscriptions(slots[self.account], list(by_service.values()))

    async def why(self, **record: Any) -> Diagnosis:
        if self.world.store.ready:
            await self.publish()
        world = self.world
        runs = DryRuns(world.segment, world.money, self.directory, lambda: self.snapshot)
        evidence = Sources(
            self.directory,
            lambda: self.gateway,
            runs.decide,
            MoneySources(
                subscriptions=self.parts.subscriptions,
                invoices=self.parts.invoices,
                providers=self.chain,
                account=Parties(self.world.store).account,
                clock=self.parts.clock,
            ),
        )
        question = Question(digest=key_digest(KEY), route="paid")
        if record:
            question = Question.of_request({"consumer": "acme app", "route": "paid", **record})
        return await diagnose(question, evidence, now=self.parts.clock())


@pytest.fixture
async def setup(store_url: str, tmp_path: Path) -> AsyncIterator[SelfServiceSetup]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    setup = SelfServiceSetup(world)
    await setup.begin()
    yield setup
    await world.close()


async def test_a_wallet_that_runs_dry_is_topped_up(setup: SelfServiceSetup) -> None:
    found = await setup.why()
    assert (found.cause, found.reason) == ("balance", "insufficient_balance")
    assert await setup.service.top_up(setup.account, Money.parse("5 EUR"), "http://x/") == (
        "https://play.example/pay"
    )
    assert setup.world.wallets.slot(setup.account) is not None
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    assert (await setup.why()).served
    assert (await setup.why(reason="insufficient_balance", status=402)).resolved
    view = await setup.service.overview(setup.account, "Acme")
    assert [(one.currency, one.available) for one in view.balances] == [("EUR", 5_000_000)]
    assert (view.top_up, view.methods, view.contact) == (True, True, "money@acme.example")


async def test_what_requests_hold_is_told_apart_from_what_is_missing(
    setup: SelfServiceSetup,
) -> None:
    await setup.world.wallets.ensure(setup.account)
    await setup.world.wallets.credit(move("p1", 300_000, setup.account))
    slot = setup.world.wallets.slot(setup.account)
    assert slot is not None
    hold = setup.world.money.hold(0, slot, 200_000)
    assert hold is not None
    found = await setup.why()
    assert (found.cause, found.reason) == ("holds", "hold_in_flight")
    hold.release()
    assert (await setup.why()).served


async def test_a_plan_is_taken_changed_and_renewed(setup: SelfServiceSetup) -> None:
    await setup.world.wallets.ensure(setup.account)
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    offers = {offer.plan: offer for offer in await setup.service.offers(setup.account)}
    assert "free" not in offers
    assert offers["basic"].terms == "30 USD a month"
    await setup.service.take(setup.account, "basic")
    found = await setup.why()
    assert (found.cause, found.reason) == ("subscription", "payment_action_required")
    assert {o.plan for o in await setup.service.offers(setup.account) if o.current} == {"basic"}
    (bill,) = (await setup.service.overview(setup.account, "Acme")).open
    assert bill.amount == "29.58 USD"  # for what is left of the month
    assert await setup.service.pay(setup.account)
    assert (await setup.why()).served
    with pytest.raises(ConflictError, match="already"):
        await setup.service.take(setup.account, "basic")
    await setup.service.take(setup.account, "big")
    assert {o.plan for o in await setup.service.offers(setup.account) if o.current} == {"big"}
    with pytest.raises(NotFoundError, match="not offered"):
        await setup.service.take(setup.account, "free")


async def test_what_ended_is_renewed(setup: SelfServiceSetup) -> None:
    await setup.world.wallets.ensure(setup.account)
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    with pytest.raises(NotFoundError, match="no subscription"):
        await setup.service.renew(setup.account)
    await setup.service.take(setup.account, "basic")
    assert await setup.service.pay(setup.account)
    with pytest.raises(ConflictError, match="automatically"):
        await setup.service.renew(setup.account)
    (one,) = await setup.parts.subscriptions.of_account(setup.account)
    await setup.parts.subscriptions.cancel(one.id)
    await setup.service.renew(setup.account)
    (one,) = await setup.parts.subscriptions.of_account(setup.account)
    assert not one.cancel_at_period_end
    await setup.parts.subscriptions.cancel(one.id)
    await setup.parts.until(one.period_end + timedelta(days=1))
    found = await setup.why()
    assert (found.cause, found.reason) == ("subscription", "subscription_expired")
    assert found.steps[4].fix is not None
    assert found.steps[4].fix.page == "renew"
    await setup.service.renew(setup.account)
    assert await setup.service.pay(setup.account)
    assert (await setup.why(reason="subscription_expired", status=402)).resolved


async def test_a_declined_card_leaves_it_open(setup: SelfServiceSetup) -> None:
    await setup.world.wallets.ensure(setup.account)
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    setup.parts.charger.outcomes = [Decline.NEW_METHOD, ChargeStatus.SUCCEEDED]
    await setup.service.take(setup.account, "basic")
    assert not await setup.service.pay(setup.account)
    assert await setup.service.method(setup.account, "http://x/") == "https://play.example/card"
    assert await setup.service.pay(setup.account)
    (one,) = (await setup.service.overview(setup.account, "Acme")).subscriptions
    assert (one.state, one.reason) == (State.ACTIVE.value, None)


async def test_without_providers_nothing_is_offered(setup: SelfServiceSetup) -> None:
    setup.provider.capabilities = frozenset({Capability.REFUNDS})
    view = await setup.service.overview(setup.account, "Acme")
    assert not view.top_up
    assert not view.methods
    with pytest.raises(Unsupported):
        await setup.service.top_up(setup.account, Money.parse("5 EUR"), "http://x/")


async def test_limits_and_spending_come_from_where_they_are_counted(
    setup: SelfServiceSetup,
) -> None:
    await setup.world.wallets.ensure(setup.account)
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    caps = {"credential": (249_999, 4), "consumer": (0, 0)}
    setup.directory.cap = lambda kind, ident: caps[kind]
    setup.directory.recap()
    found = await setup.why()
    assert found.reason == "spending_limit_reached"
    assert "the key's limit" in found.summary
    # Of a recorded request only the consumer is known, not with which of its keys it was made.
    assert not (await setup.why(reason="spending_limit_reached", status=402)).resolved
    caps["credential"] = (250_000, 4)
    setup.directory.recap()
    assert (await setup.why()).served
    caps["consumer"] = (1, 4)
    setup.directory.recap()
    assert "the consumer's limit" in (await setup.why()).summary
    assert not (await setup.why(reason="spending_limit_reached", status=402)).resolved


async def test_a_subscriptions_plan_and_its_allowance_are_what_counts(
    setup: SelfServiceSetup,
) -> None:
    """The consumer is on no plan of its own; its account's subscription makes requests free."""
    assert (await setup.why()).reason == "insufficient_balance"  # at the route's price
    await setup.parts.subscriptions.create(setup.account, "allowance")
    found = await setup.why()
    assert found.served
    assert "costs this caller nothing" in next(
        step.text for step in found.steps if step.check == "balance"
    )


async def test_a_pause_by_an_operator_is_not_called_a_missing_payment_method(
    setup: SelfServiceSetup,
) -> None:
    await setup.publish()
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    one = await setup.parts.subscriptions.create(setup.account, "allowance")
    await setup.parts.subscriptions.apply(one.id, Event.PAUSE, "by hand")
    found = await setup.why()
    assert (found.cause, found.reason) == ("subscription", "subscription_paused")
    assert found.retry == "never"
    assert "payment" not in found.summary
    await setup.parts.subscriptions.apply(one.id, Event.RESUME, "by hand")
    assert (await setup.why()).served


async def test_a_first_payment_that_was_declined_does_not_wait_for_a_confirmation(
    setup: SelfServiceSetup,
) -> None:
    await setup.publish()
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    await setup.service.take(setup.account, "basic")
    assert (await setup.why()).reason == "payment_action_required"
    setup.parts.charger.outcomes = [Decline.NEW_METHOD]
    assert not await setup.service.pay(setup.account)
    found = await setup.why()
    assert found.reason == "payment_failed"
    assert next(step.fix.action for step in found.steps if step.fix) == "update_payment_method"


async def test_while_the_store_is_away_the_wallet_is_still_seen(setup: SelfServiceSetup) -> None:
    await setup.world.wallets.ensure(setup.account)
    await setup.world.wallets.credit(move("p1", 5_000_000, setup.account))
    await setup.publish()
    await setup.world.store.stop()
    found = await setup.why()
    assert found.served
    assert [one.check for one in found.steps if "store" in one.text.lower()] == [
        "account",
        "subscription",
        "invoice",
    ]


@pytest.mark.parametrize(
    ("price", "terms"),
    [
        ({"flat": "30 USD"}, "30 USD a month"),
        ({"per_request": "0.01 USD"}, "0.01 USD for each request"),
        (
            {"included": 100, "overage": "0.5 EUR", "flat": "9 EUR", "period": "week"},
            "9 EUR a week, 100 requests a week included, 0.5 EUR for each further request",
        ),
        (
            {"tiers": [{"up_to": 10, "price": "2 USD"}, {"price": "1 USD"}]},
            "up to 10 requests: 2 USD each, beyond: 1 USD each",
        ),
        (
            {"per_unit": [{"meter": "tokens", "price": "3 USD", "per": 1000}]},
            "3 USD for 1000 tokens",
        ),
        (None, "no price of its own"),
    ],
)
def test_terms_are_said_in_a_line(price: dict[str, Any] | None, terms: str) -> None:
    plan = {"name": "p", **({} if price is None else {"price": price})}
    gateway: Gateway = decode({"version": 1, "plans": [plan]})
    assert terms_of(gateway.plans[0]) == terms


def decode_plan(name: str, price: dict[str, str]) -> Plan:
    return decode({"name": name, "price": price}, Plan)


async def test_nothing_is_paid_that_the_account_has_no_place_for(setup: SelfServiceSetup) -> None:
    """An account has wallets in four currencies: a fifth is refused before the page to pay on."""
    for number, currency in enumerate(("EUR", "USD", "GBP")):
        await setup.world.wallets.credit(move(f"t{number}", 1, setup.account, currency))
    await setup.service.top_up(setup.account, Money.parse("5 CHF"), "https://back.example/")
    assert setup.provider.sent == ["top_up"]
    with pytest.raises(LedgerError, match="Use one of its currencies"):
        await setup.service.top_up(setup.account, Money.parse("5 JPY"), "https://back.example/")
    assert setup.provider.sent == ["top_up"]
    setup.parts.subscriptions.plans = lambda name: decode_plan(name, {"flat": "30 SEK"})
    with pytest.raises(LedgerError, match="none in SEK"):
        await setup.service.take(setup.account, "basic")
    assert await setup.parts.subscriptions.of_account(setup.account) == []
    await setup.world.wallets.credit(move("paid", 5, setup.account, "CHF"))  # its place was kept
    assert [one.currency for one in setup.world.wallets.balances(setup.account)] == [
        "CHF", "EUR", "GBP", "USD",
    ]  # fmt: skip
    assert (await audit_gateway(setup.world.pipeline)).passed
    await setup.world.reboot()
    assert await setup.world.agrees(setup.account, "CHF") == 5
