"""The tables of money: the ledger, usage and wallets.

```
ledger_entries 1──n ledger_postings     one movement of one account in one currency; sum zero
      │ number
usage_blocks n──1 ledger_entries        usage, each record once, in blocks of similar records, with
                                        the entry that charged for them
usage_daily                             daily totals of usage, for reports
usage_pruned                            totals of deleted blocks, for the audit
wallets                                 one row per account and currency: the books' balances
x402_payments 1──1 ledger_entries       payments for single requests, including uncertain ones
account_slots                           the account's row in shared memory
holds_resolved                          holds charged or released for a worker that died
```

Amounts are whole micro-units of the currency (1 EUR = 1,000,000). Entries, postings and blocks are
only inserted, except that blocks older than `billing.usage.keep` are deleted (`usage_prune`).
Records with a `meter` count units that requests used; they are not additional requests. Times of
usage are Unix times in microseconds. `ledger_entries.number` is assigned under the lock of the
topic "ledger" (`changes`), so the order of numbers is the order of commits on both databases: a
reader that has seen N has seen everything before N.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from fastgate.store.columns import UtcTime, id_type, metadata, row_number

LEDGER_TOPIC = "ledger"

ledger_entries = sa.Table(
    "ledger_entries",
    metadata,
    sa.Column("number", row_number(), primary_key=True, autoincrement=False),
    sa.Column("id", id_type(160), nullable=False, unique=True),
    sa.Column("kind", sa.String(24), nullable=False),
    sa.Column("account", id_type(), nullable=False),
    sa.Column("currency", sa.String(80), nullable=False),  # or the token of an x402 payment
    sa.Column("amount", sa.BigInteger, nullable=False),  # as requested: part of the identity
    sa.Column("created", UtcTime, nullable=False),
    sa.Column("reference", sa.String(200), nullable=False),
    sa.Column("note", sa.String(500), nullable=False),
    sa.Column("key", id_type(32), unique=True),  # its key in shared memory; null: no cell changes
    sa.Index("ix_ledger_entries_account", "account", "number"),
)

ledger_postings = sa.Table(
    "ledger_postings",
    metadata,
    sa.Column(
        "entry",
        row_number(),
        sa.ForeignKey("ledger_entries.number", ondelete="RESTRICT"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("book", sa.String(24), primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
)

usage_blocks = sa.Table(  # the columns are those of `usage_blocks.Block`
    "usage_blocks",
    metadata,
    sa.Column("low", id_type(32), primary_key=True),  # ids: 16 octets in hexadecimal
    sa.Column("high", id_type(32), nullable=False, index=True),
    sa.Column("day", sa.Integer, nullable=False),  # UTC, from 1970
    sa.Column("first_us", sa.BigInteger, nullable=False),
    sa.Column("last_us", sa.BigInteger, nullable=False),
    sa.Column("account", id_type(), nullable=False),
    sa.Column("consumer", id_type(), nullable=False),
    sa.Column("credential", id_type(), nullable=False),
    sa.Column("route", id_type(96), nullable=False),
    sa.Column("service", id_type(96), nullable=False),
    sa.Column("plan", id_type(96), nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("meter", id_type(), nullable=False),  # "": requests
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),  # answered with 500 or more
    sa.Column("recovered", sa.BigInteger, nullable=False),  # of dead workers
    sa.Column("units", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("lines", sa.LargeBinary, nullable=False),  # the fields of each record
    sa.Column("entry", sa.BigInteger),  # null: nothing was charged
    sa.Index("ix_usage_blocks_account", "account", "last_us"),
)


def _dimension(name: str, length: int = 64) -> sa.Column[Any]:
    return sa.Column(name, id_type(length), primary_key=True)


usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),  # UTC
    _dimension("account"),
    _dimension("consumer"),
    _dimension("credential"),
    _dimension("route", 96),
    _dimension("service", 96),
    _dimension("plan", 96),
    sa.Column("currency", sa.String(3), primary_key=True),
    sa.Column("meter", id_type(), primary_key=True, server_default=""),  # "": requests
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),  # answered with 500 or more
    sa.Column("units", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
)

usage_pruned = sa.Table(
    "usage_pruned",
    metadata,
    sa.Column("account", id_type(), primary_key=True),
    sa.Column("currency", sa.String(3), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("units", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("upto", UtcTime, nullable=False),  # records of charges before it may be deleted
)

wallets = sa.Table(
    "wallets",
    metadata,
    sa.Column("account", id_type(), primary_key=True),
    sa.Column("currency", sa.String(3), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),  # which of the account's cells
    sa.Column("customer_available", sa.BigInteger, nullable=False),
    sa.Column("customer_held", sa.BigInteger, nullable=False),
    sa.Column("revenue", sa.BigInteger, nullable=False),
    sa.Column("promotional_credit", sa.BigInteger, nullable=False),
    sa.Column("provider_clearing", sa.BigInteger, nullable=False),
    sa.Column("tax", sa.BigInteger, nullable=False),
    sa.Column("credited", sa.BigInteger, nullable=False),  # brought, less what was paid out
    sa.Column("captured", sa.BigInteger, nullable=False),  # charged, less what was refunded
    sa.Column("promo_spent", sa.BigInteger, nullable=False),  # of that: by promotional credit
    sa.Column("overdraft", sa.BigInteger, nullable=False),  # the overdraft
    sa.Column("updated", UtcTime, nullable=False),
    sa.UniqueConstraint("account", "position"),
)

x402_payments = sa.Table(
    "x402_payments",
    metadata,
    sa.Column("id", id_type(64), primary_key=True),  # the nonce's digest: see `billing.x402.claims`
    sa.Column("state", sa.String(16), nullable=False),  # settled, or unknown permanently
    sa.Column("currency", id_type(80), nullable=False),  # the token, by its CAIP-19 name
    sa.Column("amount", sa.BigInteger, nullable=False),  # micro-units: millionths of a token
    sa.Column("asset_name", sa.String(64), nullable=False),
    sa.Column("pay_to", sa.String(64), nullable=False),
    sa.Column("payer", sa.String(64), nullable=False),
    sa.Column("route", id_type(96), nullable=False),
    sa.Column("reference", sa.String(200), nullable=False),  # the transaction, if it is known
    sa.Column("presumed", sa.Boolean, nullable=False),  # its nonce is spent; no receipt says so
    sa.Column("day", sa.Date, nullable=False),  # UTC
    sa.Column("paid_at", UtcTime, nullable=False),
    sa.Column("booked_at", UtcTime, nullable=False),
    sa.Index("ix_x402_payments_day", "day"),
)

account_slots = sa.Table(
    "account_slots",
    metadata,
    sa.Column("account", id_type(), primary_key=True),
    sa.Column("slot", sa.Integer, nullable=False, unique=True),
    sa.Column("created", UtcTime, nullable=False),
)

holds_resolved = sa.Table(
    "holds_resolved",
    metadata,
    sa.Column("id", id_type(32), primary_key=True),  # of the usage record
    sa.Column("worker", sa.Integer, nullable=False),
    sa.Column("account", id_type(), nullable=False),
    sa.Column("consumer", id_type(), nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("charged", sa.BigInteger, nullable=False),
    sa.Column("request", id_type(32), nullable=False),
    sa.Column("happened", UtcTime, nullable=False),
    sa.Column("resolved", UtcTime, nullable=False),
    sa.Index("ix_holds_resolved_resolved", "resolved"),
)
