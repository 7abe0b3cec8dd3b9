"""Accounts and consumers: records in the store. Changes take effect on the data plane at once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from fastgate.api.bodies import etag, read, require_match
from fastgate.api.context import AnyRequest, Context, Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.api.problems import invalid
from fastgate.model.party import PARTY_NAME
from fastgate.store.cache import ConsumerRecord
from fastgate.store.pages import Page, decode_cursor, encode_cursor, page_of
from fastgate.store.parties import Account, Consumer

Name = Annotated[
    str,
    Meta(
        pattern=PARTY_NAME,
        description="1 to 95 letters, digits, spaces and . _ @ + -, a letter or digit first.",
    ),
]


class AccountNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account to create or rename."""

    name: Name


class OwnLimit(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A consumer's own numbers for a limit that has a name and counts by consumer or credential:
    `rate`, optionally with `burst`, for a rate limit; `requests` for a quota; `max` for
    concurrency."""

    rate: Annotated[str | None, Meta(description="Such as 500/s.")] = None
    burst: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    requests: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    max: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None


OwnLimits = Annotated[
    dict[str, OwnLimit],
    Meta(description="Its own numbers for limits, by the limit's name; at most 8."),
]


class ConsumerNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A consumer to create."""

    name: Name
    account: Annotated[str | None, Meta(description="Who pays: an account's id or name.")] = None
    plan: Annotated[str | None, Meta(description="A plan of the configuration.")] = None
    suspended: bool = False
    limits: OwnLimits = {}


class ConsumerChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of a consumer; null removes the account or plan, and `limits` replaces all of its own
    numbers."""

    name: Name | UnsetType = UNSET
    account: str | UnsetType | None = UNSET
    plan: str | UnsetType | None = UNSET
    suspended: bool | UnsetType = UNSET
    limits: OwnLimits | UnsetType = UNSET


class ConsumerView(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer. `source` is `config` for a consumer of the configuration, which has no times and
    can be changed only there."""

    id: str
    name: str
    account: str | None
    plan: str | None
    suspended: bool
    source: Literal["store", "config"]
    limits: dict[str, OwnLimit] = {}
    created: datetime | None = None
    updated: datetime | None = None
    version: int = 0


def changes_of(body: msgspec.Struct) -> dict[str, Any]:
    """The members of a body. Raises Problem if it has none."""
    given = {
        name: value
        for name in body.__struct_fields__
        if (value := getattr(body, name)) is not UNSET
    }
    if not given:
        raise invalid("", f"Give at least one of {', '.join(body.__struct_fields__)}.")
    return given


def view_of(consumer: Consumer | ConsumerRecord) -> ConsumerView:
    if isinstance(consumer, ConsumerRecord):
        return ConsumerView(
            id=consumer.id,
            name=consumer.name,
            account=consumer.account,
            plan=consumer.plan,
            suspended=consumer.suspended,
            source="config",
            limits=msgspec.convert(consumer.limits, dict[str, OwnLimit]),
        )
    found = msgspec.structs.asdict(consumer)
    found["limits"] = msgspec.convert(consumer.limits, dict[str, OwnLimit])
    return ConsumerView(**found, source="store")


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """The members, with `limits` as records store them."""
    if "limits" in given:
        given["limits"] = msgspec.to_builtins(given["limits"])
    return given


def tagged(row: Any, content: Any, status: int = 200, **headers: str) -> Response[Any]:
    """An answer whose ETag is the row's version."""
    return Response(
        content, status_code=status, headers={"ETag": etag(str(row.version)), **headers}
    )


def matched(request: AnyRequest, row: Any, *, required: bool = True) -> int | None:
    """The version that the record must have, or None for any. Raises Problem."""
    exact = require_match(request, etag(str(row.version)), required=required)
    version: int = row.version
    return version if exact else None


# ---- accounts ---------------------------------------------------------------------------


@get("/v1/accounts", opt=spec("read", answer=Page[Account]))
async def list_accounts(ctx: Ctx, cursor: Text = None, limit: Limit = LIMIT) -> Page[Account]:
    """The accounts, oldest first."""
    return await ctx.identity.parties.accounts(cursor=cursor, limit=limit)


@post(
    "/v1/accounts",
    opt=spec("parties", body=AccountNew, answer=Account, status=201, etag=True),
)
async def create_account(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """Create an account; its name must be new."""
    body = await read(request, AccountNew)
    account = await ctx.identity.parties.create_account(body.name)
    if (billing := ctx.control.billing) is not None:
        await billing.open_account(account.id)
    return tagged(account, account, 201, Location=f"/v1/accounts/{account.id}")


@get("/v1/accounts/{ident:str}", opt=spec("read", answer=Account, etag=True))
async def get_account(ctx: Ctx, ident: FromPath[str]) -> Response[Any]:
    """An account, by id or name."""
    account = await ctx.identity.parties.account(ident)
    return tagged(account, account)


@patch(
    "/v1/accounts/{ident:str}",
    opt=spec("parties", body=AccountNew, answer=Account, etag=True, match="required"),
)
async def change_account(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Rename an account."""
    body = await read(request, AccountNew)
    parties = ctx.identity.parties
    version = matched(request, await parties.account(ident))
    account = await parties.rename_account(ident, body.name, version)
    return tagged(account, account)


@delete(
    "/v1/accounts/{ident:str}", status_code=204, opt=spec("parties", status=204, match="optional")
)
async def delete_account(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> None:
    """Delete an account. It must have no consumers, and no entries, usage, invoices or payments,
    which are kept and refer to it."""
    parties = ctx.identity.parties
    version = matched(request, await parties.account(ident), required=False)
    await parties.delete_account(ident, version)


# ---- consumers --------------------------------------------------------------------------


async def consumer_of(ctx: Context, ident: str) -> Consumer | ConsumerRecord:
    """A consumer by id or name, from the configuration or the store. Raises NotFoundError,
    StoreError."""
    return ctx.identity.seed(ident) or await ctx.identity.parties.consumer(ident)


@get("/v1/consumers", opt=spec("read", answer=Page[ConsumerView]))
async def list_consumers(
    ctx: Ctx,
    cursor: Text = None,
    limit: Limit = LIMIT,
    account: Text = None,
    plan: Text = None,
) -> Page[ConsumerView]:
    """The consumers: those from the configuration, then those from the store, oldest first."""
    # A cursor is "c" or "s" (which of the two lists) and the last id.
    position = decode_cursor(cursor, str) if cursor is not None else "c"
    found: list[ConsumerView] = []
    if position.startswith("c") and account is None:
        found = [
            view_of(seed)
            for seed in ctx.identity.seeds()
            if seed.id > position[1:] and (plan is None or seed.plan == plan)
        ]
    if len(found) <= limit:
        after = encode_cursor(position[1:]) if position.startswith("s") else None
        stored = await ctx.identity.parties.consumers(
            cursor=after, limit=limit + 1 - len(found), account=account, plan=plan
        )
        found += [view_of(consumer) for consumer in stored.items]
    return page_of(found, limit, lambda one: ("c" if one.source == "config" else "s") + one.id)


@post(
    "/v1/consumers",
    opt=spec("parties", body=ConsumerNew, answer=ConsumerView, status=201, etag=True),
)
async def create_consumer(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """Create a consumer; its name must be new. It can call once it has a credential."""
    body = await read(request, ConsumerNew)
    consumer = await ctx.identity.create_consumer(**_plain(msgspec.structs.asdict(body)))
    return tagged(consumer, view_of(consumer), 201, Location=f"/v1/consumers/{consumer.id}")


@get("/v1/consumers/{ident:str}", opt=spec("read", answer=ConsumerView, etag=True))
async def get_consumer(ctx: Ctx, ident: FromPath[str]) -> Response[Any]:
    """A consumer, by id or name."""
    view = view_of(await consumer_of(ctx, ident))
    return tagged(view, view)


@patch(
    "/v1/consumers/{ident:str}",
    opt=spec("parties", body=ConsumerChange, answer=ConsumerView, etag=True, match="required"),
)
async def change_consumer(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Change a consumer. When this answers, the change is in effect on every worker. `suspended:
    true` refuses all its requests with 403 until it is set back."""
    changes = _plain(changes_of(await read(request, ConsumerChange)))
    version = matched(request, await consumer_of_store(ctx, ident))
    consumer = await ctx.identity.update_consumer(ident, changes, version)
    return tagged(consumer, view_of(consumer))


@delete(
    "/v1/consumers/{ident:str}", status_code=204, opt=spec("parties", status=204, match="optional")
)
async def delete_consumer(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> None:
    """Delete a consumer with its credentials, which are refused when this answers."""
    version = matched(request, await consumer_of_store(ctx, ident), required=False)
    await ctx.identity.delete_consumer(ident, version)


async def consumer_of_store(ctx: Context, ident: str) -> Consumer:
    """A consumer that can be changed. Raises ConflictError for one from the configuration."""
    ctx.identity.refuse_seed(ident)
    return await ctx.identity.parties.consumer(ident)


HANDLERS = [
    list_accounts,
    create_account,
    get_account,
    change_account,
    delete_account,
    list_consumers,
    create_consumer,
    get_consumer,
    change_consumer,
    delete_consumer,
]
