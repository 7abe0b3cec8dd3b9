"""Metrics: the workers' counters, as a Prometheus text exposition.

Each exposition reads shared memory; nothing is computed in between. The counts are in the segment,
so they survive reloads, killed workers and a restarted control process, and are reset only if the
gateway itself is restarted.

**Cardinality** has three limits: the segment has a fixed number of rows for routes, an exposition
shows at most `max_routes` of them, and the other labels are small closed sets (reasons, common
statuses or their class, worker numbers). route="other" counts everything without its own row:
routes beyond the limits, removed routes, and requests for which no route was found.

**Histograms** have buckets at powers of two of 16 µs; each family shows the useful part of that
range (`le` in seconds).

The format is Prometheus's text format, 0.0.4.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastgate import __version__
from fastgate._core.shared.counters import (
    CountersSnapshot,
    Histogram,
    RouteCounts,
    counters_snapshot,
)
from fastgate._core.shared.log_ring import ring_state
from fastgate._core.shared.segment import Segment
from fastgate.errors import OWN_STATUS, REASON_BY_CODE, REASON_BY_NUMBER, reason_code
from fastgate.observability.accesslog import AccessLog

OTHER = "other"
SERVING = 2  # worker_row.state


class Family(NamedTuple):
    """The declaration of a metric: name, type, meaning."""

    name: str
    type: str
    help: str


class Sample(NamedTuple):
    """A value of a family that is declared elsewhere; labels in the form between the braces."""

    family: Family
    labels: str
    value: int | str


FAMILIES: tuple[Family, ...] = (
    Family("fastgate_build_info", "gauge", "Always 1; the version is in the labels."),
    Family(
        "fastgate_requests_total",
        "counter",
        "Requests that ended, by route, status and reason. Without a reason the status is the "
        'answer\'s (rare ones by class: "4xx"); with one, it is the refusal\'s, "none", or '
        '"configured" for fault_injected.',
    ),
    Family(
        "fastgate_gateway_seconds",
        "histogram",
        "Time a request spent in the gateway: the whole time less the wait for the upstream.",
    ),
    Family(
        "fastgate_upstream_seconds",
        "histogram",
        "Time from the request sent to the head of the upstream's response.",
    ),
    Family(
        "fastgate_request_seconds",
        "histogram",
        "Time from the first byte of a request to the last byte of its response.",
    ),
    Family(
        "fastgate_request_bytes_total", "counter", "Bytes received from clients: heads and bodies."
    ),
    Family("fastgate_response_bytes_total", "counter", "Bytes sent to clients."),
    Family(
        "fastgate_faults_injected_total",
        "counter",
        "Requests that were delayed or aborted by the fault injection of their route.",
    ),
    Family(
        "fastgate_shed_total",
        "counter",
        "Requests refused because their worker had too much to do, by route.",
    ),
    Family(
        "fastgate_validations_total",
        "counter",
        "Requests validated against an API's description, by route and result.",
    ),
    Family(
        "fastgate_split_total",
        "counter",
        "Requests of routes with a split, by the service that was chosen; else as "
        "fastgate_requests_total.",
    ),
    Family(
        "fastgate_split_seconds",
        "histogram",
        "The same as fastgate_request_seconds, by the service that was chosen.",
    ),
    Family(
        "fastgate_mirrored_total",
        "counter",
        "Requests that were to be copied to another service, by route and result.",
    ),
    Family("fastgate_connections", "gauge", "Client connections open now."),
    Family("fastgate_connections_accepted_total", "counter", "Client connections accepted."),
    Family("fastgate_connections_closed_total", "counter", "Client connections closed."),
    Family(
        "fastgate_connections_refused_total",
        "counter",
        "Client connections closed before they could speak, by the setting that says so.",
    ),
    Family(
        "fastgate_tls_handshakes_total",
        "counter",
        "TLS handshakes with clients and upstreams, by version and whether a session was resumed.",
    ),
    Family(
        "fastgate_tls_handshakes_failed_total",
        "counter",
        "TLS handshakes that failed, or were not finished in time.",
    ),
    Family(
        "fastgate_connections_uncounted_total",
        "counter",
        "Client connections that a limit of connections did not count for lack of room.",
    ),
    Family("fastgate_requests_in_flight", "gauge", "Requests in progress now."),
    Family(
        "fastgate_refused_total",
        "counter",
        "Requests that the gateway itself answered with a refusal.",
    ),
    Family(
        "fastgate_parse_errors_total",
        "counter",
        "Requests refused because they are not valid HTTP.",
    ),
    Family("fastgate_tunnels_total", "counter", "Connections upgraded to a tunnel (WebSocket)."),
    Family("fastgate_upstream_idle_connections", "gauge", "Pooled upstream connections now."),
    Family("fastgate_upstream_connects_total", "counter", "Connections made to upstreams."),
    Family(
        "fastgate_upstream_connect_failures_total",
        "counter",
        "Connections to upstreams that failed.",
    ),
    Family("fastgate_upstream_reused_total", "counter", "Requests sent over a pooled connection."),
    Family("fastgate_retries_total", "counter", "Requests sent to an upstream once more."),
    Family(
        "fastgate_upstream_queued_total",
        "counter",
        "Requests that waited for a target with room.",
    ),
    Family(
        "fastgate_upstream_queue_refused_total",
        "counter",
        "Requests refused because the queue of their upstream was full, or because they waited too "
        "long.",
    ),
    Family("fastgate_ejections_total", "counter", "Targets ejected after failures in a row."),
    Family(
        "fastgate_limit_decisions_total",
        "counter",
        "Decisions by kind of limit (rate, quota, concurrency). Concurrency counts refusals only.",
    ),
    Family("fastgate_upcalls_total", "counter", "Requests handed to Python handlers."),
    Family(
        "fastgate_upcalls_rejected_total",
        "counter",
        "Requests refused because too many handlers run.",
    ),
    Family("fastgate_upcalls", "gauge", "Running Python handlers that have not begun to answer."),
    Family("fastgate_streams", "gauge", "Running Python handlers that answer as a stream."),
    Family("fastgate_streams_total", "counter", "Answers of Python handlers that were streams."),
    Family(
        "fastgate_streams_rejected_total",
        "counter",
        "Requests refused because too many handlers answer as streams.",
    ),
    Family(
        "fastgate_units_beyond_hold_micros_total",
        "counter",
        "Price, in millionths, of units that handlers reported beyond what they held.",
    ),
    Family(
        "fastgate_upcall_lag_seconds",
        "histogram",
        "Time that each step of a Python handler kept its worker from polling.",
    ),
    Family("fastgate_polls_total", "counter", "Rounds of the workers' poll loops."),
    Family("fastgate_log_records_total", "counter", "Records written to the log rings."),
    Family("fastgate_log_dropped_total", "counter", "Records dropped because a log ring was full."),
    Family("fastgate_log_damaged_total", "counter", "Incomplete records that were skipped."),
    Family(
        "fastgate_log_lost_lines_total", "counter", "Lines lost because they could not be written."
    ),
    Family("fastgate_log_errors_total", "counter", "Errors of writing or opening the access log."),
    Family("fastgate_generation", "gauge", "Number of the newest published configuration."),
    Family(
        "fastgate_worker_generation", "gauge", "Number of the configuration that a worker serves."
    ),
    Family("fastgate_worker_up", "gauge", "1 while a worker serves, else 0."),
    Family(
        "fastgate_worker_load_ratio",
        "gauge",
        "A worker's load as a share of its marks for shedding; 0 without marks.",
    ),
    Family("fastgate_worker_starts_total", "counter", "How often a worker was started."),
    Family(
        "fastgate_worker_heartbeat_age_seconds",
        "gauge",
        "Time since a worker's last heartbeat; there are two a second.",
    ),
    Family("fastgate_draining", "gauge", "1 while the gateway is going down."),
    Family(
        "fastgate_process_memory_bytes",
        "gauge",
        "Proportional set size: the process's own memory plus its share of shared memory.",
    ),
)

# Metric → field of a worker's counters (or of its row), by worker.
BY_WORKER = {
    "fastgate_connections": "connections",
    "fastgate_connections_accepted_total": "accepted",
    "fastgate_connections_closed_total": "closed",
    "fastgate_connections_uncounted_total": "connections_uncounted",
    "fastgate_requests_in_flight": "in_flight",
    "fastgate_refused_total": "refused",
    "fastgate_parse_errors_total": "parse_errors",
    "fastgate_tunnels_total": "tunnels",
    "fastgate_upstream_idle_connections": "upstream_idle",
    "fastgate_upstream_connects_total": "upstream_connects",
    "fastgate_upstream_connect_failures_total": "upstream_connect_failures",
    "fastgate_upstream_reused_total": "upstream_reused",
    "fastgate_retries_total": "retries",
    "fastgate_upstream_queued_total": "queued",
    "fastgate_ejections_total": "ejections",
    "fastgate_upcalls_total": "upcalls",
    "fastgate_upcalls_rejected_total": "upcalls_rejected",
    "fastgate_units_beyond_hold_micros_total": "beyond_micros",
    "fastgate_upcalls": "upcalls_now",
    "fastgate_streams": "streams_now",
    "fastgate_streams_total": "streams",
    "fastgate_streams_rejected_total": "streams_rejected",
    "fastgate_polls_total": "polls",
    "fastgate_worker_generation": "generation",
    "fastgate_worker_starts_total": "starts",
}

DECISIONS = (
    ("rate", "allowed", "limiter_allowed"),
    ("rate", "refused", "limiter_refused"),
    ("quota", "allowed", "quota_allowed"),
    ("quota", "refused", "quota_refused"),
    ("concurrency", "refused", "concurrency_refused"),
)

SIDES = ("client", "upstream")
HANDSHAKES = tuple(
    (side, version, resumed, f"handshakes_{side}_{version}_{how}")
    for side in SIDES
    for version in ("1.2", "1.3")
    for resumed, how in (("no", "full"), ("yes", "resumed"))
)
"""Labels and counter."""

QUEUES = (("full", "queue_refused"), ("timeout", "queue_timeouts"))
"""Reason, and counter."""

REFUSED_CONNECTIONS = (
    ("connections", "connections_refused"),
    ("handshakes", "handshakes_refused"),
    ("caps_handshakes", "handshakes_dropped"),
    ("proxy_protocol", "bad_proxy_headers"),
)
"""Reason, which is the setting's name, and counter."""


class Bounds(NamedTuple):
    """The shown buckets of a histogram: their indexes, and `le` as text."""

    indexes: tuple[int, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, indexes: Iterable[int]) -> Bounds:
        chosen = tuple(indexes)
        return cls(chosen, tuple(_seconds(16_000 << index) for index in chosen))


def _seconds(ns: int) -> str:
    whole, rest = divmod(ns, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else f"{whole}.0"


GATEWAY_BOUNDS = Bounds.of(range(17))  # 16 µs to 1.05 s
REQUEST_BOUNDS = Bounds.of(range(4, 23))  # 256 µs to 67 s
LAG_BOUNDS = Bounds.of(range(4, 19))  # 256 µs to 4.2 s


class _Sums:
    """The sum of all rows that are shown under one name."""

    def __init__(self, row: RouteCounts) -> None:
        self.outcomes: dict[tuple[str, int], int] = {}
        self.gateway = _Durations()
        self.total = _Durations()
        self.upstream = _Durations()
        self.bytes_in = 0
        self.bytes_out = 0
        self.delays = 0
        self.aborts = 0
        self.validated = 0
        self.mirrored = [0] * len(MIRROR_RESULTS)
        self.shed = 0
        self.add(row)

    def add(self, row: RouteCounts) -> None:
        for status, reason, count in row.outcomes:
            self.outcomes[status, reason] = self.outcomes.get((status, reason), 0) + count
        self.gateway.add(row.gateway)
        self.total.add(row.total)
        self.upstream.add(row.upstream)
        self.bytes_in += row.bytes_in
        self.bytes_out += row.bytes_out
        self.delays += row.delays
        self.aborts += row.aborts
        self.validated += row.validated
        self.mirrored = [a + b for a, b in zip(self.mirrored, row.mirrored, strict=True)]
        self.shed += row.shed


class _Durations:
    def __init__(self) -> None:
        self.buckets: list[int] = []
        self.sum_ns = 0
        self.count = 0

    def add(self, h: Histogram) -> None:
        if self.buckets:
            self.buckets = [a + b for a, b in zip(self.buckets, h.buckets, strict=True)]
        else:
            self.buckets = list(h.buckets)
        self.sum_ns += h.sum_ns
        self.count += h.count


def escape(value: str) -> str:
    """A label's value, escaped for the quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def outcome_labels(status: str, reason: int) -> tuple[str, str]:
    """The labels `status` and `reason` of an outcome from `counters_snapshot`."""
    if reason == 0:
        return status, ""
    if reason < 0:
        return OTHER, OTHER
    known = REASON_BY_NUMBER.get(reason)
    if known and known.code in OWN_STATUS:
        return "configured", known.code
    return (str(known.status) if known and known.status else "none"), reason_code(reason)


def process_memory(pid: int) -> int | None:
    """Proportional set size of a process in bytes; None if it cannot be read.

    If the kernel has no smaps_rollup (such as gVisor), or does not let us read it, this is the
    resident set, which counts shared memory in full.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() or None
    except (OSError, ValueError, IndexError):
        return None


MIRROR_RESULTS = ("sent", "failed", "dropped", "too_long")
"""In the order of MirrorResult."""
_INVALID = REASON_BY_CODE["request_invalid"].number


class Metrics:
    """Renders the exposition of one segment.

    `max_routes`: the number of routes shown by name; the others are summed as "other".
    `access_log`: its losses are shown, if there is one.
    """

    def __init__(
        self, segment: Segment, *, access_log: AccessLog | None = None, max_routes: int = 500
    ) -> None:
        self.segment = segment
        self.access_log = access_log
        self.max_routes = max_routes

    def render(
        self,
        routes: Mapping[int, str],
        *,
        processes: Mapping[str, int] | None = None,
        more: Iterable[Sample] = (),
        splits: Mapping[int, tuple[str, str]] | None = None,
    ) -> bytes:
        """The exposition, UTF-8. `routes`: slot → name. `processes`: name → pid, besides workers.
        `more`: samples of families that are declared elsewhere, grouped by family. `splits`: slot →
        route and service of a split; such a slot is not a route's.

        Takes about 20 µs, plus 50 µs for each route with traffic.
        """
        read = counters_snapshot(self.segment)
        lines = _Lines()
        version = f'version="{__version__}",python="{platform.python_version()}"'
        lines.add("fastgate_build_info", version, 1)
        self._requests(lines, read, routes, splits or {})
        self._splits(lines, read, splits or {})
        self._workers(lines, read)
        self._logs(lines)
        lines.add("fastgate_generation", "", read.generation)
        lines.add("fastgate_draining", "", read.draining)
        pids = {f"worker-{i}": worker["pid"] for i, worker in enumerate(read.workers)}
        for name, pid in {**(processes or {}), **pids}.items():
            memory = process_memory(pid) if pid else None
            if memory is not None:
                lines.add("fastgate_process_memory_bytes", f'process="{escape(name)}"', memory)
        for family, labels, value in more:
            lines.extra(family, labels, value)
        return lines.text()

    def _by_name(
        self,
        read: CountersSnapshot,
        routes: Mapping[int, str],
        splits: Mapping[int, tuple[str, str]],
    ) -> dict[str, _Sums]:
        shown = set(sorted(routes)[: self.max_routes])
        found: dict[str, _Sums] = {}
        for row in read.routes:
            if row.slot in splits:
                continue  # counted as its route's, too
            name = routes[row.slot] if row.slot is not None and row.slot in shown else OTHER
            if name in found:
                found[name].add(row)
            else:
                found[name] = _Sums(row)
        return found

    def _splits(
        self, lines: _Lines, read: CountersSnapshot, splits: Mapping[int, tuple[str, str]]
    ) -> None:
        for row in read.routes:
            if row.slot is None or row.slot not in splits:
                continue
            route, service = splits[row.slot]
            labels = f'route="{escape(route)}",service="{escape(service)}"'
            for status, reason, count in row.outcomes:
                status, code = outcome_labels(status, reason)
                outcome = f'{labels},status="{status}",reason="{code}"'
                lines.add("fastgate_split_total", outcome, count)
            total = _Durations()
            total.add(row.total)
            lines.histogram("fastgate_split_seconds", labels, total, REQUEST_BOUNDS)

    def _requests(
        self,
        lines: _Lines,
        read: CountersSnapshot,
        routes: Mapping[int, str],
        splits: Mapping[int, tuple[str, str]],
    ) -> None:
        for name, sums in self._by_name(read, routes, splits).items():
            route = f'route="{escape(name)}"'
            for (status, reason), count in sums.outcomes.items():
                status, code = outcome_labels(status, reason)
                labels = f'{route},status="{status}",reason="{code}"'
                lines.add("fastgate_requests_total", labels, count)
            lines.histogram("fastgate_gateway_seconds", route, sums.gateway, GATEWAY_BOUNDS)
            lines.histogram("fastgate_upstream_seconds", route, sums.upstream, REQUEST_BOUNDS)
            lines.histogram("fastgate_request_seconds", route, sums.total, REQUEST_BOUNDS)
            lines.add("fastgate_request_bytes_total", route, sums.bytes_in)
            lines.add("fastgate_response_bytes_total", route, sums.bytes_out)
            for kind, count in (("delay", sums.delays), ("abort", sums.aborts)):
                if count:
                    lines.add("fastgate_faults_injected_total", f'{route},kind="{kind}"', count)
            if sums.shed:
                lines.add("fastgate_shed_total", route, sums.shed)
            refused = sums.outcomes.get(("", _INVALID), 0)
            if sums.validated or refused:
                for result, count in (("passed", sums.validated), ("refused", refused)):
                    labels = f'{route},result="{result}"'
                    lines.add("fastgate_validations_total", labels, count)
            if any(sums.mirrored):
                for result, count in zip(MIRROR_RESULTS, sums.mirrored, strict=True):
                    labels = f'{route},result="{result}"'
                    lines.add("fastgate_mirrored_total", labels, count)

    def _workers(self, lines: _Lines, read: CountersSnapshot) -> None:
        now = time.monotonic_ns()
        for index, worker in enumerate(read.workers):
            label = f'worker="{index}"'
            for name, field in BY_WORKER.items():
                lines.add(name, label, worker[field])
            for kind, decision, field in DECISIONS:
                labels = f'{label},kind="{kind}",decision="{decision}"'
                lines.add("fastgate_limit_decisions_total", labels, worker[field])
            for reason, field in QUEUES:
                labels = f'{label},reason="{reason}"'
                lines.add("fastgate_upstream_queue_refused_total", labels, worker[field])
            for reason, field in REFUSED_CONNECTIONS:
                labels = f'{label},reason="{reason}"'
                lines.add("fastgate_connections_refused_total", labels, worker[field])
            for side, version, resumed, field in HANDSHAKES:
                labels = f'{label},side="{side}",version="{version}",resumed="{resumed}"'
                lines.add("fastgate_tls_handshakes_total", labels, worker[field])
            for side in SIDES:
                failed = worker[f"handshakes_{side}_failed"]
                labels = f'{label},side="{side}"'
                lines.add("fastgate_tls_handshakes_failed_total", labels, failed)
            published, _, dropped = ring_state(self.segment, index)
            lines.add("fastgate_log_records_total", label, published)
            lines.add("fastgate_log_dropped_total", label, dropped)
            up = worker["pid"] != 0 and worker["state"] == SERVING
            lines.add("fastgate_worker_up", label, int(up))
            load = _seconds(worker["load_permille"] * 1_000_000)
            lines.add("fastgate_worker_load_ratio", label, load)
            if worker["pid"] and worker["heartbeat_ns"]:
                age = max(now - worker["heartbeat_ns"], 0)
                lines.add("fastgate_worker_heartbeat_age_seconds", label, _seconds(age))
        lag = _Durations()
        lag.add(read.upcall_lag)
        lines.histogram("fastgate_upcall_lag_seconds", "", lag, LAG_BOUNDS)

    def _logs(self, lines: _Lines) -> None:
        if self.access_log is not None:
            lines.add("fastgate_log_damaged_total", "", self.access_log.damaged)
            lines.add("fastgate_log_lost_lines_total", "", self.access_log.lost)
            lines.add("fastgate_log_errors_total", "", self.access_log.errors)


class _Lines:
    """Samples grouped by family, in the order of FAMILIES."""

    def __init__(self) -> None:
        self.families = list(FAMILIES)
        self.samples: dict[str, list[str]] = {family.name: [] for family in FAMILIES}

    def add(self, name: str, labels: str, value: int | str) -> None:
        self.samples[name].append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")

    def extra(self, family: Family, labels: str, value: int | str) -> None:
        """A sample of a family that is not in FAMILIES."""
        if family.name not in self.samples:
            self.families.append(family)
            self.samples[family.name] = []
        self.add(family.name, labels, value)

    def histogram(self, name: str, labels: str, d: _Durations, bounds: Bounds) -> None:
        """The shown buckets, cumulative; nothing if the histogram is empty."""
        if not d.count:
            return
        lines = self.samples[name]
        before = f"{labels}," if labels else ""
        total = at = 0
        for index, le in zip(bounds.indexes, bounds.labels, strict=True):
            total += sum(d.buckets[at : index + 1])
            at = index + 1
            lines.append(f'{name}_bucket{{{before}le="{le}"}} {total}')
        lines.append(f'{name}_bucket{{{before}le="+Inf"}} {d.count}')
        braces = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}_sum{braces} {_seconds(d.sum_ns)}")
        lines.append(f"{name}_count{braces} {d.count}")

    def text(self) -> bytes:
        out: list[str] = []
        for name, kind, help_text in self.families:
            samples = self.samples[name]
            if not samples:
                continue
            text = help_text.replace("\\", "\\\\").replace("\n", "\\n")
            out.append(f"# HELP {name} {text}")
            out.append(f"# TYPE {name} {kind}")
            out += samples
        return ("\n".join(out) + "\n").encode()


def own_processes() -> dict[str, int]:
    """The control process and its parent, the supervisor, for `Metrics.render`."""
    return {"supervisor": os.getppid(), "control": os.getpid()}
