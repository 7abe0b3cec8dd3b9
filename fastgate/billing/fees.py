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
    each = await _needed_for(connection, rows)
    drawn = await drawn_of(connection, subscription)
    here = [one for row in rows for one in each[row.id]]
    paid = sum(one.amount for one in here if not one.back)
    returned = -sum(one.amount for one in here if one.back)
    credited = sum(drawn.get(row.id, 0) for row in rows)
    return Kept(paid, returned, credited), {row.currency for row in rows if each[row.id]}


async def refundable(
    connection: AsyncConnection, provider: str, reference: str, invoice: str
) -> int | None:
    """The most of a payment of an invoice that may go back, as far as credit notes have not given
    it to the wallet; None: there is no such invoice.

    A payment that its invoice did not need has a credit note of its own; the others of the
    invoice answer together for the rest.
    """
    row = (
        await connection.execute(sa.select(invoices).where(invoices.c.id == invoice))
    ).one_or_none()
    if row is None:
        return None
    takings = (await _takings(connection, [row]))[invoice]
    mine = (provider, reference)
    own = await _noted(connection, [twice_key(provider, reference)])
    if own:
        here = sum(one.amount for one in takings if one.payment == mine)
        return max(0, here - own)
    drawn = 0
    if row.subscription is not None:
        drawn = (await drawn_of(connection, row.subscription)).get(invoice, 0)
    rest = (await _needed_for(connection, [row]))[invoice]
    return max(0, sum(one.amount for one in rest) - drawn)


async def drawn_of(connection: AsyncConnection, subscription: str) -> dict[str, int]:
    """What changes of plan have credited, by the invoice it was paid with.

    A credit note draws on what was paid and still here when it was issued: on the newest invoice
    first, since what is not used of an older plan went into the newer one.
    """
    rows = (
        await connection.execute(
            sa.select(invoices)
            .where(invoices.c.subscription == subscription, invoices.c.period_start.is_not(None))
            .order_by(invoices.c.issued, invoices.c.id)
        )
    ).all()
    takings = await _needed_for(connection, [row for row in rows if row.kind == INVOICE])
    drawn: dict[str, int] = {}
    for number, note in enumerate(rows):
        rest = note.total if note.kind == CREDIT else 0
        for older in reversed(rows[:number]):
            if not rest:
                break
            here = sum(
                one.amount
                for one in takings.get(older.id, ())
                if one.amount > 0 or one.at <= note.issued
            )
            part = min(rest, max(0, here - drawn.get(older.id, 0)))
            drawn[older.id] = drawn.get(older.id, 0) + part
            rest -= part
    return drawn


class _Taking(NamedTuple):
    """What came in for an invoice, or (below zero) went back."""

    payment: tuple[str, str]
    """Provider and reference."""
    currency: str
    amount: int
    at: datetime
    back: bool = False
    """Refunded or contested."""


async def _takings(
    connection: AsyncConnection, rows: Iterable[sa.Row[Any]]
) -> dict[str, list[_Taking]]:
    """By invoice, for rows of `invoices`. One that was paid before payments were noted for it
    counts with its total."""
    by_id = {row.id: row for row in rows}
    found: dict[str, list[_Taking]] = {ident: [] for ident in by_id}
    mine = (payments.c.purpose == INVOICE, payments.c.subject.in_(list(by_id)))
    for paid in await connection.execute(sa.select(payments).where(*mine)):
        name = (paid.provider, paid.reference)
        found[paid.subject].append(_Taking(name, paid.currency, paid.amount, paid.paid_at))
    back = (
        sa.select(payments.c.subject, payment_returns)
        .join(
            payment_returns,
            sa.and_(
                payment_returns.c.provider == payments.c.provider,
                payment_returns.c.payment == payments.c.reference,
            ),
        )
        .where(*mine, payment_returns.c.state.in_(GONE))
    )
    for one in await connection.execute(back):
        name = (one.provider, one.payment)
        found[one.subject].append(_Taking(name, one.currency, -one.amount, one.at, True))
    for ident, row in by_id.items():
        if not found[ident] and row.status == "paid":
            name, at = ("", row.reference), row.paid_at or row.issued
            found[ident].append(_Taking(name, row.currency, row.total, at))
    return found


async def _needed_for(
    connection: AsyncConnection, rows: Iterable[sa.Row[Any]]
) -> dict[str, list[_Taking]]:
    """The same in the invoice's currency, and without the payments that credit notes of their own
    gave to the wallet, since the invoice was paid already, or given up."""
    by_id = {row.id: row for row in rows}
    found = await _takings(connection, by_id.values())
    keys = {
        twice_key(*one.payment): one.payment
        for each in found.values()
        for one in each
        if one.payment[0]
    }
    lates = {late_key(ident): ident for ident in found}
    query = sa.select(invoices.c.key, invoices.c.total, invoices.c.issued)
    notes = (await connection.execute(query.where(invoices.c.key.in_([*keys, *lates])))).all()
    twice = {keys[note.key] for note in notes if note.key in keys}
    needed = {
        ident: [
            one
            for one in each
            if one.payment not in twice and one.currency == by_id[ident].currency
        ]
        for ident, each in found.items()
    }
    for note in notes:
        if note.key in lates:
            ident = lates[note.key]
            less = _Taking(("", note.key), by_id[ident].currency, -note.total, note.issued)
            needed[ident].append(less)
    return needed


async def _noted(connection: AsyncConnection, keys: list[str]) -> int:
    """The credit notes of these keys."""
    total = await connection.scalar(
        sa.select(sa.func.sum(invoices.c.total)).where(invoices.c.key.in_(keys))
    )
    return int(total or 0)
