"""Reports: usage and cost over a period, grouped as asked for, as JSON or CSV."""

from __future__ import annotations

import io
from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, get
from litestar.params import FromQuery, QueryParameter

from fastgate.api.billing import account_of, billing_of
from fastgate.api.context import Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import Text
from fastgate.api.problems import invalid
from fastgate.billing.reports import By, ReportQuery, ReportRow, columns, report, write_csv
from fastgate.billing.x402.books import X402_ACCOUNT

GroupBy = Annotated[
    str,
    QueryParameter(
        description="Any of day, account, consumer, credential, route, service, plan, meter; "
        "separated by commas."
    ),
]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A report. `columns`: the members that its rows have, in their order. Amounts: micro-units."""

    columns: list[str]
    rows: list[ReportRow]


def grouping(text: str) -> list[By]:
    """What a report is grouped by. Raises Problem."""
    try:
        return [By(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        known = ", ".join(by.value for by in By)
        raise invalid("group_by", f"Reports are grouped by {known}.") from None


@get("/v1/reports/usage", opt=spec("read", answer=Report, also=["text/csv"]))
async def usage_report(
    ctx: Ctx,
    group_by: GroupBy = "account",
    since: FromQuery[date | None] = None,
    until: FromQuery[date | None] = None,
    account: Text = None,
    consumer: Text = None,
    route: Text = None,
    plan: Text = None,
    meter: Text = None,
    format: FromQuery[Literal["json", "csv"]] = "json",
) -> Response[Any]:
    """Usage and its cost between two days (UTC, both included), grouped by `group_by` and always by
    currency; `format=csv` for spreadsheets."""
    billing = billing_of(ctx)
    by = grouping(group_by)
    asked = ReportQuery(
        by=by,
        since=since,
        until=until,
        account=await _account(ctx, account),
        consumer=_consumer(ctx, consumer),
        route=route,
        plan=plan,
        meter=meter,
    )
    rows = await report(billing.ledger.store, asked)
    if format == "json":
        return Response(Report(columns=columns(by), rows=rows))
    file = io.StringIO(newline="")
    write_csv(rows, by, file)
    return Response(
        file.getvalue(),
        media_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )


async def _account(ctx: Ctx, ident: str | None) -> str | None:
    if ident is None or ident == X402_ACCOUNT:
        return ident
    return await account_of(ctx, ident)


def _consumer(ctx: Ctx, ident: str | None) -> str | None:
    if ident is None:
        return None
    known = ctx.identity.known(ident)
    return known.id if known is not None else ident


HANDLERS = [usage_report]
