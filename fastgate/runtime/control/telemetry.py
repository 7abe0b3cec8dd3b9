"""The workers' counts and records: metrics, usage, the access log, recent requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from fastgate._core.logs.drain import RecentRequests
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.segment import Segment
from fastgate.api.ports import RouteUse
from fastgate.config.splits import is_row_of_split, parts_of
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway
from fastgate.observability.accesslog import AccessLog, Destination
from fastgate.observability.metrics import (
    OTHER,
    Metrics,
    Sample,
    outcome_labels,
    own_processes,
)
from fastgate.runtime.control.publisher import Publisher

log = logging.getLogger("fastgate.control")

PATH = "observability.access_log.to"


class Telemetry:
    """Reads counters and rings for control; writes the access log."""

    def __init__(self, segment: Segment, publisher: Publisher) -> None:
        self._segment = segment
        self._publisher = publisher
        self._access_log: AccessLog | None = None
        self._recent: RecentRequests | None = None
        self._metrics: Metrics | None = None
        self._names: dict[int, str] = {}
        self._splits: dict[int, tuple[str, str]] = {}
        self.sources: list[Callable[[], Iterable[Sample]]] = []
        """Other sources of metrics."""
        publisher.checks.append(check_destination)
        publisher.on_served.append(self._on_served)

    async def run(self) -> None:
        """Drain the rings until cancelled; `finish` drains them once more."""
        if self._access_log is not None:
            await self._access_log.run()

    def finish(self) -> None:
        """Write the rest, at the end."""
        if self._access_log is not None:
            self._access_log.close()

    def reopen(self) -> None:
        """SIGUSR1: reopen the log file after a rotation."""
        if self._access_log is not None:
            self._access_log.reopen()

    def metrics(self) -> bytes:
        """The Prometheus exposition."""
        if self._metrics is None:
            self._metrics = Metrics(self._segment, access_log=self._access_log)
        more = [sample for source in self.sources for sample in source()]
        return self._metrics.render(
            self._names, processes=own_processes(), more=more, splits=self._splits
        )

    def usage(self) -> list[RouteUse]:
        """The counts of each route, by name; rows without a name together as "other"."""
        found: dict[str, RouteUse] = {}
        for row in counters_snapshot(self._segment).routes:
            if row.slot in self._splits:
                continue  # counted as its route's, too
            name = OTHER if row.slot is None else self._names.get(row.slot, OTHER)
            use = found.get(name) or RouteUse(
                route=name, requests=0, statuses={}, refused={}, bytes_in=0, bytes_out=0
            )
            statuses, refused, requests = dict(use.statuses), dict(use.refused), use.requests
            for status, number, count in row.outcomes:
                label, reason = outcome_labels(status, number)
                table, key = (refused, reason) if reason else (statuses, label)
                table[key] = table.get(key, 0) + count
                requests += count
            found[name] = RouteUse(
                route=name,
                requests=requests,
                statuses=statuses,
                refused=refused,
                bytes_in=use.bytes_in + row.bytes_in,
                bytes_out=use.bytes_out + row.bytes_out,
            )
        return sorted(found.values(), key=lambda use: use.route)

    def request(self, request_id: str) -> dict[str, Any] | None:
        """A recent request by its id."""
        if self._recent is None:
            return None
        self._drain()
        return self._recent.find(request_id)

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The most recent requests."""
        if self._recent is None:
            return []
        self._drain()
        return self._recent.latest(limit)

    def _drain(self) -> None:
        """Drain now, so that a request that has just ended can be found."""
        if self._access_log is not None and self._access_log.pending:
            self._access_log.drain()

    def _on_served(self) -> None:
        gateway = self._publisher.gateway
        assert gateway is not None
        wanted = gateway.observability.access_log
        try:
            if self._access_log is None:
                if gateway.observability.recent:
                    self._recent = RecentRequests(gateway.observability.recent)
                self._access_log = AccessLog(
                    self._segment,
                    to=wanted.to,
                    format=wanted.format,
                    phases=wanted.phases,
                    recent=self._recent,
                )
            else:
                self._access_log.configure(wanted.to, wanted.format, phases=wanted.phases)
        except OSError as error:
            log.error("the access log %s cannot be opened: %s", wanted.to, error.strerror)
        slots = self._publisher.slots
        self._names = {
            slot: name for name, slot in slots.routes.items() if not is_row_of_split(name)
        }
        # Those of splits that are gone, too: their counts are not another route's.
        self._splits = {
            slot: parts_of(name)
            for name, slot in slots.ever("routes").items()
            if is_row_of_split(name)
        }


def check_destination(gateway: Gateway) -> None:
    """Raise ConfigurationError if the access log cannot be opened."""
    wanted = gateway.observability.access_log
    try:
        Destination(wanted.to, wanted.format).close()
    except OSError as error:
        raise ConfigurationError(
            f"the access log {wanted.to} cannot be opened: {error.strerror}",
            path=PATH,
            hint="Check the directory's permissions, or write `off` or `stdout`.",
        ) from error
