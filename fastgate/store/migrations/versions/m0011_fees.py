"""Fees in the ledger: what was paid for invoices, what of it went back, and credit notes taken out
of what was earned. No table changes; entries are added, and taken out again on the way back."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PLACES = 4  # currencies that an account has wallets in, at most
BOOKS = (
    "customer_available",
    "customer_held",
    "revenue",
    "promotional_credit",
    "provider_clearing",
    "tax",
)
CAPTURES = ("charge", "refund")
REFERENCE = 200  # characters of a reference
NOTE = "booked when the ledger began to have fees"

Row = sa.Row[Any]


class _Books:
    """The ledger's tables, and adding to them."""

    def __init__(self) -> None:
        self.bind = op.get_bind()
        meta = sa.MetaData()
        names = (
            "ledger_entries", "ledger_postings", "wallets", "changes", "invoices", "payments",
            "payment_returns", "account_slots",
        )  # fmt: skip
        meta.reflect(self.bind, only=names)
        self.entries, self.postings, self.wallets, self.changes = (
            meta.tables[name] for name in names[:4]
        )
        self.invoices, self.payments, self.returns, self.slots = (
            meta.tables[name] for name in names[4:]
        )
        self.now = self._moment()
        self.moved: set[tuple[str, str]] = set()

    def _moment(self) -> datetime:
        """Now, as the column of times takes it."""
        now = datetime.now(UTC)
        return now.replace(tzinfo=None) if self.bind.dialect.name == "sqlite" else now

    def rows(self, query: sa.Select[Any]) -> list[Row]:
        return list(self.bind.execute(query))

    def has(self, ident: str) -> bool:
        query = sa.select(self.entries.c.number).where(self.entries.c.id == ident)
        return self.bind.execute(query).first() is not None

    def wallet(self, account: str, currency: str) -> bool:
        """Whether there is one now; an account has places for a few."""
        known = {
            row.currency for row in self.rows(sa.select(self.wallets).filter_by(account=account))
        }
        if currency in known:
            return True
        if len(known) >= PLACES:
            return False
        if self.bind.execute(sa.select(self.slots).filter_by(account=account)).first() is None:
            last = self.bind.scalar(sa.select(sa.func.max(self.slots.c.slot)))
            slot = 0 if last is None else last + 1
            self.bind.execute(
                sa.insert(self.slots).values(account=account, slot=slot, created=self.now)
            )
        zeros = dict.fromkeys((*BOOKS, "credited", "captured", "promo_spent", "overdraft"), 0)
        self.bind.execute(
            sa.insert(self.wallets).values(
                account=account, currency=currency, position=len(known), updated=self.now, **zeros
            )
        )
        return True

    def post(self, ident: str, kind: str, row: Row, amount: int, books: dict[str, int]) -> None:
        """An entry, once. `row`: has account and currency."""
        if self.has(ident) or not self.wallet(row.account, row.currency):
            return
        topic = self.changes.c.topic == "ledger"
        self.bind.execute(
            sa.update(self.changes).where(topic).values(value=self.changes.c.value + 1)
        )
        number = self.bind.scalar(sa.select(self.changes.c.value).where(topic))
        self.bind.execute(
            sa.insert(self.entries).values(
                number=number,
                id=ident,
                kind=kind,
                account=row.account,
                currency=row.currency,
                amount=amount,
                created=self.now,
                reference=row.reference[:REFERENCE],
                note=NOTE,
                key=None,
            )
        )
        self.bind.execute(
            sa.insert(self.postings),
            [{"entry": number, "book": book, "amount": each} for book, each in books.items()],
        )
        self.moved.add((row.account, row.currency))

    def recount(self) -> None:
        """The sums of the wallets that were moved, from their entries."""
        for account, currency in sorted(self.moved):
            query = (
                sa.select(
                    self.entries.c.kind,
                    self.postings.c.book,
                    sa.func.sum(self.postings.c.amount).label("amount"),
                )
                .join(self.postings, self.postings.c.entry == self.entries.c.number)
                .where(self.entries.c.account == account, self.entries.c.currency == currency)
                .group_by(self.entries.c.kind, self.postings.c.book)
            )
            sums = dict.fromkeys((*BOOKS, "credited"), 0)
            for row in self.rows(query):
                sums[row.book] += int(row.amount)
                if row.kind not in CAPTURES and row.book in BOOKS[:2]:
                    sums["credited"] += int(row.amount)
            self.bind.execute(
                sa.update(self.wallets)
                .where(self.wallets.c.account == account, self.wallets.c.currency == currency)
                .values(**sums)
            )


def _ident(*parts: str) -> str:
    text = ":".join(parts)
    if len(text) <= 144 and text.isprintable():
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=24).hexdigest()
    return f"{parts[0]}:{parts[1][:56]}:{digest}"


def upgrade() -> None:
    books = _Books()
    _name_payments(books)
    fees = sa.select(books.payments).where(books.payments.c.purpose == "invoice")
    for paid in books.rows(fees):
        ident = _ident("pay", paid.provider, paid.reference)
        amount = paid.amount
        moved = {"provider_clearing": -amount, "revenue": amount}
        books.post(ident, "fee", paid, amount, moved)
    _book_returns(books)
    _correct_notes(books)
    books.recount()


def _name_payments(books: _Books) -> None:
    """Invoices that an operator said were paid: each gets its payment, by hand."""
    known = sa.select(books.payments.c.subject).where(books.payments.c.purpose == "invoice")
    query = sa.select(books.invoices).where(
        books.invoices.c.kind == "invoice",
        books.invoices.c.status == "paid",
        books.invoices.c.total > 0,
        books.invoices.c.id.not_in(known),
    )
    for invoice in books.rows(query.order_by(books.invoices.c.id)):
        reference = invoice.reference or invoice.number
        same = sa.select(books.payments.c.account).filter_by(provider="manual", reference=reference)
        if books.bind.execute(same).first() is not None:
            reference = f"{reference[:140]} ({invoice.number})"
        books.bind.execute(
            sa.insert(books.payments).values(
                provider="manual",
                reference=reference,
                account=invoice.account,
                currency=invoice.currency,
                amount=invoice.total,
                purpose="invoice",
                subject=invoice.id,
                paid_at=invoice.paid_at or invoice.issued,
            )
        )


def _book_returns(books: _Books) -> None:
    returns, payments = books.returns, books.payments
    query = (
        sa.select(
            returns.c.provider,
            returns.c.reference,
            returns.c.key,
            returns.c.kind,
            returns.c.currency,
            returns.c.amount,
            returns.c.state,
            payments.c.account,
        )
        .join(
            payments,
            sa.and_(
                payments.c.provider == returns.c.provider,
                payments.c.reference == returns.c.payment,
            ),
        )
        .where(payments.c.purpose == "invoice", returns.c.state.in_(("returned", "contested")))
    )
    for back in books.rows(query):
        name = back.key or back.reference if back.kind == "refund" else back.reference
        ident = _ident(back.kind, back.provider, name)
        amount = back.amount
        aside = {"revenue": -amount, "customer_held": amount}
        books.post(ident, "fee_aside", back, amount, aside)
        if back.state == "returned":
            out = {"customer_held": -amount, "provider_clearing": amount}
            books.post(f"{ident}:settled", "pay_out", back, amount, out)


def _correct_notes(books: _Books) -> None:
    """Credit notes were booked as if they had been paid in."""
    entries = books.entries
    query = (
        sa.select(entries)
        .join(books.invoices, entries.c.id == sa.literal("credit:") + books.invoices.c.id)
        .where(books.invoices.c.kind == "credit", entries.c.kind == "credit")
    )
    for note in books.rows(query):
        moved = {"provider_clearing": note.amount, "revenue": -note.amount}
        books.post(f"{note.id}:fee", "correction", note, note.amount, moved)


def downgrade() -> None:
    books = _Books()
    entries, postings = books.entries, books.postings
    fees = books.rows(sa.select(entries).where(entries.c.kind.in_(("fee", "fee_aside"))))
    notes = books.rows(sa.select(entries).where(entries.c.kind == "credit_note"))
    settled = [f"{one.id}:settled" for one in fees if one.kind == "fee_aside"]
    corrections = books.rows(
        sa.select(entries).where(entries.c.id.like("credit:%:fee"), entries.c.kind == "correction")
    )
    gone = [*fees, *corrections]
    for ident in settled:
        gone += books.rows(sa.select(entries).where(entries.c.id == ident))
    for one in gone:
        books.bind.execute(sa.delete(postings).where(postings.c.entry == one.number))
        books.bind.execute(sa.delete(entries).where(entries.c.number == one.number))
    for note in notes:
        books.bind.execute(
            sa.update(postings)
            .where(postings.c.entry == note.number, postings.c.book == "revenue")
            .values(book="provider_clearing")
        )
        books.bind.execute(
            sa.update(entries).where(entries.c.number == note.number).values(kind="credit")
        )
    books.moved = {(one.account, one.currency) for one in (*gone, *notes)}
    books.recount()
    books.bind.execute(
        sa.update(books.invoices).where(books.invoices.c.status == "returned").values(status="void")
    )
