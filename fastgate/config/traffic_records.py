"""What routes do with their traffic besides forwarding it, as records of the image.

Equal records are in the image once, like the policies that refer to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from fastgate._core.snapshot.image import NONE, ImageBuilder
from fastgate._core.snapshot.snapshot import RouteFlag
from fastgate.config.rules import RuleTables
from fastgate.model.gateway import FaultInjection, Maintenance, Mirror, Route
from fastgate.model.resolve import Resolver
from fastgate.model.upstream import CLIENT_HOST

_FAULT = int(RouteFlag.ROUTE_FAULT)
_MAINTENANCE = int(RouteFlag.ROUTE_MAINTENANCE)
_SPLIT = int(RouteFlag.ROUTE_SPLIT)
_MIRROR = int(RouteFlag.ROUTE_MIRROR)


class Traffic(NamedTuple):
    """What a route's record needs."""

    record: int
    """Its index."""
    flags: int


NO_TRAFFIC = Traffic(NONE, 0)


class TrafficRecords:
    """Adds the records of routes to an image. services: their indexes. host_of: what a route with
    a service sends as Host: "client", a name, or None: the target's."""

    def __init__(
        self,
        image: ImageBuilder,
        rules: RuleTables,
        resolver: Resolver,
        services: Mapping[str, int],
        host_of: Callable[[Route], str | None],
    ) -> None:
        self.image = image
        self.rules = rules
        self.resolver = resolver
        self.services = services
        self.host_of = host_of

    def of(self, route: Route, split: Mapping[str, Any] | None = None) -> Traffic:
        """The index of a route's record, and the flags that say what is in it. split: the fields
        of its split, if it has one (`splits.split_fields`)."""
        fields: dict[str, Any] = {}
        flags = 0
        if split:
            flags |= _SPLIT
            fields |= split
        if route.mirror is not None and route.service is not None:
            flags |= _MIRROR
            fields |= self._mirror(route, route.mirror)
        closed = self.resolver.maintenance(route)
        if closed is not None:
            flags |= _MAINTENANCE
            fields |= self._maintenance(closed)
        if route.fault is not None:
            flags |= _FAULT
            fields |= self._fault(route.fault)
        return Traffic(self.image.add_traffic(**fields), flags) if flags else NO_TRAFFIC

    def _maintenance(self, closed: Maintenance) -> dict[str, Any]:
        rows = [self.image.address_rule(str(network), True) for network in closed.allow]
        return {
            "maintenance_message": closed.message or "",
            "maintenance_allow": self.image.table(rows),
            "maintenance_wait_s": -(-closed.retry_after.ms // 1000),
        }

    def _fault(self, fault: FaultInjection) -> dict[str, Any]:
        return {
            "delay_ns": 0 if fault.delay is None else fault.delay.ns,
            "delay_permille": fault.delay_share.permille,
            "abort_status": fault.abort or 0,
            "abort_permille": fault.abort_share.permille,
            "fault_when": 0 if fault.when is None else self.rules.predicates(fault.when)[0],
        }

    def _mirror(self, route: Route, mirror: Mirror) -> dict[str, Any]:
        host = self.host_of(replace(route, service=mirror.service, split=None, mirror=None))
        return {
            "mirror_service": self.services[mirror.service],
            "mirror_share": mirror.share.parts,
            "mirror_host": "" if host is None or host == CLIENT_HOST else host,
            "mirror_client_host": host == CLIENT_HOST,
        }
