"""Usage records that need not be kept any longer: deleted, with their sums noted.

Reports read the days' sums and balances are the ledger's, which stay for ever; a record is there
to be shown singly, and to make charging exactly-once: one that is offered a second time is known
by its id. So records are kept long after nobody can offer them again (`KEEP_LEAST`), and go by
the time of the *charge*: those of an entry made before the cutoff, and those that cost nothing.

What is deleted is added, by wallet, to `usage_pruned`, in the same transaction, from what the
deletion itself returns: two gateways that prune at once count nothing twice. The audit compares
what charges before `upto` took with the records that are left and these sums.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from fastgate.store.money_tables import ledger_entries, usage_daily, usage_pruned, usage_records
from fastgate.store.usage import upsert

KEEP_LEAST = timedelta(days=30)
"""Records are kept at least that long."""
MOST = 2000
"""Records of one transaction."""


async def accounts_before(connection: AsyncConnection, cutoff: datetime) -> list[str]:
    """The accounts that have used anything by the day of the cutoff."""
    rows = await connection.execute(
        sa.select(usage_daily.c.account).where(usage_daily.c.day <= cutoff.date()).distinct()
    )
    return sorted(account for (account,) in rows)


async def prune(connection: AsyncConnection, account: str, cutoff: datetime) -> int:
    """Delete some of an account's records from before the cutoff; how many. 0: there are no more.

    The caller's transaction writes; `cutoff` lies KEEP_LEAST back, or more.
    """
    record, entry = usage_records.c, ledger_entries.c
    old = (
        sa.select(record.id)
        .outerjoin(ledger_entries, entry.number == record.entry)
        .where(record.account == account, record.time < cutoff)
        .where(sa.or_(record.entry.is_(None), entry.created < cutoff))
        .order_by(record.time)
        .limit(MOST)
    )
    ids = [ident for (ident,) in await connection.execute(old)]
    if not ids:
        return 0
    gone = await connection.execute(
        sa.delete(usage_records)
        .where(record.id.in_(ids))
        .returning(record.currency, record.meter, record.units, record.amount)
    )
    sums: dict[str, list[int]] = {}
    for currency, meter, units, amount in gone:
        each = sums.setdefault(currency, [0, 0, 0])
        each[0] += not meter
        each[1] += units
        each[2] += amount
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
    return len(ids)
