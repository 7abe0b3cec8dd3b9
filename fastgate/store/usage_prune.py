"""Deletes old usage records, and keeps their totals.

Reports read the daily totals, and balances are in the ledger; both are permanent. A record is only
needed to be shown by itself, and to charge it once: if it arrives a second time, its id is known.
So records are kept for longer than they can arrive again (`KEEP_LEAST`). They are deleted by block
and by the time of the *charge*: blocks of an entry made before the cutoff, and those that cost
nothing.

The totals of deleted records are added, by wallet, to `usage_pruned` in the same transaction, from
the rows that the deletion returns, so two gateways that prune at once count nothing twice. The
audit compares the charges before `upto` with the remaining records plus these totals.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from fastgate.store.connection import AsyncConnection
from fastgate.store.money_tables import ledger_entries, usage_blocks, usage_daily, usage_pruned
from fastgate.store.usage import upsert
from fastgate.store.usage_blocks import EPOCH

KEEP_LEAST = timedelta(days=30)
"""The minimum time that records are kept."""
MOST = 500
"""Maximum blocks of one transaction."""
MICROSECOND = timedelta(microseconds=1)


async def accounts_before(connection: AsyncConnection, cutoff: datetime) -> list[str]:
    """The accounts that have used anything by the day of the cutoff."""
    rows = await connection.execute(
        sa.select(usage_daily.c.account).where(usage_daily.c.day <= cutoff.date()).distinct()
    )
    return sorted(account for (account,) in rows)


async def prune(connection: AsyncConnection, account: str, cutoff: datetime) -> int:
    """Delete some of an account's records from before the cutoff. How many; 0: no more.

    The caller's transaction writes; `cutoff` is at least KEEP_LEAST ago.
    """
    block, entry = usage_blocks.c, ledger_entries.c
    old = (
        sa.select(block.low)
        .outerjoin(ledger_entries, entry.number == block.entry)
        .where(block.account == account, block.last_us < (cutoff - EPOCH) // MICROSECOND)
        .where(sa.or_(block.entry.is_(None), entry.created < cutoff))
        .order_by(block.last_us)
        .limit(MOST)
    )
    ids = [ident for (ident,) in await connection.execute(old)]
    if not ids:
        return 0
    gone = await connection.execute(
        sa.delete(usage_blocks)
        .where(block.low.in_(ids))
        .returning(block.currency, block.meter, block.records, block.units, block.amount)
    )
    sums: dict[str, list[int]] = {}
    total = 0
    for currency, meter, records, units, amount in gone:
        each = sums.setdefault(currency, [0, 0, 0])
        each[0] += 0 if meter else records
        each[1] += units
        each[2] += amount
        total += records
    if sums:
        await connection.execute(
            upsert(
                connection,
                usage_pruned,
                ("account", "currency"),
                add=("requests", "units", "amount"),
                put=("upto",),
            ),
            [
                {
                    "account": account,
                    "currency": currency,
                    "requests": requests,
                    "units": units,
                    "amount": amount,
                    "upto": cutoff,
                }
                for currency, (requests, units, amount) in sorted(sums.items())
            ],
        )
    return total
