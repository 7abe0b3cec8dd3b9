"""meters: what units of a meter cost, and the tariff by which workers charge for them.

A unit's price may be finer than money (3 USD for a million tokens), so units are priced by their
*total* in the period, rounded down, and a charge is the difference of two totals:

    total(u) = max(u - included, 0) * price // per
    charge   = total(before + units) - total(before)

However usage is split into charges, they add up to the same amount. `units_most` is an upper bound
of a charge for that many units, wherever in the period they fall: this is what is held.

A snapshot carries the tariff of all plans as the first entry of its handlers:

    fastgate._core.snapshot.meters:Tariff {"meters": ["tokens"], "plans": {"2": {"plan": "pro",
        "currency": "USD", "period": 4, "rates": [["tokens", 3000000, 1000000, 0]]}}}

so that prices are swapped together with the plans they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from fastgate._core.snapshot.snapshot import stable_hash

AMOUNT = "amount"
"""The meter for an amount that a handler charges besides a request's price (`Exchange.hold`)."""

TARIFF = "fastgate._core.snapshot.meters:Tariff"
"""The prefix of the entry in a snapshot's handlers that is the tariff, not a handler."""


class UnitRate(NamedTuple):
    """The price of a meter: `micros` for `per` units, after `included` free ones."""

    meter: str
    micros: int
    per: int
    included: int


def units_total(rate: UnitRate, units: int) -> int:
    """The total cost of `units` in a period, rounded down to the micro-unit."""
    return max(units - rate.included, 0) * rate.micros // rate.per


def units_price(rate: UnitRate, before: int, units: int) -> int:
    """The cost of `units` more, after `before` were used in the period."""
    return units_total(rate, before + units) - units_total(rate, before)


def units_most(rate: UnitRate, units: int) -> int:
    """The most that up to `units` can cost, wherever in a period they fall: the amount to hold."""
    return -(-units * rate.micros // rate.per)


class MeterPrice(NamedTuple):
    """A plan's price for a meter, as a worker needs it."""

    rate: UnitRate
    currency: str
    period: int
    """`Period`, UTC."""
    counted_under: int
    """Hash that the units of the period are counted under, together with the payer."""


class PlanRates(NamedTuple):
    """The rates of one plan, as the compiler passes them."""

    slot: int
    plan: str
    currency: str
    period: int
    rates: tuple[UnitRate, ...]


def tariff_text(plans: Iterable[PlanRates]) -> str:
    """The entry with these plans' rates for a snapshot's handlers."""
    found = list(plans)
    document = {
        "meters": sorted({rate.meter for plan in found for rate in plan.rates}),
        "plans": {
            str(plan.slot): {
                "plan": plan.plan,
                "currency": plan.currency,
                "period": plan.period,
                "rates": plan.rates,
            }
            for plan in found
        },
    }
    return f"{TARIFF} {json.dumps(document, separators=(',', ':'))}"


class Tariff:
    """The prices of meters on all plans. Parses the text of `tariff_text`; raises ValueError."""

    def __init__(self, text: str) -> None:
        document = json.loads(text)
        self.meters: dict[str, int] = {name: stable_hash(name) for name in document["meters"]}
        """Every meter that some plan prices, with the identity in its usage records."""
        self._prices: dict[tuple[int, str], MeterPrice] = {}
        for slot, plan in document["plans"].items():
            for rate in (UnitRate(*each) for each in plan["rates"]):
                self._prices[int(slot), rate.meter] = MeterPrice(
                    rate,
                    plan["currency"],
                    plan["period"],
                    counted_under(plan["plan"], rate.meter),
                )

    def price(self, plan: int, meter: str) -> MeterPrice | None:
        """A plan's price (by slot) for a meter; None: the plan does not price it."""
        return self._prices.get((plan, meter))


def counted_under(plan: str, meter: str) -> int:
    """The hash that a meter's units at a plan's price are counted under, with the payer."""
    return stable_hash(f"units of {meter} at the price of plan {plan}")
