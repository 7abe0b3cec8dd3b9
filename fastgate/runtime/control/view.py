"""The control API's view of the running gateway: only reads shared memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastgate._core.shared.callers import LimitOverride
from fastgate._core.shared.cells import limit_key_py
from fastgate._core.shared.clock import held_seconds
from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.limiter import LimiterTable
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import (
    LimitKind,
    LimitScope,
    RouteFlag,
    Snapshot,
    stable_hash,
)
from fastgate.api.ports import LimitUse, Readiness, WorkerStatus
from fastgate.observability.metrics import process_memory
from fastgate.runtime.wire.heartbeat import AWAY_S

_ADDRESS, _ROUTE = LimitScope.BY_ADDRESS, LimitScope.BY_ROUTE
_CONSUMER, _PLAN = LimitScope.BY_CONSUMER, LimitScope.BY_PLAN
_SERVICE, _CREDENTIAL = LimitScope.BY_SERVICE, LimitScope.BY_CREDENTIAL
_HEADER = LimitScope.BY_HEADER
_MANY = _ADDRESS | _CREDENTIAL | _HEADER
"""Keys that give a limit of a consumer more than one count."""
SCOPES = {
    _ADDRESS: "address",
    _ROUTE: "route",
    _CONSUMER: "consumer",
    _PLAN: "plan",
    _SERVICE: "service",
    _CREDENTIAL: "credential",
    _HEADER: "header",
}
KINDS = {
    LimitKind.LIMIT_RATE: "rate",
    LimitKind.LIMIT_QUOTA: "quota",
    LimitKind.LIMIT_CONCURRENCY: "concurrency",
}
NONE32 = 0xFFFFFFFF


def workers(segment: Segment) -> list[WorkerStatus]:
    """All places for workers, including empty ones."""
    found = []
    for index in range(segment.workers):
        row = segment.worker_row(index)
        pid = row.pid
        found.append(
            WorkerStatus(
                index=index,
                pid=pid,
                state=row.state_name if pid else "down",
                generation=row.generation,
                connections=row.connections,
                in_flight=row.in_flight,
                upstream_idle=row.upstream_idle,
                starts=row.starts,
                heartbeat_age=segment.heartbeat_age(index) or 0.0,
                memory=(process_memory(pid) or 0) if pid else 0,
            )
        )
    return found


def readiness(segment: Segment) -> Readiness:
    """Whether the gateway is ready: a worker serves the newest generation, none serves an older
    one, and the gateway is not draining. A worker without a heartbeat, or one that is being
    started, does not count, since others accept for it; the reasons still name it."""
    generation = segment.generation
    away, reasons = [], []
    if segment.draining:
        reasons.append("the gateway is draining")
    if not generation:
        reasons.append("no configuration is served yet")
    for index in range(segment.workers):
        row = segment.worker_row(index)
        age = segment.heartbeat_age(index)
        if not row.pid or age is None:
            away.append(f"worker {index} is being started")
        elif age > AWAY_S:
            away.append(f"worker {index} has had no heartbeat for {age:.0f} s")
        elif row.generation < generation:
            reasons.append(f"worker {index} serves generation {row.generation}, not {generation}")
    ready = not reasons and len(away) < segment.workers
    return Readiness(ready=ready, generation=generation, reasons=reasons + away)


class LimitsView:
    """The remaining amounts of a consumer's limits, read from the workers' cells."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._rates = LimiterTable(segment)
        self._quotas = QuotaTable(segment)
        self._running = Concurrency(segment, 0)
        self._snapshot: Snapshot | None = None
        self._own: dict[int, LimitOverride] = {}
        self._routes: list[tuple[str, int, int, dict[str, Any]]] = []

    def of(
        self,
        snapshot: Snapshot,
        consumer_id: str,
        plan_slot: int | None,
        overrides: Sequence[LimitOverride] = (),
    ) -> list[LimitUse]:
        """Limits counted by this consumer or its plan. Limits that also count by address,
        credential or header are left out, since they have no single count."""
        consumer = stable_hash(consumer_id)
        self._own = {override.key: override for override in overrides}
        plan: dict[str, Any] | None = None
        if plan_slot is not None and plan_slot in snapshot.plans():
            plan = snapshot.plan(plan_slot)
        plan_identity = plan["identity"] if plan else 0
        uses = []
        if plan is not None:
            for limit in plan["limits"]:
                # A plan's limit that also counts by route or service has many counts.
                if not limit["scope"] & (_MANY | _ROUTE | _SERVICE):
                    uses.append(self._use(limit, consumer, plan_identity, None, 0, 0))
        for name, route, service, limit in self._of_routes(snapshot):
            uses.append(self._use(limit, consumer, plan_identity, name, route, service))
        return uses

    def _of_routes(self, snapshot: Snapshot) -> list[tuple[str, int, int, dict[str, Any]]]:
        """The limits of routes that count by consumer or plan; found once per snapshot."""
        if self._snapshot is not snapshot:
            self._routes = list(_routes_of(snapshot))
            self._snapshot = snapshot
        return self._routes

    def _use(
        self,
        limit: dict[str, Any],
        consumer: int,
        plan: int,
        name: str | None,
        route: int,
        service: int,
    ) -> LimitUse:
        own = self._own.get(limit["override_key"])
        if own is not None:
            limit = limit | {
                "amount": own.amount,
                "interval_ns": own.interval_ns,
                "tolerance_ns": own.tolerance_ns,
            }
        scope, amount = limit["scope"], limit["amount"]
        key = limit_key_py(
            limit["identity"],
            consumer=consumer if scope & _CONSUMER else 0,
            plan=plan if scope & _PLAN else 0,
            route=route if scope & _ROUTE else 0,
            service=service if scope & _SERVICE else 0,
        )
        now = int(time.time()) - held_seconds(self._segment)
        if limit["kind"] == LimitKind.LIMIT_CONCURRENCY:
            used = self._running.count(key)
            remaining, resets_at = max(0, amount - used), now
        elif limit["kind"] == LimitKind.LIMIT_QUOTA:
            found = self._quotas.peek(key, limit["period"], now, amount)
            used, remaining, resets_at = found.used, found.remaining, found.resets_at
        else:
            found = self._rates.peek(
                key, time.monotonic_ns(), limit["interval_ns"], limit["tolerance_ns"]
            )
            used, remaining, resets_at = found.used, found.remaining, now + found.reset_s
        return LimitUse(
            limit=limit["name"].decode(),
            kind=KINDS[limit["kind"]],
            by=[word for bit, word in SCOPES.items() if scope & bit],
            amount=amount,
            used=used,
            remaining=remaining,
            resets_at=resets_at,
            route=name,
            own=own is not None,
        )


def _routes_of(snapshot: Snapshot) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    seen: set[tuple[int, int]] = set()
    for index, name in enumerate(snapshot.routes()):
        route = snapshot.route(index)
        parts = [route]
        if route["flags"] & RouteFlag.ROUTE_SPLIT:
            parts = snapshot.traffic(route["traffic"])["split"]
        for part, limit in [(each, limit) for each in parts for limit in each["limits"]]:
            scope = limit["scope"]
            which = route["identity"], limit["identity"]
            if which in seen:
                continue  # another path of the same route
            seen.add(which)
            if scope & (_CONSUMER | _PLAN) and not scope & _MANY:
                service = 0
                if scope & _SERVICE and part["service"] != NONE32:
                    service = snapshot.service(part["service"])["identity"]
                yield name, route["identity"], service, limit
