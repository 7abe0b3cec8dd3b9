"""Subscriptions: the tables alone, then with store, invoices and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulekit import BEGIN, BillingParts

from fastgate.billing.payments.base import Decline, ProviderSubscription, SubscriptionState
from fastgate.billing.subscriptions.lifecycle import (
    ACCESS,
    STRIPE,
    TRANSITIONS,
    Event,
    IllegalTransition,
    State,
    Subscription,
    access_of,
    due_event,
    settled,
    step,
    warning_of,
)
from fastgate.errors import ConflictError, NotFoundError
from fastgate.store.engine import Store
from fastgate.store.parties import Parties

DAY = timedelta(days=1)


def subscription(state: State, **more: Any) -> Subscription:
    values: dict[str, Any] = {
        "id": "sub_1",
        "account": "acc_1",
        "plan": "basic",
        "state": state,
        "zone": "UTC",
        "period": "month",
        "period_start": datetime(2026, 11, 1, tzinfo=UTC),
        "period_end": datetime(2026, 12, 1, tzinfo=UTC),
        "paid_through": datetime(2026, 12, 1, tzinfo=UTC),
        "created": BEGIN,
        "updated": BEGIN,
    }
    return Subscription(**(values | more))


def code(found: Subscription, now: datetime) -> str | None:
    reason = access_of(found, now)
    return reason.code if reason is not None else None


# ---- tables -----------------------------------------------------------------------------


def test_every_state_has_its_access_and_can_be_reached() -> None:
    assert set(ACCESS) == set(State)
    begins = {State.INCOMPLETE, State.TRIALING, State.ACTIVE}
    reached = set(begins)
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(State)


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_what_the_table_does_not_have_raises(state: State, event: Event) -> None:
    ended = BEGIN - DAY if state is State.PAUSED else None  # of a trial, and not by an operator
    found = subscription(state, grace_ends=BEGIN + DAY, trial_ends=ended)
    if (state, event) in TRANSITIONS:
        assert step(found, event, BEGIN).state is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"that is {state.value} cannot"):
            step(found, event, BEGIN)


def test_nothing_revives_what_is_expired() -> None:
    assert {after for (before, _), after in TRANSITIONS.items() if before is State.EXPIRED} == {
        State.EXPIRED
    }


@pytest.mark.parametrize(
    ("state", "more", "before", "after"),
    [
        (State.TRIALING, {"trial_ends": BEGIN + DAY}, None, "payment_method_missing"),
        (State.TRIALING, {"trial_ends": BEGIN + DAY, "has_method": True}, None, None),
        (
            State.TRIALING,
            {"trial_ends": BEGIN + DAY, "cancel_at_period_end": True},
            None,
            "subscription_expired",
        ),
        (State.ACTIVE, {}, None, None),
        (
            State.ACTIVE,
            {"period_end": BEGIN + DAY, "cancel_at_period_end": True},
            None,
            "subscription_expired",
        ),
        (State.PAST_DUE, {"grace_ends": BEGIN + DAY}, None, "payment_failed"),
        (State.GRACE, {"grace_ends": BEGIN + DAY}, None, "subscription_past_due"),
        (
            State.GRACE,
            {"grace_ends": BEGIN, "expires": BEGIN + DAY},
            "subscription_past_due",
            "subscription_expired",
        ),
        (State.CANCELED, {"paid_through": BEGIN + DAY}, None, "subscription_expired"),
        (State.PAUSED, {}, "subscription_paused", "subscription_paused"),
        (
            State.PAUSED,
            {"trial_ends": BEGIN - DAY},
            "payment_method_missing",
            "payment_method_missing",
        ),
        (State.EXPIRED, {}, "subscription_expired", "subscription_expired"),
        (
            State.INCOMPLETE,
            {"expires": BEGIN + DAY},
            "payment_action_required",
            "subscription_expired",
        ),
    ],
)
def test_access_before_and_from_the_moment_on(
    state: State, more: dict[str, Any], before: str | None, after: str | None
) -> None:
    found = subscription(state, **more)
    moment = BEGIN + DAY
    assert code(found, moment - timedelta(microseconds=1)) == before
    assert code(found, moment) == after


def test_a_warning_comes_while_there_still_is_access() -> None:
    found = subscription(State.PAST_DUE, grace_ends=BEGIN + DAY)
    warning = warning_of(found, BEGIN)
    assert warning is not None
    assert warning.code == "payment_failed"
    assert warning_of(found, BEGIN + DAY) is None
    assert warning_of(subscription(State.ACTIVE), BEGIN) is None


def test_stripes_statuses_are_all_known() -> None:
    assert STRIPE["unpaid"] is State.GRACE
    assert STRIPE["incomplete_expired"] is State.EXPIRED
    assert {name for name in STRIPE if STRIPE[name].value == name} == {
        "incomplete", "trialing", "active", "past_due", "canceled", "paused",
    }  # fmt: skip


moments = st.integers(0, 400 * 24).map(lambda hours: BEGIN + timedelta(hours=hours))
optional = st.none() | moments
lives = st.builds(
    subscription,
    st.sampled_from(State),
    trial_ends=optional,
    grace_ends=optional,
    expires=optional,
    paid_through=moments,
    cancel_at_period_end=st.booleans(),
    has_method=st.booleans(),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Havana"]),
    period=st.sampled_from(["day", "week", "month", "year"]),
)


@given(lives, moments, moments)
def test_it_does_not_matter_when_the_scheduler_comes(
    found: Subscription, one: datetime, other: datetime
) -> None:
    early, late = sorted((one, other))
    assert settled(settled(found, early), late) == settled(found, late)
    assert access_of(settled(found, early), late) == access_of(found, late)
    assert due_event(settled(found, late), late) is None


@given(lives, st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 2000)), max_size=12))
def test_no_sequence_of_events_leaves_it_without_an_answer(
    found: Subscription, events: list[tuple[Event, int]]
) -> None:
    now = BEGIN
    for event, hours in events:
        now += timedelta(hours=hours)
        found = settled(found, now)
        if (found.state, event) not in TRANSITIONS:
            continue
        grace = now + DAY
        found = step(found, event, now, grace_ends=grace, expires=grace + 30 * DAY)
        assert found.period_start < found.period_end
        reason = access_of(found, now)
        paused = found.state is State.PAUSED and not found.wants_method
        assert reason is None or reason.status == (403 if paused else 402)
        if event is Event.PAYMENT_SUCCEEDED and found.state is State.ACTIVE:
            assert reason is None
            assert found.grace_ends is None


def test_late_payers_do_not_pay_for_the_time_they_were_shut_out() -> None:
    found = subscription(
        State.GRACE,
        grace_ends=BEGIN + 7 * DAY,
        paid_through=datetime(2026, 11, 1, tzinfo=UTC),
    )
    paid = datetime(2026, 12, 11, tzinfo=UTC)
    again = step(found, Event.PAYMENT_SUCCEEDED, paid, paid_through=found.period_end)
    assert again.current == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert again.paid_through == paid


# ---- with the store ---------------------------------------------------------------------


async def test_a_plan_without_a_fee_is_active_at_once(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    for plan, service in (("free", None), ("usage", "search")):
        made = await parts.subscriptions.create(account, plan, service)
        assert made.state is State.ACTIVE
    await parts.until(BEGIN + 70 * DAY)
    assert parts.charger.calls == []
    assert [entry.reason for entry in await parts.subscriptions.entries(account)] == [None, None]
    assert await parts.kinds(account) == []


async def test_a_fee_is_paid_first_and_in_part(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    changes: list[str] = []

    async def listener(changed: str) -> None:
        changes.append(changed)

    parts.subscriptions.on_change.append(listener)
    made = await parts.subscriptions.create(account, "basic")
    assert code(made, BEGIN) == "payment_action_required"
    await parts.settle()
    found = await parts.subscriptions.get(made.id)
    assert found.state is State.ACTIVE
    assert access_of(found, BEGIN) is None
    assert parts.charger.taken == 29_580_000  # of 30, from ten o'clock of the first day on
    assert changes.count(account) >= 2
    steps = [(r.event, r.after) for r in await parts.subscriptions.history(made.id)]
    assert steps == [("created", "incomplete"), ("payment_succeeded", "active")]


async def test_a_first_payment_that_is_not_confirmed_ends_it(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [Decline.NEW_METHOD]
    account = await parts.account()
    made = await parts.subscriptions.create(account, "basic")
    await parts.until(BEGIN + timedelta(hours=22))
    assert (await parts.subscriptions.get(made.id)).state is State.INCOMPLETE
    await parts.until(BEGIN + timedelta(hours=23))
    assert (await parts.subscriptions.get(made.id)).state is State.EXPIRED
    assert await parts.invoices.open_of(made.id) == []


async def test_what_cannot_be_subscribed_to(sqlite_store: Store) -> None:
    parts = BillingParts(sqlite_store)
    account = await parts.account()
    with pytest.raises(NotFoundError, match="no plan 'gold'"):
        await parts.subscriptions.create(account, "gold")
    with pytest.raises(ConflictError):
        await parts.subscriptions.create("acc_nobody", "free")
    made = await parts.subscriptions.create(account, "free")
    for plan in ("free", "basic"):  # only one would count, and both be billed
        with pytest.raises(ConflictError, match=f"all services already.*{made.id}"):
            await parts.subscriptions.create(account, plan)
    await parts.subscriptions.create(account, "free", service="search")
    with pytest.raises(NotFoundError):
        await parts.subscriptions.get("sub_none")
    with pytest.raises(ConflictError, match=r"2 subscription\(s\).*cancel its subscriptions\."):
        await Parties(sqlite_store).delete_account(account, None)


async def test_a_trial_ends_in_a_payment(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "trial")
    assert made.state is State.TRIALING
    await parts.until(BEGIN + 6 * DAY)
    assert parts.charger.calls == []
    await parts.until(BEGIN + 7 * DAY)
    found = await parts.subscriptions.get(made.id)
    assert (found.state, found.trial_ends) == (State.ACTIVE, None)
    assert parts.charger.taken == 22_580_000
    assert found.paid_through == datetime(2026, 12, 1, tzinfo=UTC)


async def test_one_that_was_canceled_does_not_go_on_beside_its_successor(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    first = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    await parts.subscriptions.cancel(first.id, at_period_end=False)
    second = await parts.subscriptions.create(account, "big")
    with pytest.raises(ConflictError, match=second.id):
        await parts.subscriptions.apply(first.id, Event.RESUME)
    await parts.settle()
    await parts.subscriptions.cancel(second.id, at_period_end=False)
    assert (await parts.subscriptions.apply(first.id, Event.RESUME)).state is State.ACTIVE


async def test_a_plan_is_tried_once(store: Store) -> None:
    """Whoever has been on it, in whatever way, pays from the beginning."""
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    first = await parts.subscriptions.create(account, "trial")
    await parts.subscriptions.change_plan(first.id, "basic")
    await parts.subscriptions.change_plan(first.id, "big")
    await parts.subscriptions.cancel(first.id, at_period_end=False)
    for _ in range(3):
        again = await parts.subscriptions.create(account, "trial")
        assert again.state is State.INCOMPLETE
        await parts.settle()
        await parts.subscriptions.cancel(again.id, at_period_end=False)
    assert parts.charger.taken == 3 * 29_580_000
    other = await parts.account("other")
    assert (await parts.subscriptions.create(other, "trial")).state is State.TRIALING


async def test_a_trial_without_a_method_pauses_until_there_is_one(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    made = await parts.subscriptions.create(account, "trial")
    await parts.until(BEGIN + 10 * DAY)
    assert code(await parts.subscriptions.get(made.id), parts.clock()) == "payment_method_missing"
    await parts.subscriptions.method_changed(account, True)
    await parts.settle()
    found = await parts.subscriptions.get(made.id)
    assert found.state is State.ACTIVE
    assert parts.charger.taken == 19_580_000  # not for the days it was paused
    assert (await parts.notices.profiles.get(account)).has_method


async def test_a_gateway_that_was_down_renews_period_by_period(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    parts.clock.now = datetime(2027, 2, 10, tzinfo=UTC)
    await parts.settle()
    assert parts.charger.taken == 29_580_000 + 3 * 30_000_000
    numbers = [
        (invoice.number, invoice.period_start)
        for invoice in (await parts.invoices.page(account, cursor=None, limit=9)).items
    ]
    assert numbers == [
        ("INV-2027-000003", datetime(2027, 2, 1, tzinfo=UTC)),
        ("INV-2027-000002", datetime(2027, 1, 1, tzinfo=UTC)),
        ("INV-2027-000001", datetime(2026, 12, 1, tzinfo=UTC)),
        ("INV-2026-000001", BEGIN),
    ]
    renewed = [r for r in await parts.subscriptions.history(made.id) if r.event == "renewed"]
    assert [record.at.month for record in renewed] == [12, 1, 2]


async def test_cancelling_with_the_period_and_taking_it_back(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    assert (await parts.subscriptions.cancel(made.id)).cancel_at_period_end
    await parts.subscriptions.apply(made.id, Event.KEEP)
    await parts.until(datetime(2026, 12, 5, tzinfo=UTC))
    assert (await parts.subscriptions.get(made.id)).state is State.ACTIVE
    await parts.subscriptions.cancel(made.id)
    await parts.until(datetime(2027, 1, 5, tzinfo=UTC))
    found = await parts.subscriptions.get(made.id)
    assert (found.state, found.next_at) == (State.EXPIRED, None)
    assert parts.charger.taken == 29_580_000 + 30_000_000
    with pytest.raises(IllegalTransition):
        await parts.subscriptions.apply(made.id, Event.RESUME)


async def test_cancelling_at_once_leaves_what_was_paid_for(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    found = await parts.subscriptions.cancel(made.id, at_period_end=False)
    assert found.state is State.CANCELED
    assert code(found, datetime(2026, 11, 30, tzinfo=UTC)) is None
    assert code(found, datetime(2026, 12, 1, tzinfo=UTC)) == "subscription_expired"
    await parts.subscriptions.create(account, "basic")  # and one may begin anew


async def test_an_upgrade_is_in_effect_at_once_and_costs_the_difference(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    parts.clock.now = datetime(2026, 11, 16, tzinfo=UTC)
    changed = await parts.subscriptions.change_plan(made.id, "big")
    (entry,) = await parts.subscriptions.entries(account)
    assert (entry.plan, entry.reason) == ("big", None)  # nothing was paid yet
    assert changed.document is not None
    assert changed.document.total == 45_000_000 - 15_000_000
    await parts.settle()
    found = await parts.subscriptions.get(made.id)
    assert (found.state, found.paid_through) == (State.ACTIVE, found.period_end)
    assert await parts.invoices.open_of(made.id) == []


async def test_a_fee_of_less_than_a_coin_counts_as_paid(store: Store) -> None:
    """30.00 for a month is 0.0023 for its last 200 seconds: nobody can pay that."""
    parts = BillingParts(store)
    account = await parts.account()
    parts.clock.now = datetime(2026, 11, 30, 23, 56, 40, tzinfo=UTC)
    made = await parts.subscriptions.create(account, "basic")
    assert (made.state, made.paid_through) == (State.ACTIVE, made.period_end)
    assert await parts.invoices.open_of(made.id) == []
    assert code(made, parts.clock()) is None
    await parts.until(datetime(2026, 12, 1, tzinfo=UTC))
    assert parts.charger.taken == 30_000_000  # the next month is billed in full


@pytest.mark.parametrize(("old", "new"), [("basic", "big"), ("big", "basic")])
async def test_a_change_of_plan_is_not_billed_if_it_costs_less_than_a_coin(
    store: Store, old: str, new: str
) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, old)
    await parts.settle()
    parts.clock.now = datetime(2026, 11, 30, 23, 56, 40, tzinfo=UTC)
    changed = await parts.subscriptions.change_plan(made.id, new)
    assert (changed.subscription.plan, changed.document) == (new, None)
    assert changed.subscription.paid_through == made.period_end
    await parts.settle()
    assert parts.credited == {}
    assert await parts.invoices.open_of(made.id) == []


async def test_a_paused_trial_continues_without_an_invoice_of_less_than_a_coin(
    store: Store,
) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    made = await parts.subscriptions.create(account, "trial")
    await parts.until(datetime(2026, 11, 20, tzinfo=UTC))
    assert (await parts.subscriptions.get(made.id)).state is State.PAUSED
    parts.clock.now = datetime(2026, 11, 30, 23, 56, 40, tzinfo=UTC)
    await parts.subscriptions.method_changed(account, True)
    found = await parts.subscriptions.get(made.id)
    assert (found.state, found.paid_through) == (State.ACTIVE, found.period_end)
    assert await parts.invoices.open_of(made.id) == []


async def test_a_downgrade_credits_the_difference_once(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "big")
    await parts.settle()
    parts.clock.now = datetime(2026, 11, 16, tzinfo=UTC)
    changed = await parts.subscriptions.change_plan(made.id, "basic")
    assert changed.document is not None
    assert (changed.document.kind, changed.document.total) == ("credit", 30_000_000)
    await parts.settle()
    await parts.settle()
    assert parts.credited == {f"credit:{changed.document.id}": 30_000_000}
    assert (await parts.subscriptions.change_plan(made.id, "basic")).document is None


async def test_a_change_of_plan_while_past_due_asks_for_what_was_used(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "big")
    await parts.settle()
    parts.charger.outcomes = [Decline.LATER]
    await parts.until(datetime(2026, 12, 1, tzinfo=UTC))
    assert (await parts.subscriptions.get(made.id)).state is State.PAST_DUE
    (old,) = await parts.invoices.open_of(made.id)
    parts.clock.now = datetime(2026, 12, 1, 12, tzinfo=UTC)
    changed = await parts.subscriptions.change_plan(made.id, "free")
    assert changed.document is not None
    assert changed.document.total == 1_450_000  # half of one of 31 days of 90.00
    assert (await parts.invoices.get(old.id)).status == "void"
    await parts.settle()
    assert (await parts.subscriptions.get(made.id)).state is State.ACTIVE


async def test_money_is_neither_made_nor_lost_by_changing_plans(sqlite_store: Store) -> None:
    """What is taken, less what is credited, is the fee for the time on each plan."""
    parts = BillingParts(sqlite_store)
    account = await parts.account(has_method=True)
    parts.clock.now = datetime(2026, 11, 1, tzinfo=UTC)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    on = {"basic": timedelta(), "big": timedelta()}
    plan = "basic"
    for hours, new in ((37, "big"), (101, "basic"), (5, "big"), (211, "basic"), (1, "big")):
        on[plan] += timedelta(hours=hours)
        parts.clock.pass_(hours=hours)
        await parts.subscriptions.change_plan(made.id, new)
        await parts.settle()
        plan = new
    on[plan] += datetime(2026, 12, 1, tzinfo=UTC) - parts.clock()
    assert sum(on.values(), timedelta()) == 30 * DAY
    due = sum(
        fee * (on[name] / (30 * DAY)) for name, fee in (("basic", 30_000_000), ("big", 90_000_000))
    )
    got = parts.charger.taken - sum(parts.credited.values())
    assert abs(got - due) <= 5 * 10_000  # a cent for each document's rounding


async def test_a_plan_may_change_its_period(sqlite_store: Store) -> None:
    parts = BillingParts(sqlite_store)
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    changed = (await parts.subscriptions.change_plan(made.id, "yearly")).subscription
    assert changed.current == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    await parts.settle()
    assert (await parts.subscriptions.get(made.id)).paid_through == changed.period_end


# ---- kept by a provider -----------------------------------------------------------------


def theirs(account: str, status: str, state: SubscriptionState, **more: Any) -> Any:
    return ProviderSubscription(
        reference="sub_stripe", account=account, state=state, status=status, plan="basic", **more
    )


async def test_what_a_provider_keeps_is_taken_over_and_never_billed(store: Store) -> None:
    parts = BillingParts(store)
    account = await parts.account()
    end = BEGIN + 30 * DAY
    active = theirs(account, "active", SubscriptionState.ACTIVE, paid_through=end)
    found = await parts.subscriptions.adopt("stripe", active)
    assert found is not None
    assert (found.state, found.provider, found.period_end) == (State.ACTIVE, "stripe", end)
    again = await parts.subscriptions.adopt("stripe", active)
    assert again is not None
    assert again.id == found.id

    late = theirs(account, "past_due", SubscriptionState.PAST_DUE, grace=True)
    found = await parts.subscriptions.adopt("stripe", late)
    assert found is not None
    assert code(found, BEGIN) is None
    assert found.grace_ends == BEGIN + 7 * DAY
    parts.clock.pass_(days=3)
    found = await parts.subscriptions.adopt("stripe", late)
    assert found is not None
    assert found.grace_ends == BEGIN + 7 * DAY  # told again, it does not begin anew

    unpaid = theirs(account, "unpaid", SubscriptionState.PAST_DUE)
    found = await parts.subscriptions.adopt("stripe", unpaid)
    assert found is not None
    assert code(found, parts.clock()) == "subscription_past_due"

    for status, state, reason in (
        ("incomplete", SubscriptionState.INCOMPLETE, "payment_action_required"),
        ("paused", SubscriptionState.PAUSED, "payment_method_missing"),
        ("incomplete_expired", SubscriptionState.EXPIRED, "subscription_expired"),
    ):
        found = await parts.subscriptions.adopt("stripe", theirs(account, status, state))
        assert found is not None
        assert code(found, parts.clock()) == reason
    gone = theirs(account, "canceled", SubscriptionState.CANCELED, paid_through=end)
    found = await parts.subscriptions.adopt("stripe", gone)
    assert found is not None
    assert code(found, end - DAY) is None
    assert code(found, end) == "subscription_expired"
    await parts.until(end + 40 * DAY)
    assert parts.charger.calls == []
    stranger = msgspec.structs.replace(active, account="")
    assert await parts.subscriptions.adopt("stripe", stranger) is None
