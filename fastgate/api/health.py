"""Health, readiness and metrics: for machines that ask often."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get

from fastgate.api.context import Ctx
from fastgate.api.describe import spec
from fastgate.api.ports import Readiness
from fastgate.api.problems import Problem

METRICS_TYPE = "text/plain; version=0.0.4"  # a charset is added to texts


class Alive(msgspec.Struct, frozen=True):
    """The control process answers."""

    status: str = "ok"


@get("/healthz", opt=spec("open", answer=Alive))
async def healthz() -> Response[Any]:
    """Whether the control process is alive. Says nothing about the workers: see /readyz."""
    return Response(Alive(), headers={"Cache-Control": "no-store"})


@get("/readyz", opt=spec("open", answer=Readiness))
async def readyz(ctx: Ctx) -> Response[Any]:
    """Whether the gateway serves the newest generation; 503 with the reasons when not.

    It is ready while one worker serves; `reasons` then names those that are missing. The store
    is not asked: the gateway serves without it.
    """
    ready = ctx.control.readiness()
    if not ready.ready:
        raise Problem(
            "not_ready",
            "; ".join(ready.reasons) or "Not ready.",
            headers={"Retry-After": "1"},
            generation=ready.generation,
            reasons=ready.reasons,
        )
    return Response(ready, headers={"Cache-Control": "no-store"})


@get("/metrics", opt=spec("metrics", answer=str, media=METRICS_TYPE))
async def metrics(ctx: Ctx) -> Response[bytes]:
    """Prometheus metrics. Open to all who can connect, unless `control.metrics_open` is false."""
    if not ctx.control.gateway.observability.metrics.enabled:
        raise Problem("not_found", "Metrics are off: observability.metrics.enabled is false.")
    return Response(ctx.control.metrics(), media_type=METRICS_TYPE)


HANDLERS = [healthz, readyz, metrics]
