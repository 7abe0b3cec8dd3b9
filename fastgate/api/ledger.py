"""The ledger: its entries, its audit, and what was settled for workers that died."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import get, post
from litestar.params import FromPath, FromQuery

from fastgate.api.billing import account_of, billing_of
from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.api.problems import invalid
from fastgate.billing.audit.report import AuditReport
from fastgate.billing.x402.books import OWED, UNKNOWN, X402_ACCOUNT, X402Payment, decide, listed
from fastgate.store import usage
from fastgate.store.ledger import Entry
from fastgate.store.pages import Page
from fastgate.store.usage import Resolved
from fastgate.store.usage_blocks import RECOVERED, Usage


class UsageView(msgspec.Struct, frozen=True, kw_only=True):
    """One metered request, or the units of a `meter` that a request used. `amount`: micro-units
    charged."""

    id: str
    time: datetime
    account: str
    consumer: str
    credential: str
    route: str
    service: str
    plan: str
    meter: str
    currency: str
    amount: int
    units: int
    status: int
    request: str
    free: bool
    recovered: bool


class ResolvedHolds(msgspec.Struct, frozen=True):
    """Requests whose worker died, and how they were settled, newest first."""

    items: list[Resolved]


class PipelineView(msgspec.Struct, frozen=True, kw_only=True):
    """How usage gets from the workers to the ledger."""

    problem: str | None
    spooled: int
    records: int
    replayed: int
    duplicates: int
    recovered: int
    waiting: int
    open_holds: int
    damaged: int


class X402Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator has found out, or done, about a payment."""

    outcome: Literal["paid", "unpaid", "refunded", "kept"]
    reference: Annotated[str, msgspec.Meta(max_length=200, description="The transaction.")] = ""


FREE = 2
"""The flag of a usage record without a charge."""


@get("/v1/ledger", opt=spec("read", answer=Page[Entry]))
async def list_entries(
    ctx: Ctx,
    account: FromQuery[str],
    currency: Text = None,
    cursor: Text = None,
    limit: Limit = LIMIT,
) -> Page[Entry]:
    """An account's entries, newest first. The account `x402` belongs to no customer: it has the
    payments for single requests."""
    billing = billing_of(ctx)
    found = X402_ACCOUNT if account == X402_ACCOUNT else await account_of(ctx, account)
    return await billing.ledger.history(found, currency=currency, cursor=cursor, limit=limit)


@get("/v1/ledger/x402", opt=spec("read", answer=Page[X402Payment]))
async def list_x402(
    ctx: Ctx,
    doubtful: FromQuery[bool] = False,
    owed: FromQuery[bool] = False,
    cursor: Text = None,
    limit: Limit = LIMIT,
) -> Page[X402Payment]:
    """Payments for single requests with x402, in no particular order. `?doubtful=true`: only those
    whose outcome is unknown; they are in no book. `?owed=true`: only those that were paid but not
    served."""
    state = UNKNOWN if doubtful else OWED if owed else None
    return await listed(billing_of(ctx).ledger.store, state=state, cursor=cursor, limit=limit)


@post(
    "/v1/ledger/x402/{payment:str}",
    status_code=200,
    opt=spec("money", body=X402Outcome, answer=X402Payment),
)
async def decide_x402(ctx: Ctx, request: AnyRequest, payment: FromPath[str]) -> X402Payment:
    """Record the outcome of a payment with x402. A doubtful payment was `paid` (it is then owed to
    its payer) or `unpaid`; an owed payment was `refunded`, or is `kept` as revenue."""
    billing = billing_of(ctx)
    body = await read(request, X402Outcome)
    store, clock = billing.ledger.store, billing.invoices.clock
    return await decide(store, clock, payment, body.outcome, body.reference)


@get("/v1/ledger/audit", opt=spec("read", answer=AuditReport))
async def audit(ctx: Ctx, providers: FromQuery[bool] = False) -> AuditReport:
    """Audit the books: sums, charges, usage records, payments, invoices, cells, holds; each check
    by name. `?providers=true`: also compare them with the payment providers' reports of the last 30
    days and with their balances."""
    return await billing_of(ctx).audit(providers)


@get("/v1/ledger/pipeline", opt=spec("read", answer=PipelineView))
async def pipeline(ctx: Ctx) -> PipelineView:
    """Usage that is not in the ledger yet: in shared memory and in the spool."""
    billing = billing_of(ctx)
    counts, source = billing.pipeline.counts, billing.money_map
    states = [source.state(worker) for worker in range(source.workers)]
    holds = source.open_holds()
    # `AreaState.parked` counts all that ever were: those of now are in the hold tables.
    waiting = sum(state.published - state.committed for state in states)
    waiting += sum(1 for hold in holds if hold.state == "parked")
    return PipelineView(
        problem=billing.pipeline.problem,
        spooled=billing.pipeline.spool.records,
        records=counts.records,
        replayed=counts.replayed,
        duplicates=counts.duplicates,
        recovered=counts.recovered,
        waiting=waiting,
        open_holds=sum(1 for hold in holds if hold.taken),
        damaged=source.damaged,
    )


@get("/v1/ledger/resolved", opt=spec("read", answer=ResolvedHolds))
async def resolved(ctx: Ctx, since: FromQuery[datetime], limit: Limit = LIMIT) -> ResolvedHolds:
    """What was charged or released for workers that died, since a time (RFC 3339)."""
    billing_of(ctx)
    if since.tzinfo is None:
        raise invalid("since", "It needs a time zone: 2026-11-20T00:00:00Z.")
    async with ctx.store.read() as connection:
        return ResolvedHolds(await usage.resolved(connection, since=since, limit=limit))


@get("/v1/ledger/entries/{entry:str}", opt=spec("read", answer=Entry))
async def get_entry(ctx: Ctx, entry: FromPath[str]) -> Entry:
    """One entry with its postings."""
    return await billing_of(ctx).ledger.entry(entry)


@get("/v1/accounts/{ident:str}/usage", opt=spec("read", answer=Page[UsageView]))
async def list_usage(
    ctx: Ctx, ident: FromPath[str], cursor: Text = None, limit: Limit = LIMIT
) -> Page[UsageView]:
    """An account's usage, request by request, newest first."""
    billing_of(ctx)
    account = await account_of(ctx, ident)
    async with ctx.store.read() as connection:
        page = await usage.page(connection, account, cursor=cursor, limit=limit)
    return Page(items=[_view(one) for one in page.items], next=page.next)


def _view(one: Usage) -> UsageView:
    shared: dict[str, Any] = {
        name: getattr(one, name)
        for name in UsageView.__struct_fields__
        if name not in ("free", "recovered")
    }
    return UsageView(**shared, free=bool(one.flags & FREE), recovered=bool(one.flags & RECOVERED))


HANDLERS = [list_entries, list_x402, decide_x402, audit, pipeline, resolved, get_entry, list_usage]
