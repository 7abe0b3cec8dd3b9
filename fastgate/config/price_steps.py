"""A plan's price as the data plane and the bills use it: steps of requests, rates of units.

```
per_request: p            [(∞, p)]
included: n, overage: p   [(n, 0), (∞, p)]
included: n               [(∞, 0)]              a quota refuses the others
tiers: a up to x, b …     [(x, a), …, (∞, b)]
```

The k-th request of a period, counted from 1, costs what the first step with `k <= up_to` says.
Units of meters: `fastgate._core.snapshot.meters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastgate._core.snapshot.meters import PlanRates, UnitRate, tariff_text
from fastgate.model.billing import Price
from fastgate.model.party import Plan


class Step(NamedTuple):
    """One step of a price list."""

    up_to: int | None
    """The last request of the period that has this price; None: all that follow."""
    micros: int


def price_steps(price: Price) -> tuple[Step, ...]:
    """The steps of a plan's price of requests; empty when it has none."""
    if price.tiers:
        steps = [Step(tier.up_to, tier.price.micros) for tier in price.tiers]
    else:
        each = price.per_request if price.per_request is not None else price.overage
        if each is None:
            # What follows the included ones is refused by a quota of the plan.
            return (Step(None, 0),) if price.open_ended else ()
        steps = [Step(None, each.micros)]
        if price.included:
            steps.insert(0, Step(price.included, 0))
    return _merged(steps)


def _merged(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Without steps that cost the same as the one after them."""
    kept: list[Step] = []
    for step in steps:
        if kept and kept[-1].micros == step.micros:
            kept.pop()
        kept.append(step)
    return tuple(kept)


def unit_rates(price: Price) -> tuple[UnitRate, ...]:
    """The prices of a plan's meters."""
    return tuple(
        UnitRate(unit.meter, unit.price.micros, unit.per, unit.included) for unit in price.per_unit
    )


def tariff(
    plans: Iterable[Plan], slots: Mapping[str, int], periods: Mapping[str, int]
) -> str | None:
    """The prices of meters, as workers get them; None: no plan has any.

    `slots`: of plans, by name; `periods`: numbers of `Period`, by name.
    """
    found = [
        PlanRates(
            slots[plan.name],
            plan.name,
            plan.price.currencies[0],
            int(periods[plan.price.period]),
            unit_rates(plan.price),
        )
        for plan in plans
        if plan.price is not None and plan.price.per_unit
    ]
    return tariff_text(found) if found else None
