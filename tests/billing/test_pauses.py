"""Pausing, resuming and paying late: no time is billed twice, and none is served for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from playkit import BEGIN, Stage

from fastgate.billing.payments.base import Decline
from fastgate.billing.subscriptions.lifecycle import Event, State, access_of
from fastgate.store.engine import Store

DAY = timedelta(days=1)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


async def subscribed(stage: Stage, plan: str = "basic") -> tuple[str, str]:
    """An account with a paid subscription to the plan."""
    account = await stage.account(has_method=True)
    made = await stage.subscriptions.create(account, plan)
    await stage.settle()
    return account, made.id


async def test_an_open_invoice_is_not_billed_again_when_a_pause_ends(store: Store) -> None:
    stage = Stage(store)
    account, ident = await subscribed(stage)
    stage.charger.outcomes = [Decline.NEW_METHOD] * 2
    await stage.until(DECEMBER)
    await stage.subscriptions.apply(ident, Event.PAUSE)
    stage.clock.pass_(days=5)
    found = await stage.subscriptions.apply(ident, Event.RESUME)
    assert found.state is State.ACTIVE
    await stage.settle()  # it is asked for at once: the pause has not made it free
    assert (await stage.subscriptions.get(ident)).state is State.PAST_DUE
    await stage.dunning.method_attached(account)
    await stage.settle()
    found = await stage.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, JANUARY)
    assert stage.charger.taken == 29_580_000 + 30_000_000
    assert await stage.invoices.open_of(ident) == []


async def test_the_invoice_of_a_change_is_not_billed_again_when_a_pause_ends(
    store: Store,
) -> None:
    stage = Stage(store)
    account, ident = await subscribed(stage)
    stage.charger.outcomes = [Decline.NEW_METHOD]
    stage.clock.now = datetime(2026, 11, 16, tzinfo=UTC)
    await stage.subscriptions.change_plan(ident, "big")
    await stage.settle()
    await stage.subscriptions.apply(ident, Event.PAUSE)
    stage.clock.pass_(days=1)
    await stage.subscriptions.apply(ident, Event.RESUME)
    await stage.dunning.method_attached(account)
    await stage.settle()
    found = await stage.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, DECEMBER)
    assert stage.charger.taken == 29_580_000 + 30_000_000  # 45 of the new, less 15 of the old


async def test_the_time_of_a_pause_is_not_billed(store: Store) -> None:
    stage = Stage(store)
    _, ident = await subscribed(stage)
    await stage.subscriptions.apply(ident, Event.PAUSE)
    stage.clock.now = datetime(2026, 12, 11, tzinfo=UTC)
    await stage.subscriptions.apply(ident, Event.RESUME)
    await stage.settle()
    found = await stage.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, JANUARY)
    assert stage.charger.taken == 29_580_000 + 20_320_000  # 21 of 31 days


async def test_a_payment_does_not_end_an_operators_pause(store: Store) -> None:
    stage = Stage(store)
    account, ident = await subscribed(stage)
    stage.charger.outcomes = [Decline.NEW_METHOD]
    await stage.until(DECEMBER)
    await stage.subscriptions.apply(ident, Event.PAUSE)
    await stage.dunning.method_attached(account)
    await stage.settle()
    found = await stage.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.PAUSED, JANUARY)
    await stage.subscriptions.apply(ident, Event.RESUME)
    await stage.settle()
    assert stage.charger.taken == 29_580_000 + 30_000_000


async def test_a_second_method_does_not_bill_the_end_of_a_trial_again(store: Store) -> None:
    stage = Stage(store)
    account = await stage.account()
    made = await stage.subscriptions.create(account, "trial")
    await stage.until(BEGIN + 10 * DAY)
    stage.charger.outcomes = [Decline.NEW_METHOD]
    await stage.subscriptions.method_changed(account, True)
    await stage.settle()
    stage.clock.pass_(days=1)
    await stage.subscriptions.method_changed(account, True)
    await stage.dunning.method_attached(account)
    await stage.settle()
    found = await stage.subscriptions.get(made.id)
    assert (found.state, found.paid_through) == (State.ACTIVE, DECEMBER)
    assert stage.charger.taken == 18_580_000
    assert await stage.invoices.open_of(made.id) == []


async def test_who_pays_after_the_period_is_billed_for_the_rest_of_the_new_one(
    store: Store,
) -> None:
    stage = Stage(store)
    account, ident = await subscribed(stage)
    stage.charger.outcomes = [Decline.NEW_METHOD]
    await stage.until(datetime(2027, 1, 4, tzinfo=UTC))
    await stage.dunning.method_attached(account)
    await stage.settle()
    found = await stage.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, datetime(2027, 2, 1, tzinfo=UTC))
    assert access_of(found, stage.clock()) is None
    # December as it was invoiced, and 28 of January's 31 days: not those without access.
    assert stage.charger.taken == 29_580_000 + 30_000_000 + 27_090_000


async def test_a_first_payment_after_its_period_buys_no_free_period(store: Store) -> None:
    stage = Stage(store)
    stage.clock.now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    stage.charger.outcomes = [Decline.NEW_METHOD]
    account = await stage.account(has_method=True)
    made = await stage.subscriptions.create(account, "basic")
    await stage.settle()
    stage.clock.now = datetime(2026, 12, 1, 6, tzinfo=UTC)
    await stage.dunning.method_attached(account)
    await stage.settle()
    found = await stage.subscriptions.get(made.id)
    assert (found.state, found.paid_through) == (State.ACTIVE, JANUARY)
    assert stage.charger.taken == 500_000 + 29_750_000  # from six o'clock on


async def test_a_change_of_plan_after_the_period_is_for_the_period_that_runs(
    store: Store,
) -> None:
    stage = Stage(store)
    _, ident = await subscribed(stage)
    stage.charger.outcomes = [Decline.NEW_METHOD]
    await stage.until(datetime(2027, 1, 4, tzinfo=UTC))
    changed = await stage.subscriptions.change_plan(ident, "big")
    assert changed.document is not None
    # A week of December in grace, and 28 of January's 31 days.
    assert changed.document.total == 6_770_000 + 81_290_000
    await stage.settle()
    found = await stage.subscriptions.get(ident)
    assert (found.state, found.paid_through) == (State.ACTIVE, datetime(2027, 2, 1, tzinfo=UTC))
    assert stage.charger.taken == 29_580_000 + changed.document.total
