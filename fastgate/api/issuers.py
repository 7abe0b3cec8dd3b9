"""Issuers of tokens: which keys are known of each, when they were fetched, what is wrong."""

from __future__ import annotations

import msgspec
from litestar import get, post
from litestar.params import FromPath

from fastgate.api.context import Ctx
from fastgate.api.describe import spec
from fastgate.api.ports import IssuerStatus
from fastgate.api.problems import Problem
from fastgate.errors import FastGateError, NotFoundError

_FETCHED = ("discovery", "http://", "https://")
"""How the source of an issuer begins whose keys are fetched."""


class IssuerList(msgspec.Struct, frozen=True):
    """The issuers, in the order of the configuration."""

    items: list[IssuerStatus]


@get("/v1/issuers", opt=spec("read", answer=IssuerList))
async def issuers(ctx: Ctx) -> IssuerList:
    """The issuers of tokens: their keys, when these were fetched, and when they are fetched again.

    `problem` says why the last fetch failed, or why a file cannot be used; the last good keys stay
    in use. Keys themselves and secrets are never shown.
    """
    return IssuerList(ctx.control.issuers())


@post(
    "/v1/issuers/{name:str}/refresh",
    status_code=200,
    opt=spec("operate", answer=IssuerStatus),
)
async def refresh(ctx: Ctx, name: FromPath[str]) -> IssuerStatus:
    """Fetch the keys of an issuer now, even if the last attempt failed a moment ago. When this
    answers, every worker has them.

    Keys in files are read again when the file changes.
    """
    known = {each.name: each for each in ctx.control.issuers()}
    if name in known and not known[name].source.startswith(_FETCHED):
        raise Problem(
            "conflict",
            f"The keys of {name} are from {known[name].source}. Replace the file: the gateway "
            "notices.",
        )
    try:
        await ctx.control.refresh_issuer(name)
    except NotFoundError:
        raise
    except FastGateError as error:
        raise Problem("not_fetched", f"{error}. The last good keys stay in use.") from error
    return next(each for each in ctx.control.issuers() if each.name == name)


HANDLERS = [issuers, refresh]
