"""What is left of the payments for subscriptions: payments of invoices, less refunds and
charge-backs, less what credit notes have added to the wallet.

The status of an invoice says whether it *was* paid; only payments and returns say whether the money
is still here. Credits and refunds are never more than what is still here.

```
payments of an invoice  ─┬─ went back, or contested       payment_returns
                         ├─ given to the wallet            invoice_draws of credit notes
                         └─ left: may be credited, or refunded
```

A document that uses money paid for older invoices records which invoices, and how much, when it is
issued (`draw`). There are two kinds: a credit note, which adds the money to the wallet; and the
invoice of a change of plan, which deducts the unused value of the old plan. The second is used up
when that invoice is paid; if it never is, the customer keeps the value (`plan_change`).

If a payment is returned after a credit note has drawn on it, the part of the credit that is no
longer covered is taken back: `taken_back` says how much of an invoice's credits must be out of the
wallet. If the invoice is paid after all, that is 0 again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from fastgate.store.billing_tables import invoice_draws, invoices
from fastgate.store.connection import AsyncConnection
from fastgate.store.payment_tables import RETURNS_OF_PAYMENTS, payment_returns, payments

INVOICE, CREDIT = "invoice", "credit"  # kinds of documents
GONE = ("returned", "contested")
"""States of a return in which the money is not here."""

Invoiced = sa.Row[Any]
"""A row of `invoices`."""


class Kept(NamedTuple):
    """What is left of an invoice's payments, in micro-units of its currency; without the payments
    that it did not need, which separate credit notes have added to the wallet."""

    paid: int
    returned: int
    """Refunded or contested."""
    credited: int
    """Added to the wallet by credit notes."""

    @property
    def here(self) -> int:
        return self.paid - self.returned

    @property
    def left(self) -> int:
        return max(0, self.here - self.credited)


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
    """How much of a payment is no longer here."""
    amount = await connection.scalar(
        sa.select(sa.func.sum(payment_returns.c.amount)).where(*_of_payment(provider, reference))
    )
    return int(amount or 0)


async def gone(connection: AsyncConnection, provider: str, reference: str) -> bool:
    """Whether nothing of a payment is left."""
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
    """Whether the bank took back any payment of the invoice."""
    query = (
        sa.select(payment_returns.c.reference)
        .join(payments, RETURNS_OF_PAYMENTS)
        .where(
            payments.c.purpose == INVOICE,
            payments.c.subject == invoice,
            payment_returns.c.kind == "dispute",
            payment_returns.c.state.in_(GONE),
        )
    )
    return (await connection.execute(query.limit(1))).first() is not None


# ---- what is kept -----------------------------------------------------------------------


async def kept_of(connection: AsyncConnection, rows: Iterable[Invoiced]) -> dict[str, Kept]:
    """By invoice."""
    by_id = {row.id: row for row in rows}
    takings = await _takings(connection, by_id.values())
    twice = await _twice(connection, takings)
    drawn = await drawn_of(connection, by_id)
    found = {}
    for ident, row in by_id.items():
        needed = [
            one
            for one in takings[ident]
            if one.currency == row.currency and one.payment not in twice
        ]
        paid = sum(one.amount for one in needed)
        returned = sum(one.returned for one in needed)
        found[ident] = Kept(paid, returned, drawn.get(ident, 0))
    return found


async def invoices_for(
    connection: AsyncConnection, subscription: str, start: datetime, end: datetime
) -> list[Invoiced]:
    """The invoices for a subscription's time between two moments, newest first."""
    query = (
        sa.select(invoices)
        .where(
            invoices.c.subscription == subscription,
            invoices.c.kind == INVOICE,
            invoices.c.period_start < end,
            invoices.c.period_end > start,
        )
        .order_by(invoices.c.issued.desc(), invoices.c.id.desc())
    )
    return list((await connection.execute(query)).all())


async def refundable(
    connection: AsyncConnection, provider: str, reference: str, invoice: str
) -> int | None:
    """How much of a payment of an invoice may be refunded at most: what credit notes have not added
    to the wallet; None: there is no such invoice.

    A payment that its invoice did not need has a credit note of its own; the others of the
    invoice answer together for the rest.
    """
    row = (
        await connection.execute(sa.select(invoices).where(invoices.c.id == invoice))
    ).one_or_none()
    if row is None:
        return None
    takings = await _takings(connection, [row])
    twice = await _twice(connection, takings)
    mine = (provider, reference)
    if mine in twice:
        here = sum(one.here for one in takings[invoice] if one.payment == mine)
        return max(0, here - int(twice[mine].total))
    return (await kept_of(connection, [row]))[invoice].left


async def taken_back(
    connection: AsyncConnection, rows: Iterable[Invoiced]
) -> dict[tuple[str, str], int]:
    """How much of the credits must be out of the wallet again, since the payments they drew on were
    returned: micro-units by invoice and currency, including zeros."""
    by_id = {row.id: row for row in rows}
    takings = await _takings(connection, by_id.values())
    twice = await _twice(connection, takings)
    found = {}
    for ident, kept in (await kept_of(connection, by_id.values())).items():
        uncovered = kept.credited - max(0, kept.here)
        found[ident, by_id[ident].currency] = max(0, uncovered)
        for one in takings[ident]:
            note = twice.get(one.payment)
            if note is not None:
                key = (ident, note.currency)
                found[key] = found.get(key, 0) + max(0, note.total - max(0, one.here))
    return found


class _Taking(NamedTuple):
    """A payment of an invoice."""

    payment: tuple[str, str]
    """Provider and reference."""
    currency: str
    amount: int
    returned: int = 0
    """Refunded or contested."""

    @property
    def here(self) -> int:
        return self.amount - self.returned


async def _takings(
    connection: AsyncConnection, rows: Iterable[Invoiced]
) -> dict[str, list[_Taking]]:
    """The payments by invoice. An invoice from before payments were recorded counts with its
    total."""
    by_id = {row.id: row for row in rows}
    found: dict[str, list[_Taking]] = {ident: [] for ident in by_id}
    mine = (payments.c.purpose == INVOICE, payments.c.subject.in_(list(by_id)))
    back = await connection.execute(
        sa.select(payments.c.provider, payments.c.reference, sa.func.sum(payment_returns.c.amount))
        .join(payment_returns, RETURNS_OF_PAYMENTS)
        .where(*mine, payment_returns.c.state.in_(GONE))
        .group_by(payments.c.provider, payments.c.reference)
    )
    returned = {(provider, reference): int(amount) for provider, reference, amount in back}
    for paid in await connection.execute(sa.select(payments).where(*mine)):
        name = (paid.provider, paid.reference)
        taking = _Taking(name, paid.currency, paid.amount, returned.get(name, 0))
        found[paid.subject].append(taking)
    for ident, row in by_id.items():
        if not found[ident] and row.status == "paid":
            found[ident].append(_Taking(("", row.reference), row.currency, row.total))
    return found


async def _twice(
    connection: AsyncConnection, takings: Mapping[str, Sequence[_Taking]]
) -> dict[tuple[str, str], Invoiced]:
    """The credit notes of payments that their invoices did not need, by payment."""
    keys = {
        twice_key(*one.payment): one.payment
        for each in takings.values()
        for one in each
        if one.payment[0]
    }
    rows = await connection.execute(sa.select(invoices).where(invoices.c.key.in_(list(keys))))
    return {keys[note.key]: note for note in rows}


# ---- what documents draw on -------------------------------------------------------------


async def draw(
    connection: AsyncConnection, document: str, amount: int, rows: Iterable[Invoiced]
) -> None:
    """Record that a document uses `amount` of what is left of these invoices, in their order. Call
    this when it is issued. Never records more than is left."""
    by_id = {row.id: row for row in rows}
    kept = await kept_of(connection, by_id.values())
    for ident in by_id:
        part = min(amount, kept[ident].left)
        if part > 0:
            await connection.execute(
                sa.insert(invoice_draws).values(document=document, invoice=ident, amount=part)
            )
            amount -= part


async def drawn_of(connection: AsyncConnection, ids: Iterable[str]) -> dict[str, int]:
    """What credit notes have added to the wallet, by the invoice whose payment they used."""
    rows = await connection.execute(
        sa.select(invoice_draws.c.invoice, sa.func.sum(invoice_draws.c.amount))
        .join(invoices, invoices.c.id == invoice_draws.c.document)
        .where(invoice_draws.c.invoice.in_(list(ids)), invoices.c.kind == CREDIT)
        .group_by(invoice_draws.c.invoice)
    )
    return {invoice: int(amount) for invoice, amount in rows}


async def paid_late(connection: AsyncConnection, rows: Iterable[Invoiced]) -> set[str]:
    """The invoices that were given up and paid nevertheless: separate credit notes have added these
    payments to the wallet."""
    keys = {late_key(row.id): row.id for row in rows}
    query = sa.select(invoices.c.key).where(invoices.c.key.in_(list(keys)))
    return {keys[key] for key in (await connection.execute(query)).scalars()}
