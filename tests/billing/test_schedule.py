"""The scheduler: one question finds whatever is due, each kind of it when nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime

from playkit import Stage

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
    stage = Stage(store)
    account = await stage.account()
    await stage.subscriptions.create(account, "trial")
    await stage.settle()
    assert await stage.schedule.tick() == Tick()
    assert (await stage.schedule.tick()).idle


async def test_a_subscription_is_due(store: Store) -> None:
    stage = Stage(store)
    await stage.subscriptions.create(await stage.account(), "trial")
    await stage.settle()
    stage.clock.pass_(days=8)
    assert (await stage.schedule.tick()).subscriptions == 1


async def test_a_case_is_due(store: Store) -> None:
    stage = Stage(store)
    account = await stage.account(has_method=True)
    await stage.subscriptions.create(account, "basic")
    await stage.settle()
    stage.charger.outcomes = [Decline.NEW_METHOD]
    await stage.until(DECEMBER)
    assert await stage.schedule.tick() == Tick()
    assert await stage.dunning.method_attached(account) == 1
    assert await stage.schedule.tick() == Tick(cases=1)


async def test_a_credit_note_is_open(store: Store) -> None:
    stage = Stage(store)
    account = await stage.account()
    lines = [InvoiceLine("given back", 5 * USD)]
    note = await stage.invoices.issue(
        Draft(key="k", account=account, currency="USD", lines=lines, kind=DocumentKind.CREDIT)
    )
    assert await stage.schedule.tick() == Tick(credits=1)
    assert stage.credited == {f"credit:{note.id}": 5 * USD}
    assert await stage.schedule.tick() == Tick()


async def test_a_recharge_is_to_be_asked_after(store: Store) -> None:
    stage = Stage(store)
    stage.charger.outcomes = [ProviderUnavailable("timeout")]
    account = await stage.account()
    rule = [Money(amount * USD, "USD") for amount in (5, 20, 100)]
    await stage.recharges.set(account, *rule)
    assert await stage.recharges.check(account, 0, "USD") is None
    assert await stage.schedule.tick() == Tick()
    stage.clock.pass_(hours=1)
    assert await stage.schedule.tick() == Tick(recharges=1)
    assert stage.credited == {f"recharge:{account}:1": 20 * USD}


async def test_a_notice_is_to_be_sent(store: Store) -> None:
    stage = Stage(store, MAIL)
    account = await stage.account(emails=["c@x.example"])
    data = {"balance": "1.00 USD", "threshold": "5.00 USD"}
    await stage.notices.put(Message(kind="balance.low", account=account, key="k", data=data))
    assert await stage.schedule.tick() == Tick(notices=Delivered(1, 0, 0))
    assert await stage.schedule.tick() == Tick()
