"""Tokens of this API. For admins; a token is shown only in the answer that creates it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from fastgate.api.bodies import When, future, read
from fastgate.api.context import AnyRequest, Ctx, principal
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.api.problems import Problem
from fastgate.api.roles import Role
from fastgate.model.base import exact_pattern
from fastgate.store.pages import Page
from fastgate.store.tokens import TokenRow


class TokenNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to create."""

    role: Role = "viewer"
    label: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            pattern=exact_pattern(r"^[^\x00-\x1f\x7f]*$"),
            description="The owner's name; the author in revisions.",
        ),
    ]
    expires_at: When | None = None


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token. `token`, the token itself, is there only in the answer that creates it."""

    id: str
    prefix: str
    role: str
    label: str
    created_by: str
    created: datetime
    expires_at: datetime | None
    token: str | UnsetType = UNSET


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, as this API sees it."""

    id: str
    name: str
    role: Role


def _view(row: TokenRow, token: str | UnsetType = UNSET) -> TokenView:
    fields = msgspec.structs.asdict(row)
    del fields["digest"]
    return TokenView(**fields, token=token)


@get("/v1/me", opt=spec("read", answer=Me))
async def me(request: AnyRequest) -> Me:
    """The owner of the token in the request."""
    who = principal(request)
    return Me(id=who.id, name=who.name, role=who.role)


@get("/v1/tokens", opt=spec("tokens", answer=Page[TokenView]))
async def list_tokens(ctx: Ctx, cursor: Text = None, limit: Limit = LIMIT) -> Page[TokenView]:
    """The tokens that were created through this API, oldest first, without the first admin token (a
    file in the state directory) and those of `control.tokens`."""
    return (await ctx.tokens.page(cursor=cursor, limit=limit)).map(_view)


@post("/v1/tokens", opt=spec("tokens", body=TokenNew, answer=TokenView, status=201))
async def create_token(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """Create a token; it is shown only here."""
    body = await read(request, TokenNew)
    made = await ctx.tokens.create(
        role=body.role,
        label=body.label,
        created_by=principal(request).name,
        expires_at=future(body.expires_at),
    )
    headers = {"Location": f"/v1/tokens/{made.row.id}", "Cache-Control": "no-store"}
    return Response(_view(made.row, made.token), status_code=201, headers=headers)


@get("/v1/tokens/{ident:str}", opt=spec("tokens", answer=TokenView))
async def get_token(ctx: Ctx, ident: FromPath[str]) -> TokenView:
    """One token."""
    return _view(await ctx.tokens.get(ident))


@delete("/v1/tokens/{ident:str}", status_code=204, opt=spec("tokens", status=204))
async def delete_token(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> None:
    """Delete a token; it is refused at once. The token of the request itself cannot be deleted."""
    if principal(request).id == ident:
        raise Problem("conflict", "You are using this token. Delete it with another one.")
    await ctx.tokens.delete(ident)


HANDLERS = [me, list_tokens, create_token, get_token, delete_token]
