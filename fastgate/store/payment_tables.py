"""The tables of payment providers: customers, charges, payments and reported events.

```
payment_customers   our account ↔ the provider's customer
payment_events      every notification, once by its id; processed until it is done
payment_attempts    every charge of a saved method, written before it is sent
payments 1──n payment_returns    payments, and their refunds and disputes
payment_cursors     per provider: the time up to which its list of events has been read
payment_grace       credit given while providers were down, and how it ended
```

Amounts are whole micro-units. A row with scheduled work has `next_at`, indexed; null: nothing is
due.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from fastgate.store.columns import UtcTime, id_type, metadata


def _text(name: str, length: int, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=False, **more)


def _amount(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _provider(**more: Any) -> sa.Column[Any]:
    return sa.Column("provider", id_type(56), nullable=False, **more)


payment_customers = sa.Table(
    "payment_customers",
    metadata,
    _provider(primary_key=True),
    sa.Column("account", id_type(), primary_key=True),
    sa.Column("customer", id_type(200), nullable=False),
    sa.Column("created", UtcTime, nullable=False),
    sa.UniqueConstraint("provider", "customer"),
)

payment_events = sa.Table(
    "payment_events",
    metadata,
    _provider(primary_key=True),
    sa.Column("id", id_type(200), primary_key=True),
    _text("type", 200),
    _text("object", 200),
    _text("hint", 200),
    sa.Column("created", UtcTime, nullable=False),  # at the provider
    sa.Column("received", UtcTime, nullable=False),
    _text("source", 16),  # webhook, reconcile
    _text("state", 16),  # waiting, done, given_up
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", UtcTime, index=True),
    _text("error", 500),
    sa.Column("done_at", UtcTime),
    sa.Index("ix_payment_events_received", "received"),
)

payment_attempts = sa.Table(
    "payment_attempts",
    metadata,
    sa.Column("key", id_type(200), primary_key=True),
    sa.Column("account", id_type(), nullable=False, index=True),
    _provider(),
    _text("currency", 3),
    _amount("amount"),
    _text("purpose", 16),
    _text("subject", 200),
    _text("state", 16),  # sent, then as ChargeStatus
    _text("reference", 200),
    _text("decline", 16),
    _text("code", 100),
    _text("message", 500),
    sa.Column("action_url", sa.Text, nullable=False),
    sa.Column("created", UtcTime, nullable=False),
    sa.Column("updated", UtcTime, nullable=False),
    sa.Column("next_at", UtcTime, index=True),
)

payments = sa.Table(
    "payments",
    metadata,
    _provider(primary_key=True),
    sa.Column("reference", id_type(200), primary_key=True),
    sa.Column("account", id_type(), nullable=False),
    _text("currency", 3),
    _amount("amount"),
    _text("purpose", 16),
    _text("subject", 200),
    sa.Column("paid_at", UtcTime, nullable=False),
    sa.Index("ix_payments_account", "account", "paid_at"),
)

payment_returns = sa.Table(
    "payment_returns",
    metadata,
    _provider(primary_key=True),
    sa.Column("reference", id_type(200), primary_key=True),
    sa.Column("payment", id_type(200), nullable=False),
    _text("key", 200),  # of our request; empty: it was made elsewhere
    _text("kind", 16),  # refund, dispute
    _text("currency", 3),
    _amount("amount"),
    _text("state", 16),  # returned, contested, kept
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("updated", UtcTime, nullable=False),
    sa.Index("ix_payment_returns_payment", "provider", "payment"),
)

payment_cursors = sa.Table(
    "payment_cursors",
    metadata,
    _provider(primary_key=True),
    sa.Column("read_to", UtcTime, nullable=False),
    sa.Column("updated", UtcTime, nullable=False),
)

usage_exports = sa.Table(
    "usage_exports",
    metadata,
    _provider(primary_key=True),
    sa.Column("event", id_type(100), primary_key=True),  # the provider's name for the meter
    sa.Column("account", id_type(), primary_key=True),  # "": the day from which it is exported
    sa.Column("day", sa.Date, primary_key=True),  # UTC
    _amount("told"),  # units
    _amount("sending"),  # in progress, under this number
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("since", UtcTime, nullable=False),
)

payment_grace = sa.Table(
    "payment_grace",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("account", id_type(), nullable=False),
    _text("currency", 3),
    _amount("amount"),
    _text("state", 16),  # opening, open, closing, ended
    _text("cause", 200),
    sa.Column("granted", UtcTime, nullable=False),
    sa.Column("expires", UtcTime, nullable=False),
    sa.Column("ended", UtcTime),
    _text("ended_by", 32),
    sa.Index("ix_payment_grace_account", "account", "granted"),
    sa.Index("ix_payment_grace_state", "state"),
)

RETURNS_OF_PAYMENTS = sa.and_(
    payment_returns.c.provider == payments.c.provider,
    payment_returns.c.payment == payments.c.reference,
)
"""Joins the two."""
