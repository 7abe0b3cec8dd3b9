"""Spending limits of single accounts, consumers and keys; the default is the configured limit.

Amounts are micro-units of the gateway's currency; `period` is a calendar period's name. An amount
of 0: nothing may be spent. NO_LIMIT: no limit, even if one is configured.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import sqlalchemy as sa

from fastgate.store.columns import UtcTime, id_type, metadata
from fastgate.store.connection import AsyncConnection, insert_into

NO_LIMIT = -1

spending_limits = sa.Table(
    "spending_limits",
    metadata,
    sa.Column("kind", id_type(12), primary_key=True),  # account, consumer, credential
    sa.Column("subject", id_type(), primary_key=True),  # its id
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("period", sa.String(8), nullable=False),
    sa.Column("updated", UtcTime, nullable=False),
)


class LimitRow(msgspec.Struct, frozen=True, array_like=True):
    """One limit."""

    kind: str
    subject: str
    amount: int
    period: str


async def all_limits(connection: AsyncConnection) -> list[LimitRow]:
    """All limits."""
    columns = (spending_limits.c[name] for name in LimitRow.__struct_fields__)
    rows = await connection.execute(sa.select(*columns))
    return [LimitRow(*row) for row in rows]


async def put_limit(connection: AsyncConnection, row: LimitRow, now: datetime) -> None:
    """Set a limit, replacing an earlier one."""
    values = {"amount": row.amount, "period": row.period, "updated": now}
    await connection.execute(
        insert_into(connection, spending_limits)
        .values(kind=row.kind, subject=row.subject, **values)
        .on_conflict_do_update(index_elements=["kind", "subject"], set_=values)
    )


async def drop_limit(connection: AsyncConnection, kind: str, subject: str) -> bool:
    """Remove a limit; False if there was none."""
    done = await connection.execute(
        sa.delete(spending_limits).where(
            spending_limits.c.kind == kind, spending_limits.c.subject == subject
        )
    )
    return bool(done.rowcount)
