"""Alerts: each level once a period, each dip once, the burn rate against arithmetic."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulekit import BEGIN, BillingParts

from fastgate.billing.notices.alerts import BurnRate, LimitUsage, in_words, level_of
from fastgate.billing.notices.notices import Notice
from fastgate.store.engine import Store

USD = 1_000_000
LEVELS = [50, 80, 95, 100]
DECEMBER = BEGIN + timedelta(days=30)


@given(st.integers(0, 10**15), st.integers(1, 10**15))
def test_the_highest_level_that_is_reached(used: int, limit: int) -> None:
    level = level_of(used, limit, LEVELS)
    reached = [one for one in LEVELS if used / limit >= one / 100]
    if all(abs(used / limit - one / 100) > 1e-9 for one in LEVELS):
        assert level == (reached[-1] if reached else 0)
    assert level_of(limit * 95, limit * 100, LEVELS) == 95
    assert level_of(limit * 95 - 1, limit * 100, LEVELS) == 80


def spent(used: int, limit: int = 100 * USD, **more: object) -> LimitUsage:
    values: dict[str, object] = {
        "account": "acc_1",
        "subject": "spending of the account",
        "used": used,
        "limit": limit,
        "ends": DECEMBER,
        "currency": "USD",
    }
    return LimitUsage(**(values | more))  # type: ignore[arg-type]


async def test_each_level_is_told_once_a_period_and_a_leap_tells_the_highest(store: Store) -> None:
    parts = BillingParts(store)
    sent = []
    for percent in (10, 50, 51, 79, 97, 97, 60, 96, 100, 130):
        notice = await parts.alerts.usage(spent(percent * USD))
        if notice is not None:
            sent.append((percent, notice.title))
    assert sent == [
        (50, "50 % of spending of the account spent"),
        (97, "95 % of spending of the account spent"),
        (100, "100 % of spending of the account spent"),
    ]
    again = await parts.alerts.usage(spent(55 * USD, ends=DECEMBER + timedelta(days=31)))
    assert again is not None  # the next period
    assert await parts.alerts.usage(spent(110 * USD, 200 * USD)) is not None  # another limit
    page = await parts.notices.page("acc_1", cursor=None, limit=9)
    assert "97.00 USD of 100.00 USD" in page.items[-2].body


async def test_quotas_are_counts(store: Store) -> None:
    parts = BillingParts(store)
    notice = await parts.alerts.usage(
        spent(850, 1000, subject="requests of plan free", currency="")
    )
    assert notice is not None
    assert notice.kind == "usage.quota"
    assert notice.body == "850 of 1000 are used in the period that ends on 2026-12-01."
    assert await parts.alerts.usage(spent(5, 0)) is None


async def test_two_gateways_tell_it_once(store: Store) -> None:
    setups = [BillingParts(store) for _ in range(3)]
    done = await asyncio.gather(
        *(parts.alerts.usage(spent(85 * USD)) for parts in setups for _ in range(3)),
        return_exceptions=True,
    )
    assert len(await setups[0].kinds("acc_1")) == 1
    assert sum(not isinstance(one, BaseException) and one is not None for one in done) == 1


async def look_at(
    parts: BillingParts, account: str, currency: str, balance: int, spent: int = 0
) -> list[Notice]:
    """As the watch does it."""
    known = await parts.alerts.store.run_read(
        lambda connection: parts.alerts.standings(connection, ["acc_other", account])
    )
    return await parts.alerts.balance(known[account], currency, balance, spent)


async def test_a_low_balance_is_told_once_a_dip(store: Store) -> None:
    parts = BillingParts(store, {"notices": {"low_balance": "5 USD"}})
    sent = []
    for balance in (9, 5, 4, 3, 0, 12, 4, 4):
        for _ in range(2):
            found = await look_at(parts, "acc_1", "USD", balance * USD)
            sent += [(balance, notice.title) for notice in found]
    assert sent == [(4, "Balance low: 4.00 USD"), (4, "Balance low: 4.00 USD")]
    assert await look_at(parts, "acc_1", "EUR", 0) == []  # the rule is in USD
    account = await parts.account(low_balance=50 * USD)
    assert len(await look_at(parts, account, "USD", 49 * USD)) == 1


async def test_empty_in_three_hours(store: Store) -> None:
    parts = BillingParts(store)
    balance, total = 100 * USD, 0
    sent = []

    async def look(minutes: int, rate: int) -> None:
        """Time passes; `rate` is spent an hour."""
        nonlocal balance, total
        cost = rate * USD * minutes // 60
        balance, total = balance - cost, total + cost
        parts.clock.pass_(minutes=minutes)
        sent.extend(await look_at(parts, "acc_1", "USD", balance, total))

    await look(0, 0)
    for _ in range(6):
        await look(10, 10)  # 90 left, nine hours
    assert sent == []
    for _ in range(6):
        await look(10, 25)  # 65 left, in less than three hours
    assert [notice.kind for notice in sent] == ["balance.burning"]
    assert "at the rate of" in sent[0].body
    balance += 1000 * USD  # topped up: the rate is what it was, the balance lasts
    await look(10, 25)
    balance = 20 * USD
    await look(10, 25)
    assert [notice.kind for notice in sent] == ["balance.burning"] * 2


samples = st.lists(st.tuples(st.integers(1, 3600), st.integers(0, 10**9)), min_size=1, max_size=60)


@given(samples)
def test_the_rate_is_what_was_spent_in_the_last_hour(steps: list[tuple[int, int]]) -> None:
    rate = BurnRate()
    at, total = BEGIN, 0
    seen = []
    for seconds, cost in steps:
        at, total = at + timedelta(seconds=seconds), total + cost
        rate.add(at, total)
        seen.append((at, total))
    old = [one for one in seen if one[0] <= at - timedelta(hours=1)]
    first = old[-1] if old else seen[0]
    passed = (at - first[0]).total_seconds()
    if passed < 300:
        assert rate.per_hour() is None
        assert rate.lasts(10**9) is None
        return
    expected = (total - first[1]) * 3600 / passed
    found = rate.per_hour()
    assert found is not None
    assert abs(found - expected) <= 1 + expected * 1e-9
    lasts = rate.lasts(10**12)
    if found and 10**12 * 3600 // found < 86_400 * 10**9:  # longer is for ever
        assert lasts is not None
        assert abs(lasts.total_seconds() - 10**12 / found * 3600) < 1e-3 * 10**12 / found + 1
    else:
        assert lasts is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 min"), (299, "4 min"), (10_800, "3 h"), (9_059, "2 h 30 min")]
)
def test_times_in_words(seconds: int, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


async def test_what_was_told_long_ago_is_forgotten(store: Store) -> None:
    parts = BillingParts(store, {"notices": {"low_balance": "5 USD"}})
    await parts.alerts.usage(spent(60 * USD))
    await look_at(parts, "acc_1", "USD", 0)
    assert await parts.alerts.prune(BEGIN) == 0
    assert await parts.alerts.prune(BEGIN + timedelta(seconds=1)) == 1
    assert await look_at(parts, "acc_1", "USD", 0) == []  # the dip goes on
