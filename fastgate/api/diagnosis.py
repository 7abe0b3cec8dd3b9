"""Diagnosis: why a request was refused, or whether a credential would be served, step by step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import FromPath
from msgspec import Meta

from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.operation import kept_request
from fastgate.api.problems import Problem, invalid
from fastgate.billing.diagnosis.diagnosis import Diagnosis, Question, diagnose
from fastgate.model.base import exact_pattern
from fastgate.model.keys import key_digest

Digest = Annotated[str, Meta(pattern=exact_pattern(r"^[0-9a-f]{64}$"))]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Would a request be served? Give one of credential, digest and consumer."""

    credential: Annotated[
        str | None, Meta(description="The key itself; only its digest is looked at.")
    ] = None
    digest: Annotated[Digest | None, Meta(description="Its SHA-256 instead.")] = None
    consumer: Annotated[str | None, Meta(description="A consumer's id or name instead.")] = None
    route: Annotated[str | None, Meta(description="For this route. Default: for any.")] = None


@get("/v1/requests/{ident:str}/diagnosis", opt=spec("read", answer=Diagnosis))
async def of_request(ctx: Ctx, ident: FromPath[str]) -> Diagnosis:
    """Why a request got its answer: each check passed, failed or skipped, with its fix and its
    current state."""
    question = Question.of_request(kept_request(ctx, ident))
    return await diagnose(question, ctx.control.evidence(), now=datetime.now(UTC))


@post(
    "/v1/diagnosis",
    status_code=200,
    opt=spec("read", body=Asked, answer=Diagnosis, idempotent=False),
)
async def of_credential(ctx: Ctx, request: AnyRequest) -> Diagnosis:
    """Whether a credential or consumer would be served now, and if not, why. Changes nothing."""
    body = await read(request, Asked)
    given = [body.credential, body.digest, body.consumer]
    if sum(one is not None for one in given) != 1:
        raise invalid("", "Give exactly one of credential, digest and consumer.")
    if body.route is not None and not any(
        route.name == body.route for route in ctx.control.gateway.routes
    ):
        raise Problem("not_found", f"There is no route {body.route!r}.")
    digest = None
    if body.credential is not None:
        digest = key_digest(body.credential)
    elif body.digest is not None:
        digest = bytes.fromhex(body.digest)
    question = Question(digest=digest, consumer=body.consumer, route=body.route)
    return await diagnose(question, ctx.control.evidence(), now=datetime.now(UTC))


HANDLERS = [of_request, of_credential]
