"""What routes do with their traffic besides forwarding it, as records of the image.

Equal records are in the image once, like the policies that refer to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastgate._core.snapshot.image import NONE, ImageBuilder
from fastgate._core.snapshot.snapshot import RouteFlag
from fastgate.config.rules import RuleTables
from fastgate.model.gateway import FaultInjection, Maintenance, Route
from fastgate.model.resolve import Resolver

_FAULT = int(RouteFlag.ROUTE_FAULT)
_MAINTENANCE = int(RouteFlag.ROUTE_MAINTENANCE)


class Traffic(NamedTuple):
    """What a route's record needs."""

    record: int
    """Its index."""
    flags: int


NO_TRAFFIC = Traffic(NONE, 0)


class TrafficRecords:
    """Adds the records of routes to an image."""

    def __init__(self, image: ImageBuilder, rules: RuleTables, resolver: Resolver) -> None:
        self.image = image
        self.rules = rules
        self.resolver = resolver

    def of(self, route: Route) -> Traffic:
        """The index of a route's record, and the flags that say what is in it."""
        fields: dict[str, Any] = {}
        flags = 0
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
