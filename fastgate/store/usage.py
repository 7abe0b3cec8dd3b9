"""Usage: blocks of records, each record once; the daily totals; and the holds settled for workers
that died.

A record's id consists of the boot, the worker and its number in shared memory, so a record always
has the same id, however often and on whatever path it arrives. `unknown` leaves out the records
that are already in the store. That is reliable only under the ledger's lock
(`ledger.take_numbers`), because it reads before it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from fastgate._core.money.usage_block import numbers
from fastgate.store.connection import AsyncConnection, insert_into
from fastgate.store.ledger import Key
from fastgate.store.money_tables import holds_resolved, usage_blocks, usage_daily
from fastgate.store.pages import BadCursor, Page, decode_cursor, page_of
from fastgate.store.usage_blocks import BOOT, EPOCH, RECOVERED, Block, Usage


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """The settlement of a request whose worker died."""

    id: str
    worker: int
    account: str
    consumer: str
    currency: str
    charged: int
    request: str
    happened: datetime
    resolved: datetime


# ---- writing ----------------------------------------------------------------------------


def unknown(connection: sa.Connection, blocks: Sequence[Block]) -> list[Block]:
    """The records that are not in the store, each once, in order."""
    ranges: dict[str, tuple[str, str]] = {}
    for block in blocks:
        area = block.low[:_AREA]
        low, high = ranges.get(area, (block.low, block.high))
        ranges[area] = min(low, block.low), max(high, block.high)
    known: dict[str, set[int]] = {}  # numbers, by boot
    for area, (low, high) in ranges.items():
        rows = connection.execute(
            sa.select(usage_blocks.c.low, usage_blocks.c.lines).where(
                usage_blocks.c.low <= high,
                # Only up to this worker's ids, so that the index is enough.
                usage_blocks.c.high.between(low, area.ljust(_ID, "f")),
            )
        )
        for first, lines in rows:
            known.setdefault(first[:BOOT], set()).update(numbers(lines))
    fresh: list[Block] = []
    for block in blocks:
        there = known.setdefault(block.boot, set())
        left = block.without(there)
        if left is not None:
            fresh.append(left)
            there.update(left.numbers())
    return fresh


def insert(
    connection: sa.Connection,
    blocks: Sequence[Block],
    entries: Mapping[Key, int],
    now: datetime,
) -> None:
    """Insert new blocks; `entries`: the numbers of the entries that charge for them, by account and
    currency."""
    if not blocks:
        return
    lite = connection.dialect.name == "sqlite"
    # Tuples, directly for the driver: there may be thousands, and SQLAlchemy's dictionaries cost
    # more than the database.
    rows = [
        (
            *msgspec.structs.astuple(block),
            entries[block.account, block.currency] if block.amount else None,
        )
        for block in blocks
    ]
    connection.exec_driver_sql((_LITE if lite else _POSTGRESQL).blocks, rows)
    _add_days(connection, blocks)
    recovered = [
        usage
        for block in blocks
        if block.recovered
        for usage in block.usages()
        if usage.flags & RECOVERED
    ]
    if recovered:
        connection.execute(
            sa.insert(holds_resolved),
            [
                {
                    "id": usage.id,
                    "worker": usage.worker,
                    "account": usage.account,
                    "consumer": usage.consumer,
                    "currency": usage.currency,
                    "charged": usage.amount,
                    "request": usage.request,
                    "happened": usage.time,
                    "resolved": now,
                }
                for usage in recovered
            ],
        )


_AREA, _ID = 18, 32  # digits of an id: boot and area, and all
_COLUMNS = (*Block.__struct_fields__, "entry")
_DAY_0 = EPOCH.date()
_DIMENSIONS = tuple(column.name for column in usage_daily.primary_key.columns)
SUMS = ("requests", "failed", "units", "amount")
"""The columns of `usage_daily` that are summed."""


class _Statements(NamedTuple):
    """The statement with the driver's style of parameters."""

    blocks: str
    days: str

    @classmethod
    def of(cls, parameter: str) -> _Statements:
        """`parameter`: a format with a place for the number, from 1 on."""

        def into(table: str, names: tuple[str, ...]) -> str:
            given = ", ".join(parameter.format(at + 1) for at in range(len(names)))
            return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({given})"

        add = ", ".join(f"{name} = usage_daily.{name} + excluded.{name}" for name in SUMS)
        days = into("usage_daily", (*_DIMENSIONS, *SUMS))
        days += f" ON CONFLICT ({', '.join(_DIMENSIONS)}) DO UPDATE SET {add}"
        return cls(into("usage_blocks", _COLUMNS), days)


_LITE, _POSTGRESQL = _Statements.of("?"), _Statements.of("${}")


def _add_days(connection: sa.Connection, blocks: Sequence[Block]) -> None:
    days: dict[tuple[Any, ...], list[int]] = {}
    for block in blocks:
        key = (
            block.day,
            block.account,
            block.consumer,
            block.credential,
            block.route,
            block.service,
            block.plan,
            block.currency,
            block.meter,
        )
        sums = days.setdefault(key, [0, 0, 0, 0])
        sums[0] += block.requests
        sums[1] += block.failed
        sums[2] += block.units
        sums[3] += block.amount
    lite = connection.dialect.name == "sqlite"
    dates: dict[int, Any] = {day: _DAY_0 + timedelta(day) for day, *_ in days}
    if lite:
        dates = {day: date.isoformat() for day, date in dates.items()}
    connection.exec_driver_sql(
        (_LITE if lite else _POSTGRESQL).days,
        # In the same order everywhere, so that two gateways on a database cannot deadlock.
        [(dates[day], *key, *sums) for (day, *key), sums in sorted(days.items())],
    )


def upsert(
    connection: sa.Connection | AsyncConnection,
    table: sa.Table,
    key: Sequence[str],
    *,
    add: Sequence[str] = (),
    put: Sequence[str] = (),
) -> Any:
    """INSERT … ON CONFLICT: `add` adds to these columns, `put` replaces these."""
    statement = insert_into(connection, table)
    return statement.on_conflict_do_update(
        index_elements=[table.c[name] for name in key],
        set_={
            **{name: table.c[name] + statement.excluded[name] for name in add},
            **{name: statement.excluded[name] for name in put},
        },
    )


# ---- reading ----------------------------------------------------------------------------


async def page(
    connection: AsyncConnection, account: str, *, cursor: str | None, limit: int
) -> Page[Usage]:
    """An account's records, the newest first. Raises BadCursor."""
    query = (
        sa.select(usage_blocks)
        .where(usage_blocks.c.account == account)
        .order_by(usage_blocks.c.last_us.desc(), usage_blocks.c.low)
        .execution_options(yield_per=8)  # they may be large
    )
    before: tuple[int, str] | None = None
    if cursor is not None:
        before = _place(cursor)
        query = query.where(usage_blocks.c.first_us <= before[0])
    found: list[tuple[int, str, Usage]] = []
    async with connection.stream(query) as rows:
        async for row in rows:
            # Blocks overlap in time; one that ends before the last of the page, and all after it,
            # have nothing to add.
            if len(found) > limit and row.last_us < found[limit][0]:
                break
            for usage in _block(row).usages():
                place = (usage.time_us, usage.id)
                if before is None or place < before:
                    found.append((*place, usage))
            found.sort(key=lambda place: place[:2], reverse=True)
            del found[limit + 1 :]
    return page_of(
        [usage for _, _, usage in found], limit, lambda item: f"{item.time_us}:{item.id}"
    )


def _place(cursor: str) -> tuple[int, str]:
    microseconds, _, ident = decode_cursor(cursor, str).partition(":")
    try:
        return int(microseconds), ident
    except ValueError as error:
        raise BadCursor("This cursor was not given out for this list.") from error


def _block(row: sa.Row[Any]) -> Block:
    values = row._asdict()
    values.pop("entry")
    return Block(**values)


async def resolved(connection: AsyncConnection, *, since: datetime, limit: int) -> list[Resolved]:
    """The holds settled for dead workers since then, the newest first."""
    rows = await connection.execute(
        sa.select(holds_resolved)
        .where(holds_resolved.c.resolved >= since)
        .order_by(holds_resolved.c.resolved.desc(), holds_resolved.c.id)
        .limit(limit)
    )
    return [Resolved(**row._asdict()) for row in rows]
