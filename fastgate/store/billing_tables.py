"""The tables of billing: subscriptions, invoices, charges and notices.

```
billing_profiles      an account's addresses, time zone, thresholds, whether it has a payment method
subscriptions 1──n subscription_events      account x plan; every transition of it
subscriptions 1──n invoices 1──0..1 dunning_cases
invoices 1──n invoice_draws   what a credit note, or a plan change's invoice, uses of older ones;
                      by subscription: what was left of them at the last change
invoice_numbers       the last number of each series, assigned with the invoice: no gaps
auto_recharges        one row per account: the rule, the month's total, the charge in progress
alert_states          the highest level sent, so that each is sent once
notices 1──n outbox   notices, and each channel that they are sent through
```

Amounts are whole micro-units. A `key` column makes an action unique: repeating it has no effect. A
row with scheduled work has `next_at`, indexed; null: nothing is due.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from fastgate.store.columns import UtcTime, id_type, metadata


def _version() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("created", UtcTime, nullable=False),
        sa.Column("updated", UtcTime, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )


def _text(name: str, length: int, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=False, **more)


def _amount(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)


billing_profiles = sa.Table(
    "billing_profiles",
    metadata,
    sa.Column("account", id_type(), primary_key=True),
    sa.Column("emails", sa.Text, nullable=False),  # JSON, a list of addresses
    _text("zone", 64),
    _text("currency", 3),
    sa.Column("low_balance", sa.BigInteger),
    sa.Column("has_method", sa.Boolean, nullable=False),
    *_version(),
)

subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column(
        "account", id_type(), sa.ForeignKey("accounts.id", ondelete="RESTRICT"), nullable=False
    ),
    sa.Column("plan", id_type(56), nullable=False),
    sa.Column("service", id_type(56)),
    _text("state", 16),
    _text("zone", 64),
    _text("period", 8),
    sa.Column("period_start", UtcTime, nullable=False),
    sa.Column("period_end", UtcTime, nullable=False),
    sa.Column("trial_ends", UtcTime),
    sa.Column("paid_through", UtcTime, nullable=False),
    sa.Column("grace_ends", UtcTime),
    sa.Column("expires", UtcTime),
    sa.Column("cancel_at_period_end", sa.Boolean, nullable=False),
    sa.Column("has_method", sa.Boolean, nullable=False),
    sa.Column("provider", sa.String(56)),
    sa.Column("reference", id_type(200), unique=True),
    sa.Column("next_at", UtcTime, index=True),
    *_version(),
    sa.Index("ix_subscriptions_account", "account"),
    sa.Index("ix_subscriptions_plan", "plan"),
)

subscription_events = sa.Table(
    "subscription_events",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("subscription", id_type(), nullable=False, index=True),
    sa.Column("at", UtcTime, nullable=False),
    _text("event", 32),
    _text("before", 16),
    _text("after", 16),
    _text("note", 500),
)

invoice_numbers = sa.Table(
    "invoice_numbers",
    metadata,
    sa.Column("series", id_type(32), primary_key=True),
    sa.Column("last", sa.Integer, nullable=False),
)

invoices = sa.Table(
    "invoices",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("number", id_type(48), nullable=False, unique=True),
    sa.Column("key", id_type(200), nullable=False, unique=True),
    _text("kind", 12),
    sa.Column("account", id_type(), nullable=False),
    sa.Column("subscription", id_type(), index=True),
    _text("currency", 3),
    _amount("total"),
    _amount("tax"),
    _text("status", 8),
    sa.Column("lines", sa.Text, nullable=False),  # JSON
    sa.Column("period_start", UtcTime),
    sa.Column("period_end", UtcTime),
    sa.Column("issued", UtcTime, nullable=False),
    sa.Column("due", UtcTime, nullable=False),
    sa.Column("paid_at", UtcTime),
    _text("reference", 200),
    sa.Index("ix_invoices_account", "account", "id"),
)

invoice_draws = sa.Table(
    "invoice_draws",
    metadata,
    sa.Column("document", id_type(), primary_key=True),
    sa.Column("invoice", id_type(), primary_key=True, index=True),
    _amount("amount"),
)

dunning_cases = sa.Table(
    "dunning_cases",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("account", id_type(), nullable=False, index=True),
    sa.Column("subscription", id_type()),
    sa.Column("invoice", id_type(), nullable=False, unique=True),
    _text("state", 16),
    _text("decline", 16),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("grace_ends", UtcTime, nullable=False),
    sa.Column("next_at", UtcTime, index=True),
    *_version(),
)

auto_recharges = sa.Table(
    "auto_recharges",
    metadata,
    sa.Column("account", id_type(), primary_key=True),
    _text("currency", 3),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _amount("threshold"),
    _amount("amount"),
    _amount("cap"),
    _text("month", 7),
    _amount("spent"),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("pending_since", UtcTime),
    _amount("pending"),
    sa.Column("declines", sa.Integer, nullable=False),
    _text("stopped", 32),
    sa.Column("next_at", UtcTime, index=True),
    *_version(),
)

alert_states = sa.Table(
    "alert_states",
    metadata,
    sa.Column("account", id_type(), primary_key=True),
    sa.Column("subject", id_type(200), primary_key=True),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("episode", sa.Integer, nullable=False),
    sa.Column("updated", UtcTime, nullable=False),
)

notices = sa.Table(
    "notices",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("key", id_type(200), nullable=False, unique=True),
    sa.Column("account", id_type(), nullable=False),
    _text("kind", 48),
    _text("title", 300),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),  # JSON
    sa.Column("created", UtcTime, nullable=False),
    sa.Column("read_at", UtcTime),
    sa.Index("ix_notices_account", "account", "id"),
    sa.Index("ix_notices_created", "created"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column(
        "notice",
        id_type(),
        sa.ForeignKey("notices.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    _text("channel", 8),
    sa.Column("target", id_type(254), nullable=False),
    _text("state", 8),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", UtcTime, index=True),
    _text("error", 300),
    sa.Column("created", UtcTime, nullable=False),
    sa.Column("done_at", UtcTime),
    sa.UniqueConstraint("notice", "channel", "target", name="uq_outbox_notice"),
)
