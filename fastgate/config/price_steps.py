"""A plan's price, for the data plane and for bills: steps of requests, rates of units.

```
per_request: p            [(∞, p)]
included: n, overage: p   [(n, 0), (∞, p)]
included: n               [(∞, 0)]              a quota refuses further requests
tiers: a up to x, b …     [(x, a), …, (∞, b)]
```

The k-th request of a period, counted from 1, has the price of the first step with `k <= up_to`.
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
    """The last request of the period with this price; None: all further requests."""
    micros: int


def price_steps(price: Price) -> tuple[Step, ...]:
    """The steps of a plan's price for requests; empty if it has none."""
    if price.tiers:
        steps = [Step(tier.up_to, tier.price.micros) for tier in price.tiers]
    else:
        each = price.per_request if price.per_request is not None else price.overage
        if each is None:
            # Further requests are refused by a quota of the plan.
            return (Step(None, 0),) if price.open_ended else ()
        steps = [Step(None, each.micros)]
        if price.included:
            steps.insert(0, Step(price.included, 0))
    return _merged(steps)


def _merged(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps without those that cost the same as the next one."""
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
    """The prices of meters, in the form for workers; None: no plan has any.

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
