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
from playkit import PLANS, Stage

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


class Shop:
    """One account with a key, a subscription service, a wallet and a provider."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stage = Stage(world.store)
        self.provider = Scripted("play", Clock())
        self.chain = Chain([self.provider], AttemptTable(world.store), self.stage.clock)
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
            subscriptions=self.stage.subscriptions,
            invoices=self.stage.invoices,
            dunning=self.stage.dunning,
            providers=self.chain,
            gateway=lambda: self.gateway,
            open_account=self._open,
            clock=self.stage.clock,
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
        self.account = await self.stage.account("acme")
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
            for entry in await self.stage.subscriptions.entries(self.account)
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
                subscriptions=self.stage.subscriptions,
                invoices=self.stage.invoices,
                providers=self.chain,
                account=Parties(self.world.store).account,
                clock=self.stage.clock,
            ),
        )
        question = Question(digest=key_digest(KEY), route="paid")
        if record:
            question = Question.of_request({"consumer": "acme app", "route": "paid", **record})
        return await diagnose(question, evidence, now=self.stage.clock())


@pytest.fixture
async def shop(store_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    shop = Shop(world)
    await shop.begin()
    yield shop
    await world.close()


async def test_a_wallet_that_runs_dry_is_topped_up(shop: Shop) -> None:
    found = await shop.why()
    assert (found.cause, found.reason) == ("balance", "insufficient_balance")
    assert await shop.service.top_up(shop.account, Money.parse("5 EUR"), "http://x/") == (
        "https://play.example/pay"
    )
    assert shop.world.wallets.slot(shop.account) is not None
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    assert (await shop.why()).served
    assert (await shop.why(reason="insufficient_balance", status=402)).resolved
    view = await shop.service.overview(shop.account, "Acme")
    assert [(one.currency, one.available) for one in view.balances] == [("EUR", 5_000_000)]
    assert (view.top_up, view.methods, view.contact) == (True, True, "money@acme.example")


async def test_what_requests_hold_is_told_apart_from_what_is_missing(shop: Shop) -> None:
    await shop.world.wallets.ensure(shop.account)
    await shop.world.wallets.credit(move("p1", 300_000, shop.account))
    slot = shop.world.wallets.slot(shop.account)
    assert slot is not None
    hold = shop.world.money.hold(0, slot, 200_000)
    assert hold is not None
    found = await shop.why()
    assert (found.cause, found.reason) == ("holds", "hold_in_flight")
    hold.release()
    assert (await shop.why()).served


async def test_a_plan_is_taken_changed_and_renewed(shop: Shop) -> None:
    await shop.world.wallets.ensure(shop.account)
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    offers = {offer.plan: offer for offer in await shop.service.offers(shop.account)}
    assert "free" not in offers
    assert offers["basic"].terms == "30 USD a month"
    await shop.service.take(shop.account, "basic")
    found = await shop.why()
    assert (found.cause, found.reason) == ("subscription", "payment_action_required")
    assert {o.plan for o in await shop.service.offers(shop.account) if o.current} == {"basic"}
    (bill,) = (await shop.service.overview(shop.account, "Acme")).open
    assert bill.amount == "29.58 USD"  # for what is left of the month
    assert await shop.service.pay(shop.account)
    assert (await shop.why()).served
    with pytest.raises(ConflictError, match="already"):
        await shop.service.take(shop.account, "basic")
    await shop.service.take(shop.account, "big")
    assert {o.plan for o in await shop.service.offers(shop.account) if o.current} == {"big"}
    with pytest.raises(NotFoundError, match="not offered"):
        await shop.service.take(shop.account, "free")


async def test_what_ended_is_renewed(shop: Shop) -> None:
    await shop.world.wallets.ensure(shop.account)
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    with pytest.raises(NotFoundError, match="no subscription"):
        await shop.service.renew(shop.account)
    await shop.service.take(shop.account, "basic")
    assert await shop.service.pay(shop.account)
    with pytest.raises(ConflictError, match="automatically"):
        await shop.service.renew(shop.account)
    (one,) = await shop.stage.subscriptions.of_account(shop.account)
    await shop.stage.subscriptions.cancel(one.id)
    await shop.service.renew(shop.account)
    (one,) = await shop.stage.subscriptions.of_account(shop.account)
    assert not one.cancel_at_period_end
    await shop.stage.subscriptions.cancel(one.id)
    await shop.stage.until(one.period_end + timedelta(days=1))
    found = await shop.why()
    assert (found.cause, found.reason) == ("subscription", "subscription_expired")
    assert found.steps[4].fix is not None
    assert found.steps[4].fix.page == "renew"
    await shop.service.renew(shop.account)
    assert await shop.service.pay(shop.account)
    assert (await shop.why(reason="subscription_expired", status=402)).resolved


async def test_a_declined_card_leaves_it_open(shop: Shop) -> None:
    await shop.world.wallets.ensure(shop.account)
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    shop.stage.charger.outcomes = [Decline.NEW_METHOD, ChargeStatus.SUCCEEDED]
    await shop.service.take(shop.account, "basic")
    assert not await shop.service.pay(shop.account)
    assert await shop.service.method(shop.account, "http://x/") == "https://play.example/card"
    assert await shop.service.pay(shop.account)
    (one,) = (await shop.service.overview(shop.account, "Acme")).subscriptions
    assert (one.state, one.reason) == (State.ACTIVE.value, None)


async def test_without_providers_nothing_is_offered(shop: Shop) -> None:
    shop.provider.capabilities = frozenset({Capability.REFUNDS})
    view = await shop.service.overview(shop.account, "Acme")
    assert not view.top_up
    assert not view.methods
    with pytest.raises(Unsupported):
        await shop.service.top_up(shop.account, Money.parse("5 EUR"), "http://x/")


async def test_limits_and_spending_come_from_where_they_are_counted(shop: Shop) -> None:
    await shop.world.wallets.ensure(shop.account)
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    caps = {"credential": (249_999, 4), "consumer": (0, 0)}
    shop.directory.cap = lambda kind, ident: caps[kind]
    shop.directory.recap()
    found = await shop.why()
    assert found.reason == "spending_limit_reached"
    assert "the key's limit" in found.summary
    # Of a recorded request only the consumer is known, not with which of its keys it was made.
    assert not (await shop.why(reason="spending_limit_reached", status=402)).resolved
    caps["credential"] = (250_000, 4)
    shop.directory.recap()
    assert (await shop.why()).served
    caps["consumer"] = (1, 4)
    shop.directory.recap()
    assert "the consumer's limit" in (await shop.why()).summary
    assert not (await shop.why(reason="spending_limit_reached", status=402)).resolved


async def test_a_subscriptions_plan_and_its_allowance_are_what_counts(shop: Shop) -> None:
    """The consumer is on no plan of its own; its account's subscription makes requests free."""
    assert (await shop.why()).reason == "insufficient_balance"  # at the route's price
    await shop.stage.subscriptions.create(shop.account, "allowance")
    found = await shop.why()
    assert found.served
    assert "costs this caller nothing" in next(
        step.text for step in found.steps if step.check == "balance"
    )


async def test_a_pause_by_an_operator_is_not_called_a_missing_payment_method(shop: Shop) -> None:
    await shop.publish()
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    one = await shop.stage.subscriptions.create(shop.account, "allowance")
    await shop.stage.subscriptions.apply(one.id, Event.PAUSE, "by hand")
    found = await shop.why()
    assert (found.cause, found.reason) == ("subscription", "subscription_paused")
    assert found.retry == "never"
    assert "payment" not in found.summary
    await shop.stage.subscriptions.apply(one.id, Event.RESUME, "by hand")
    assert (await shop.why()).served


async def test_a_first_payment_that_was_declined_does_not_wait_for_a_confirmation(
    shop: Shop,
) -> None:
    await shop.publish()
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    await shop.service.take(shop.account, "basic")
    assert (await shop.why()).reason == "payment_action_required"
    shop.stage.charger.outcomes = [Decline.NEW_METHOD]
    assert not await shop.service.pay(shop.account)
    found = await shop.why()
    assert found.reason == "payment_failed"
    assert next(step.fix.action for step in found.steps if step.fix) == "update_payment_method"


async def test_while_the_store_is_away_the_wallet_is_still_seen(shop: Shop) -> None:
    await shop.world.wallets.ensure(shop.account)
    await shop.world.wallets.credit(move("p1", 5_000_000, shop.account))
    await shop.publish()
    await shop.world.store.stop()
    found = await shop.why()
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


async def test_nothing_is_paid_that_the_account_has_no_place_for(shop: Shop) -> None:
    """An account has wallets in four currencies: a fifth is refused before the page to pay on."""
    for number, currency in enumerate(("EUR", "USD", "GBP")):
        await shop.world.wallets.credit(move(f"t{number}", 1, shop.account, currency))
    await shop.service.top_up(shop.account, Money.parse("5 CHF"), "https://back.example/")
    assert shop.provider.sent == ["top_up"]
    with pytest.raises(LedgerError, match="Use one of its currencies"):
        await shop.service.top_up(shop.account, Money.parse("5 JPY"), "https://back.example/")
    assert shop.provider.sent == ["top_up"]
    shop.stage.subscriptions.plans = lambda name: decode_plan(name, {"flat": "30 SEK"})
    with pytest.raises(LedgerError, match="SEK would be another"):
        await shop.service.take(shop.account, "basic")
    assert await shop.stage.subscriptions.of_account(shop.account) == []
    await shop.world.wallets.credit(move("paid", 5, shop.account, "CHF"))  # its place was kept
    assert [one.currency for one in shop.world.wallets.balances(shop.account)] == [
        "CHF", "EUR", "GBP", "USD",
    ]  # fmt: skip
    assert (await audit_gateway(shop.world.pipeline)).passed
    await shop.world.reboot()
    assert await shop.world.agrees(shop.account, "CHF") == 5
