"""The state of the gateway: workers, requests, usage, limits; and draining it."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, QueryParameter

import fastgate
from fastgate.api.context import AnyRequest, Context, Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import Text
from fastgate.api.ports import LimitUse, RouteUse, WorkerStatus
from fastgate.api.problems import Problem
from fastgate.config.revisions import digest_of
from fastgate.errors import NotFoundError

RequestLimit = Annotated[int, QueryParameter(ge=1, le=1000, description="How many, 1 to 1000.")]


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The store, as the control process sees it."""

    kind: str
    ready: bool
    problem: str | None


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway at a glance."""

    version: str
    ready: bool
    reasons: list[str]
    generation: int
    digest: str
    routes: int
    services: int
    upstreams: int
    plans: int
    workers: list[WorkerStatus]
    store: StoreStatus


class Workers(msgspec.Struct, frozen=True):
    """The workers, by index."""

    items: list[WorkerStatus]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Requests by route and in total, since the counters began."""

    routes: list[RouteUse]
    requests: int
    bytes_in: int
    bytes_out: int


class Requests(msgspec.Struct, frozen=True):
    """Recent requests, newest first."""

    items: list[dict[str, Any]]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer has left now."""

    consumer: str
    name: str
    plan: str | None
    items: list[LimitUse]


class Draining(msgspec.Struct, frozen=True):
    """The gateway has begun to drain."""

    draining: bool = True


@get("/v1/status", opt=spec("read", answer=GatewayStatus))
async def status(ctx: Ctx) -> GatewayStatus:
    """The gateway at a glance: readiness, generation, workers, store."""
    gateway, ready, store = ctx.control.gateway, ctx.control.readiness(), ctx.store
    return GatewayStatus(
        version=fastgate.__version__,
        ready=ready.ready,
        reasons=ready.reasons,
        generation=ctx.control.generation,
        digest=digest_of(gateway),
        routes=len(gateway.routes),
        services=len(gateway.services),
        upstreams=len(gateway.upstreams),
        plans=len(gateway.plans),
        workers=ctx.control.workers(),
        store=StoreStatus(kind=store.kind, ready=store.ready, problem=store.problem),
    )


@get("/v1/workers", opt=spec("read", answer=Workers))
async def workers(ctx: Ctx) -> Workers:
    """Each worker: pid, state, generation, connections, requests in flight, memory."""
    return Workers(ctx.control.workers())


@get("/v1/usage", opt=spec("read", answer=Usage))
async def usage(ctx: Ctx, route: Text = None) -> Usage:
    """Served and refused requests by route (`?route=`: only this one). For a consumer, see
    /v1/limits."""
    routes = ctx.control.usage()
    if route is not None:
        routes = [one for one in routes if one.route == route]
        if not routes and not any(one.name == route for one in ctx.control.gateway.routes):
            raise Problem("not_found", f"There is no route {route!r}.")
    return Usage(
        routes=routes,
        requests=sum(one.requests for one in routes),
        bytes_in=sum(one.bytes_in for one in routes),
        bytes_out=sum(one.bytes_out for one in routes),
    )


@get("/v1/requests", opt=spec("read", answer=Requests))
async def recent(ctx: Ctx, limit: RequestLimit = 50) -> Requests:
    """The most recent requests that are kept (`observability.recent`)."""
    return Requests(ctx.control.recent_requests(limit))


@get("/v1/requests/{ident:str}", opt=spec("read", answer=dict[str, Any]))
async def one_request(ctx: Ctx, ident: FromPath[str]) -> dict[str, Any]:
    """What happened to a request, phase by phase. The id is in `X-Request-ID` and in the `instance`
    of a refusal (`urn:fastgate:request:ID`)."""
    return kept_request(ctx, ident)


def kept_request(ctx: Context, ident: str) -> dict[str, Any]:
    """A recent request by its id, plain or as in a refusal's `instance`. Raises Problem."""
    wanted = ident.rpartition(":")[2].replace("-", "").lower()
    if re.fullmatch(r"[0-9a-f]{32}", wanted) is None:
        raise Problem(
            "not_found",
            f"{ident!r} is not the id of a request, which has 32 hexadecimal digits: "
            "see X-Request-ID.",
        )
    found = ctx.control.request(wanted)
    if found is None:
        raise Problem(
            "not_found",
            f"The request {wanted} is not kept: it was too long ago, did not go through this "
            "gateway, or the id is wrong. The access log may have it.",
        )
    return found


@get("/v1/limits/{consumer:str}", opt=spec("read", answer=Limits))
async def limits(ctx: Ctx, consumer: FromPath[str]) -> Limits:
    """What this consumer (id or name) has used of its rate limits and quotas, and what is left.
    Works without the store."""
    record = ctx.identity.known(consumer)
    if record is None:
        raise NotFoundError(f"There is no consumer {consumer!r}.")
    return Limits(
        consumer=record.id,
        name=record.name,
        plan=record.plan,
        items=ctx.control.limits_of(record.id, record.plan),
    )


@post(
    "/v1/drain",
    status_code=202,
    opt=spec("operate", answer=Draining, status=202, idempotent=False),
)
async def drain(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """Begin the graceful end of the whole gateway, as SIGTERM does: readiness turns 503, requests
    in progress are finished. This cannot be undone."""
    await ctx.control.drain()
    return Response(Draining(), status_code=202)


HANDLERS = [status, workers, usage, recent, one_request, limits, drain]
