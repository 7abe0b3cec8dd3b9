"""Health, readiness and metrics: for machines that ask often, and all that many gateways are asked.

They are answered here, before the rest of the API: importing that takes half a second and 15 MiB,
which a gateway need not pay until someone asks for it (`OnDemand`). The handlers that describe
them to the framework are in `health`, and give the same answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fastgate.api.auth import Tokens, permit
from fastgate.api.ports import ControlPort
from fastgate.api.problems import MEDIA_TYPE, Problem, unexpected

if TYPE_CHECKING:
    from fastgate.api.roles import Permission

METRICS_TYPE = "text/plain; version=0.0.4"  # a charset is added to texts
_NO_STORE = {"Cache-Control": "no-store"}

log = logging.getLogger("fastgate.api")

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Alive(msgspec.Struct, frozen=True):
    """The control process answers."""

    status: str = "ok"


class Reply(NamedTuple):
    """An answer."""

    body: bytes
    media: str = "application/json"
    headers: Mapping[str, str] = {}
    status: int = 200


def healthz(control: ControlPort) -> Reply:
    """The control process is alive. Says nothing about the workers."""
    return Reply(msgspec.json.encode(Alive()), headers=_NO_STORE)


def readyz(control: ControlPort) -> Reply:
    """Whether the gateway serves the newest generation. Raises Problem when it does not."""
    ready = control.readiness()
    if not ready.ready:
        raise Problem(
            "not_ready",
            "; ".join(ready.reasons) or "Not ready.",
            headers={"Retry-After": "1"},
            generation=ready.generation,
            reasons=ready.reasons,
        )
    return Reply(msgspec.json.encode(ready), headers=_NO_STORE)


def metrics(control: ControlPort) -> Reply:
    """Prometheus metrics. Raises Problem when they are off."""
    if not control.gateway.observability.metrics.enabled:
        raise Problem("not_found", "Metrics are off: observability.metrics.enabled is false.")
    return Reply(control.metrics(), METRICS_TYPE)


PROBES: dict[str, tuple[Permission, Callable[[ControlPort], Reply]]] = {
    "/healthz": ("open", healthz),
    "/readyz": ("open", readyz),
    "/metrics": ("metrics", metrics),
}


class Probes:
    """An ASGI application: answers the probes, and passes everything else on."""

    def __init__(self, control: ControlPort, tokens: Tokens, rest: Asgi) -> None:
        self._control = control
        self._tokens = tokens
        self._rest = rest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            probe = None
        else:
            probe = PROBES.get(scope["path"])
        if probe is None:
            await self._rest(scope, receive, send)
            return
        reply = self._reply(scope, *probe)
        media = f"{reply.media}; charset=utf-8" if reply.media[:5] == "text/" else reply.media
        fields = {
            **reply.headers,
            "content-type": media,
            "content-length": str(len(reply.body)),
        }
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(name.lower().encode(), fields[name].encode()) for name in fields],
            }
        )
        body = reply.body if scope["method"] == "GET" else b""
        await send({"type": "http.response.body", "body": body})

    def _reply(
        self, scope: Any, permission: Permission, answer: Callable[[ControlPort], Reply]
    ) -> Reply:
        try:
            permit(self._tokens, self._control, scope, permission)
            return answer(self._control)
        except Problem as error:
            problem = error
        except Exception:
            log.exception("A request of the control API failed.")
            problem = unexpected()
        return Reply(problem.body(), MEDIA_TYPE, problem.fields, problem.status)
