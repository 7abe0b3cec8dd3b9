"""Credentials: what proves that a request is a consumer's. A key or secret is shown only in the
answer that creates it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from fastgate.api.bodies import When, future, read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.new_credentials import new_credential
from fastgate.api.paging import LIMIT, Limit, Text, page_in_memory
from fastgate.api.parties import changes_of, consumer_of_store, matched, tagged
from fastgate.model.base import exact_pattern
from fastgate.model.party import BASIC_USER, Subject
from fastgate.model.values import KEY_LEAST, KEY_MOST, KEY_PATTERN
from fastgate.store.cache import KeyRecord
from fastgate.store.pages import Page
from fastgate.store.parties import Credential

Label = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=exact_pattern(r"^[^\x00-\x1f\x7f]*$"),
        description="For people: where the key is used.",
    ),
]
Environment = Annotated[
    str,
    Meta(
        pattern=exact_pattern(r"^[a-z0-9]{1,16}$"),
        description="A part of the key that people can see: live.",
    ),
]


GivenKey = Annotated[
    str,
    Meta(
        pattern=exact_pattern(f"^{KEY_PATTERN}$"),
        description=f"Import this key from another gateway instead of creating one: {KEY_LEAST} to "
        f"{KEY_MOST} printable characters without spaces.",
    ),
]


Kind = Annotated[
    Literal["key", "subject", "certificate", "basic"],
    Meta(
        description="`key`: an API key. `subject`: what tokens of an issuer say about it. "
        "`certificate`: the public key of its client certificate. `basic`: a user of HTTP Basic."
    ),
]


class CredentialNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A credential to create. A `subject` has `issuer` and `subject`, a `certificate` has `pin` or
    `certificate`, `basic` has `user`; keys and secrets are generated unless they are given."""

    kind: Kind = "key"
    label: Label = ""
    expires_at: Annotated[When | None, Meta(description="When it expires. Default: never.")] = None
    environment: Environment | None = None
    key: GivenKey | None = None
    issuer: Annotated[str | None, Meta(description="With `subject`: the issuer, by its name.")] = (
        None
    )
    subject: Annotated[Subject | None, Meta(description="The subject, as tokens have it.")] = None
    pin: Annotated[
        Annotated[str, Meta(pattern=exact_pattern(r"^sha256/[A-Za-z0-9+/]{43}=$"))] | None,
        Meta(description="A public key: `sha256/` and the SHA-256 of its SPKI in base64."),
    ] = None
    certificate: Annotated[
        Annotated[str, Meta(max_length=65_536)] | None,
        Meta(description="A certificate in PEM form instead; only its public key is kept."),
    ] = None
    user: Annotated[
        Annotated[str, Meta(pattern=BASIC_USER)] | None, Meta(description="The user.")
    ] = None
    secret: Annotated[
        Annotated[str, Meta(pattern=exact_pattern(f"^{KEY_PATTERN}$"))] | None,
        Meta(description="Import this secret of the user instead of creating one."),
    ] = None


class CredentialChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of a credential; `expires_at: null` means never."""

    label: Label | UnsetType = UNSET
    expires_at: When | UnsetType | None = UNSET


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to rotate a credential."""

    overlap: Annotated[
        int,
        Meta(
            ge=0, le=90 * 86400, description="Seconds for which the old key stays valid; default 0."
        ),
    ] = 0
    environment: Environment | None = None


class CredentialView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A credential. `prefix` is how its key or secret begins; `key` and `secret` themselves are
    there only in the answer that creates them. `about` says what it is: `issuer` and `subject`,
    `pin`, `user`."""

    id: str
    consumer: str
    kind: Kind
    about: dict[str, str]
    prefix: str
    label: str
    state: Literal["active", "expired", "revoked"]
    source: Literal["store", "config"]
    created: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    version: int
    key: str | UnsetType = UNSET
    secret: str | UnsetType = UNSET


def _state(credential: Credential) -> Literal["active", "expired", "revoked"]:
    if credential.revoked_at is not None:
        return "revoked"
    ended = credential.expires_at is not None and credential.expires_at <= datetime.now(UTC)
    return "expired" if ended else "active"


def _view(credential: Credential, shown: str | UnsetType = UNSET) -> CredentialView:
    """`shown`: its key or secret, if it is shown."""
    return CredentialView(
        id=credential.id,
        consumer=credential.consumer,
        kind=credential.kind,  # type: ignore[arg-type]
        about=credential.about,
        prefix=credential.prefix,
        label=credential.label,
        state=_state(credential),
        source="store",
        created=credential.created,
        expires_at=credential.expires_at,
        revoked_at=credential.revoked_at,
        version=credential.version,
        key=shown if credential.kind == "key" else UNSET,
        secret=shown if credential.kind == "basic" else UNSET,
    )


def _seed_view(key: KeyRecord) -> CredentialView:
    return CredentialView(
        id=key.id,
        consumer=key.consumer,
        kind=key.kind,  # type: ignore[arg-type]
        about=key.about,
        prefix="",
        label="",
        state="active",
        source="config",
        created=None,
        expires_at=None,
        revoked_at=None,
        version=0,
    )


SHOWN_ONCE = {"Cache-Control": "no-store"}


@get("/v1/consumers/{ident:str}/credentials", opt=spec("read", answer=Page[CredentialView]))
async def list_credentials(
    ctx: Ctx, ident: FromPath[str], cursor: Text = None, limit: Limit = LIMIT
) -> Page[CredentialView]:
    """A consumer's credentials, oldest first, including revoked ones."""
    if (seed := ctx.identity.seed(ident)) is not None:
        keys = ctx.identity.seed_keys(seed.id)
        return page_in_memory(keys, lambda key: key.id, cursor, limit).map(_seed_view)
    page = await ctx.identity.parties.credentials(ident, cursor=cursor, limit=limit)
    return page.map(_view)


@post(
    "/v1/consumers/{ident:str}/credentials",
    opt=spec("parties", body=CredentialNew, answer=CredentialView, status=201, etag=True),
)
async def create_credential(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Create a credential: a key, unless `kind` says otherwise. When this answers, it works on
    every worker. A generated key or secret is shown only here.

    A subject, certificate or user that was revoked can be created again, also for another consumer;
    a key cannot.
    """
    body = await read(request, CredentialNew, optional=True)
    new = await new_credential(ctx, body)
    issued = await ctx.identity.add(
        ident, new, label=body.label, expires_at=future(body.expires_at)
    )
    made = issued.credential
    generated = bool(issued.key) and body.key is None and body.secret is None
    return tagged(
        made,
        _view(made, issued.key if generated else UNSET),
        201,
        Location=f"/v1/consumers/{made.consumer}/credentials/{made.id}",
        **SHOWN_ONCE,
    )


@get(
    "/v1/consumers/{ident:str}/credentials/{credential:str}",
    opt=spec("read", answer=CredentialView, etag=True),
)
async def get_credential(
    ctx: Ctx, ident: FromPath[str], credential: FromPath[str]
) -> Response[Any]:
    """One credential."""
    found = await ctx.identity.parties.credential(ident, credential)
    return tagged(found, _view(found))


@patch(
    "/v1/consumers/{ident:str}/credentials/{credential:str}",
    opt=spec("parties", body=CredentialChange, answer=CredentialView, etag=True, match="required"),
)
async def change_credential(
    ctx: Ctx, request: AnyRequest, ident: FromPath[str], credential: FromPath[str]
) -> Response[Any]:
    """Change its label, or when it expires."""
    changes = changes_of(await read(request, CredentialChange))
    if (when := changes.get("expires_at")) is not None:
        changes["expires_at"] = when.astimezone(UTC)  # may be past: it ends at once
    await consumer_of_store(ctx, ident)
    version = matched(request, await ctx.identity.parties.credential(ident, credential))
    changed = await ctx.identity.update_credential(ident, credential, changes, version)
    return tagged(changed, _view(changed))


@delete(
    "/v1/consumers/{ident:str}/credentials/{credential:str}",
    status_code=200,
    opt=spec("parties", answer=CredentialView, match="optional"),
)
async def revoke_credential(
    ctx: Ctx, request: AnyRequest, ident: FromPath[str], credential: FromPath[str]
) -> Response[Any]:
    """Revoke a credential: when this answers, every worker refuses it. It stays in lists, as
    revoked."""
    await consumer_of_store(ctx, ident)
    found = await ctx.identity.parties.credential(ident, credential)
    version = matched(request, found, required=False)
    revoked = await ctx.identity.revoke(ident, credential, version)
    return tagged(revoked, _view(revoked))


@post(
    "/v1/consumers/{ident:str}/credentials/{credential:str}/rotate",
    opt=spec("parties", body=Rotation, answer=CredentialView, status=201, etag=True),
)
async def rotate_credential(
    ctx: Ctx, request: AnyRequest, ident: FromPath[str], credential: FromPath[str]
) -> Response[Any]:
    """Replace a key, or the secret of a user, with a new one. The old one stays valid for `overlap`
    seconds (default: 0). The new one is shown only here."""
    body = await read(request, Rotation, optional=True)
    issued = await ctx.identity.rotate(
        ident,
        credential,
        overlap=timedelta(seconds=body.overlap),
        environment=body.environment,
    )
    made = issued.credential
    return tagged(
        made,
        _view(made, issued.key),
        201,
        Location=f"/v1/consumers/{made.consumer}/credentials/{made.id}",
        **SHOWN_ONCE,
    )


HANDLERS = [
    list_credentials,
    create_credential,
    get_credential,
    change_credential,
    revoke_credential,
    rotate_credential,
]
