"""The price of a change of plan, and what is left of the old plan if the new one is never paid.

```
                    change                        given up
paid  ├─── used ──────┼─────── unused ───────────────┼───────────┤
new                   ├─ used, not paid: grace ──────┤
```

At a change, the unused part of what was paid is deducted from the price of the rest of the new
plan's period. The difference is invoiced, or credited to the wallet. The invoice of a change
records how much it has deducted, and from which invoices (`fees.draw`): this is **the value that it
carries**. When the invoice is paid, the value is used up. If the invoice is given up or its payment
returned, the value belongs to the customer again: the next change deducts it, and when the
subscription ends it is credited, less the time used on the new plan.

In the caller's transaction. Amounts are micro-units.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from fastgate.billing.amounts import coin
from fastgate.billing.invoices.cases import case_of
from fastgate.billing.invoices.invoices import (
    DocumentKind,
    Draft,
    Invoice,
    InvoiceLine,
    Invoices,
    Status,
)
from fastgate.billing.subscriptions import fees, proration
from fastgate.billing.subscriptions.lifecycle import Event, Subscription
from fastgate.billing.subscriptions.periods import Period, period_of
from fastgate.billing.subscriptions.pricing import Flat
from fastgate.billing.subscriptions.rows import plans_of
from fastgate.errors import ConflictError
from fastgate.store.billing_tables import invoice_draws, invoices, subscription_events
from fastgate.store.connection import AsyncConnection

Prices = Callable[[str], Flat | None]
"""A plan's flat fee by the plan's name; None: it no longer has a price."""


class FeeBalance(NamedTuple):
    """The balance of a subscription's fees."""

    unused: int
    """Paid for the plan and not used."""
    carried: int
    """Paid for plans before it, and carried by an invoice that was given up."""
    owed: int
    """Used and not paid."""
    paid_with: list[fees.Invoiced]
    """The invoices that it was paid with, the newest first."""
    currencies: set[str]
    """Of what was paid."""


async def standing(
    connection: AsyncConnection, found: Subscription, prices: Prices, now: datetime
) -> FeeBalance:
    """Of a subscription, its time on each plan at that plan's price; its open invoices have been
    given up."""
    period = found.current
    rows = await fees.invoices_for(connection, found.id, period.start, period.end)
    through = min(max(found.paid_through, period.start), period.end)
    if any(row.period_start == found.paid_through for row in rows):
        through = found.paid_through  # that invoice was charged back: it may be of a longer period
    served = min(now, found.grace_ends or now)  # time without access was not used
    # Paid for and not used; below zero, used and not paid.
    rest = await _cost(connection, found, prices, served, through)
    carried = 0
    for one in await _given_up(connection, found.id):
        if one.invoice.period_end > period.start:  # else it was used up long ago
            carried += one.amount
            known = {row.id for row in rows}
            rows += [row for row in one.of if row.id not in known]
    kept = await fees.kept_of(connection, rows)
    # What has gone back, in part, of an invoice that this time was paid with is not paid; what
    # has come back since the last change is.
    had = await _had(connection, found.id, rows, kept)
    short = sum(
        had[row.id] - kept[row.id].left
        for row in rows
        if row.id in had and row.period_end >= through and row.period_start < through
    )
    # Of time after an invoice that was charged back: later changes, which were paid.
    later = (row for row in rows if row.id in had and row.period_start >= through)
    rest += max(0, sum(kept[row.id].left for row in later) - carried)
    # No more than is still here of what was paid, and was not credited before.
    left = sum(kept[row.id].left for row in rows)
    unused = min(max(0, rest - short), left)
    return FeeBalance(
        unused=unused,
        carried=min(carried, left - unused),
        owed=max(0, -rest),
        paid_with=rows,
        currencies={row.currency for row in rows if kept[row.id].paid},
    )


async def _cost(
    connection: AsyncConnection,
    found: Subscription,
    prices: Prices,
    start: datetime,
    end: datetime,
) -> int:
    """What the time from `start` to `end` costs, on the plans that it was on; below zero when
    `end` is the earlier one."""
    if end < start:
        return -await _cost(connection, found, prices, end, start)
    query = sa.select(subscription_events.c.at, subscription_events.c.note).where(
        subscription_events.c.subscription == found.id,
        subscription_events.c.event == Event.PLAN_CHANGED.value,
        subscription_events.c.at > start,
    )
    cost = 0
    for at, note in await connection.execute(query.order_by(subscription_events.c.id)):
        cost += _fee(found, prices(plans_of(note)[0]), start, min(at, end))
        start = max(start, at)
    return cost + _fee(found, prices(found.plan), start, end)


def _fee(found: Subscription, price: Flat | None, start: datetime, end: datetime) -> int:
    """The parts of a plan's fee, period by period."""
    fee = 0
    while price is not None and price.micros and start < end:
        period = found.current
        if price.period != found.period or start not in period:
            period = period_of(start, price.period, ZoneInfo(found.zone))
        until = min(end, period.end)
        fee += proration.used(price.micros, period, until)
        fee -= proration.used(price.micros, period, start)
        start = until
    return fee


def lines_of(found: Subscription, plan: str, stands: FeeBalance, charge: int) -> list[InvoiceLine]:
    """The invoice lines of a change to another plan; `charge`: for the rest of its period. A
    negative sum is credited."""
    lines = (
        InvoiceLine(f"Unused time of {found.plan}", -stands.unused),
        InvoiceLine("Unused time of plans before it", -stands.carried),
        InvoiceLine(f"{found.plan} until the change", stands.owed),
        InvoiceLine(f"{plan} until the end of the period", charge),
    )
    return [line for line in lines if line.micros]


def refuse_currency(found: Subscription, stands: FeeBalance, old: Flat, new: Flat) -> None:
    """Nothing crosses currencies: there are no exchange rates. Raises ConflictError."""
    paid_in = {old.currency if old.micros else new.currency, *stands.currencies}
    others = sorted(paid_in - {new.currency})
    if others:
        raise ConflictError(
            f"The subscription is paid in {others[0]}, and the plan costs {new.currency}: paid "
            "amounts cannot be converted. Cancel it, and subscribe to the plan."
        )


async def _had(
    connection: AsyncConnection,
    subscription: str,
    rows: list[fees.Invoiced],
    kept: dict[str, fees.Kept],
) -> dict[str, int]:
    """What was left of paid invoices when the subscription was settled last; of those since then,
    what was paid. One that was given up and paid late is in the wallet, and pays for no time."""
    query = sa.select(invoice_draws).where(invoice_draws.c.document == subscription)
    settled = {one.invoice: one.amount for one in await connection.execute(query)}
    lates = await fees.paid_late(connection, rows)
    return {
        row.id: settled.get(row.id, row.total - kept[row.id].credited)
        for row in rows
        if row.status == Status.PAID.value and row.id not in lates
    }


async def settled(
    connection: AsyncConnection, subscription: str, rows: list[fees.Invoiced]
) -> None:
    """A change has taken all into account: note what is left of these invoices."""
    await connection.execute(
        sa.delete(invoice_draws).where(invoice_draws.c.document == subscription)
    )
    for ident, kept in (await fees.kept_of(connection, rows)).items():
        await connection.execute(
            sa.insert(invoice_draws).values(document=subscription, invoice=ident, amount=kept.left)
        )


class _Carried(NamedTuple):
    """What an invoice that was not paid after all has taken into account."""

    invoice: fees.Invoiced
    amount: int
    of: list[fees.Invoiced]


_UNPAID = (Status.VOID.value, Status.RETURNED.value)


async def _given_up(connection: AsyncConnection, subscription: str) -> list[_Carried]:
    query = (
        sa.select(invoices)
        .where(
            invoices.c.subscription == subscription,
            invoices.c.kind == DocumentKind.INVOICE.value,
            invoices.c.status.in_(_UNPAID),
            invoices.c.id.in_(sa.select(invoice_draws.c.document)),
        )
        .order_by(invoices.c.id)
    )
    found = []
    for row in (await connection.execute(query)).all():
        draws = (
            await connection.execute(
                sa.select(invoice_draws).where(invoice_draws.c.document == row.id)
            )
        ).all()
        older = sa.select(invoices).where(invoices.c.id.in_([one.invoice for one in draws]))
        of = (await connection.execute(older.order_by(invoices.c.id.desc()))).all()
        found.append(_Carried(row, sum(one.amount for one in draws), list(of)))
    return found


async def forget_carried(connection: AsyncConnection, where: sa.ColumnElement[bool]) -> None:
    """It is used up, or taken into account elsewhere. `where`: which invoices."""
    documents = sa.select(invoices.c.id).where(invoices.c.kind == DocumentKind.INVOICE.value, where)
    await connection.execute(
        sa.delete(invoice_draws).where(invoice_draws.c.document.in_(documents))
    )


def of_subscription(ident: str) -> sa.ColumnElement[bool]:
    """For `forget_carried`: all of a subscription."""
    return invoices.c.subscription == ident


async def give_back_rest(
    connection: AsyncConnection,
    issuer: Invoices,
    found: Subscription,
    stands: FeeBalance,
    invoice: Invoice,
) -> None:
    """A subscription ends since `invoice` goes back in full: what else was paid for it and is not
    used is credited. `stands`: how it stands then, the invoice still counting as paid."""
    await forget_carried(connection, invoices.c.id == invoice.id)  # it is a part of what is unused
    if not stands.unused:
        return
    text = f"Unused time of {found.plan}, which ends with {invoice.number}"
    lines = [InvoiceLine(text, stands.unused)]
    await _credit(connection, issuer, f"ended:{invoice.id}", invoice, lines, stands.paid_with)


async def give_back_carried(
    connection: AsyncConnection, issuer: Invoices, found: Subscription, now: datetime
) -> None:
    """The subscription has ended: what invoices carry that were never paid is credited, less the
    time that was used on their plan until access ended."""
    for one in await _given_up(connection, found.id):
        row = one.invoice
        case = await case_of(connection, row.id)
        ended = min(now, case.grace_ends) if case is not None else now
        whole = row.total + one.amount
        used = proration.used(whole, Period(row.period_start, row.period_end), ended)
        kept = await fees.kept_of(connection, one.of)
        left = sum(each.left for each in kept.values())
        amount = min(one.amount, left)
        if amount <= used:
            continue
        lines = [InvoiceLine(f"Unused time before {row.number}, which was not paid", amount)]
        if used:
            lines.append(InvoiceLine("Used since", -used))
        await _credit(connection, issuer, f"unpaid:{row.id}", row, lines, one.of)
    await forget_carried(connection, of_subscription(found.id))


async def _credit(
    connection: AsyncConnection,
    issuer: Invoices,
    key: str,
    invoice: Invoice | fees.Invoiced,
    lines: list[InvoiceLine],
    paid_with: list[fees.Invoiced],
) -> None:
    """A credit note for the time of a subscription's invoice, drawn on what that was paid with.
    Less than a coin is not credited."""
    if sum(line.micros for line in lines) < coin(invoice.currency):
        return
    draft = Draft(
        key=key,
        kind=DocumentKind.CREDIT,
        account=invoice.account,
        subscription=invoice.subscription,
        currency=invoice.currency,
        lines=lines,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
    )
    note = await issuer.issue_in(connection, draft)
    await fees.draw(connection, note.id, note.total, paid_with)
