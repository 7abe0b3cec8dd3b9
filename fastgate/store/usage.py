"""Usage records: what was used, once each; with them the days' sums, the rings' positions and
what was settled for workers that died.

A record's id is the boot, the worker and the number that it had in shared memory, so the same
record is the same id however often and on whatever way it comes: `unknown` leaves out those that
are in the store already. That is exact only under the ledger's lock (`ledger.take_numbers`),
since it is a question and an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from fastgate.store.money_tables import cursors, holds_resolved, usage_daily, usage_records
from fastgate.store.pages import BadCursor, Page, decode_cursor, page_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECOVERED = 8
"""The flag of a record whose worker died before it could settle it."""


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request as it is charged: ids and names, where shared memory has hashes and slots.

    `time_us` is Unix time in microseconds, `amount` micro-units charged, `units` the meter's,
    `status` the HTTP status given, `request` the request's id in hexadecimal, `flags` the bits
    of shared memory (1 captured, 2 free, 4 refunded, 8 recovered), `worker` who served it. `meter`:
    "" for the request itself, else what its handler counted beside it.
    """

    id: str
    time_us: int
    account: str
    consumer: str
    credential: str
    route: str
    service: str
    plan: str
    currency: str
    amount: int
    units: int
    status: int
    request: str
    flags: int
    worker: int
    meter: str = ""

    @property
    def time(self) -> datetime:
        return EPOCH + timedelta(microseconds=self.time_us)


class Position(NamedTuple):
    """How far a worker's ring has been read."""

    boot: str
    worker: int
    position: int


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request whose worker died."""

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


async def unknown(connection: AsyncConnection, usages: Sequence[Usage]) -> list[Usage]:
    """Those that are not in the store, each once, in their order."""
    fresh: dict[str, Usage] = {}
    for usage in usages:
        fresh.setdefault(usage.id, usage)
    # One parameter, however many there are: SQLAlchemy's `in_` costs more than the search.
    if connection.dialect.name == "sqlite":
        ids: Any = msgspec.json.encode(list(fresh)).decode()
        among = "IN (SELECT value FROM json_each(?))"
    else:
        ids, among = list(fresh), "= ANY($1)"
    rows = await connection.exec_driver_sql(
        f"SELECT id FROM usage_records WHERE id {among}", (ids,)
    )
    for (ident,) in rows:
        del fresh[ident]
    return list(fresh.values())


async def insert(
    connection: AsyncConnection,
    usages: Sequence[Usage],
    entries: Mapping[str, int],
    now: datetime,
) -> None:
    """Insert records that are unknown; `entries`: the number of the entry that charged for one."""
    if not usages:
        return
    lite = connection.dialect.name == "sqlite"
    moment = _Texts() if lite else _moment
    # Tuples for the driver: there are thousands a second, and SQLAlchemy's way of dictionaries
    # costs more than the database.
    rows = [
        (
            usage.id,
            moment(usage.time_us),
            usage.account,
            usage.consumer,
            usage.credential,
            usage.route,
            usage.service,
            usage.plan,
            usage.currency,
            usage.amount,
            usage.units,
            usage.status,
            usage.request,
            usage.flags,
            entries.get(usage.id),
            usage.meter,
        )
        for usage in usages
    ]
    await connection.exec_driver_sql((_LITE if lite else _POSTGRESQL).records, rows)
    await _add_days(connection, usages)
    recovered = [usage for usage in usages if usage.flags & RECOVERED]
    if recovered:
        await connection.execute(
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


_COLUMNS = (
    "id", "time", "account", "consumer", "credential", "route", "service", "plan", "currency",
    "amount", "units", "status", "request", "flags", "entry", "meter",
)  # fmt: skip
_DAY_US, _DAY_0 = 86_400_000_000, EPOCH.date()
_DIMENSIONS = tuple(column.name for column in usage_daily.primary_key.columns)
_SUMS = ("requests", "failed", "units", "amount")


class _Statements(NamedTuple):
    """For a driver, as it writes its parameters."""

    records: str
    days: str

    @classmethod
    def of(cls, parameter: str) -> _Statements:
        """`parameter`: with the place of a number from 1 on."""

        def into(table: str, names: tuple[str, ...]) -> str:
            given = ", ".join(parameter.format(at + 1) for at in range(len(names)))
            return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({given})"

        add = ", ".join(f"{name} = usage_daily.{name} + excluded.{name}" for name in _SUMS)
        days = into("usage_daily", (*_DIMENSIONS, *_SUMS))
        days += f" ON CONFLICT ({', '.join(_DIMENSIONS)}) DO UPDATE SET {add}"
        return cls(into("usage_records", _COLUMNS), days)


_LITE, _POSTGRESQL = _Statements.of("?"), _Statements.of("${}")


def _moment(time_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=time_us)


class _Texts:
    """Times as `UtcTime` writes them on SQLite. Records come in their order: a second's text is
    made once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, time_us: int) -> str:
        second, rest = divmod(time_us, 1_000_000)
        if second != self._second:
            self._second = second
            self._text = (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%d %H:%M:%S")
        return f"{self._text}.{rest:06d}"


async def _add_days(connection: AsyncConnection, usages: Sequence[Usage]) -> None:
    days: dict[tuple[Any, ...], list[int]] = {}
    for usage in usages:
        key = (
            usage.time_us // _DAY_US,
            usage.account,
            usage.consumer,
            usage.credential,
            usage.route,
            usage.service,
            usage.plan,
            usage.currency,
            usage.meter,
        )
        sums = days.setdefault(key, [0, 0, 0, 0])
        sums[0] += not usage.meter
        sums[1] += not usage.meter and usage.status >= 500
        sums[2] += usage.units
        sums[3] += usage.amount
    lite = connection.dialect.name == "sqlite"
    dates: dict[int, Any] = {day: _DAY_0 + timedelta(day) for day, *_ in days}
    if lite:
        dates = {day: date.isoformat() for day, date in dates.items()}
    await connection.exec_driver_sql(
        (_LITE if lite else _POSTGRESQL).days,
        # In one order everywhere, so that two gateways on a database cannot deadlock.
        [(dates[day], *key, *sums) for (day, *key), sums in sorted(days.items())],
    )


def upsert(
    connection: AsyncConnection,
    table: sa.Table,
    key: Sequence[str],
    *,
    add: Sequence[str] = (),
    put: Sequence[str] = (),
) -> Any:
    """INSERT … ON CONFLICT: `add` to these columns, `put` these in place of the old."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    return statement.on_conflict_do_update(
        index_elements=[table.c[name] for name in key],
        set_={
            **{name: table.c[name] + statement.excluded[name] for name in add},
            **{name: statement.excluded[name] for name in put},
        },
    )


async def put_positions(
    connection: AsyncConnection, positions: Iterable[Position], now: datetime
) -> None:
    """Note how far the rings have been read, in the transaction of what was read."""
    rows = [{**position._asdict(), "updated": now} for position in positions]
    if rows:
        await connection.execute(
            upsert(connection, cursors, ("boot", "worker"), put=("position", "updated")), rows
        )


# ---- reading ----------------------------------------------------------------------------


async def positions(connection: AsyncConnection, boot: str) -> list[Position]:
    """How far the rings of one boot are in the store, by worker."""
    rows = await connection.execute(
        sa.select(cursors.c.boot, cursors.c.worker, cursors.c.position)
        .where(cursors.c.boot == boot)
        .order_by(cursors.c.worker)
    )
    return [Position(*row) for row in rows]


async def page(
    connection: AsyncConnection, account: str, *, cursor: str | None, limit: int
) -> Page[Usage]:
    """An account's records, the newest first. Raises BadCursor.

    The worker of a record is not kept; it reads as 0.
    """
    query = (
        sa.select(usage_records)
        .where(usage_records.c.account == account)
        .order_by(usage_records.c.time.desc(), usage_records.c.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        moment, ident = _place(cursor)
        query = query.where(
            sa.or_(
                usage_records.c.time < moment,
                sa.and_(usage_records.c.time == moment, usage_records.c.id < ident),
            )
        )
    rows = await connection.execute(query)
    return page_of([_usage(row) for row in rows], limit, lambda item: f"{item.time_us}:{item.id}")


def _place(cursor: str) -> tuple[datetime, str]:
    microseconds, _, ident = decode_cursor(cursor, str).partition(":")
    try:
        return EPOCH + timedelta(microseconds=int(microseconds)), ident
    except (ValueError, OverflowError) as error:
        raise BadCursor("This cursor was not given out for this list.") from error


def _usage(row: sa.Row[Any]) -> Usage:
    values = row._asdict()
    values.pop("entry")
    moment: datetime = values.pop("time")
    return Usage(time_us=(moment - EPOCH) // timedelta(microseconds=1), worker=0, **values)


async def resolved(connection: AsyncConnection, *, since: datetime, limit: int) -> list[Resolved]:
    """What was settled for dead workers since then, the newest first."""
    rows = await connection.execute(
        sa.select(holds_resolved)
        .where(holds_resolved.c.resolved >= since)
        .order_by(holds_resolved.c.resolved.desc(), holds_resolved.c.id)
        .limit(limit)
    )
    return [Resolved(**row._asdict()) for row in rows]


async def charged_since(connection: AsyncConnection, account: str, day: date) -> dict[str, int]:
    """What an account has been charged from the start of a UTC day on, by currency."""
    rows = await connection.execute(
        sa.select(usage_daily.c.currency, sa.func.sum(usage_daily.c.amount))
        .where(usage_daily.c.account == account, usage_daily.c.day >= day)
        .group_by(usage_daily.c.currency)
    )
    return {currency: int(amount) for currency, amount in rows}
