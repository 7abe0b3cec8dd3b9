"""Simulation: the real code on a clock of its own; the timeline is what would happen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastgate.billing.simulate import Action, Scenario, ScenarioEvent, simulate
from fastgate.billing.subscriptions.lifecycle import IllegalTransition
from fastgate.model.billing import Billing
from fastgate.model.codec import decode
from fastgate.model.party import Plan

BEGIN = datetime(2026, 11, 1, 10, tzinfo=UTC)


def plan(name: str = "pro", **price: Any) -> Plan:
    return decode({"name": name, "price": price}, Plan)


def rows(timeline: list[ScenarioEvent], *kinds: str) -> list[tuple[str, str]]:
    return [(one.at.strftime("%m-%d"), one.what) for one in timeline if one.kind in kinds]


async def test_a_failing_card_from_the_first_decline_to_the_end() -> None:
    scenario = Scenario(
        plans=[plan(flat="30 USD")],
        begins=BEGIN,
        days=70,
        outcomes=["ok", "later"],
        billing=decode({"grace": {"payment": "5d", "unpaid": "20d"}}, Billing),
    )
    timeline = await simulate(scenario)
    assert [one.at for one in timeline] == sorted(one.at for one in timeline)
    assert rows(timeline, "charge") == [
        ("11-01", "ok"),
        *((day, "later") for day in ("12-01", "12-02", "12-04", "12-08", "12-15")),
    ]
    assert rows(timeline, "access") == [
        ("11-01", ""),
        ("12-06", "payment_failed"),
        ("12-15", "subscription_past_due"),
        ("12-26", "subscription_expired"),
    ]
    notices = [what for _, what in rows(timeline, "notice")]
    assert notices.count("subscription.renewing") == 4
    assert notices[-2:] == ["subscription.grace", "subscription.expired"]
    assert {one.at.hour for one in timeline if one.what == "subscription.renewing"} == {9}


async def test_a_new_method_brings_it_back() -> None:
    scenario = Scenario(
        plans=[plan(flat="30 USD")],
        begins=BEGIN,
        days=45,
        outcomes=["ok", "new_method", "down", "pending", "ok"],
        actions=[Action(after=timedelta(days=40), what="attach_method")],
    )
    timeline = await simulate(scenario)
    assert rows(timeline, "access") == [
        ("11-01", ""),
        ("12-08", "payment_failed"),
        ("12-11", ""),
    ]
    assert [what for _, what in rows(timeline, "charge")] == list(scenario.outcomes)


async def test_people_change_their_minds() -> None:
    scenario = Scenario(
        plans=[plan(flat="30 USD", trial="7d"), plan("big", flat="90 USD")],
        begins=BEGIN,
        has_method=False,
        days=40,
        actions=[
            Action(after=timedelta(days=10), what="attach_method"),
            Action(after=timedelta(days=12), what="change_plan", plan="big"),
            Action(after=timedelta(days=13), what="change_plan", plan="pro"),
            Action(after=timedelta(days=14), what="cancel_at_end"),
            Action(after=timedelta(days=15), what="keep"),
            Action(after=timedelta(days=16), what="cancel"),
        ],
    )
    timeline = await simulate(scenario)
    assert rows(timeline, "access") == [
        ("11-01", ""),
        ("11-08", "payment_method_missing"),
        ("11-11", ""),
        ("12-01", "subscription_expired"),
    ]
    assert len(rows(timeline, "credit")) == 1
    assert [what for _, what in rows(timeline, "action")] == [a.what for a in scenario.actions]


async def test_what_is_not_possible_raises_here_too() -> None:
    scenario = Scenario(
        plans=[plan(flat="30 USD")],
        begins=BEGIN,
        actions=[Action(after=timedelta(days=1), what=what) for what in ("cancel", "keep")],
    )
    with pytest.raises(IllegalTransition):
        await simulate(scenario)


async def test_the_same_scenario_is_the_same_timeline() -> None:
    scenario = Scenario(plans=[plan(flat="9 EUR", period="week")], begins=BEGIN, days=30)
    assert await simulate(scenario) == await simulate(scenario)
