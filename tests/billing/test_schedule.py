"""The scheduler: one question finds whatever is due, each kind of it when nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime

from schedulekit import BillingParts

from fastgate.billing.invoices.invoices import DocumentKind, Draft, InvoiceLine
from fastgate.billing.notices.notices import Message
from fastgate.billing.notices.outbox import Delivered
from fastgate.billing.payments.base import Decline, ProviderUnavailable
from fastgate.billing.schedule import Tick
from fastgate.model.units import Money
from fastgate.store.engine import Store

MAIL = {"smtp": {"host": "mail.example", "sender": "Acme <bill@acme.example>"}}
USD = 1_000_000
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


async def test_nothing_is_due_of_what_is_later(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    await parts.subscriptions.create(account, "trial")
    await parts.settle()
    assert await parts.schedule.tick() == Tick()
    assert (await parts.schedule.tick()).idle


async def test_a_subscription_is_due(store: Store) -> None:
    parts = BillingParts(store)
    await parts.subscriptions.create(await parts.account(), "trial")
    await parts.settle()
    parts.clock.pass_(days=8)
    assert (await parts.schedule.tick()).subscriptions == 1


async def test_a_case_is_due(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    await parts.subscriptions.create(account, "basic")
    await parts.settle()
    parts.charger.outcomes = [Decline.NEW_METHOD]
    await parts.until(DECEMBER)
    assert await parts.schedule.tick() == Tick()
    assert await parts.dunning.method_attached(account) == 1
    assert await parts.schedule.tick() == Tick(cases=1)


async def test_a_credit_note_is_open(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    lines = [InvoiceLine("given back", 5 * USD)]
    note = await parts.invoices.issue(
        Draft(key="k", account=account, currency="USD", lines=lines, kind=DocumentKind.CREDIT)
    )
    assert await parts.schedule.tick() == Tick(credits=1)
    assert parts.credited == {f"credit:{note.id}": 5 * USD}
    assert await parts.schedule.tick() == Tick()


async def test_a_recharge_is_to_be_asked_after(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ProviderUnavailable("timeout")]
    account = await parts.account()
    rule = [Money(amount * USD, "USD") for amount in (5, 20, 100)]
    await parts.recharges.set(account, *rule)
    assert await parts.recharges.check(account, 0, "USD") is None
    assert await parts.schedule.tick() == Tick()
    parts.clock.pass_(hours=1)
    assert await parts.schedule.tick() == Tick(recharges=1)
    assert parts.credited == {f"recharge:{account}:1": 20 * USD}


async def test_a_notice_is_to_be_sent(store: Store) -> None:
    parts = BillingParts(store, MAIL)
    account = await parts.account(emails=["c@x.example"])
    data = {"balance": "1.00 USD", "threshold": "5.00 USD"}
    await parts.notices.put(Message(kind="balance.low", account=account, key="k", data=data))
    assert await parts.schedule.tick() == Tick(notices=Delivered(1, 0, 0))
    assert await parts.schedule.tick() == Tick()
