"""Pausing, resuming and paying late: no time is billed twice, and none is served for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schedulekit import BEGIN, BillingParts

from fastgate.billing.payments.base import Decline
from fastgate.billing.subscriptions.lifecycle import Event, State, access_of
from fastgate.store.engine import Store

DAY = timedelta(days=1)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


async def subscribed(parts: BillingParts, plan: str = "basic") -> tuple[str, str]:
    """An account with a paid subscription to the plan."""
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, plan)
    await parts.settle()
    return account, made.id


async def test_an_open_invoice_is_not_billed_again_when_a_pause_ends(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEW_METHOD] * 2
    await parts.until(DECEMBER)
    await parts.subscriptions.apply(ident, Event.PAUSE)
    parts.clock.pass_(days=5)
    found = await parts.subscriptions.apply(ident, Event.RESUME)
    assert found.state is State.ACTIVE
    await parts.settle()  # it is asked for at once: the pause has not made it free
    assert (await parts.subscriptions.get(ident)).state is State.PAST_DUE
    await parts.dunning.method_attached(account)
    await parts.settle()
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, JANUARY)
    assert parts.charger.taken == 29_580_000 + 30_000_000
    assert await parts.invoices.open_of(ident) == []


async def test_the_invoice_of_a_change_is_not_billed_again_when_a_pause_ends(
    store: Store,
) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    parts.clock.now = datetime(2026, 11, 16, tzinfo=UTC)
    await parts.subscriptions.change_plan(ident, "big")
    await parts.settle()
    await parts.subscriptions.apply(ident, Event.PAUSE)
    parts.clock.pass_(days=1)
    await parts.subscriptions.apply(ident, Event.RESUME)
    await parts.dunning.method_attached(account)
    await parts.settle()
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, DECEMBER)
    assert parts.charger.taken == 29_580_000 + 30_000_000  # 45 of the new, less 15 of the old


async def test_the_time_of_a_pause_is_not_billed(store: Store) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts)
    await parts.subscriptions.apply(ident, Event.PAUSE)
    parts.clock.now = datetime(2026, 12, 11, tzinfo=UTC)
    await parts.subscriptions.apply(ident, Event.RESUME)
    await parts.settle()
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, JANUARY)
    assert parts.charger.taken == 29_580_000 + 20_320_000  # 21 of 31 days


async def test_a_payment_does_not_end_an_operators_pause(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    await parts.until(DECEMBER)
    await parts.subscriptions.apply(ident, Event.PAUSE)
    await parts.dunning.method_attached(account)
    await parts.settle()
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.PAUSED, JANUARY)
    await parts.subscriptions.apply(ident, Event.RESUME)
    await parts.settle()
    assert parts.charger.taken == 29_580_000 + 30_000_000


async def test_a_second_method_does_not_bill_the_end_of_a_trial_again(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    made = await parts.subscriptions.create(account, "trial")
    await parts.until(BEGIN + 10 * DAY)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    await parts.subscriptions.method_changed(account, True)
    await parts.settle()
    parts.clock.pass_(days=1)
    await parts.subscriptions.method_changed(account, True)
    await parts.dunning.method_attached(account)
    await parts.settle()
    found = await parts.subscriptions.get(made.id)
    assert (found.state, found.paid_through) == (State.ACTIVE, DECEMBER)
    assert parts.charger.taken == 18_580_000
    assert await parts.invoices.open_of(made.id) == []


async def test_who_pays_after_the_period_is_billed_for_the_rest_of_the_new_one(
    store: Store,
) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    await parts.until(datetime(2027, 1, 4, tzinfo=UTC))
    await parts.dunning.method_attached(account)
    await parts.settle()
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, datetime(2027, 2, 1, tzinfo=UTC))
    assert access_of(found, parts.clock()) is None
    # December as it was invoiced, and 28 of January's 31 days: not those without access.
    assert parts.charger.taken == 29_580_000 + 30_000_000 + 27_090_000


async def test_a_first_payment_after_its_period_buys_no_free_period(store: Store) -> None:
    parts = BillingParts(store)
    parts.clock.now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    parts.clock.now = datetime(2026, 12, 1, 6, tzinfo=UTC)
    await parts.dunning.method_attached(account)
    await parts.settle()
    found = await parts.subscriptions.get(made.id)
    assert (found.state, found.paid_through) == (State.ACTIVE, JANUARY)
    assert parts.charger.taken == 500_000 + 29_750_000  # from six o'clock on


async def test_a_change_of_plan_after_the_period_is_for_the_period_that_runs(
    store: Store,
) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    await parts.until(datetime(2027, 1, 4, tzinfo=UTC))
    changed = await parts.subscriptions.change_plan(ident, "big")
    assert changed.document is not None
    # A week of December in grace, and 28 of January's 31 days.
    assert changed.document.total == 6_770_000 + 81_290_000
    await parts.settle()
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, datetime(2027, 2, 1, tzinfo=UTC))
    assert parts.charger.taken == 29_580_000 + changed.document.total
