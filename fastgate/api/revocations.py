"""Tokens of callers that are refused before they expire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from msgspec import Meta

from fastgate.api.bodies import When, future, read
from fastgate.api.context import AnyRequest, Ctx, principal
from fastgate.api.describe import spec
from fastgate.api.new_credentials import check_issuer
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.api.problems import invalid
from fastgate.identity import kinds
from fastgate.identity.kinds import NewRevocation
from fastgate.store.pages import Page
from fastgate.store.revocations import Revocation


class RevocationNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to revoke: the token itself, or its issuer and `jti`."""

    token: Annotated[
        Annotated[str, Meta(min_length=1, max_length=16_384)] | None,
        Meta(description="The token: a JWT, or an opaque one."),
    ] = None
    issuer: Annotated[str | None, Meta(description="With `jti`: the issuer, by its name.")] = None
    jti: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1024)] | None,
        Meta(description="The token's id, as it says."),
    ] = None
    expires_at: Annotated[
        When | None,
        Meta(
            description="When the token expires, and can be forgotten. Default: what the token "
            "says, if it is a JWT."
        ),
    ] = None


class RevocationView(msgspec.Struct, frozen=True, kw_only=True):
    """A revoked token. `about` says what it is: `issuer` and `jti` of the request, or `iss`, `sub`
    and `jti` as the token says, which was not verified. Nothing is known of an opaque token."""

    id: str
    about: dict[str, str]
    revoked_by: str
    created: datetime
    expires_at: datetime


def _view(row: Revocation) -> RevocationView:
    return RevocationView(
        id=row.id,
        about=row.about,
        revoked_by=row.revoked_by,
        created=row.created,
        expires_at=row.expires_at - timedelta(seconds=kinds.LEEWAY_S),
    )


@post(
    "/v1/tokens/revoke", opt=spec("parties", body=RevocationNew, answer=RevocationView, status=201)
)
async def revoke_token(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """Revoke a token of a caller: when this answers, every worker refuses it, until it has expired.
    A token that was revoked before is answered with 200.

    This is about tokens of callers. Tokens of this API are deleted at `/v1/tokens/{ident}`.
    """
    new, expires_at = _asked(ctx, await read(request, RevocationNew))
    row, fresh = await ctx.identity.revoke_token(new, expires_at, principal(request).name)
    return Response(_view(row), status_code=201 if fresh else 200)


def _asked(ctx: Ctx, body: RevocationNew) -> tuple[NewRevocation, datetime]:
    """What is to be revoked, and until when. Raises Problem."""
    if (body.token is None) is (body.jti is None):
        raise invalid("token", "Give either `token`, or `issuer` and `jti`.")
    given = future(body.expires_at)
    if body.jti is not None:
        if body.issuer is None:
            raise invalid("issuer", "It is missing: whose `jti` it is.")
        check_issuer(ctx, body.issuer)
        if given is None:
            raise invalid(
                "expires_at", "It is missing: nothing else says when it can be forgotten."
            )
        return kinds.token_id(body.issuer, body.jti), given
    assert body.token is not None
    if body.issuer is not None:
        raise invalid("issuer", "It belongs to `jti`; a token is enough by itself.")
    new = kinds.token(body.token.strip())
    if given is not None:
        return new, given
    if new.expires_at is None:
        raise invalid("expires_at", "It is missing: the token does not say when it expires.")
    says = datetime.fromtimestamp(new.expires_at, UTC)
    if says + timedelta(seconds=kinds.LEEWAY_S) <= datetime.now(UTC):
        raise invalid("token", f"It has expired, at {says.isoformat()}: it is refused already.")
    return new, says


@get("/v1/tokens/revoked", opt=spec("read", answer=Page[RevocationView]))
async def list_revoked(ctx: Ctx, cursor: Text = None, limit: Limit = LIMIT) -> Page[RevocationView]:
    """The revoked tokens of callers that have not expired, oldest first. They themselves are not
    kept."""
    return (await ctx.identity.revocations.page(cursor=cursor, limit=limit)).map(_view)


HANDLERS = [revoke_token, list_revoked]
