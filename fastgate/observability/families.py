"""The metrics that the workers' counters give: name, type and meaning, and where the values are."""

from __future__ import annotations

from typing import NamedTuple


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

MIRROR_RESULTS = ("sent", "failed", "dropped", "too_long")
"""In the order of MirrorResult."""
