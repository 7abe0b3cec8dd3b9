"""Auto-recharge: never above the cap, never two at once, each charge once, an end to declines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedulekit import BillingParts, result_of

from fastgate.billing.auto_recharge import AutoRecharge
from fastgate.billing.payments.base import ChargeStatus, Decline, ProviderUnavailable
from fastgate.errors import ConflictError, NotFoundError
from fastgate.model.units import Money
from fastgate.store.engine import Store

USD = 1_000_000


def money(text: str) -> Money:
    return Money.parse(text)


async def ruled(parts: BillingParts, cap: str = "50 USD", **profile: str) -> str:
    """An account that recharges 20 when below 5."""
    account = await parts.account(**profile)
    await parts.recharges.set(account, money("5 USD"), money("20 USD"), money(cap))
    return account


async def rule(parts: BillingParts, account: str) -> AutoRecharge:
    found = await parts.recharges.get(account)
    assert found is not None
    return found


async def test_it_recharges_below_the_threshold_only(store: Store) -> None:
    parts = BillingParts(store)
    account = await ruled(parts)
    assert await parts.recharges.check(account, 5 * USD, "USD") is None
    assert await parts.recharges.check(account, 0, "EUR") is None
    assert await parts.recharges.check("acc_other", 0, "USD") is None
    result = await parts.recharges.check(account, 5 * USD - 1, "USD")
    assert result is not None
    assert parts.charger.calls == [(f"recharge:{account}:1", 20 * USD, "top_up")]
    assert parts.credited == {f"recharge:{account}:1": 20 * USD}
    await parts.recharges.disable(account)
    assert await parts.recharges.check(account, 0, "USD") is None
    with pytest.raises(NotFoundError):
        await parts.recharges.disable("acc_other")


@pytest.mark.parametrize(
    ("balance", "charged"),
    [("4.99", 20), ("-15", 20), ("-15.01", 40), ("-95", 100), ("-1000", 980)],
)
async def test_what_is_needed_is_one_charge(store: Store, balance: str, charged: int) -> None:
    """Towards a far threshold: not one charge after the other, and no more than the cap has room
    for."""
    parts = BillingParts(store)
    account = await ruled(parts, cap="999 USD")
    sign = -1 if balance.startswith("-") else 1
    has = sign * money(f"{balance.lstrip('-')} USD").micros
    for _ in range(60):
        if await parts.recharges.check(account, has, "USD") is None:
            break
        has += charged * USD
    assert [amount for _, amount, _ in parts.charger.calls] == [charged * USD]
    assert (await rule(parts, account)).spent_in("2026-11") == charged * USD


async def test_many_at_once_are_one(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ChargeStatus.PENDING]
    account = await ruled(parts)
    done = await asyncio.gather(*(parts.recharges.check(account, 0, "USD") for _ in range(8)))
    assert sum(result is not None for result in done) == 1
    assert len(parts.charger.calls) == 1


async def test_the_cap_is_of_the_calendar_month_of_the_account(store: Store) -> None:
    parts = BillingParts(store)
    account = await ruled(parts, zone="Asia/Tokyo")
    for _ in range(4):
        await parts.recharges.check(account, 0, "USD")
    assert parts.charger.taken == 40 * USD  # a third would make 60 of 50
    assert await parts.kinds(account) == ["recharge.capped"]  # once
    parts.clock.now = datetime(2026, 11, 30, 14, 59, tzinfo=UTC)
    assert await parts.recharges.check(account, 0, "USD") is None
    parts.clock.pass_(minutes=1)  # December in Tokyo
    assert await parts.recharges.check(account, 0, "USD") is not None
    assert (await rule(parts, account)).spent_in("2026-12") == 20 * USD
    assert parts.charger.taken == 60 * USD


async def test_three_declines_in_a_row_stop_it(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [Decline.LATER, Decline.LATER, ChargeStatus.SUCCEEDED] + [
        Decline.NEVER
    ] * 3
    account = await ruled(parts, cap="1000 USD")
    for _ in range(12):
        await parts.recharges.check(account, USD, "USD")
        await parts.recharges.check(account, USD, "USD")  # not at once again
        parts.clock.pass_(hours=1)
    assert len(parts.charger.calls) == 6
    found = await rule(parts, account)
    assert (found.enabled, found.stopped, found.declines) == (False, "declined", 3)
    assert found.spent == 20 * USD  # what was declined is not spent
    assert await parts.kinds(account) == ["recharge.failed"] * 5 + ["recharge.stopped"]
    await parts.recharges.set(account, money("5 USD"), money("10 USD"), money("1000 USD"))
    await parts.recharges.check(account, USD, "USD")
    assert parts.charger.calls[-1][:2] == (f"recharge:{account}:7", 10 * USD)


async def test_an_unknown_outcome_is_asked_after_with_the_same_key(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ProviderUnavailable("timeout"), ProviderUnavailable("timeout")]
    account = await ruled(parts)
    assert await parts.recharges.check(account, 0, "USD") is None
    assert await parts.recharges.check(account, 0, "USD") is None
    assert await parts.recharges.run() == 0
    for _ in range(2):
        parts.clock.pass_(hours=1)
        assert await parts.recharges.run() == 1
    assert {key for key, _, _ in parts.charger.calls} == {f"recharge:{account}:1"}
    assert parts.credited == {f"recharge:{account}:1": 20 * USD}
    assert (await rule(parts, account)).pending == 0


async def test_a_charge_that_arrived_unnoticed_is_found(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ProviderUnavailable("the answer was lost")]
    account = await ruled(parts)
    await parts.recharges.check(account, 0, "USD")
    key = f"recharge:{account}:1"
    parts.charger.found[key] = result_of(ChargeStatus.SUCCEEDED, money("20 USD"))
    parts.clock.pass_(hours=1)
    await parts.recharges.run()
    assert len(parts.charger.calls) == 1
    assert parts.credited == {key: 20 * USD}


async def test_a_webhook_may_tell_the_outcome(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ChargeStatus.PENDING]
    account = await ruled(parts)
    await parts.recharges.check(account, 0, "USD")
    key = f"recharge:{account}:1"
    paid = result_of(ChargeStatus.SUCCEEDED, money("20 USD"))
    assert not await parts.recharges.settle(account, paid, f"recharge:{account}:0")
    assert await parts.recharges.settle(account, paid, key)
    assert not await parts.recharges.settle(account, paid, key)
    parts.clock.pass_(hours=2)
    assert await parts.recharges.run() == 0
    assert (await rule(parts, account)).pending == 0


async def test_a_crash_before_the_note_credits_again_with_the_same_key(store: Store) -> None:
    parts = BillingParts(store)
    account = await ruled(parts)
    credit, parts.recharges.credited = parts.recharges.credited, killed
    with pytest.raises(KeyboardInterrupt):
        await parts.recharges.check(account, 0, "USD")
    parts.recharges.credited = credit
    parts.clock.pass_(hours=1)
    await parts.recharges.run()
    assert len(parts.charger.charged) == 1
    assert parts.credited == {f"recharge:{account}:1": 20 * USD}


async def killed(*given: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("threshold", "amount", "cap", "words"),
    [
        ("5 USD", "20 EUR", "50 USD", "the same currency"),
        ("5 USD", "0 USD", "50 USD", "cannot be charged"),
        ("5 USD", "0.001 USD", "50 USD", "cannot be charged"),
        ("5 USD", "20 USD", "10 USD", "less than one recharge"),
    ],
)
async def test_rules_that_make_no_sense(
    sqlite_store: Store, threshold: str, amount: str, cap: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        await BillingParts(sqlite_store).recharges.set(
            "a", money(threshold), money(amount), money(cap)
        )


async def test_the_currency_is_not_changed_under_a_charge(store: Store) -> None:
    parts = BillingParts(store)
    parts.charger.outcomes = [ChargeStatus.PENDING]
    account = await ruled(parts)
    await parts.recharges.check(account, 0, "USD")
    euros = (money("5 EUR"), money("20 EUR"), money("50 EUR"))
    with pytest.raises(ConflictError):
        await parts.recharges.set(account, *euros)
    await parts.recharges.settle(
        account, result_of(Decline.LATER, money("20 USD")), f"recharge:{account}:1"
    )
    assert (await parts.recharges.set(account, *euros)).currency == "EUR"


outcomes = st.lists(
    st.sampled_from(
        [ChargeStatus.SUCCEEDED, ChargeStatus.PENDING, Decline.LATER, ProviderUnavailable("x")]
    ),
    max_size=8,
)
visits = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20 * 24)), max_size=12)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(outcomes=outcomes, visits=visits)
async def test_whatever_happens_the_cap_holds_in_every_month(
    sqlite_store: Store, outcomes: list[object], visits: list[tuple[int, int]]
) -> None:
    parts = BillingParts(sqlite_store)
    parts.charger.outcomes = list(outcomes)  # type: ignore[arg-type]
    account = f"acc_{next(NUMBERS)}"
    await parts.recharges.set(account, money("5 USD"), money("20 USD"), money("50 USD"))
    begun: dict[str, str] = {}
    for balance, hours in visits:
        await parts.recharges.check(account, balance * USD, "USD")
        await parts.recharges.run()
        found = await rule(parts, account)
        begun.setdefault(found.key, found.month)
        assert found.spent <= found.cap
        parts.clock.pass_(hours=hours)
    while (await rule(parts, account)).pending:  # nothing is left under way for ever
        parts.clock.pass_(hours=1)
        parts.charger.found = {
            key: result_of(ChargeStatus.SUCCEEDED, result.amount)
            for key, result in parts.charger.charged.items()
            if result.status is ChargeStatus.PENDING
        }
        parts.charger.charged.update(parts.charger.found)
        await parts.recharges.run()
    months: dict[str, int] = {}
    for key, amount in parts.credited.items():
        months[begun[key]] = months.get(begun[key], 0) + amount
    assert all(amount <= 50 * USD for amount in months.values())
    assert sum(parts.credited.values()) == parts.charger.taken


NUMBERS = iter(range(10**9))
