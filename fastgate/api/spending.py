"""Spending limits of single accounts, consumers and keys; all others have the configured ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, put
from litestar.params import FromPath
from msgspec import Meta

from fastgate.api.billing import Amount, account_of, billing_of
from fastgate.api.billing_api import SPENDING_LIMIT_MOST, LimitSubject
from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Context, Ctx
from fastgate.api.describe import spec
from fastgate.api.parties import consumer_of
from fastgate.api.problems import invalid
from fastgate.model.billing import Period
from fastgate.model.check import priced_in
from fastgate.model.units import Money
from fastgate.store.spending import NO_LIMIT


class LimitNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its own limit. An amount of 0: nothing may be spent. Null: no limit, even if one is
    configured."""

    amount: Amount | None
    period: Annotated[
        Period,
        Meta(description="The calendar period (UTC) by which it is counted."),
    ] = "month"


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A spending limit and what was spent of it, in micro-units of the gateway's currency. `limit`
    null: no limit. `own`: not the configured one."""

    kind: str
    subject: str
    own: bool
    limit: int | None
    spent: int
    resets_at: datetime | None


def _view(ctx: Context, kind: LimitSubject, subject: str) -> LimitView:
    spending = billing_of(ctx).spending
    now = spending.spent(kind, subject)
    return LimitView(
        kind=kind,
        subject=subject,
        own=spending.own(kind, subject) is not None,
        limit=now.limit if now is not None else None,
        spent=now.used if now is not None else 0,
        resets_at=datetime.fromtimestamp(now.resets_at, UTC) if now is not None else None,
    )


async def _put(ctx: Context, request: AnyRequest, kind: LimitSubject, subject: str) -> LimitView:
    billing = billing_of(ctx)
    body = await read(request, LimitNew)
    micros = NO_LIMIT if body.amount is None else _micros(ctx, body.amount)
    await billing.spending.put(kind, subject, micros, body.period)
    return _view(ctx, kind, subject)


def _micros(ctx: Context, text: str) -> int:
    currency = billing_of(ctx).config.currency
    try:
        amount = Money.parse(text)
    except ValueError as error:
        raise invalid("amount", str(error)) from None
    if amount.currency != currency:
        raise invalid("amount", f"Spending is limited in {currency}.")
    others = sorted(priced_in(ctx.control.gateway) - {amount.currency})
    if others:
        raise invalid(
            "amount",
            f"Spending cannot be limited in {amount.currency} because there are prices in "
            f"{others[0]}: there are no exchange rates.",
        )
    if amount.micros > SPENDING_LIMIT_MOST:
        raise invalid("amount", "That is more than can be counted.")
    return amount.micros


async def _drop(ctx: Context, kind: LimitSubject, subject: str) -> LimitView:
    await billing_of(ctx).spending.drop(kind, subject)
    return _view(ctx, kind, subject)


async def _credential(ctx: Context, consumer: str, credential: str) -> str:
    """The credential's id. Raises NotFoundError."""
    seed = ctx.identity.seed(consumer)
    if seed is not None:
        known = {key.id for key in ctx.identity.seed_keys(seed.id)}
        if credential in known:
            return credential
    return (await ctx.identity.parties.credential(consumer, credential)).id


READ: dict[str, Any] = spec("read", answer=LimitView)
WRITE: dict[str, Any] = spec("money", body=LimitNew, answer=LimitView)
ACCOUNT = "/v1/accounts/{ident:str}/spending-limit"
CONSUMER = "/v1/consumers/{ident:str}/spending-limit"
CREDENTIAL = "/v1/consumers/{ident:str}/credentials/{credential:str}/spending-limit"


@get(ACCOUNT, opt=READ)
async def get_account_limit(ctx: Ctx, ident: FromPath[str]) -> LimitView:
    """What an account may spend in a period, and has spent."""
    return _view(ctx, "account", await account_of(ctx, ident))


@put(ACCOUNT, opt=WRITE)
async def put_account_limit(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> LimitView:
    """Give an account its own spending limit; it applies to the next request."""
    return await _put(ctx, request, "account", await account_of(ctx, ident))


@delete(ACCOUNT, status_code=200, opt=spec("money", answer=LimitView))
async def drop_account_limit(ctx: Ctx, ident: FromPath[str]) -> LimitView:
    """Return to the configured limit."""
    return await _drop(ctx, "account", await account_of(ctx, ident))


@get(CONSUMER, opt=READ)
async def get_consumer_limit(ctx: Ctx, ident: FromPath[str]) -> LimitView:
    """What a consumer may spend in a period, and has spent."""
    return _view(ctx, "consumer", (await consumer_of(ctx, ident)).id)


@put(CONSUMER, opt=WRITE)
async def put_consumer_limit(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> LimitView:
    """Give a consumer its own spending limit; it applies to the next request."""
    return await _put(ctx, request, "consumer", (await consumer_of(ctx, ident)).id)


@delete(CONSUMER, status_code=200, opt=spec("money", answer=LimitView))
async def drop_consumer_limit(ctx: Ctx, ident: FromPath[str]) -> LimitView:
    """Return to the configured limit."""
    return await _drop(ctx, "consumer", (await consumer_of(ctx, ident)).id)


@get(CREDENTIAL, opt=READ)
async def get_credential_limit(
    ctx: Ctx, ident: FromPath[str], credential: FromPath[str]
) -> LimitView:
    """What a key may spend in a period, and has spent."""
    return _view(ctx, "credential", await _credential(ctx, ident, credential))


@put(CREDENTIAL, opt=WRITE)
async def put_credential_limit(
    ctx: Ctx, request: AnyRequest, ident: FromPath[str], credential: FromPath[str]
) -> LimitView:
    """Give a key its own spending limit; it applies to the next request."""
    return await _put(ctx, request, "credential", await _credential(ctx, ident, credential))


@delete(CREDENTIAL, status_code=200, opt=spec("money", answer=LimitView))
async def drop_credential_limit(
    ctx: Ctx, ident: FromPath[str], credential: FromPath[str]
) -> LimitView:
    """Return to the configured limit."""
    return await _drop(ctx, "credential", await _credential(ctx, ident, credential))


HANDLERS = [
    get_account_limit,
    put_account_limit,
    drop_account_limit,
    get_consumer_limit,
    put_consumer_limit,
    drop_consumer_limit,
    get_credential_limit,
    put_credential_limit,
    drop_credential_limit,
]
