"""Subscriptions: accounts on plans. Every change takes effect with the next request."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, get, patch, post
from litestar.params import FromPath
from msgspec import Meta

from fastgate.api.billing import account_of, billing_of
from fastgate.api.billing_api import BillingApi
from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.api.parties import matched, tagged
from fastgate.billing.invoices.invoices import Invoice
from fastgate.billing.subscriptions.access import refusal_of
from fastgate.billing.subscriptions.lifecycle import Event, Subscription, warning_of
from fastgate.billing.subscriptions.rows import HistoryEvent
from fastgate.store.pages import Page


class SubscriptionNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscription to create."""

    account: Annotated[str, Meta(description="An account's id or name.")]
    plan: Annotated[str, Meta(description="A plan of the configuration.")]
    service: Annotated[
        str | None, Meta(description="Only for this service. Default: all services of the plan.")
    ] = None
    trial: Annotated[bool, Meta(description="Begin with the plan's trial, if it has one.")] = True


class SubscriptionChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another plan, from now."""

    plan: str


class Cancel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When it ends."""

    at: Annotated[
        Literal["period_end", "now"],
        Meta(description="`now`: access lasts as long as it was paid for."),
    ] = "period_end"


class SubscriptionView(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription. `reason`: why its requests are refused now; null: they are not refused.
    `warning`: why they will be refused unless something is done."""

    id: str
    account: str
    plan: str
    service: str | None
    state: str
    reason: str | None
    warning: str | None
    period: str
    period_start: datetime
    period_end: datetime
    trial_ends: datetime | None
    paid_through: datetime
    grace_ends: datetime | None
    expires: datetime | None
    cancel_at_period_end: bool
    provider: str | None
    created: datetime
    updated: datetime
    version: int


class PlanChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription, and the invoice or credit note for the change."""

    subscription: SubscriptionView
    document: Invoice | None


class History(msgspec.Struct, frozen=True):
    """All changes of a subscription's state, oldest first."""

    items: list[HistoryEvent]


async def view_of(billing: BillingApi, one: Subscription) -> SubscriptionView:
    now = billing.subscriptions.clock()
    reason = await refusal_of(billing.subscriptions.store, one, now)
    warning = warning_of(one, now)
    shared: dict[str, Any] = {
        name: getattr(one, name)
        for name in SubscriptionView.__struct_fields__
        if name not in ("state", "reason", "warning")
    }
    return SubscriptionView(
        **shared,
        state=one.state.value,
        reason=reason.code if reason is not None else None,
        warning=warning.code if warning is not None else None,
    )


@get("/v1/subscriptions", opt=spec("read", answer=Page[SubscriptionView]))
async def list_subscriptions(
    ctx: Ctx, account: Text = None, cursor: Text = None, limit: Limit = LIMIT
) -> Page[SubscriptionView]:
    """The subscriptions (of one account: `?account=`), oldest first."""
    billing = billing_of(ctx)
    if account is not None:
        found = await billing.subscriptions.of_account(await account_of(ctx, account))
        return Page(items=[await view_of(billing, one) for one in found], next=None)
    page = await billing.subscriptions.page(cursor=cursor, limit=limit)
    return Page(items=[await view_of(billing, one) for one in page.items], next=page.next)


@post(
    "/v1/subscriptions",
    opt=spec("money", body=SubscriptionNew, answer=SubscriptionView, status=201, etag=True),
)
async def create_subscription(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """Subscribe an account to a plan. With a fee, it is `incomplete` until the first payment, which
    is attempted at once; with a trial, it is `trialing`."""
    billing = billing_of(ctx)
    body = await read(request, SubscriptionNew)
    account = await account_of(ctx, body.account)
    await billing.open_account(account)
    await _make_room(billing, account, body.plan)
    made = await billing.subscriptions.create(account, body.plan, body.service, trial=body.trial)
    return tagged(made, await view_of(billing, made), 201, Location=f"/v1/subscriptions/{made.id}")


async def _make_room(billing: BillingApi, account: str, plan: str) -> None:
    """The plan's fee needs a wallet of the account before it is paid. Raises LedgerError if the
    account has no place for another one."""
    currency = billing.subscriptions.fee_currency(plan)
    if currency is not None:
        await billing.wallets.open(account, currency)


@get("/v1/subscriptions/{ident:str}", opt=spec("read", answer=SubscriptionView, etag=True))
async def get_subscription(ctx: Ctx, ident: FromPath[str]) -> Response[Any]:
    """One subscription."""
    billing = billing_of(ctx)
    found = await billing.subscriptions.get(ident)
    return tagged(found, await view_of(billing, found))


@get("/v1/subscriptions/{ident:str}/history", opt=spec("read", answer=History))
async def history(ctx: Ctx, ident: FromPath[str]) -> History:
    """All changes of its state."""
    billing = billing_of(ctx)
    await billing.subscriptions.get(ident)
    return History(await billing.subscriptions.history(ident))


@patch(
    "/v1/subscriptions/{ident:str}",
    opt=spec("money", body=SubscriptionChange, answer=PlanChanged, etag=True, match="required"),
)
async def change_plan(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Change to another plan now; paid time that was not used is credited."""
    billing = billing_of(ctx)
    body = await read(request, SubscriptionChange)
    found = await billing.subscriptions.get(ident)
    matched(request, found)
    await _make_room(billing, found.account, body.plan)
    changed = await billing.subscriptions.change_plan(ident, body.plan)
    answer = PlanChanged(
        subscription=await view_of(billing, changed.subscription), document=changed.document
    )
    return tagged(changed.subscription, answer)


async def _apply(ctx: Ctx, ident: str, event: Event) -> Response[Any]:
    billing = billing_of(ctx)
    changed = await billing.subscriptions.apply(ident, event, "by an operator")
    return tagged(changed, await view_of(billing, changed))


@post(
    "/v1/subscriptions/{ident:str}/pause",
    status_code=200,
    opt=spec("money", answer=SubscriptionView, etag=True),
)
async def pause(ctx: Ctx, ident: FromPath[str]) -> Response[Any]:
    """Stop service and billing until it is resumed."""
    return await _apply(ctx, ident, Event.PAUSE)


@post(
    "/v1/subscriptions/{ident:str}/resume",
    status_code=200,
    opt=spec("money", answer=SubscriptionView, etag=True),
)
async def resume(ctx: Ctx, ident: FromPath[str]) -> Response[Any]:
    """Resume a paused or canceled subscription; a period begins now."""
    return await _apply(ctx, ident, Event.RESUME)


@post(
    "/v1/subscriptions/{ident:str}/keep",
    status_code=200,
    opt=spec("money", answer=SubscriptionView, etag=True),
)
async def keep(ctx: Ctx, ident: FromPath[str]) -> Response[Any]:
    """Keep a subscription that would end with its period."""
    return await _apply(ctx, ident, Event.KEEP)


@post(
    "/v1/subscriptions/{ident:str}/cancel",
    status_code=200,
    opt=spec("money", body=Cancel, answer=SubscriptionView, etag=True),
)
async def cancel(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Cancel it at the end of its period, or now."""
    billing = billing_of(ctx)
    body = await read(request, Cancel, optional=True)
    changed = await billing.subscriptions.cancel(ident, at_period_end=body.at == "period_end")
    return tagged(changed, await view_of(billing, changed))


HANDLERS = [
    list_subscriptions,
    create_subscription,
    get_subscription,
    history,
    change_plan,
    pause,
    resume,
    keep,
    cancel,
]
