"""The tables, declared once. `migrations/` must lead to exactly these (a test compares).

```
accounts 1──0..n consumers 1──n credentials        who pays, who calls, what proves it
revoked_tokens callers' tokens that are refused until they expire (hashes)
revisions      every version of the configuration, parent by number
tokens         bearer tokens of the control API (hashes)
idempotency    answers to writes that carried an Idempotency-Key (sealed)
changes        one counter per topic, incremented in each transaction that changes the topic,
               so that another gateway on the same database knows that it must read again
```

The ledger, usage and wallets are in `money_tables`, subscriptions, invoices and notices in
`billing_tables`, payment providers in `payment_tables`, spending limits in `spending`, and the
owner of the store in `owner`.

Ids compare as bytes on both databases (PostgreSQL: collation "C"), so that they sort by age. Times
are UTC: `timestamptz` on PostgreSQL, text on SQLite, always aware in Python. A row that can be
changed has a `version`, which is its ETag.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from fastgate.store import billing_tables, money_tables, owner, payment_tables, spending
from fastgate.store.columns import JsonText, UtcTime, id_type, metadata


def _created() -> sa.Column[Any]:
    return sa.Column("created", UtcTime, nullable=False)


def _version() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (
        sa.Column("updated", UtcTime, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )


accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("name", id_type(96), nullable=False, unique=True),
    _created(),
    *_version(),
)

consumers = sa.Table(
    "consumers",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("account", id_type(), sa.ForeignKey("accounts.id", ondelete="RESTRICT"), index=True),
    sa.Column("name", id_type(96), nullable=False, unique=True),
    sa.Column("plan", id_type(56), index=True),
    sa.Column("suspended", sa.Boolean, nullable=False),
    sa.Column("limits", JsonText, nullable=False),  # its own limits, by name
    _created(),
    *_version(),
)

credentials = sa.Table(
    "credentials",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column(
        "consumer",
        id_type(),
        sa.ForeignKey("consumers.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("prefix", sa.String(48), nullable=False),
    sa.Column("label", sa.String(200), nullable=False),
    _created(),
    *_version(),
    sa.Column("expires_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
    sa.Column("kind", sa.String(16), nullable=False, server_default="key"),
    sa.Column("about", JsonText, nullable=False, server_default="{}"),  # for people, by kind
)

revoked_tokens = sa.Table(
    "revoked_tokens",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("whole", sa.LargeBinary(32)),  # of a JWT: the digest of its whole text, too
    sa.Column("about", JsonText, nullable=False),
    sa.Column("revoked_by", sa.String(200), nullable=False),
    _created(),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Index("ix_revoked_tokens_expires_at", "expires_at"),
)

revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.Integer),
    sa.Column("document", sa.LargeBinary, nullable=False),  # zlib of canonical JSON
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("author", sa.String(200), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("note", sa.String(500), nullable=False),
    _created(),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("prefix", sa.String(48), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    _created(),
    sa.Column("expires_at", UtcTime),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("principal", id_type(), primary_key=True),
    sa.Column("key", sa.LargeBinary(32), primary_key=True),  # SHA-256 of the key
    sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    sa.Column("attempt", id_type(), nullable=False),
    sa.Column("answer", sa.LargeBinary),  # sealed; null: still in progress
    _created(),
    sa.Index("ix_idempotency_created", "created"),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("topic", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

HEAD = "0016"
"""The migration that leads to `metadata`: the newest in `migrations/versions`."""

__all__ = [
    "HEAD",
    "UtcTime",
    "accounts",
    "billing_tables",
    "changes",
    "consumers",
    "credentials",
    "id_type",
    "idempotency",
    "metadata",
    "money_tables",
    "owner",
    "payment_tables",
    "revisions",
    "revoked_tokens",
    "spending",
    "tokens",
]
