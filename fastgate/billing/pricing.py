"""What requests and units cost: pure functions over whole micro-units.

A plan's price is compiled into one flat list of steps, which the data plane walks by the number
of the request in its period:

```
per_request: p            [(∞, p)]
included: n, overage: p   [(n, 0), (∞, p)]
tiers: a up to x, b …     [(x, a), …, (∞, b)]
```

The k-th request of a period, counted from 1, costs what the first step with `k <= up_to` says.
The cost of a run of requests is the sum of theirs, however it is split, and is computed in one
walk over the steps. How units are priced stands in `fastgate._core.meters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastgate._core.meters import UnitRate, units_total
from fastgate.model.billing import Period
from fastgate.model.party import Plan
from fastgate.model.units import Money
from fastgate.pricesteps import Step, price_steps, unit_rates

MOST = 2**63 - 1
"""The largest amount a wallet can hold, in micro-units."""


class PriceTable(NamedTuple):
    """A plan's price, ready to be evaluated."""

    currency: str
    steps: tuple[Step, ...]
    """Empty: requests cost what their route says."""
    units: tuple[UnitRate, ...]
    flat: int
    """Micro-units a period."""
    period: Period

    def unit(self, meter: str) -> UnitRate | None:
        """The rate of a meter; None: it costs nothing."""
        return next((rate for rate in self.units if rate.meter == meter), None)


class Line(NamedTuple):
    """One line of what a period cost."""

    text: str
    quantity: int
    micros: int
    """The amount of the whole line."""


def compile_price(plan: Plan, currency: str = "USD") -> PriceTable | None:
    """The table of a plan's price; None when the plan has none.

    `currency` is used where the price names no amount at all.
    """
    price = plan.price
    if price is None:
        return None
    return PriceTable(
        currency=price.currencies[0] if price.currencies else currency,
        steps=price_steps(price),
        units=unit_rates(price),
        flat=price.flat.micros if price.flat is not None else 0,
        period=price.period,
    )


def route_steps(price: Money | None) -> tuple[Step, ...]:
    """The steps of a route's own price."""
    return () if price is None else (Step(None, price.micros),)


def steps_for(route: Money | None, table: PriceTable | None) -> tuple[Step, ...]:
    """Which steps hold: the caller's plan's where it prices requests, else the route's."""
    return table.steps if table is not None and table.steps else route_steps(route)


# ---- requests ---------------------------------------------------------------------------


def request_price(steps: tuple[Step, ...], before: int) -> int:
    """The next request's price, when there were `before` in the period; 0 without steps."""
    for step in steps:
        if step.up_to is None or before < step.up_to:
            return step.micros
    return 0


def requests_price(steps: tuple[Step, ...], before: int, count: int) -> int:
    """What the next `count` requests cost together, when there were `before` in the period."""
    total, at, end = 0, before, before + count
    for step in steps:
        if at >= end:
            break
        last = end if step.up_to is None else min(step.up_to, end)
        if last > at:
            total += (last - at) * step.micros
            at = last
    return total


def affordable(steps: tuple[Step, ...], before: int, balance: int) -> int | None:
    """How many more requests a balance pays for; None: any number."""
    count, at = 0, before
    for step in steps:
        room = None if step.up_to is None else max(step.up_to - at, 0)
        if step.micros == 0:
            if room is None:
                return None
            count, at = count + room, at + room
            continue
        fits = balance // step.micros if balance > 0 else 0
        if room is None or fits < room:
            return count + fits
        count, at, balance = count + room, at + room, balance - room * step.micros
    return count


# ---- periods ----------------------------------------------------------------------------


def usage_lines(table: PriceTable, requests: int, units: Mapping[str, int]) -> list[Line]:
    """The lines of a period's usage; lines that cost nothing are left out."""
    lines = [
        Line(f"Requests at {_each(step, table)}", count, count * step.micros)
        for step, count in _by_step(table.steps, requests)
        if step.micros
    ]
    for rate in table.units:
        total = units_total(rate, units.get(rate.meter, 0))
        if total:
            lines.append(Line(f"Units of {rate.meter}", units[rate.meter], total))
    return lines


def _by_step(steps: tuple[Step, ...], requests: int) -> Iterable[tuple[Step, int]]:
    at = 0
    for step in steps:
        last = requests if step.up_to is None else min(step.up_to, requests)
        if last > at:
            yield step, last - at
            at = last


def _each(step: Step, table: PriceTable) -> str:
    return str(Money(step.micros, table.currency))
