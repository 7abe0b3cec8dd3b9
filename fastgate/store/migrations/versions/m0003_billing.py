"""Subscriptions, invoices, dunning, auto-recharge, alerts, notices and their outbox."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    "outbox",
    "notices",
    "alert_states",
    "auto_recharges",
    "dunning_cases",
    "invoices",
    "invoice_numbers",
    "subscription_events",
    "subscriptions",
    "billing_profiles",
)


def _subscriptions() -> None:
    op.create_table(
        "billing_profiles",
        sa.Column("account", id_type(), nullable=False),
        sa.Column("emails", sa.Text(), nullable=False),
        sa.Column("zone", sa.String(64), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("low_balance", sa.BigInteger(), nullable=True),
        sa.Column("has_method", sa.Boolean(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_billing_profiles"),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("plan", id_type(56), nullable=False),
        sa.Column("service", id_type(56), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("zone", sa.String(64), nullable=False),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("period_start", UtcTime(), nullable=False),
        sa.Column("period_end", UtcTime(), nullable=False),
        sa.Column("trial_ends", UtcTime(), nullable=True),
        sa.Column("paid_through", UtcTime(), nullable=False),
        sa.Column("grace_ends", UtcTime(), nullable=True),
        sa.Column("expires", UtcTime(), nullable=True),
        sa.Column("cancel_at_period_end", sa.Boolean(), nullable=False),
        sa.Column("has_method", sa.Boolean(), nullable=False),
        sa.Column("provider", sa.String(56), nullable=True),
        sa.Column("reference", id_type(200), nullable=True),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.id"], name="fk_subscriptions_account", ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_subscriptions"),
        sa.UniqueConstraint("reference", name="uq_subscriptions_reference"),
    )
    op.create_index("ix_subscriptions_account", "subscriptions", ["account"])
    op.create_index("ix_subscriptions_next_at", "subscriptions", ["next_at"])
    op.create_index("ix_subscriptions_plan", "subscriptions", ["plan"])
    op.create_table(
        "subscription_events",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("subscription", id_type(), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("before", sa.String(16), nullable=False),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("note", sa.String(500), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_subscription_events"),
    )
    op.create_index("ix_subscription_events_subscription", "subscription_events", ["subscription"])


def _invoices() -> None:
    op.create_table(
        "invoice_numbers",
        sa.Column("series", id_type(32), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("series", name="pk_invoice_numbers"),
    )
    op.create_table(
        "invoices",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("number", id_type(48), nullable=False),
        sa.Column("key", id_type(200), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("subscription", id_type(), nullable=True),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("lines", sa.Text(), nullable=False),
        sa.Column("period_start", UtcTime(), nullable=True),
        sa.Column("period_end", UtcTime(), nullable=True),
        sa.Column("issued", UtcTime(), nullable=False),
        sa.Column("due", UtcTime(), nullable=False),
        sa.Column("paid_at", UtcTime(), nullable=True),
        sa.Column("reference", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_invoices"),
        sa.UniqueConstraint("number", name="uq_invoices_number"),
        sa.UniqueConstraint("key", name="uq_invoices_key"),
    )
    op.create_index("ix_invoices_account", "invoices", ["account", "id"])
    op.create_index("ix_invoices_subscription", "invoices", ["subscription"])
    op.create_table(
        "dunning_cases",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("subscription", id_type(), nullable=True),
        sa.Column("invoice", id_type(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("decline", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("grace_ends", UtcTime(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dunning_cases"),
        sa.UniqueConstraint("invoice", name="uq_dunning_cases_invoice"),
    )
    op.create_index("ix_dunning_cases_account", "dunning_cases", ["account"])
    op.create_index("ix_dunning_cases_next_at", "dunning_cases", ["next_at"])


def _notices() -> None:
    op.create_table(
        "auto_recharges",
        sa.Column("account", id_type(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("threshold", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("cap", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("pending_since", UtcTime(), nullable=True),
        sa.Column("pending", sa.BigInteger(), nullable=False),
        sa.Column("declines", sa.Integer(), nullable=False),
        sa.Column("stopped", sa.String(32), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_auto_recharges"),
    )
    op.create_index("ix_auto_recharges_next_at", "auto_recharges", ["next_at"])
    op.create_table(
        "alert_states",
        sa.Column("account", id_type(), nullable=False),
        sa.Column("subject", id_type(200), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", "subject", name="pk_alert_states"),
    )
    op.create_table(
        "notices",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("key", id_type(200), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("kind", sa.String(48), nullable=False),
        sa.Column("title", sa.String(300), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("read_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
        sa.UniqueConstraint("key", name="uq_notices_key"),
    )
    op.create_index("ix_notices_account", "notices", ["account", "id"])
    op.create_index("ix_notices_created", "notices", ["created"])
    op.create_table(
        "outbox",
        sa.Column("id", id_type(), nullable=False),
        sa.Column("notice", id_type(), nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column("target", id_type(254), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("error", sa.String(300), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("done_at", UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["notice"], ["notices.id"], name="fk_outbox_notice", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("notice", "channel", "target", name="uq_outbox_notice"),
    )
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
    op.create_index("ix_outbox_notice", "outbox", ["notice"])


def upgrade() -> None:
    _subscriptions()
    _invoices()
    _notices()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
