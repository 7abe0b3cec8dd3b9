"""The audit of payments and returns: compares the ledger with payments, with invoices, and with
the records of the providers.

```
payments   each payment is one entry of its amount; each return is one entry, settled like the
           return; each entry that names a payment has one
invoices   each paid invoice has its payment, and each credit note that is paid out its credit
x402       each payment for a request that was settled is one entry of its amount, in its token;
           each such entry is a payment's
credits    the credit of a returned fee is taken from the wallet, as far as it is not covered
provider   each payment of the last days has the same amount and refunds at its provider; a separate
           audit (`audit_providers`), since it needs the provider
```
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from fastgate.billing.audit.report import Check, check
from fastgate.billing.ledger.ledger import ASIDE, EntryKind, settled_id
from fastgate.billing.payments.base import (
    Capability,
    PaymentError,
    PaymentProvider,
    Purpose,
    Turnover,
)
from fastgate.billing.payments.books import payment_id, refund_id, returned_id
from fastgate.billing.subscriptions.fees import GONE, taken_back
from fastgate.billing.x402.books import OWED, UNKNOWN, VOID, X402_ACCOUNT, entry_id, postings_of
from fastgate.store.billing_tables import invoices
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store
from fastgate.store.ledger import taken_back as ledger_taken_back
from fastgate.store.money_tables import ledger_entries, ledger_postings, x402_payments
from fastgate.store.payment_tables import RETURNS_OF_PAYMENTS, payment_returns, payments

IN = (EntryKind.CREDIT, EntryKind.FEE)
"""Entries of incoming payments."""
BOOKED = "pay:"
"""The prefix of the ids of entries for payments."""
STREAM = 500


async def payments_check(connection: AsyncConnection) -> Check:
    """Compare payments and returns with their entries."""
    entries = await _entries(connection)
    findings: list[str] = []
    known: set[str] = set()
    totals: dict[str, int] = {}
    query = sa.select(payments).execution_options(yield_per=STREAM)
    async with connection.stream(query) as rows:
        async for row in rows:
            ident = payment_id(row.provider, row.reference)
            known.add(ident)
            kind = EntryKind.CREDIT if row.purpose == Purpose.TOP_UP else EntryKind.FEE
            wanted = (kind.value, row.account, row.currency, row.amount)
            if entries.get(ident) != wanted:
                found = entries.get(ident, "nothing")
                findings.append(f"payment {row.provider} {row.reference}: booked {found}")
            totals[f"{row.currency}.paid"] = totals.get(f"{row.currency}.paid", 0) + row.amount
    returned = sa.select(payment_returns, payments.c.purpose).join(
        payments,
        RETURNS_OF_PAYMENTS,
    )
    async with connection.stream(returned.execution_options(yield_per=STREAM)) as rows:
        async for row in rows:
            findings += _return(row, entries)
            if row.state == "returned":
                name = f"{row.currency}.returned"
                totals[name] = totals.get(name, 0) + row.amount
    findings += [
        f"entry {ident}: no payment of that name"
        for ident, entry in entries.items()
        if entry[0] == EntryKind.FEE and ident.startswith(BOOKED) and ident not in known
    ]
    return check("payments", findings, **totals)


Booked = tuple[str, str, str, int]
"""EntryKind, account, currency, amount."""


async def _entries(connection: AsyncConnection) -> dict[str, Booked]:
    """All entries for payments, by id."""
    kinds = [kind.value for kind in (*IN, *ASIDE, EntryKind.PAY_OUT, EntryKind.RELEASE)]
    columns = ledger_entries.c
    query = sa.select(
        columns.id, columns.kind, columns.account, columns.currency, columns.amount
    ).where(columns.kind.in_(kinds))
    found: dict[str, Booked] = {}
    async with connection.stream(query.execution_options(yield_per=STREAM)) as rows:
        async for ident, *entry in rows:
            found[ident] = (entry[0], entry[1], entry[2], int(entry[3]))
    return found


def _return(row: sa.Row[tuple[object, ...]], entries: dict[str, Booked]) -> list[str]:
    """The fault in the booking of a refund or dispute."""
    what = f"{row.kind} {row.provider} {row.reference}"
    if row.kind == "refund":
        origin = refund_id(row.provider, row.key or row.reference)
    else:
        origin = returned_id(row.provider, row.reference)
    late = f"{origin}:late"
    if late in entries:  # treated as refused, but made after all
        origin = late
    aside = entries.get(origin)
    if aside is None:
        # A failed refund was never set aside if it was not requested here.
        return [] if row.state == "kept" else [f"{what}: not booked"]
    settled = entries.get(settled_id(origin))
    ended = None if settled is None else settled[0]
    wanted = {"contested": None, "returned": EntryKind.PAY_OUT.value}.get(row.state, ended)
    found = []
    if aside[2:] != (row.currency, row.amount):
        found.append(f"{what}: {aside[3]} of {aside[2]} booked, {row.amount} of {row.currency} are")
    if ended != wanted:
        found.append(f"{what}: {row.state}, and booked as {ended or 'set aside'}")
    if row.state == "kept" and ended == EntryKind.PAY_OUT and f"{origin}:failed" not in entries:
        found.append(f"{what}: it was not returned, but is booked as paid out")
    return found


async def invoices_check(connection: AsyncConnection) -> Check:
    """Compare documents with payments and entries."""
    findings: list[str] = []
    paid = (
        sa.select(payments.c.subject, sa.func.sum(payments.c.amount).label("amount"))
        .where(payments.c.purpose == Purpose.INVOICE.value)
        .group_by(payments.c.subject)
        .subquery()
    )
    rows = await connection.execute(
        sa.select(invoices.c.number, invoices.c.total, paid.c.amount)
        .outerjoin(paid, paid.c.subject == invoices.c.id)
        .where(invoices.c.kind == "invoice", invoices.c.status == "paid", invoices.c.total > 0)
        .where(sa.func.coalesce(paid.c.amount, 0) < invoices.c.total)
    )
    findings += [
        f"invoice {number}: paid, but {int(amount or 0)} of {total} was received"
        for number, total, amount in rows
    ]
    rows = await connection.execute(
        sa.select(invoices.c.number, invoices.c.total, ledger_entries.c.amount)
        .outerjoin(ledger_entries, ledger_entries.c.id == sa.literal("credit:") + invoices.c.id)
        .where(invoices.c.kind == "credit", invoices.c.status == "paid")
        .where(sa.func.coalesce(ledger_entries.c.amount, 0) != invoices.c.total)
    )
    findings += [
        f"credit note {number}: {int(amount or 0)} of {total} credited"
        for number, total, amount in rows
    ]
    counts = await connection.execute(
        sa.select(invoices.c.kind, sa.func.count())
        .where(invoices.c.status == "paid")
        .group_by(invoices.c.kind)
    )
    return check("invoices", findings, **{kind: int(count) for kind, count in counts})


async def x402_check(connection: AsyncConnection) -> Check:
    """Compare payments for requests with their entries. `doubtful`: payments with an unknown
    outcome; `owed`: paid and not served."""
    findings: list[str] = []
    totals: dict[str, int] = {}
    doubtful = owed = 0
    columns = ledger_entries.c
    entries = (
        sa.select(
            columns.id, columns.account, columns.currency, columns.amount,
            ledger_postings.c.book, ledger_postings.c.amount.label("posted"),
        )
        .outerjoin(ledger_postings, ledger_postings.c.entry == columns.number)
        .where(columns.kind == EntryKind.X402.value)
    )  # fmt: skip
    booked: dict[str, tuple[str, str, int]] = {}
    sums: dict[str, dict[str, int]] = {}
    async with connection.stream(entries.execution_options(yield_per=STREAM)) as rows:
        async for row in rows:
            ident = ":".join(row.id.split(":")[:2])  # a later entry of the payment: x402:…:kept
            booked[ident] = (row.account, row.currency, row.amount)
            books = sums.setdefault(ident, {})
            if row.book is not None:
                books[row.book] = books.get(row.book, 0) + int(row.posted)
    paid = sa.select(x402_payments).execution_options(yield_per=STREAM)
    async with connection.stream(paid) as rows:
        async for row in rows:
            ident = entry_id(row.id)
            entry = booked.pop(ident, None)
            doubtful += row.state == UNKNOWN
            owed += row.state == OWED
            if row.state in (UNKNOWN, VOID):
                if entry is not None:
                    findings.append(f"x402 payment {row.id}: {row.state}, and booked")
                continue
            if entry != (X402_ACCOUNT, row.currency, row.amount):
                findings.append(f"x402 payment {row.id}: booked {entry or 'nothing'}")
                continue
            wanted = {str(book): sum_ for book, sum_ in postings_of(row.state, row.amount).items()}
            found = {book: sum_ for book, sum_ in sums.pop(ident).items() if sum_}
            if found != wanted:
                findings.append(
                    f"entry {ident}: the payment is {row.state}, and its postings are {found}"
                )
            name = f"{row.currency}.paid"
            totals[name] = totals.get(name, 0) + row.amount
    findings += [f"entry {ident}: no x402 payment of that name" for ident in booked]
    return check("x402", findings, **totals, doubtful=doubtful, owed=owed)


async def credits_check(connection: AsyncConnection) -> Check:
    """Compare the credits that were taken back with the returns of their fees."""
    posted = await connection.run_sync(ledger_taken_back)
    taken = {key: one.amount for key, one in posted.items()}
    back = (
        sa.select(payments.c.subject)
        .join(
            payment_returns,
            RETURNS_OF_PAYMENTS,
        )
        .where(payments.c.purpose == Purpose.INVOICE.value, payment_returns.c.state.in_(GONE))
    )
    ids = sorted(
        {invoice for invoice, _ in taken} | set((await connection.execute(back)).scalars())
    )
    wanted: dict[tuple[str, str], int] = {}
    for start in range(0, len(ids), STREAM):
        some = sa.select(invoices).where(invoices.c.id.in_(ids[start : start + STREAM]))
        wanted |= await taken_back(connection, (await connection.execute(some)).all())
    findings = [
        f"invoice {key[0]}: {taken.get(key, 0)} {key[1]} of its credits are taken, "
        f"{wanted.get(key, 0)} must be"
        for key in sorted(taken.keys() | wanted.keys())
        if taken.get(key, 0) != wanted.get(key, 0)
    ]
    return check("credits", findings, invoices=len(ids), taken=sum(taken.values()))


async def audit_providers(
    store: Store, providers: Sequence[PaymentProvider], since: datetime
) -> list[Check]:
    """Compare the providers' records of payments through us, since a time, with ours. Raises
    StoreError. A provider that does not answer is a finding."""
    found = []
    for provider in providers:
        if Capability.TURNOVER not in provider.capabilities:
            continue
        try:
            theirs = {one.reference: one for one in await provider.turnover(since)}
        except PaymentError as error:
            found.append(check(f"provider {provider.name}", [f"it did not answer: {error}"]))
            continue
        found.append(await _provider(store, provider.name, theirs, since))
    return found


async def _provider(store: Store, name: str, theirs: dict[str, Turnover], since: datetime) -> Check:
    back = (
        sa.select(payment_returns.c.payment, sa.func.sum(payment_returns.c.amount).label("back"))
        .where(
            payment_returns.c.provider == name,
            payment_returns.c.kind == "refund",
            payment_returns.c.state == "returned",
        )
        .group_by(payment_returns.c.payment)
        .subquery()
    )
    query = (
        sa.select(payments, back.c.back)
        .outerjoin(back, back.c.payment == payments.c.reference)
        .where(
            payments.c.provider == name,
            sa.or_(payments.c.paid_at >= since, payments.c.reference.in_(list(theirs)[:5000])),
        )
    )
    async with store.read() as connection:
        rows = (await connection.execute(query)).all()
    ours = {row.reference: row for row in rows}
    findings: list[str] = []
    for reference, one in theirs.items():
        row = ours.get(reference)
        if row is None:
            findings.append(f"payment {reference}: {one.amount} there, not booked here")
        elif (row.currency, row.amount) != (one.amount.currency, one.amount.micros):
            findings.append(f"payment {reference}: {one.amount} there, {row.amount} micros here")
        elif int(row.back or 0) != one.refunded:
            findings.append(
                f"payment {reference}: {one.refunded} micros refunded there, "
                f"{int(row.back or 0)} here"
            )
    findings += [f"payment {ref}: booked here, unknown there" for ref in ours if ref not in theirs]
    return check(f"provider {name}", findings, payments=len(theirs))
