"""Rows of the usage export: units exported, by provider, event, account and UTC day.

A row of the account "" has the first day from which an event is exported. `sending` units are in
progress, since `since`, under the number `number`. The row was written before they were sent, so
even after a kill it is certain what was sent under which number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import msgspec
import sqlalchemy as sa

from fastgate.store.connection import AsyncConnection
from fastgate.store.money_tables import usage_daily
from fastgate.store.payment_tables import payment_customers, usage_exports
from fastgate.store.usage import upsert

KEY = ("provider", "event", "account", "day")
REQUESTS = ""
"""The meter of requests themselves."""


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    provider: str
    event: str
    account: str
    day: date
    told: int = 0
    sending: int = 0
    number: int = 0
    since: datetime


async def begun(connection: AsyncConnection, first: Export) -> date:
    """The day from which an event is exported: `first`'s, if this is the first time."""
    columns = usage_exports.c
    where = [columns[name] == getattr(first, name) for name in ("provider", "event", "account")]
    found = await connection.scalar(sa.select(sa.func.min(columns.day)).where(*where))
    if found is not None:
        day: date = found
        return day
    await put(connection, first)
    return first.day


async def used(
    connection: AsyncConnection, provider: str, meter: str, since: date
) -> list[tuple[str, date, int]]:
    """Account, day and units used from that day on, of accounts that are customers there."""
    daily = usage_daily.c
    units = sa.func.sum(daily.requests if meter == REQUESTS else daily.units)
    rows = await connection.execute(
        sa.select(daily.account, daily.day, units)
        .join(payment_customers, payment_customers.c.account == daily.account)
        .where(payment_customers.c.provider == provider)
        .where(daily.meter == meter, daily.day >= since)
        .group_by(daily.account, daily.day)
        .order_by(daily.day, daily.account)
    )
    return [(account, day, int(total)) for account, day, total in rows]


async def exports(
    connection: AsyncConnection, provider: str, event: str, since: date
) -> dict[tuple[str, date], Export]:
    """What was exported from that day on."""
    columns = usage_exports.c
    rows = await connection.execute(
        sa.select(usage_exports).where(
            columns.provider == provider, columns.event == event, columns.day >= since
        )
    )
    found = [Export(**row._asdict()) for row in rows]
    return {(one.account, one.day): one for one in found}


async def put(connection: AsyncConnection, export: Export) -> None:
    """Write a row, replacing the earlier one."""
    values: Sequence[str] = ("told", "sending", "number", "since")
    await connection.execute(
        upsert(connection, usage_exports, KEY, put=values), [msgspec.structs.asdict(export)]
    )
