"""Dunning: the table of verdicts, then whole stories on a clock, with a provider that obeys."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from schedulekit import BEGIN, BillingParts, result_of

from fastgate.billing.dunning.dunning import decide
from fastgate.billing.invoices.cases import CaseState
from fastgate.billing.payments.base import (
    ChargeStatus,
    Decline,
    ProviderRefused,
    ProviderUnavailable,
    Unsupported,
)
from fastgate.billing.subscriptions.lifecycle import Event, State, access_of
from fastgate.errors import NotFoundError
from fastgate.model.units import Money
from fastgate.store.engine import Store

DAY = timedelta(days=1)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
USD = Money(30_000_000, "USD")
WAITS = [1 * DAY, 3 * DAY]


@pytest.mark.parametrize(
    ("outcome", "attempt", "state", "after", "events", "notice"),
    [
        (ChargeStatus.SUCCEEDED, 0, CaseState.DONE, None, ["payment_succeeded"], ""),
        (ChargeStatus.PENDING, 0, CaseState.PENDING, timedelta(hours=1), [], ""),
        (
            ChargeStatus.ACTION_REQUIRED,
            0,
            CaseState.CONFIRMING,
            None,
            ["payment_failed"],
            "payment.action_required",
        ),
        (Decline.LATER, 0, CaseState.DUE, DAY, ["payment_failed"], "payment.failed"),
        (Decline.LATER, 1, CaseState.DUE, 3 * DAY, ["payment_failed"], "payment.failed"),
        (
            Decline.LATER,
            2,
            CaseState.EXHAUSTED,
            None,
            ["payment_failed", "retries_exhausted"],
            "subscription.grace",
        ),
        (
            Decline.NEW_METHOD,
            0,
            CaseState.WAITING,
            None,
            ["payment_failed"],
            "payment.method_needed",
        ),
        (
            Decline.NEVER,
            0,
            CaseState.EXHAUSTED,
            None,
            ["payment_failed", "retries_exhausted"],
            "subscription.grace",
        ),
    ],
)
def test_what_follows_from_an_outcome(
    outcome: ChargeStatus | Decline,
    attempt: int,
    state: CaseState,
    after: timedelta | None,
    events: list[str],
    notice: str,
) -> None:
    verdict = decide(result_of(outcome, USD), attempt, WAITS, BEGIN)
    assert verdict.state is state
    assert verdict.next_at == (BEGIN + after if after is not None else None)
    assert list(verdict.events) == events
    assert verdict.notice == notice


async def subscribed(parts: BillingParts, plan: str = "basic") -> tuple[str, str]:
    """An account with a paid subscription: account, subscription."""
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, plan)
    await parts.settle()
    return account, made.id


async def code(parts: BillingParts, ident: str) -> str | None:
    reason = access_of(await parts.subscriptions.get(ident), parts.clock())
    return reason.code if reason is not None else None


async def test_a_card_that_is_short_is_tried_again_then_402_then_the_end(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.LATER] * 5
    before = len(parts.charger.calls)
    tries = {}
    for day in range(45):
        await parts.until(DECEMBER + day * DAY)
        if len(parts.charger.calls) != before:
            tries[day] = len(parts.charger.calls) - before
            before = len(parts.charger.calls)
        expected = None if day < 7 else "payment_failed" if day < 14 else "subscription_past_due"
        assert await code(parts, ident) == (expected if day < 37 else "subscription_expired"), day
    assert tries == {0: 1, 1: 1, 3: 1, 7: 1, 14: 1}
    assert len({key for key, _, _ in parts.charger.calls}) == len(parts.charger.calls)
    notices = [kind for kind in await parts.kinds(account) if kind != "subscription.renewing"]
    assert notices == [
        "payment.succeeded",
        *["payment.failed"] * 3,
        "subscription.suspended",
        "payment.failed",
        "subscription.grace",
        "subscription.expired",
    ]
    assert await parts.invoices.open_of(ident) == []


async def test_a_retry_that_succeeds_brings_access_back_at_once(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.LATER] * 4
    await parts.until(DECEMBER + 10 * DAY)
    assert await code(parts, ident) == "payment_failed"
    changed: list[str] = []

    async def listener(account: str) -> None:
        changed.append(account)

    parts.subscriptions.on_change.append(listener)
    await parts.until(DECEMBER + 14 * DAY)
    assert await code(parts, ident) is None
    assert account in changed
    found = await parts.subscriptions.get(ident)
    assert (found.state, found.grace_ends, found.expires) == (State.ACTIVE, None, None)
    assert (await parts.kinds(account))[-2:] == ["payment.recovered", "payment.succeeded"]


async def test_a_dead_card_waits_for_another_and_is_charged_then(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    await parts.until(DECEMBER + 20 * DAY)
    assert len(parts.charger.calls) == 2
    assert await code(parts, ident) == "payment_failed"
    await parts.subscriptions.method_changed(account, True)
    assert await parts.dunning.method_attached(account) == 1
    await parts.settle()
    assert len(parts.charger.calls) == 3
    assert await code(parts, ident) is None


async def test_without_a_provider_that_can_charge_the_log_says_how_to_pay(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts)
    parts.charger.outcomes = [Unsupported("No provider can charge saved methods.")] * 5
    await parts.until(DECEMBER + timedelta(hours=1))
    (bill,) = await parts.invoices.open_of(ident)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(bill.number in text and "fastgate subscriptions pay" in text for text in said)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_customer_who_never_can_is_not_charged_again(store: Store) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.NEVER]
    await parts.until(DECEMBER + 30 * DAY)
    assert len(parts.charger.calls) == 2
    assert await code(parts, ident) == "subscription_past_due"


async def test_a_provider_that_is_down_is_no_decline(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [
        ProviderUnavailable("down"),
        ProviderUnavailable("down"),
        ProviderRefused("key"),
    ]
    await parts.until(DECEMBER + timedelta(hours=2))
    assert await code(parts, ident) is None
    assert (await parts.subscriptions.get(ident)).state is State.ACTIVE
    await parts.until(DECEMBER + timedelta(hours=3))
    keys = [key for key, _, _ in parts.charger.calls[1:]]
    assert len(keys) == 4
    assert len(set(keys)) == 1  # what may have arrived is never charged twice
    assert parts.charger.taken == 29_580_000 + 30_000_000
    assert "payment.failed" not in await parts.kinds(account)


async def test_a_crash_between_charge_and_note_charges_once(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    settle = parts.dunning.settle

    async def crash(*given: object) -> bool:
        raise KeyboardInterrupt

    parts.dunning.settle = crash  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        await parts.dunning.run()
    parts.dunning.settle = settle  # type: ignore[method-assign]
    await parts.settle()
    assert len(parts.charger.calls) == 2
    assert len(parts.charger.charged) == 1
    assert parts.charger.taken == 29_580_000
    assert (await parts.subscriptions.get(made.id)).state is State.ACTIVE


async def test_many_tellings_of_one_payment_settle_once(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.LATER]
    await parts.until(DECEMBER)
    (invoice,) = await parts.invoices.open_of(ident)
    paid = result_of(ChargeStatus.SUCCEEDED, invoice.amount, "pay_web")
    done = await asyncio.gather(*(parts.dunning.settle(invoice.id, paid) for _ in range(6)))
    assert sum(done) == 1
    assert (await parts.invoices.get(invoice.id)).reference == "pay_web"
    kinds = await parts.kinds(account)
    assert kinds.count("payment.succeeded") == 2
    assert kinds.count("payment.recovered") == 1
    await parts.until(DECEMBER + 20 * DAY)
    assert len(parts.charger.calls) == 2
    with pytest.raises(NotFoundError):
        await parts.dunning.settle("inv_none", paid)


async def test_news_of_an_earlier_attempt_is_dropped(store: Store) -> None:
    parts = BillingParts(store)
    account, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.LATER]
    await parts.until(DECEMBER)
    (invoice,) = await parts.invoices.open_of(ident)
    stale = result_of(Decline.NEVER, invoice.amount)
    assert not await parts.dunning.settle(invoice.id, stale, f"{invoice.id}:0")
    assert (await parts.subscriptions.get(ident)).state is State.PAST_DUE
    assert (await parts.kinds(account)).count("payment.failed") == 1
    # A success is never dropped, whichever attempt it was.
    paid = result_of(ChargeStatus.SUCCEEDED, invoice.amount)
    assert await parts.dunning.settle(invoice.id, paid, f"{invoice.id}:0")
    assert (await parts.subscriptions.get(ident)).state is State.ACTIVE


async def test_a_pending_charge_is_asked_after_not_repeated(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ChargeStatus.PENDING]
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    (invoice,) = await parts.invoices.open_of(made.id)
    key = f"{invoice.id}:0"
    parts.charger.found[key] = result_of(ChargeStatus.PENDING, invoice.amount)
    await parts.until(BEGIN + timedelta(hours=3))
    assert (await parts.subscriptions.get(made.id)).state is State.INCOMPLETE
    parts.charger.found[key] = result_of(ChargeStatus.SUCCEEDED, invoice.amount)
    await parts.until(BEGIN + timedelta(hours=4))
    assert (await parts.subscriptions.get(made.id)).state is State.ACTIVE
    assert len(parts.charger.calls) == 1


async def test_a_payment_to_be_confirmed_tells_where(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ChargeStatus.ACTION_REQUIRED]
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    assert await code(parts, made.id) == "payment_action_required"
    (notice,) = (await parts.notices.page(account, cursor=None, limit=9)).items
    assert notice.kind == "payment.action_required"
    assert "https://pay.example/a" in notice.body


async def test_a_payment_that_crosses_with_the_end_of_its_invoice_is_credited(
    store: Store,
) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts)
    parts.charger.outcomes = [ChargeStatus.PENDING]
    await parts.until(DECEMBER)
    (invoice,) = await parts.invoices.open_of(ident)
    await parts.subscriptions.cancel(ident, at_period_end=False)
    assert (await parts.invoices.get(invoice.id)).status == "void"
    paid = result_of(ChargeStatus.SUCCEEDED, invoice.amount)
    assert await parts.dunning.settle(invoice.id, paid)
    assert not await parts.dunning.settle(invoice.id, paid)
    await parts.settle()
    assert list(parts.credited.values()) == [30_000_000]


async def test_an_invoice_that_an_operator_gives_up_is_not_charged(store: Store) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts)
    parts.charger.outcomes = [Decline.LATER]
    await parts.until(DECEMBER)
    (invoice,) = await parts.invoices.open_of(ident)
    await parts.invoices.void(invoice.id)
    await parts.until(DECEMBER + 5 * DAY)
    assert len(parts.charger.calls) == 2
    assert (await parts.invoices.get(invoice.id)).status == "void"


async def test_a_plan_has_its_own_grace(store: Store) -> None:
    parts = BillingParts(store)
    _, ident = await subscribed(parts, "trial")
    parts.charger.outcomes = [Decline.NEVER]
    await parts.until(BEGIN + 9 * DAY - timedelta(seconds=1))
    assert await code(parts, ident) is None
    await parts.until(BEGIN + 9 * DAY)
    assert await code(parts, ident) == "subscription_past_due"
    history = [record.event for record in await parts.subscriptions.history(ident)]
    assert history[-2:] == [Event.PAYMENT_FAILED, Event.RETRIES_EXHAUSTED]
