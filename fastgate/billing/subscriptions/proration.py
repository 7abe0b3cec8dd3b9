"""Parts of a fee for parts of a period, in whole micro-units.

Time is counted in microseconds and money rounded down to the micro-unit, in such a way that what
was used and what is left always add up to the fee: splitting a period, however often, neither
makes nor loses money.

```
fee          ├───────── used ─────────┼──────────── unused ───────────┤
period       start                    at                            end
```
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from fastgate.billing.subscriptions.periods import Period

_TICK = timedelta(microseconds=1)


def used(fee: int, period: Period, at: datetime) -> int:
    """The part of the fee for the time from the period's start to `at`; 0 to `fee`."""
    total = period.length // _TICK
    if total <= 0:
        return fee
    passed = min(max((at - period.start) // _TICK, 0), total)
    return fee * passed // total


def unused(fee: int, period: Period, at: datetime) -> int:
    """The rest: `used` and `unused` are the fee."""
    return fee - used(fee, period, at)


class PlanChange(NamedTuple):
    """The amounts of a change of plan, in micro-units."""

    credit: int
    """What was paid for and is not used."""
    charge: int
    """What the new plan costs until its period ends."""

    @property
    def net(self) -> int:
        """To pay (positive) or to give back (negative)."""
        return self.charge - self.credit


def change(paid: int, old: Period, fee: int, new: Period, at: datetime) -> PlanChange:
    """From a plan of which `paid` was paid for `old`, to one that costs `fee` for all of `new`."""
    return PlanChange(unused(paid, old, at), unused(fee, new, at))
