"""Reports: usage and cost by account, consumer, key, route, service, plan, meter and day.

Reports read the daily totals (`usage_daily`), so the cost of a report depends on its rows and not
on the number of requests. Days are UTC days. A report has one row for each combination of the
columns it is grouped by, and always one for each currency: amounts in different currencies are
never added. Requests that cost nothing and have no currency are listed under "". Units of a meter
are not requests: rows of meters (by `meter`) have units and amounts, and the row of the meter ""
has the requests themselves.

Payments for single requests with x402 (`x402_payments`) belong to the account `x402`, because their
payers have no account here. They are reported by day and route; the currency is the token.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum
from typing import Any, TextIO

import msgspec
import sqlalchemy as sa

from fastgate.billing.x402.books import EARNED, X402_ACCOUNT
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store
from fastgate.store.money_tables import usage_daily, x402_payments
from fastgate.store.tables import accounts, consumers, credentials
from fastgate.store.usage import SUMS


class By(StrEnum):
    """What a report can be grouped by."""

    DAY = "day"
    ACCOUNT = "account"
    CONSUMER = "consumer"
    KEY = "credential"
    ROUTE = "route"
    SERVICE = "service"
    PLAN = "plan"
    METER = "meter"


class ReportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage a report covers. `since` and `until` are days, both included; None: no bound.

    The other fields are exact ids and names; None: all.
    """

    by: Sequence[By] = (By.ACCOUNT,)
    since: date | None = None
    until: date | None = None
    account: str | None = None
    consumer: str | None = None
    credential: str | None = None
    route: str | None = None
    service: str | None = None
    plan: str | None = None
    meter: str | None = None
    currency: str | None = None


class ReportRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The columns of the grouping (else None), and the sums. `failed`: answered with 500 or more;
    `amount`: micro-units. `label`: the current name of the account, consumer or key, whichever is
    the narrowest of them that the report is grouped by."""

    day: date | None = None
    account: str | None = None
    consumer: str | None = None
    credential: str | None = None
    route: str | None = None
    service: str | None = None
    plan: str | None = None
    meter: str | None = None
    label: str | None = None
    currency: str
    requests: int
    failed: int
    units: int
    amount: int


_FILTERS = ("account", "consumer", "credential", "route", "service", "plan", "meter", "currency")
_LABELS = (
    (By.KEY, credentials.c.label),
    (By.CONSUMER, consumers.c.name),
    (By.ACCOUNT, accounts.c.name),
)


async def report(store: Store, asked: ReportQuery) -> list[ReportRow]:
    """The rows, ordered by the columns of the grouping. Raises StoreError."""
    by = list(dict.fromkeys(asked.by))
    keys = [usage_daily.c[name.value] for name in by] + [usage_daily.c.currency]
    sums = [sa.func.sum(usage_daily.c[name]).label(name) for name in SUMS]
    query = sa.select(*keys, *sums).group_by(*keys).order_by(*keys)
    if asked.since is not None:
        query = query.where(usage_daily.c.day >= asked.since)
    if asked.until is not None:
        query = query.where(usage_daily.c.day <= asked.until)
    for name in _FILTERS:
        wanted = getattr(asked, name)
        if wanted is not None:
            query = query.where(usage_daily.c[name] == wanted)
    narrowest = next(((key, column) for key, column in _LABELS if key in by), None)
    async with store.read() as connection:
        found = [row._asdict() for row in await connection.execute(query)]
        labels: dict[str, str] = {}
        if narrowest is not None:
            key, column = narrowest
            ids = sorted({row[key.value] for row in found})
            for start in range(0, len(ids), 1000):
                rows = await connection.execute(
                    sa.select(column.table.c.id, column).where(
                        column.table.c.id.in_(ids[start : start + 1000])
                    )
                )
                labels.update({ident: label for ident, label in rows if label})
        found += await _x402(connection, asked, by)
    found.sort(key=lambda row: [row[name] for name in (*(one.value for one in by), "currency")])
    for row in found:
        row.update((name, int(row[name])) for name in SUMS)  # PostgreSQL's sum is a Decimal
        if narrowest is not None:
            row["label"] = labels.get(row[narrowest[0].value])
    return [ReportRow(**row) for row in found]


async def _x402(
    connection: AsyncConnection, asked: ReportQuery, by: Sequence[By]
) -> list[dict[str, Any]]:
    """Rows for payments of single requests, in the form of usage rows."""
    others = (asked.consumer, asked.credential, asked.service, asked.plan, asked.meter)
    if asked.account not in (None, X402_ACCOUNT) or any(others):
        return []
    table = x402_payments.c
    keys = [table[name] for name in ("day", "route") if name in by] + [table.currency]
    count = sa.func.count()
    query = (
        sa.select(*keys, count.label("requests"), sa.func.sum(table.amount).label("amount"))
        .where(table.state.in_(EARNED))
        .group_by(*keys)
    )
    if asked.since is not None:
        query = query.where(table.day >= asked.since)
    if asked.until is not None:
        query = query.where(table.day <= asked.until)
    for name in ("route", "currency"):
        wanted = getattr(asked, name)
        if wanted is not None:
            query = query.where(table[name] == wanted)
    empty = {key.value: X402_ACCOUNT if key is By.ACCOUNT else "" for key in by}
    return [
        {**empty, **row._asdict(), "failed": 0, "units": row.requests}
        for row in await connection.execute(query)
    ]


def columns(by: Sequence[By]) -> list[str]:
    """The names of a report's columns, in their order."""
    labelled = any(key in by for key, _ in _LABELS)
    keys = [key.value for key in dict.fromkeys(by)]
    return [*keys, *(["label"] if labelled else []), "currency", *SUMS]


def write_csv(rows: Iterable[ReportRow], by: Sequence[By], file: TextIO) -> None:
    """RFC 4180, with a header line. Amounts stay in micro-units, so that nothing is rounded.

    A text that a spreadsheet would read as a formula is prefixed with an apostrophe.
    """
    names = columns(by)
    writer = csv.writer(file)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_text(getattr(row, name)) for name in names])


def _text(value: object) -> str:
    if value is None:
        return ""
    text = value.isoformat() if isinstance(value, date) else str(value)
    if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{text}"
    return text
