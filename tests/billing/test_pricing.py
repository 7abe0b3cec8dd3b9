"""Prices, periods and proration: examples, and properties against naive oracles."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.snapshot.meters import UnitRate, units_most, units_price, units_total
from fastgate.billing.subscriptions import proration
from fastgate.billing.subscriptions.periods import Period, midnight, next_period, period_of
from fastgate.billing.subscriptions.pricing import flat_price
from fastgate.config.price_steps import Step, price_steps
from fastgate.errors import ConfigurationError
from fastgate.model.codec import decode, encode
from fastgate.model.party import Plan


def plan(**price: object) -> Plan:
    return decode({"name": "p", "price": price}, Plan)


def steps(**price: object) -> tuple[Step, ...]:
    found = plan(**price).price
    assert found is not None
    return price_steps(found)


def test_every_kind_of_price_is_one_list_of_steps() -> None:
    assert steps(per_request="0.002 USD") == (Step(None, 2000),)
    assert steps(included=100, overage="1 USD") == (Step(100, 0), Step(None, 1_000_000))
    assert steps(included=5, per_request="1 USD") == (Step(5, 0), Step(None, 1_000_000))
    tiers = [{"up_to": 10, "price": "3 EUR"}, {"up_to": 20, "price": "2 EUR"}, {"price": "1 EUR"}]
    found = steps(tiers=tiers)
    assert found == (Step(10, 3_000_000), Step(20, 2_000_000), Step(None, 1_000_000))
    assert steps(flat="9 USD", period="year") == ()


def test_steps_of_the_same_price_are_one() -> None:
    tiers = [{"up_to": 10, "price": "2 USD"}, {"up_to": 20, "price": "2 USD"}, {"price": "1 USD"}]
    assert steps(tiers=tiers) == (Step(20, 2_000_000), Step(None, 1_000_000))


def test_the_flat_price_of_a_plan() -> None:
    assert flat_price(plan(flat="9 EUR", period="year"), "USD") == ("EUR", 9_000_000, "year")
    assert flat_price(plan(per_request="1 EUR"), "USD") == ("EUR", 0, "month")
    assert flat_price(plan(flat="0 USD"), "EUR") == ("USD", 0, "month")
    assert flat_price(decode({"name": "p"}, Plan), "USD") is None


def test_a_price_in_short_is_the_price_of_a_request() -> None:
    short = decode({"name": "p", "price": "0.01 USD"}, Plan)
    assert short == plan(per_request="0.01 USD")
    assert decode(encode(short), Plan) == short


@pytest.mark.parametrize(
    ("price", "words"),
    [
        ({"tiers": [{"up_to": 5, "price": "1 USD"}]}, "the last one is for all further requests"),
        (
            {"tiers": [{"price": "1 USD"}, {"up_to": 5, "price": "1 USD"}]},
            "only the last may be without up_to",
        ),
        (
            {"tiers": [{"up_to": 5, "price": "1 USD"}] * 2 + [{"price": "1 USD"}]},
            "up_to must increase",
        ),
        ({"tiers": [{"price": "1 USD"}], "per_request": "1 USD"}, "not together"),
        ({"tiers": [{"price": "1 USD"}], "included": 3}, "first tier free"),
        ({"per_request": "1 USD", "overage": "1 USD", "included": 2}, "means the same"),
        ({"overage": "1 USD"}, "beyond what"),
        ({"per_request": "1 USD", "flat": "1 EUR"}, "one currency"),
        ({"per_unit": [{"meter": "t", "price": "1 USD"}] * 2}, "one price"),
    ],
)
def test_prices_that_say_nothing_sensible_are_refused(price: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        plan(**price)


micros = st.integers(0, 5_000_000)
rates = st.builds(UnitRate, st.just("t"), micros, st.integers(1, 1_000_000), st.integers(0, 1000))


@given(rates, st.lists(st.integers(0, 5000), max_size=20))
def test_units_cost_the_same_however_they_are_split(rate: UnitRate, parts: list[int]) -> None:
    before = charged = 0
    for part in parts:
        price = units_price(rate, before, part)
        assert 0 <= price <= units_most(rate, part)
        charged += price
        before += part
    exact = max(before - rate.included, 0) * rate.micros / rate.per
    assert charged == units_total(rate, before)
    assert charged <= exact + 1e-3
    assert exact - charged < 1 + 1e-3


# ---- periods ----------------------------------------------------------------------------

zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia",
     "America/Havana", "Asia/Beirut", "America/Sao_Paulo", "Australia/Lord_Howe"]
).map(ZoneInfo)  # fmt: skip
moments = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)).map(
    lambda naive: naive.replace(tzinfo=UTC)
)
kinds = st.sampled_from(["day", "week", "month", "year"])


@given(moments, kinds, zones)
def test_a_moment_is_in_its_period_and_periods_touch(
    moment: datetime, kind: str, zone: ZoneInfo
) -> None:
    period = period_of(moment, kind, zone)  # type: ignore[arg-type]
    assert moment in period
    local = period.start.astimezone(zone)
    assert (local.date() == moment.astimezone(zone).date()) or kind != "day"
    following = next_period(period, kind, zone)  # type: ignore[arg-type]
    assert following.start == period.end
    assert following.end > following.start
    last = period.end - timedelta(microseconds=1)
    assert period_of(last, kind, zone) == period  # type: ignore[arg-type]


def test_periods_are_of_the_accounts_calendar() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moment = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)  # April in Berlin
    assert period_of(moment, "month", berlin) == (
        datetime(2026, 3, 31, 22, tzinfo=UTC),
        datetime(2026, 4, 30, 22, tzinfo=UTC),
    )
    assert period_of(moment, "month", ZoneInfo("UTC")).start == datetime(2026, 3, 1, tzinfo=UTC)
    day = period_of(datetime(2026, 3, 29, 12, tzinfo=UTC), "day", berlin)
    assert day.length == timedelta(hours=23)  # summer time began
    week = period_of(moment, "week", berlin)
    assert week.start.astimezone(berlin).weekday() == 0
    assert midnight(date(2026, 1, 1), berlin) == datetime(2025, 12, 31, 23, tzinfo=UTC)


# ---- proration --------------------------------------------------------------------------

fees = st.integers(0, 10**12)


@given(fees, moments, kinds, zones, st.lists(st.floats(0, 1), max_size=5))
def test_parts_add_up_to_the_fee(
    fee: int, moment: datetime, kind: str, zone: ZoneInfo, cuts: list[float]
) -> None:
    period = period_of(moment, kind, zone)  # type: ignore[arg-type]
    points = [period.start, *sorted(period.start + period.length * c for c in cuts), period.end]
    parts = [
        proration.used(fee, period, b) - proration.used(fee, period, a) for a, b in pairwise(points)
    ]
    assert sum(parts) == fee
    assert all(part >= 0 for part in parts)
    for point in points:
        assert proration.used(fee, period, point) + proration.unused(fee, period, point) == fee


def test_a_change_in_the_middle_costs_the_difference() -> None:
    period = Period(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
    middle = datetime(2026, 4, 16, tzinfo=UTC)
    found = proration.change(10_000_000, period, 30_000_000, period, middle)
    assert found == (5_000_000, 15_000_000)
    assert found.net == 10_000_000
    assert proration.change(10_000_000, period, 0, period, period.start).net == -10_000_000
    assert proration.used(7, period, period.start - timedelta(days=3)) == 0
    assert proration.used(7, period, period.end + timedelta(days=3)) == 7
