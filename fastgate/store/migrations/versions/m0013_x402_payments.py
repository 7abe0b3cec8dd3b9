"""What was paid with x402, and entries in tokens: a currency's name has up to 80 characters."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _currency(80)
    op.create_table(
        "x402_payments",
        sa.Column("id", id_type(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("currency", id_type(80), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("asset_name", sa.String(64), nullable=False),
        sa.Column("pay_to", sa.String(64), nullable=False),
        sa.Column("payer", sa.String(64), nullable=False),
        sa.Column("route", id_type(96), nullable=False),
        sa.Column("reference", sa.String(200), nullable=False),
        sa.Column("presumed", sa.Boolean(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("paid_at", UtcTime(), nullable=False),
        sa.Column("booked_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_x402_payments"),
    )
    op.create_index("ix_x402_payments_day", "x402_payments", ["day"])


def downgrade() -> None:
    op.execute(
        sa.text(
            "DELETE FROM ledger_postings WHERE entry IN "
            "(SELECT number FROM ledger_entries WHERE kind = 'x402')"
        )
    )
    op.execute(sa.text("DELETE FROM ledger_entries WHERE kind = 'x402'"))
    op.drop_table("x402_payments")
    _currency(3)


def _currency(length: int) -> None:
    # SQLite keeps text of any length, whatever the column was declared as.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("ledger_entries", "currency", type_=sa.String(length))
