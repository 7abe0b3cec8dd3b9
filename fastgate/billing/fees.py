"""What was really paid for subscriptions: payments of invoices, less what came back of them, less
what credit notes have given to the wallet.

Whether an invoice *was* paid, its status says; whether the money is still here, only payments and
returns do. What is credited or refunded is never more than what is still here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from fastgate.store.billing_tables import invoices
from fastgate.store.payment_tables import payment_returns, payments

INVOICE, CREDIT = "invoice", "credit"  # kinds of documents
GONE = ("returned", "contested")
"""States of a return whose money is not here."""


class Kept(NamedTuple):
    """Micro-units, of one currency."""

    paid: int
    returned: int
    """Refunded or contested."""
    credited: int
    """Given to the wallet by credit notes."""

    @property
    def left(self) -> int:
        return max(0, self.paid - self.returned - self.credited)


def late_key(invoice: str) -> str:
    """The key of the credit note for a payment of an invoice that was given up."""
    return f"late:{invoice}"


def twice_key(provider: str, reference: str) -> str:
    """The key of the credit note for a payment of an invoice that was paid already."""
    return f"twice:{provider}:{reference}"[:200]


def _of_payment(provider: str, reference: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        payment_returns.c.provider == provider,
        payment_returns.c.payment == reference,
        payment_returns.c.state.in_(GONE),
    )


async def returned_of(connection: AsyncConnection, provider: str, reference: str) -> int:
    """How much of a payment is not here any more."""
    amount = await connection.scalar(
        sa.select(sa.func.sum(payment_returns.c.amount)).where(*_of_payment(provider, reference))
    )
    return int(amount or 0)


async def gone(connection: AsyncConnection, provider: str, reference: str) -> bool:
    """Whether nothing of a payment is here any more."""
    amount = await connection.scalar(
        sa.select(payments.c.amount).filter_by(provider=provider, reference=reference)
    )
    return amount is not None and await returned_of(connection, provider, reference) >= amount


async def is_payment(connection: AsyncConnection, provider: str, reference: str) -> bool:
    """Whether the payment was noted as one."""
    query = sa.select(payments.c.amount).filter_by(provider=provider, reference=reference)
    return await connection.scalar(query) is not None


async def payment_here(connection: AsyncConnection, invoice: str) -> tuple[str, str]:
    """Provider and reference of a payment of the invoice that is here."""
    query = sa.select(payments).filter_by(purpose=INVOICE, subject=invoice)
    found = ("", "")
    for row in (await connection.execute(query.order_by(payments.c.paid_at))).all():
        if not await gone(connection, row.provider, row.reference):
            found = (row.provider, row.reference)
    return found


async def charged_back(connection: AsyncConnection, invoice: str) -> bool:
    """Whether the bank took something of what was paid for the invoice."""
    query = (
        sa.select(payment_returns.c.reference)
        .join(
            payments,
            sa.and_(
                payment_returns.c.provider == payments.c.provider,
                payment_returns.c.payment == payments.c.reference,
            ),
        )
        .where(
            payments.c.purpose == INVOICE,
            payments.c.subject == invoice,
            payment_returns.c.kind == "dispute",
            payment_returns.c.state.in_(GONE),
        )
    )
    return (await connection.execute(query.limit(1))).first() is not None


async def kept_of(connection: AsyncConnection, rows: Iterable[sa.Row[Any]]) -> dict[str, Kept]:
    """By invoice, for rows of `invoices`. One that was paid before payments were noted for it
    counts with its total."""
    found = {row.id: (row.total if row.status == "paid" else 0, 0) for row in rows}
    if not found:
        return {}
    mine = (
        payments.c.purpose == INVOICE,
        payments.c.subject.in_(list(found)),
        payments.c.currency == invoices.c.currency,
    )
    paid = await connection.execute(
        sa.select(payments.c.subject, sa.func.sum(payments.c.amount))
        .join(invoices, invoices.c.id == payments.c.subject)
        .where(*mine)
        .group_by(payments.c.subject)
    )
    sums = {subject: int(amount) for subject, amount in paid}
    back = await connection.execute(
        sa.select(payments.c.subject, sa.func.sum(payment_returns.c.amount))
        .join(invoices, invoices.c.id == payments.c.subject)
        .join(
            payment_returns,
            sa.and_(
                payment_returns.c.provider == payments.c.provider,
                payment_returns.c.payment == payments.c.reference,
            ),
        )
        .where(*mine, payment_returns.c.state.in_(GONE))
        .group_by(payments.c.subject)
    )
    gone = {subject: int(amount) for subject, amount in back}
    return {
        ident: Kept(sums.get(ident, total), gone.get(ident, 0), 0)
        for ident, (total, _) in found.items()
    }


async def kept_for(
    connection: AsyncConnection, subscription: str, start: datetime, end: datetime
) -> tuple[Kept, set[str]]:
    """What was paid for a subscription's time between two moments and is still here; and the
    currencies of that."""
    rows = (
        await connection.execute(
            sa.select(invoices).where(
                invoices.c.subscription == subscription,
                invoices.c.kind == INVOICE,
                invoices.c.period_start < end,
                invoices.c.period_end > start,
            )
        )
    ).all()
    each = await kept_of(connection, rows)
    credited = await connection.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(invoices.c.total), 0)).where(
            invoices.c.subscription == subscription,
            invoices.c.kind == CREDIT,
            invoices.c.period_start >= start,
            invoices.c.period_start < end,
        )
    )
    paid = [one for one in each.values() if one.paid]
    currencies = {row.currency for row in rows if each[row.id].paid}
    kept = Kept(
        sum(one.paid for one in paid), sum(one.returned for one in paid), int(credited or 0)
    )
    return kept, currencies


async def refundable(
    connection: AsyncConnection, provider: str, reference: str, invoice: str
) -> int | None:
    """The most of a payment of an invoice that may go back, as far as credit notes have not given
    it to the wallet; None: they say nothing of it."""
    row = (
        await connection.execute(sa.select(invoices).where(invoices.c.id == invoice))
    ).one_or_none()
    if row is None:
        return None
    noted = await connection.scalar(
        sa.select(sa.func.sum(invoices.c.total)).where(
            invoices.c.key.in_([late_key(invoice), twice_key(provider, reference)])
        )
    )
    if noted:
        kept = (await kept_of(connection, [row]))[invoice]
        return max(0, kept.paid - kept.returned - int(noted))
    if row.subscription is None or row.period_start is None or row.period_end is None:
        return None
    kept, _ = await kept_for(connection, row.subscription, row.period_start, row.period_end)
    return kept.left if kept.credited else None
