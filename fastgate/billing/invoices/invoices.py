"""Invoices, credit notes and receipts: numbered without gaps, each made once.

```
issue(draft) ──▶ open ──mark_paid──▶ paid ──refunded──▶ returned
                  │ ▲                  └─charged back─┐
                  │ └─────────────────────────────────┘ owed again
                  └─────void───────▶ void       the number stays used; a late payment pays it
```

- **Numbers** (`INV-2026-000001`) come from one row for each series, incremented in the transaction
  that inserts the document. If the transaction fails, the number is not used; concurrent ones wait
  for the row. So there are no gaps and no duplicates, even with several gateways.
- **Keys**: a draft's key names its purpose (`period:<subscription>:<start>`). A second draft with
  the key returns the first document, so a caller that does not know the outcome repeats it.
- Totals are whole coins of the currency, since only those can be paid. A smaller remainder is
  deducted in a separate line, in the customer's favour. Amounts already paid are not rounded.

Only the status of a document ever changes; corrections are credit notes.
"""

from __future__ import annotations

import html
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from fastgate.billing.amounts import coin, show
from fastgate.billing.payments.base import Clock
from fastgate.billing.templates import fill
from fastgate.errors import ConflictError, NotFoundError
from fastgate.model.billing import Seller
from fastgate.model.units import Money
from fastgate.store.billing_tables import invoice_numbers, invoices
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store
from fastgate.store.ids import new_id
from fastgate.store.pages import Page, decode_cursor, page_of

DUE = timedelta(days=0)
"""Fees are due when they are invoiced: the payment method is charged at once."""


class DocumentKind(StrEnum):
    """The kind of a document; the letter after the prefix of its number."""

    INVOICE = "invoice"
    RECEIPT = "receipt"  # for money that was paid in: a top-up
    CREDIT = "credit"  # returns money to the wallet


_LETTER = {DocumentKind.INVOICE: "", DocumentKind.RECEIPT: "R", DocumentKind.CREDIT: "C"}


class Status(StrEnum):
    OPEN = "open"
    PAID = "paid"
    VOID = "void"
    RETURNED = "returned"  # paid and refunded: nothing is owed, and nothing is left of the payment


CREDIT_OPEN = sa.and_(
    invoices.c.kind == DocumentKind.CREDIT.value, invoices.c.status == Status.OPEN.value
)
"""The condition for credit notes whose amount has not been credited yet."""


class InvoiceLine(msgspec.Struct, frozen=True):
    """One line. Micro-units; negative: a deduction."""

    text: str
    micros: int
    quantity: int = 1


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a document."""

    key: str
    """Names its purpose; unique."""
    account: str
    currency: str
    lines: list[InvoiceLine]
    kind: DocumentKind = DocumentKind.INVOICE
    tax: int = 0
    """The tax contained in the total, in micro-units, for display."""
    subscription: str | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    paid: bool = False
    """It is issued as paid."""
    reference: str = ""
    """The reference of the payment, if paid."""


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """An issued document."""

    id: str
    number: str
    key: str
    kind: DocumentKind
    account: str
    subscription: str | None
    currency: str
    total: int
    tax: int
    status: Status
    lines: list[InvoiceLine]
    period_start: datetime | None
    period_end: datetime | None
    issued: datetime
    due: datetime
    paid_at: datetime | None
    reference: str

    @property
    def amount(self) -> Money:
        return Money(self.total, self.currency)


def rounded(lines: list[InvoiceLine], currency: str) -> list[InvoiceLine]:
    """The lines, plus a rounding line if the sum is not in whole coins."""
    rest = sum(line.micros for line in lines) % coin(currency)
    return [*lines, InvoiceLine("Rounding", -rest)] if rest else list(lines)


class Invoices:
    """The documents in the store. Every method may raise StoreError."""

    def __init__(self, store: Store, clock: Clock, seller: Seller) -> None:
        self.store = store
        self.clock = clock
        self.seller = seller

    async def issue(self, draft: Draft) -> Invoice:
        """The document of the draft's key, created now unless it exists."""
        try:
            async with self.store.write() as connection:
                return await self.issue_in(connection, draft)
        except ConflictError:  # another gateway was faster with the same key
            return await self.by_key(draft.key)

    async def issue_in(self, connection: AsyncConnection, draft: Draft) -> Invoice:
        """The same within a transaction, which fails if another creates it at the same time."""
        rows = await connection.execute(sa.select(invoices).where(invoices.c.key == draft.key))
        found = rows.one_or_none()
        if found is not None:
            return _invoice(found)
        now = self.clock()
        lines = draft.lines if draft.paid else rounded(draft.lines, draft.currency)
        invoice = Invoice(
            id=new_id("inv"),
            number=await self._number(connection, draft.kind, now),
            key=draft.key,
            kind=draft.kind,
            account=draft.account,
            subscription=draft.subscription,
            currency=draft.currency,
            total=sum(line.micros for line in lines),
            tax=draft.tax,
            status=Status.PAID if draft.paid else Status.OPEN,
            lines=lines,
            period_start=draft.period_start,
            period_end=draft.period_end,
            issued=now,
            due=now + DUE,
            paid_at=now if draft.paid else None,
            reference=draft.reference,
        )
        values = msgspec.structs.asdict(invoice)
        values |= {
            "lines": msgspec.json.encode(lines).decode(),
            "kind": str(invoice.kind),
            "status": str(invoice.status),
        }
        await connection.execute(sa.insert(invoices).values(values))
        return invoice

    async def _number(self, connection: AsyncConnection, kind: DocumentKind, now: datetime) -> str:
        series = f"{self.seller.prefix}{_LETTER[kind]}-{now.year}"
        last = await connection.scalar(
            sa.text(
                f"INSERT INTO {invoice_numbers.name} (series, last) VALUES (:series, 1) "
                "ON CONFLICT (series) DO UPDATE SET last = invoice_numbers.last + 1 RETURNING last"
            ),
            {"series": series},
        )
        return f"{series}-{last:06d}"

    async def get(self, ident: str) -> Invoice:
        """By id or number. Raises NotFoundError."""
        return await self._one(sa.or_(invoices.c.id == ident, invoices.c.number == ident), ident)

    async def by_key(self, key: str) -> Invoice:
        """Raises NotFoundError."""
        return await self._one(invoices.c.key == key, key)

    async def _one(self, where: sa.ColumnElement[bool], name: str) -> Invoice:
        async with self.store.read() as connection:
            row = (await connection.execute(sa.select(invoices).where(where))).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no invoice {name!r}.")
        return _invoice(row)

    async def get_in(self, connection: AsyncConnection, ident: str) -> Invoice:
        """By id, within the caller's transaction; the caller knows that it exists."""
        query = sa.select(invoices).where(invoices.c.id == ident)
        return _invoice((await connection.execute(query)).one())

    async def page(self, account: str, *, cursor: str | None, limit: int) -> Page[Invoice]:
        """An account's documents, the newest first."""
        query = sa.select(invoices).where(invoices.c.account == account)
        if cursor is not None:
            query = query.where(invoices.c.id < decode_cursor(cursor, str))
        query = query.order_by(invoices.c.id.desc()).limit(limit + 1)
        async with self.store.read() as connection:
            rows = (await connection.execute(query)).all()
        return page_of([_invoice(row) for row in rows], limit, lambda one: one.id)

    async def open_of(self, subscription: str) -> list[Invoice]:
        """What a subscription still owes, the oldest first."""
        query = (
            sa.select(invoices)
            .where(invoices.c.subscription == subscription, invoices.c.status == Status.OPEN.value)
            .order_by(invoices.c.id)
        )
        async with self.store.read() as connection:
            return [_invoice(row) for row in await connection.execute(query)]

    async def open_credits(self, limit: int = 50) -> list[Invoice]:
        """Credit notes whose amount has not been credited yet."""
        query = sa.select(invoices).where(CREDIT_OPEN).order_by(invoices.c.id).limit(limit)
        async with self.store.read() as connection:
            return [_invoice(row) for row in await connection.execute(query)]

    async def mark_paid(self, ident: str, reference: str) -> tuple[Invoice, bool]:
        """Record the payment. Whether this call changed anything."""
        async with self.store.write() as connection:
            changed = await paid_in(connection, ident, reference, self.clock())
        return await self._closed(ident, Status.PAID), changed

    async def void(self, ident: str) -> tuple[Invoice, bool]:
        """Void it. Raises ConflictError if it was paid: issue a credit note then."""
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.update(invoices)
                .where(invoices.c.id == ident, invoices.c.status == Status.OPEN.value)
                .values(status=Status.VOID.value)
            )
        return await self._closed(ident, Status.VOID), bool(done.rowcount)

    async def _closed(self, ident: str, status: Status) -> Invoice:
        found = await self.get(ident)
        if found.status is not status:
            raise ConflictError(f"The invoice {found.number} is already {found.status.value}.")
        return found


async def paid_in(connection: AsyncConnection, ident: str, reference: str, now: datetime) -> bool:
    """Mark an open invoice as paid in the caller's transaction. Whether it was open.

    A void invoice that is paid after all counts as paid: the money is there.
    """
    done = await connection.execute(
        sa.update(invoices)
        .where(invoices.c.id == ident, invoices.c.status != Status.PAID.value)
        .values(status=Status.PAID.value, paid_at=now, reference=reference)
    )
    return bool(done.rowcount)


def _invoice(row: sa.Row[Any]) -> Invoice:
    values = row._asdict()
    values["kind"] = DocumentKind(values["kind"])
    values["status"] = Status(values["status"])
    values["lines"] = msgspec.json.decode(values["lines"], type=list[InvoiceLine])
    return Invoice(**values)


# ---- as a page --------------------------------------------------------------------------

_TITLE = {
    DocumentKind.INVOICE: "Invoice",
    DocumentKind.RECEIPT: "Receipt",
    DocumentKind.CREDIT: "Credit note",
}


def render_html(invoice: Invoice, seller: Seller, customer: list[str], zone: str = "UTC") -> str:
    """The document as one HTML page without scripts or outside resources.

    `customer`: name and address, in lines. Dates are shown in `zone`.
    """
    place = ZoneInfo(zone)

    def day(moment: datetime) -> str:
        return moment.astimezone(place).strftime("%Y-%m-%d")

    def money(micros: int) -> str:
        return show(micros, invoice.currency)

    rows = "\n".join(
        f"<tr><td>{html.escape(line.text)}</td><td class=n>{line.quantity}</td>"
        f"<td class=n>{money(line.micros)}</td></tr>"
        for line in invoice.lines
    )
    period = ""
    if invoice.period_start is not None and invoice.period_end is not None:
        last = invoice.period_end - timedelta(microseconds=1)
        period = f"<p>For {day(invoice.period_start)} to {day(last)}</p>"
    state = {
        Status.OPEN: f"Due {day(invoice.due)}",
        Status.PAID: f"Paid {day(invoice.paid_at)}" if invoice.paid_at else "Paid",
        Status.VOID: "Void",
        Status.RETURNED: "Paid and refunded",
    }[invoice.status]
    tax = f"<tr><td colspan=2>of which tax</td><td class=n>{money(invoice.tax)}</td></tr>"
    return fill(
        "invoice.html",
        title=html.escape(f"{_TITLE[invoice.kind]} {invoice.number}"),
        issued=day(invoice.issued),
        state=html.escape(state),
        seller=_lines([seller.name, *seller.address, seller.tax_id, seller.email]),
        customer=_lines(customer),
        period=period,
        rows=rows,
        total=money(invoice.total),
        tax=tax if invoice.tax else "",
        reference=html.escape(f"Payment {invoice.reference}") if invoice.reference else "",
    )


def _lines(lines: list[str]) -> str:
    return "<br>".join(html.escape(line) for line in lines if line)
