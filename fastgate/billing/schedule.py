"""The scheduler of billing: runs what is due, in order, at each tick.

```
tick ─▶ subscriptions that are due    brought up to date: renewals, ends of trials, invoices
     ─▶ reminders, suspensions        notices written
     ─▶ cases                         charged, retried
     ─▶ credit notes                  credited to the wallet
     ─▶ recharges in progress         looked up
     ─▶ outbox                        sent
```

The store has everything that is due, with its time. `tick` may therefore be called as often or as
rarely as you like, by several gateways on one database, and after any outage. Usually nothing is
due, and a single query shows that. `next_at` is the time of the next work; a simulation jumps from
one such time to the next.

A failure for one subscription or invoice is logged and does not delay the others. A store that is
down (StoreError) ends the tick.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from fastgate.billing.auto_recharge import RECHARGE_DUE, AutoRecharges
from fastgate.billing.dunning.dunning import Dunning
from fastgate.billing.invoices.cases import CASE_DUE
from fastgate.billing.invoices.invoices import CREDIT_OPEN, Invoice
from fastgate.billing.notices.notices import Message
from fastgate.billing.notices.outbox import DELIVERY_DUE, Delivered, Outbox
from fastgate.billing.subscriptions.lifecycle import Subscription
from fastgate.billing.subscriptions.reminders import in_days, reminder_due
from fastgate.billing.subscriptions.rows import SUBSCRIPTION_DUE
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.model.units import Money
from fastgate.store.billing_tables import (
    auto_recharges,
    dunning_cases,
    outbox,
    subscriptions,
)

log = logging.getLogger("fastgate.billing")

_ANYTHING = sa.select(
    sa.or_(
        *(
            sa.exists().where(condition)
            for condition in (
                SUBSCRIPTION_DUE,
                CASE_DUE,
                CREDIT_OPEN,
                RECHARGE_DUE,
                DELIVERY_DUE,
            )
        )
    )
)

Credit = Callable[[str, Money, str, str], Awaitable[None]]
"""Credit a wallet: account, amount, id (repeating it does nothing), reason."""


class Tick(NamedTuple):
    """The work that a tick did."""

    subscriptions: int = 0
    cases: int = 0
    credits: int = 0
    recharges: int = 0
    notices: Delivered = Delivered(0, 0, 0)

    @property
    def idle(self) -> bool:
        """Nothing was due."""
        return not (self.subscriptions or self.cases or self.credits or self.recharges) and (
            self.notices == (0, 0, 0)
        )


class Schedule:
    """Runs what is due."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        dunning: Dunning,
        outbox: Outbox,
        credit: Credit,
        recharges: AutoRecharges | None = None,
    ) -> None:
        self.subscriptions = subscriptions
        self.notices = subscriptions.notices
        self.invoices = subscriptions.invoices
        self.store = subscriptions.store
        self.clock = subscriptions.clock
        self.dunning = dunning
        self.outbox = outbox
        self.credit = credit
        self.recharges = recharges

    async def tick(self) -> Tick:
        """Do what is due now. Raises StoreError."""
        if not await self._anything():
            return Tick()
        moved = 0
        for ident in await self.subscriptions.due():
            moved += await self._subscription(ident)
        cases = await self.dunning.run()
        credited = 0
        for note in await self.invoices.open_credits():
            credited += await self._credit(note)
        recharged = await self.recharges.run() if self.recharges is not None else 0
        return Tick(moved, cases, credited, recharged, await self.outbox.deliver())

    async def _anything(self) -> bool:
        now = self.clock()
        return bool(
            await self.store.run_read(lambda connection: connection.scalar(_ANYTHING, {"now": now}))
        )

    async def _subscription(self, ident: str) -> bool:
        try:
            found = await self.subscriptions.get(ident)
            await self._remind(found)
            await self.dunning.notify_suspended(found)
            await self.subscriptions.advance(ident)
        except (ConflictError, NotFoundError) as error:
            log.warning("The subscription %s was changed in the meantime: %s", ident, error)
            return False
        except StoreError:
            raise
        except Exception:
            log.exception("The subscription %s could not be brought up to date.", ident)
            return False
        return True

    async def _remind(self, found: Subscription) -> None:
        now = self.clock()
        reminder = reminder_due(found, self.notices.billing.notices.renewal_days, now)
        if reminder is None:
            return
        fee = self.subscriptions.fee(found.plan)
        if not fee and reminder.kind == "subscription.renewing":
            return
        ends = reminder.ends.isoformat()
        await self.notices.put(
            Message(
                kind=reminder.kind,
                account=found.account,
                key=f"reminder:{found.id}:{ends}:{reminder.days}",
                data={
                    "subject": found.plan,
                    "when": in_days(reminder.days),
                    "days": str(reminder.days),
                    "date": self.subscriptions.day(reminder.ends, found.zone),
                    "amount": fee or "Nothing",
                },
            )
        )

    async def _credit(self, note: Invoice) -> bool:
        try:
            await self.credit(note.account, note.amount, f"credit:{note.id}", note.number)
        except StoreError:
            raise
        except Exception:
            log.exception("The credit note %s could not be credited.", note.number)
            return False
        await self.invoices.mark_paid(note.id, "")
        return True

    async def next_at(self) -> datetime | None:
        """When something is due next; in the past if it is already due; None: never."""
        moments: list[datetime] = []
        async with self.store.read() as connection:
            for table in (subscriptions, dunning_cases, auto_recharges, outbox):
                query = sa.select(sa.func.min(table.c.next_at))
                if table is outbox:
                    query = query.where(table.c.state == "pending")
                elif table is auto_recharges:
                    query = query.where(table.c.pending > 0)
                moment = await connection.scalar(query)
                if moment is not None:
                    moments.append(moment)
        return min(moments, default=None)
