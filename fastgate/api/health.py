"""Health, readiness and metrics, as the framework knows them. What they answer is in `probes`."""

from __future__ import annotations

from litestar import Response, get

from fastgate.api import probes
from fastgate.api.context import Ctx
from fastgate.api.describe import spec
from fastgate.api.ports import Readiness


def _response(reply: probes.Reply) -> Response[bytes]:
    return Response(reply.body, media_type=reply.media, headers=dict(reply.headers))


@get("/healthz", opt=spec("open", answer=probes.Alive))
async def healthz(ctx: Ctx) -> Response[bytes]:
    """Whether the control process is alive. For the workers, see /readyz."""
    return _response(probes.healthz(ctx.control))


@get("/readyz", opt=spec("open", answer=Readiness))
async def readyz(ctx: Ctx) -> Response[bytes]:
    """Whether the gateway serves the newest generation; if not, 503 with the reasons.

    It is ready while one worker serves; `reasons` then names those that are missing. The store
    is not asked: the gateway serves without it.
    """
    return _response(probes.readyz(ctx.control))


@get("/metrics", opt=spec("metrics", answer=str, media=probes.METRICS_TYPE))
async def metrics(ctx: Ctx) -> Response[bytes]:
    """Prometheus metrics. Open to anyone who can connect, unless `control.metrics_open` is
    false."""
    return _response(probes.metrics(ctx.control))


HANDLERS = [healthz, readyz, metrics]
