"""Account slots: which row of shared memory an account has. Its own for ever, never given again:
usage that was written down under a slot is charged to the account that had it."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from fastgate.store.money_tables import account_slots


async def all_slots(connection: AsyncConnection) -> dict[str, int]:
    """The slot of every account that has one."""
    rows = await connection.execute(sa.select(account_slots.c.account, account_slots.c.slot))
    return {row.account: row.slot for row in rows}


async def allot(connection: AsyncConnection, account: str, now: datetime) -> int:
    """The account's slot, given now if it has none. The caller holds the ledger's lock."""
    found = await connection.scalar(
        sa.select(account_slots.c.slot).where(account_slots.c.account == account)
    )
    if found is not None:
        return int(found)
    highest = await connection.scalar(sa.select(sa.func.max(account_slots.c.slot)))
    slot = 0 if highest is None else int(highest) + 1
    await connection.execute(
        sa.insert(account_slots).values(account=account, slot=slot, created=now)
    )
    return slot
