"""The configuration as a whole, and its revisions."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Response, get, post, put
from litestar.params import FromPath, FromQuery

from fastgate.api.bodies import body_bytes, etag, require_match
from fastgate.api.context import AnyRequest, Ctx, principal
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, DryRun, Limit, Text
from fastgate.api.problems import Problem
from fastgate.api.roles import allows
from fastgate.config import documents, references
from fastgate.config.revisions import Applied, Difference, digest_of, document_of, yaml_of
from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.gateway import Gateway, Store
from fastgate.model.values import MASK
from fastgate.store.history import Revision
from fastgate.store.pages import Page

YAML = "application/yaml"
YAML_TYPES = (YAML, "application/x-yaml", "text/yaml")
TOML_TYPE = "application/toml"


class RevisionView(Revision, frozen=True, kw_only=True):
    """A revision with its document."""

    document: dict[str, Any]


def shown(request: AnyRequest, document: dict[str, Any]) -> dict[str, Any]:
    """A document as it may be shown: passwords in addresses masked, what would be read as a
    reference escaped, so that it can be sent back, and to those who cannot write it the digests
    of keys cut short, since a weak key can be found from its digest."""
    document = references.escaped(codec.redact(document))
    if allows(principal(request).role, "configure"):
        return document
    cut: dict[str, Any] = _cut(document)
    return cut


def _cut(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _cut(entry) for key, entry in data.items()}
    if isinstance(data, list):
        return [_cut(entry) for entry in data]
    if isinstance(data, str) and data.startswith("sha256:"):
        return f"{data[:15]}…"
    return data


def document_answer(
    request: AnyRequest, document: dict[str, Any], headers: dict[str, str]
) -> Response[Any]:
    """A document as JSON, or as YAML if `Accept` asks for it."""
    document = shown(request, document)
    if "yaml" in request.headers.get("accept", ""):
        return Response(yaml_of(document).encode(), media_type=YAML, headers=headers)
    return Response(document, headers=headers)


def applied_answer(applied: Applied, status: int = 200, **headers: str) -> Response[Any]:
    """The result of a change; the ETag is the configuration's."""
    return Response(applied, status_code=status, headers={"ETag": etag(applied.digest), **headers})


@get("/v1/config", opt=spec("read", answer=Gateway, etag=True, also=[YAML]))
async def get_config(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """The configuration that is served now, in canonical form: JSON, or YAML by `Accept`.

    `store` is left out. Keys and tokens are shown as digests.
    """
    gateway = ctx.control.gateway
    headers = {"FastGate-Generation": str(ctx.control.generation)}
    # In a thread, since a document of 100,000 routes takes its time.
    headers["ETag"] = etag(await asyncio.to_thread(digest_of, gateway))
    document = await asyncio.to_thread(document_of, gateway)
    return document_answer(request, document, headers)


@put("/v1/config", opt=spec("configure", body=Gateway, answer=Applied, etag=True, match="required"))
async def put_config(ctx: Ctx, request: AnyRequest, dry_run: DryRun = False) -> Response[Any]:
    """Replace the whole configuration: validated, compared, applied, recorded.

    JSON, YAML or TOML by `Content-Type`. References (`${NAME}`, `file:`) are refused: they belong
    to the file; `$${NAME}` and `$file:` stand for the characters. Answers when every worker serves
    it. `?dry_run=true` does all but apply.
    """
    raw = await body_bytes(request, "application/json", *YAML_TYPES, TOML_TYPE)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wanted = await asyncio.to_thread(_decode, raw, _format(media))

    def edit(current: Gateway) -> Gateway:
        require_match(request, etag(digest_of(current)))
        return _with_store(wanted, current)

    who = principal(request)
    applied = await ctx.revisions.change(
        edit, author=who.name, dry_run=dry_run, as_admin=allows(who.role, "tokens")
    )
    return applied_answer(applied)


def _format(media: str) -> documents.Format:
    if media in YAML_TYPES:
        return "yaml"
    return "toml" if media == TOML_TYPE else "json"


def _decode(raw: bytes, kind: documents.Format) -> Gateway:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Problem("bad_request", "The body is not UTF-8.") from None
    lines = documents.Lines(text, kind)
    try:
        return codec.decode(references.literal(documents.parse(text, kind)), Gateway)
    except ConfigurationError as error:
        for one in error:
            if one.line is None and one.path:
                one.line = lines.of(one.path)
        raise


def _with_store(wanted: Gateway, current: Gateway) -> Gateway:
    """A document without `store` keeps the current one; another store takes effect at the next
    start."""
    given = codec.encode(wanted.store)
    if wanted.store == Store() or given == codec.redact(codec.encode(current.store)):
        return msgspec.structs.replace(wanted, store=current.store)
    if MASK in str(given.get("url", "")):
        raise ConfigurationError(
            "the password is masked",
            path="store.url",
            hint="Leave `store` out to keep it, or give its whole address.",
        )
    return wanted


@post(
    "/v1/config/reload",
    status_code=200,
    opt=spec("configure", answer=Applied, etag=True, idempotent=False),
)
async def reload(ctx: Ctx, request: AnyRequest, dry_run: DryRun = False) -> Response[Any]:
    """Read the configuration file again and apply it, as SIGHUP does. Works without the store."""
    return applied_answer(
        await ctx.revisions.reload(author=principal(request).name, dry_run=dry_run)
    )


@get("/v1/config/revisions", opt=spec("read", answer=Page[Revision]))
async def revisions(ctx: Ctx, cursor: Text = None, limit: Limit = LIMIT) -> Page[Revision]:
    """The revisions, newest first, without their documents."""
    return await ctx.revisions.page(cursor=cursor, limit=limit)


@get(
    "/v1/config/revisions/{number:int}",
    opt=spec("read", answer=RevisionView, etag=True, also=[YAML]),
)
async def revision(ctx: Ctx, request: AnyRequest, number: FromPath[int]) -> Response[Any]:
    """One revision with its document (as YAML by `Accept`: the document alone)."""
    found, document = await ctx.revisions.get(number)
    headers = {"ETag": etag(found.digest)}
    if "yaml" in request.headers.get("accept", ""):
        return document_answer(request, document, headers)
    view = RevisionView(**msgspec.structs.asdict(found), document=shown(request, document))
    return Response(view, headers=headers)


@get(
    "/v1/config/revisions/{number:int}/diff",
    opt=spec("read", answer=Difference, also=["text/plain"]),
)
async def difference(
    ctx: Ctx, request: AnyRequest, number: FromPath[int], against: FromQuery[int | None] = None
) -> Response[Any]:
    """What revision `number` changed, compared with the one before it or with `?against=`."""
    found, _ = await ctx.revisions.get(number)
    before = against if against is not None else found.parent or 0
    made = await ctx.revisions.difference(before, number)
    if not allows(principal(request).role, "configure"):
        changes = [
            msgspec.structs.replace(one, before=_cut(one.before), after=_cut(one.after))
            for one in made.changes
        ]
        made = msgspec.structs.replace(made, changes=changes, text=_cut_text(made.text))
    if "text/" in request.headers.get("accept", "") and "json" not in request.headers["accept"]:
        return Response(made.text, media_type="text/plain")
    return Response(made)


def _cut_text(text: str) -> str:
    import re

    return re.sub(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}", r"\1…", text)


@post(
    "/v1/config/revisions/{number:int}/rollback",
    status_code=200,
    opt=spec("configure", answer=Applied, etag=True, match="optional"),
)
async def rollback(
    ctx: Ctx, request: AnyRequest, number: FromPath[int], dry_run: DryRun = False
) -> Response[Any]:
    """Apply an old revision as a new one. `store` and `control.tokens` stay as they are."""
    require_match(request, etag(digest_of(ctx.control.gateway)), required=False)
    applied = await ctx.revisions.rollback(number, author=principal(request).name, dry_run=dry_run)
    return applied_answer(applied)


HANDLERS = [get_config, put_config, reload, revisions, revision, difference, rollback]
