"""Payment providers: customers, events, attempts, payments, cursors, grace."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "payment_grace",
    "payment_cursors",
    "payment_returns",
    "payments",
    "payment_attempts",
    "payment_events",
    "payment_customers",
)


def _news() -> None:
    op.create_table(
        "payment_customers",
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("customer", id_type(200), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "account", name="pk_payment_customers"),
        sa.UniqueConstraint("provider", "customer", name="uq_payment_customers_provider"),
    )
    op.create_table(
        "payment_events",
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("id", id_type(200), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("object", sa.String(200), nullable=False),
        sa.Column("hint", sa.String(200), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("received", UtcTime(), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("error", sa.String(500), nullable=False),
        sa.Column("done_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("provider", "id", name="pk_payment_events"),
    )
    op.create_index("ix_payment_events_next_at", "payment_events", ["next_at"])
    op.create_index("ix_payment_events_received", "payment_events", ["received"])
    op.create_table(
        "payment_cursors",
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("read_to", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", name="pk_payment_cursors"),
    )


def _payments() -> None:
    op.create_table(
        "payment_attempts",
        sa.Column("key", id_type(200), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reference", sa.String(200), nullable=False),
        sa.Column("decline", sa.String(16), nullable=False),
        sa.Column("code", sa.String(100), nullable=False),
        sa.Column("message", sa.String(500), nullable=False),
        sa.Column("action_url", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_payment_attempts"),
    )
    op.create_index("ix_payment_attempts_account", "payment_attempts", ["account"])
    op.create_index("ix_payment_attempts_next_at", "payment_attempts", ["next_at"])
    op.create_table(
        "payments",
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("reference", id_type(200), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("paid_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "reference", name="pk_payments"),
    )
    op.create_index("ix_payments_account", "payments", ["account", "paid_at"])
    op.create_table(
        "payment_returns",
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("reference", id_type(200), nullable=False),
        sa.Column("payment", id_type(200), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "reference", name="pk_payment_returns"),
    )
    op.create_index("ix_payment_returns_payment", "payment_returns", ["provider", "payment"])


def _grace() -> None:
    op.create_table(
        "payment_grace",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cause", sa.String(200), nullable=False),
        sa.Column("granted", UtcTime(), nullable=False),
        sa.Column("expires", UtcTime(), nullable=False),
        sa.Column("ended", UtcTime(), nullable=True),
        sa.Column("ended_by", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_payment_grace"),
    )
    op.create_index("ix_payment_grace_account", "payment_grace", ["account", "granted"])
    op.create_index("ix_payment_grace_state", "payment_grace", ["state"])


def upgrade() -> None:
    _news()
    _payments()
    _grace()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
