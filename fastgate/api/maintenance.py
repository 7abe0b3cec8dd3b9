"""What is closed for maintenance: one resource, so that one change switches several routes."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, patch

from fastgate.api.bodies import etag_of, json_data, require_match
from fastgate.api.config import shown
from fastgate.api.context import AnyRequest, Ctx, principal
from fastgate.api.describe import spec
from fastgate.api.paging import DryRun
from fastgate.api.problems import invalid
from fastgate.api.resources import ROUTES, merge
from fastgate.config import references
from fastgate.config.revisions import Applied
from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.gateway import Gateway, GatewayMaintenance, Maintenance

PATH = "/v1/maintenance"
MEMBERS = {"gateway", "routes"}


class MaintenanceView(msgspec.Struct, frozen=True, kw_only=True):
    """The switch of the whole gateway, and those of routes that have one, on or off."""

    gateway: dict[str, Any] | None
    """As `maintenance` at the top of the configuration."""
    routes: dict[str, dict[str, Any]]
    """By name, as `maintenance` of a route."""


class MaintenanceChange(msgspec.Struct, frozen=True, kw_only=True):
    """Members to change, merged into what there is (RFC 7396). `true` and `false` stand for
    `{"enabled": …}`; null removes a switch."""

    gateway: dict[str, Any] | bool | None = None
    routes: dict[str, dict[str, Any] | bool | None] = {}


class AppliedMaintenance(Applied, frozen=True, kw_only=True):
    """The result of a change, and what is closed now."""

    maintenance: MaintenanceView


def view(gateway: Gateway) -> dict[str, Any]:
    """The switches of a configuration, as plain data."""
    return {
        "gateway": None if gateway.maintenance is None else _full(gateway.maintenance),
        "routes": {
            route.name: _full(route.maintenance)
            for route in gateway.routes
            if route.maintenance is not None
        },
    }


def _full(one: Maintenance) -> dict[str, Any]:
    """With `enabled`, which the canonical form leaves out if it is true."""
    return {"enabled": one.enabled, **codec.encode(one)}


def switched(gateway: Gateway, change: Any) -> Gateway:
    """The configuration with changed switches. Raises Problem, ConfigurationError."""
    if not isinstance(change, dict):
        raise invalid("", "The body must be an object.")
    for name in change:
        if name not in MEMBERS:
            raise invalid(name, "There is no such member: there are gateway and routes.")
    routes = change.get("routes") or {}
    if not isinstance(routes, dict):
        raise invalid("routes", "It must be an object: route → change.")
    if "gateway" in change:
        one = _merged(gateway.maintenance, change["gateway"], GatewayMaintenance, "gateway")
        gateway = msgspec.structs.replace(gateway, maintenance=one)
    for name, wanted in routes.items():
        route = ROUTES.get(gateway, name)
        one = _merged(route.maintenance, wanted, Maintenance, f"routes.{name}")
        gateway = ROUTES.put(gateway, msgspec.structs.replace(route, maintenance=one))
    return gateway


def _merged(
    old: Maintenance | None, change: Any, kind: type[Maintenance], place: str
) -> Maintenance | None:
    """The changed switch; `place`: of the change in the body."""
    if isinstance(change, bool):
        change = {"enabled": change}
    data = merge(None if old is None else _full(old), change)
    try:
        return None if data is None else codec.decode(data, kind)
    except ConfigurationError as error:
        for one in error:
            one.path = f"{place}.{one.path}" if one.path else place
        raise


@get(PATH, opt=spec("read", answer=MaintenanceView, etag=True))
async def get_maintenance(ctx: Ctx, request: AnyRequest) -> Response[Any]:
    """What is closed for maintenance: the whole gateway, and routes that have a switch."""
    data = view(ctx.control.gateway)
    return Response(shown(request, data), headers={"ETag": etag_of(data)})


@patch(
    PATH,
    opt=spec(
        "configure", body=MaintenanceChange, answer=AppliedMaintenance, etag=True, match="optional"
    ),
)
async def patch_maintenance(
    ctx: Ctx, request: AnyRequest, dry_run: DryRun = False
) -> Response[Any]:
    """Close and open routes, or all of them, for maintenance: `{"routes": {"orders": true}}`.

    A merge patch (RFC 7396): members that are left out stay. It is a change of the configuration
    like others, with a revision. Answers when every worker serves it.
    """
    change = references.literal(await json_data(request, "application/merge-patch+json"))
    made: list[Gateway] = []

    def edit(current: Gateway) -> Gateway:
        require_match(request, etag_of(view(current)), required=False)
        made.append(switched(current, change))
        return made[-1]

    applied = await ctx.revisions.change(edit, author=principal(request).name, dry_run=dry_run)
    data = view(made[-1])
    answer = {**msgspec.to_builtins(applied), "maintenance": shown(request, data)}
    return Response(answer, headers={"ETag": etag_of(data)})


HANDLERS = [get_maintenance, patch_maintenance]
