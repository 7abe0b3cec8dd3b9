"""The ledger, usage, wallets, the accounts' rows in shared memory, cursors, resolved holds."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type, row_number

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    "holds_resolved",
    "cursors",
    "account_slots",
    "wallets",
    "usage_daily",
    "usage_records",
    "ledger_postings",
    "ledger_entries",
)


def _text(name: str, length: int = 64) -> sa.Column[Any]:
    return sa.Column(name, id_type(length), nullable=False)


def _amount(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, UtcTime(), nullable=False)


def _currency() -> sa.Column[Any]:
    return sa.Column("currency", sa.String(3), nullable=False)


def _ledger() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("number", row_number(), autoincrement=False, nullable=False),
        _text("id", 160),
        sa.Column("kind", sa.String(24), nullable=False),
        _text("account"),
        _currency(),
        _amount("amount"),
        _time("created"),
        sa.Column("reference", sa.String(200), nullable=False),
        sa.Column("note", sa.String(500), nullable=False),
        sa.Column("key", id_type(32), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_ledger_entries"),
        sa.UniqueConstraint("id", name="uq_ledger_entries_id"),
        sa.UniqueConstraint("key", name="uq_ledger_entries_key"),
    )
    op.create_index("ix_ledger_entries_account", "ledger_entries", ["account", "number"])
    op.create_table(
        "ledger_postings",
        sa.Column("entry", row_number(), autoincrement=False, nullable=False),
        sa.Column("book", sa.String(24), nullable=False),
        _amount("amount"),
        sa.ForeignKeyConstraint(
            ["entry"],
            ["ledger_entries.number"],
            name="fk_ledger_postings_entry",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("entry", "book", name="pk_ledger_postings"),
    )


def _usage() -> None:
    op.create_table(
        "usage_records",
        _text("id", 32),
        _time("time"),
        _text("account"),
        _text("consumer"),
        _text("credential"),
        _text("route", 96),
        _text("service", 96),
        _text("plan", 96),
        _currency(),
        _amount("amount"),
        _amount("units"),
        sa.Column("status", sa.Integer(), nullable=False),
        _text("request", 32),
        sa.Column("flags", sa.Integer(), nullable=False),
        sa.Column("entry", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_usage_records"),
    )
    op.create_index("ix_usage_records_account", "usage_records", ["account", "time"])
    op.create_table(
        "usage_daily",
        sa.Column("day", sa.Date(), nullable=False),
        _text("account"),
        _text("consumer"),
        _text("credential"),
        _text("route", 96),
        _text("service", 96),
        _text("plan", 96),
        _currency(),
        _amount("requests"),
        _amount("failed"),
        _amount("units"),
        _amount("amount"),
        sa.PrimaryKeyConstraint(
            "day",
            "account",
            "consumer",
            "credential",
            "route",
            "service",
            "plan",
            "currency",
            name="pk_usage_daily",
        ),
    )


def _wallets() -> None:
    op.create_table(
        "wallets",
        _text("account"),
        _currency(),
        sa.Column("position", sa.Integer(), nullable=False),
        _amount("customer_available"),
        _amount("customer_held"),
        _amount("revenue"),
        _amount("promotional_credit"),
        _amount("provider_clearing"),
        _amount("tax"),
        _amount("credited"),
        _amount("captured"),
        _amount("promo_spent"),
        _amount("overdraft"),
        _time("updated"),
        sa.PrimaryKeyConstraint("account", "currency", name="pk_wallets"),
        sa.UniqueConstraint("account", "position", name="uq_wallets_account"),
    )
    op.create_table(
        "account_slots",
        _text("account"),
        sa.Column("slot", sa.Integer(), nullable=False),
        _time("created"),
        sa.PrimaryKeyConstraint("account", name="pk_account_slots"),
        sa.UniqueConstraint("slot", name="uq_account_slots_slot"),
    )


def _reading() -> None:
    op.create_table(
        "cursors",
        _text("boot", 32),
        sa.Column("worker", sa.Integer(), autoincrement=False, nullable=False),
        _amount("position"),
        _time("updated"),
        sa.PrimaryKeyConstraint("boot", "worker", name="pk_cursors"),
    )
    op.create_table(
        "holds_resolved",
        _text("id", 32),
        sa.Column("worker", sa.Integer(), nullable=False),
        _text("account"),
        _text("consumer"),
        _currency(),
        _amount("charged"),
        _text("request", 32),
        _time("happened"),
        _time("resolved"),
        sa.PrimaryKeyConstraint("id", name="pk_holds_resolved"),
    )
    op.create_index("ix_holds_resolved_resolved", "holds_resolved", ["resolved"])


def upgrade() -> None:
    _ledger()
    _usage()
    _wallets()
    _reading()
    op.execute("INSERT INTO changes (topic, value) VALUES ('ledger', 0)")


def downgrade() -> None:
    op.execute("DELETE FROM changes WHERE topic = 'ledger'")
    for table in TABLES:
        op.drop_table(table)
