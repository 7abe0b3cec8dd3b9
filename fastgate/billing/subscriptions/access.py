"""The effect of a subscription on the data plane: access, or the reason of the refusal."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from fastgate.billing.invoices.cases import was_declined
from fastgate.billing.subscriptions.lifecycle import Subscription, access_of
from fastgate.errors import REASON_BY_CODE, Reason
from fastgate.store.engine import Store


class Entry(NamedTuple):
    """What a subscription means for the data plane."""

    subscription: str
    plan: str
    service: str | None
    """None: any."""
    reason: Reason | None
    """Why its requests are refused; None: they are not."""
    until: datetime | None
    """When this may change with time alone; None: never."""
    ended: datetime | None = None
    """Since when they are refused, where there was access before."""


async def refusal_of(store: Store, one: Subscription, now: datetime) -> Reason | None:
    """As `access_of`; a first payment that was declined does not wait for a confirmation."""
    reason = access_of(one, now)
    if reason is None or reason.code != "payment_action_required":
        return reason
    async with store.read() as connection:
        declined = await was_declined(connection, one.id)
    return REASON_BY_CODE["payment_failed"] if declined else reason
