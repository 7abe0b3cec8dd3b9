"""Metrics of targets and of reloads, from the control process.

Health, ejection and their counts are read from the targets' rows in the segment for each request. A
target with a name has one series for each of its addresses. At most `SHOWN` targets are shown, in
the order of the configuration. Reloads are counted from the start of the control process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from fastgate._core.shared.places import in_progress, waiting
from fastgate._core.shared.segment import Segment, TargetRow
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.model.resolve_auth import all_upstreams
from fastgate.observability.metrics import Family, Sample, escape
from fastgate.runtime.control.health import HEALTHY, UNHEALTHY
from fastgate.runtime.control.publisher import Publisher
from fastgate.runtime.control.target_rows import targets_of
from fastgate.sockaddr import address_text, unpack_sockaddr

if TYPE_CHECKING:
    from fastgate.store.history import Source

SHOWN = 500
"""Maximum targets in an exposition."""

UP = Family(
    "fastgate_target_up",
    "gauge",
    "1 while a target can get requests; 0 while it is unhealthy, ejected or has no address.",
)
HEALTH = Family(
    "fastgate_target_healthy",
    "gauge",
    "Result of the health checks: 1 healthy, 0 unhealthy. No sample before the first result.",
)
EJECTED = Family("fastgate_target_ejected", "gauge", "1 while a target is ejected, else 0.")
EJECTIONS = Family(
    "fastgate_target_ejections_total", "counter", "Ejections of a target, by all workers."
)
WEIGHT = Family(
    "fastgate_target_weight_ratio",
    "gauge",
    "The part of its weight that a target has; below 1 during its slow start.",
)
IN_FLIGHT = Family(
    "fastgate_target_in_flight",
    "gauge",
    "Requests in progress at a target that has a limit of them.",
)
QUEUE = Family(
    "fastgate_upstream_queue", "gauge", "Requests that wait for a target with room, by upstream."
)
RELOADS = Family(
    "fastgate_reloads_total",
    "counter",
    "Changes of the configuration, by source and by whether they were applied.",
)
LAST = Family("fastgate_last_reload_timestamp_seconds", "gauge", "Unix time of the last change.")

TARGET_FAMILIES = (UP, HEALTH, EJECTED, EJECTIONS, WEIGHT, IN_FLIGHT)
STATUS_FAMILIES = (*TARGET_FAMILIES, QUEUE, RELOADS, LAST)


class _Target(NamedTuple):
    labels: str
    slot: int
    identity: int
    resolved: bool
    slow_start_ns: int
    limited: bool  # has `max_connections`


class TargetMetrics:
    """Samples of the targets of the served configuration."""

    def __init__(self, segment: Segment, publisher: Publisher) -> None:
        self._segment = segment
        self._publisher = publisher
        self._targets: list[_Target] = []
        self._queues: dict[str, int] = {}  # upstream → its identity
        publisher.on_served.append(self._on_served)

    def _on_served(self) -> None:
        gateway, snapshot = self._publisher.gateway, self._publisher.snapshot
        assert gateway is not None
        assert snapshot is not None
        upstreams = {upstream.name: upstream for upstream in all_upstreams(gateway)}
        self._queues = {
            name: stable_hash(name) for name, each in upstreams.items() if each.queue is not None
        }
        found = []
        for target in targets_of(snapshot):
            upstream = upstreams.get(target["upstream_name"])
            if upstream is None:
                continue  # the gateway's own pages
            labels = {
                "upstream": target["upstream_name"],
                "target": target["name"].decode(),
                "address": _address(target["sockaddr"]),
            }
            text = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
            resolved = bool(target["sockaddr"])
            found.append(
                _Target(
                    text,
                    target["slot"],
                    target["identity"],
                    resolved,
                    upstream.slow_start.ns,
                    upstream.max_connections > 0,
                )
            )
            if len(found) == SHOWN:
                break
        self._targets = found

    def samples(self) -> Iterator[Sample]:
        """What there is to show now."""
        now = time.monotonic_ns()
        families: dict[Family, list[Sample]] = {family: [] for family in TARGET_FAMILIES}

        def add(family: Family, target: _Target, value: int | str) -> None:
            families[family].append(Sample(family, target.labels, value))

        for target in self._targets:
            health, ejected, ejections, weight = 0, False, 0, 1.0
            if target.slot < self._segment.targets:
                row = self._segment.target_row(target.slot)
                if row.identity == target.identity:
                    health, ejections = row.health, row.ejected
                    ejected = row.ejected_until_ns > now
                    weight = weight_ratio(row, target.slow_start_ns, now)
            up = target.resolved and health != UNHEALTHY and not ejected
            add(UP, target, int(up))
            if health in (HEALTHY, UNHEALTHY):
                add(HEALTH, target, int(health == HEALTHY))
            add(EJECTED, target, int(ejected))
            add(EJECTIONS, target, ejections)
            if target.slow_start_ns:
                add(WEIGHT, target, f"{weight:.3f}")
            if target.limited:
                add(IN_FLIGHT, target, in_progress(self._segment, target.identity))
        for samples in families.values():
            yield from samples
        for name, identity in self._queues.items():
            labels = f'upstream="{escape(name)}"'
            yield Sample(QUEUE, labels, waiting(self._segment, identity))


def weight_ratio(row: TargetRow, slow_start_ns: int, now: int) -> float:
    """The part of its weight that a target has at this time of CLOCK_MONOTONIC, as in
    `_core/upstream/balance.pyx`."""
    since = row.started_ns
    if row.ejected_until_ns <= now:
        since = max(since, row.ejected_until_ns)
    if not since or not slow_start_ns:
        return 1.0
    return min(1.0, 0.01 + 0.99 * max(0, now - since) / slow_start_ns)


class ReloadMetrics:
    """Counts changes of the configuration: from the file, through the API, by rollback."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._last: dict[tuple[str, str], float] = {}
        for result in ("applied", "refused"):  # alerts need the increase from 0
            self._counts["file", result] = 0

    def started(self) -> None:
        """The first configuration is served: this sets the time, but is not a reload."""
        self._last["file", "applied"] = time.time()

    def count(self, source: Source, applied: bool) -> None:
        """A change was applied, or refused."""
        key = (source, "applied" if applied else "refused")
        self._counts[key] = self._counts.get(key, 0) + 1
        self._last[key] = time.time()

    def samples(self) -> Iterator[Sample]:
        """What there is to show now."""
        for key, count in self._counts.items():
            yield Sample(RELOADS, _labels(key), count)
        for key, when in self._last.items():
            yield Sample(LAST, _labels(key), f"{when:.3f}")


def _labels(key: tuple[str, str]) -> str:
    source, result = key
    return f'source="{source}",result="{result}"'


def _address(packed: bytes) -> str:
    """A socket address as text; empty while a name is not resolved."""
    where = unpack_sockaddr(packed)
    if where is None:
        return ""
    return address_text(*where)
