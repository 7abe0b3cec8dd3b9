"""Account slots: an account's row in shared memory. A slot is permanent and never reused, because
usage that was recorded under a slot is charged to its account."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from fastgate.store.money_tables import account_slots


def all_slots(connection: sa.Connection) -> dict[str, int]:
    """The slot of every account that has one."""
    rows = connection.execute(sa.select(account_slots.c.account, account_slots.c.slot))
    return {row.account: row.slot for row in rows}


def allot(connection: sa.Connection, account: str, now: datetime) -> int:
    """The account's slot, assigned now if it has none. The caller holds the ledger's lock."""
    found = connection.scalar(
        sa.select(account_slots.c.slot).where(account_slots.c.account == account)
    )
    if found is not None:
        return int(found)
    highest = connection.scalar(sa.select(sa.func.max(account_slots.c.slot)))
    slot = 0 if highest is None else int(highest) + 1
    connection.execute(sa.insert(account_slots).values(account=account, slot=slot, created=now))
    return slot
