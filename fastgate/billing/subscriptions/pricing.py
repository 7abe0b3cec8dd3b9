"""The price of a plan per period, independent of usage.

How requests are priced is in `fastgate.config.price_steps`, how units are in
`fastgate._core.snapshot.meters`.
"""

from __future__ import annotations

from typing import NamedTuple

from fastgate.model.billing import Period
from fastgate.model.party import Plan


class Flat(NamedTuple):
    """A plan's flat price."""

    currency: str
    micros: int
    """A period's; 0: none."""
    period: Period


def flat_price(plan: Plan, currency: str) -> Flat | None:
    """The flat price of a plan; None when the plan has no price at all.

    `currency` is used where the price names no amount.
    """
    price = plan.price
    if price is None:
        return None
    return Flat(
        currency=price.currencies[0] if price.currencies else currency,
        micros=price.flat.micros if price.flat is not None else 0,
        period=price.period,
    )
