"""A price as a list of steps: what both the data plane and the bills walk.

```
per_request: p            [(∞, p)]
included: n, overage: p   [(n, 0), (∞, p)]
tiers: a up to x, b …     [(x, a), …, (∞, b)]
```

The k-th request of a period, counted from 1, costs what the first step with `k <= up_to` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fastgate.model.billing import Price


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
            return ()
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
