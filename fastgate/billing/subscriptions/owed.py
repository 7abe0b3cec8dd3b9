"""What subscriptions owe: plans and their prices, invoices for the unpaid part of a period, and
giving invoices up.

`subscriptions` (the rules) builds on this, and this on the rows. In the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from fastgate.billing.amounts import show, whole_coins
from fastgate.billing.invoices.cases import close_cases, open_case, wake_cases_of
from fastgate.billing.invoices.invoices import DocumentKind, Draft, InvoiceLine, Invoices, Status
from fastgate.billing.notices.notices import Notices
from fastgate.billing.subscriptions import plan_change, proration
from fastgate.billing.subscriptions.lifecycle import Subscription
from fastgate.billing.subscriptions.periods import Period
from fastgate.billing.subscriptions.pricing import Flat, flat_price
from fastgate.billing.subscriptions.rows import SubscriptionRows
from fastgate.errors import NotFoundError
from fastgate.model.billing import Billing
from fastgate.model.party import Plan
from fastgate.model.units import Duration
from fastgate.store.billing_tables import invoices as invoice_table
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store

Plans = Callable[[str], Plan | None]
"""The plan with this name in the current configuration; None: there is none."""


def seconds(duration: Duration) -> timedelta:
    """A configured duration, to the microsecond."""
    return timedelta(microseconds=duration.ns // 1000)


def fee_due(price: Flat, period: Period, start: datetime) -> int:
    """The fee for the rest of a period, in micro-units; 0 also if it is less than the smallest
    coin: nobody can pay that."""
    fee = proration.unused(price.micros, period, start)
    return fee if whole_coins(fee, price.currency) else 0


class SubscriptionFees(SubscriptionRows):
    """Methods may raise StoreError."""

    def __init__(
        self, store: Store, billing: Billing, plans: Plans, invoices: Invoices, notices: Notices
    ) -> None:
        super().__init__(store, notices.clock, billing)
        self.plans = plans
        self.invoices = invoices
        self.notices = notices

    # ---- invoices -----------------------------------------------------------------------

    async def _owe(
        self, connection: AsyncConnection, found: Subscription, since: datetime
    ) -> Subscription:
        """Invoice the unpaid part of the period, but no time before `since`. A fee of less than a
        coin counts as paid. Time that an open invoice already covers is not invoiced again."""
        if found.provider is not None:
            return found
        price = self._price_or_none(found.plan)
        start = min(max(found.paid_through, found.period_start, since), found.period_end)
        if price is None or not fee_due(price, found.current, start):
            through = max(found.paid_through, found.period_end)
            return await self.save(connection, msgspec.structs.replace(found, paid_through=through))
        if await self._asked_for(connection, found, start):
            return found
        found = msgspec.structs.replace(found, paid_through=start)
        await self._bill(connection, found, price, since)
        return found

    @staticmethod
    async def _asked_for(
        connection: AsyncConnection, found: Subscription, moment: datetime
    ) -> bool:
        """Whether an open invoice covers the time from this moment on."""
        query = sa.select(invoice_table.c.id).where(
            invoice_table.c.subscription == found.id,
            invoice_table.c.kind == DocumentKind.INVOICE.value,
            invoice_table.c.status == Status.OPEN.value,
            invoice_table.c.period_end > moment,
        )
        return await connection.scalar(query.limit(1)) is not None

    async def _bill(
        self, connection: AsyncConnection, found: Subscription, price: Flat, at: datetime
    ) -> bool:
        """Invoice the fee for the rest of the period after the date paid through. False: there is
        none."""
        start, period = found.paid_through, found.current
        fee = fee_due(price, period, start)
        if not fee:
            return False
        part = "" if start == period.start else " (in part)"
        draft = Draft(
            key=f"fee:{found.id}:{start.isoformat()}",
            account=found.account,
            subscription=found.id,
            currency=price.currency,
            lines=[InvoiceLine(f"{found.plan}, one {found.period}{part}", fee)],
            period_start=start,
            period_end=period.end,
        )
        invoice = await self.invoices.issue_in(connection, draft)
        await open_case(connection, invoice, at + self.grace_of(found.plan), self.clock())
        return True

    async def _resumed(
        self, connection: AsyncConnection, found: Subscription, at: datetime
    ) -> Subscription:
        """The time of the pause is not billed. An invoice from before the pause is charged again;
        otherwise its time would be served for free."""
        await wake_cases_of(connection, found.id, at + self.grace_of(found.plan), at)
        return await self._owe(connection, found, at)

    async def _give_up_invoices(
        self, connection: AsyncConnection, found: Subscription, now: datetime
    ) -> None:
        """The subscription has ended: nothing more is owed, and the value carried by unpaid
        invoices is credited."""
        await self._void_invoices(connection, found, now)
        await plan_change.give_back_carried(connection, self.invoices, found, now)

    async def _void_invoices(
        self, connection: AsyncConnection, found: Subscription, now: datetime
    ) -> None:
        ids = await close_cases(connection, found.id, now)
        if ids:
            await connection.execute(
                sa.update(invoice_table)
                .where(invoice_table.c.id.in_(ids), invoice_table.c.status == Status.OPEN.value)
                .values(status=Status.VOID.value)
            )

    # ---- plans --------------------------------------------------------------------------

    def _plan(self, name: str) -> Plan:
        plan = self.plans(name)
        if plan is None:
            raise NotFoundError(f"There is no plan {name!r}.")
        return plan

    def _price_or_none(self, name: str) -> Flat | None:
        """The price; None also if the plan no longer exists: a plan without a price is not
        billed."""
        plan = self.plans(name)
        return flat_price(plan, self.billing.currency) if plan is not None else None

    def _price(self, name: str) -> Flat:
        self._plan(name)
        return self._price_or_none(name) or Flat(self.billing.currency, 0, "month")

    def grace_of(self, name: str) -> timedelta:
        """How long access continues after a payment for the plan failed."""
        plan = self.plans(name)
        price = plan.price if plan is not None else None
        own = price.grace if price is not None else None
        return seconds(own if own is not None else self.billing.grace.payment)

    def fee_currency(self, name: str) -> str | None:
        """The currency of the plan's flat fee; None: it has none."""
        price = self._price_or_none(name)
        return price.currency if price is not None and price.micros else None

    def fee(self, name: str) -> str:
        """The plan's flat fee as text; empty: it has none."""
        price = self._price_or_none(name)
        return show(price.micros, price.currency) if price is not None and price.micros else ""

    @staticmethod
    def day(moment: datetime, zone: str) -> str:
        """A date as text, in the account's time zone."""
        return moment.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d")
