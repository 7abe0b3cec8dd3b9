"""Credit notes say which invoices they draw on. Those that there are draw on what was paid for
their subscription, the newest invoice first; a late payment's on its own."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import id_type

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "invoice_draws",
        sa.Column("document", id_type(), primary_key=True),
        sa.Column("invoice", id_type(), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_invoice_draws_invoice", "invoice_draws", ["invoice"])
    bind = op.get_bind()
    meta = sa.MetaData()
    meta.reflect(bind, only=("invoices", "payments", "payment_returns", "invoice_draws"))
    invoices, payments = meta.tables["invoices"], meta.tables["payments"]
    returns, draws = meta.tables["payment_returns"], meta.tables["invoice_draws"]
    notes = sa.select(invoices).where(invoices.c.kind == "credit")
    paid = sa.select(payments).where(payments.c.purpose == "invoice")
    twice = {note.key for note in bind.execute(notes) if note.key.startswith("twice:")}
    here: dict[tuple[str, str], int] = {}  # by invoice and currency
    subject: dict[tuple[str, str], tuple[str, str]] = {}
    for one in bind.execute(paid):
        if f"twice:{one.provider}:{one.reference}"[:200] not in twice:
            key = (one.subject, one.currency)
            here[key] = here.get(key, 0) + one.amount
            subject[one.provider, one.reference] = key
    gone = sa.select(returns).where(returns.c.state.in_(("returned", "contested")))
    back: dict[tuple[str, str], list[sa.Row[tuple[object, ...]]]] = {}
    for one in bind.execute(gone):
        if (one.provider, one.payment) in subject:
            back.setdefault(subject[one.provider, one.payment], []).append(one)
    order = sa.select(invoices).order_by(invoices.c.issued, invoices.c.id)
    older: dict[str, list[str]] = {}  # by subscription, the newest last
    drawn: dict[str, int] = {}
    for one in bind.execute(order).all():
        if one.kind == "invoice" and one.subscription is not None:
            older.setdefault(one.subscription, []).append(one.id)
        if one.kind != "credit" or one.key.startswith("twice:"):
            continue
        late = one.key.startswith("late:")
        of = [one.key[5:]] if late else reversed(older.get(one.subscription or "", []))
        rest = one.total
        for ident in of:
            key = (ident, one.currency)
            less = sum(each.amount for each in back.get(key, ()) if each.at <= one.issued)
            part = min(rest, here.get(key, 0) - less - drawn.get(ident, 0))
            if part > 0:
                bind.execute(sa.insert(draws).values(document=one.id, invoice=ident, amount=part))
                drawn[ident] = drawn.get(ident, 0) + part
                rest -= part


def downgrade() -> None:
    op.drop_table("invoice_draws")
