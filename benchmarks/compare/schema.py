"""The result of a comparison, as `results/compare.json` holds it. Described in docs/benchmarks.md.

`VERSION` rises when a field changes its meaning or goes away; adding fields or metrics does not
raise it. Every figure is a `Spread` over the rounds of one run, never a mean of means.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

NAME = "fastgate.compare"
VERSION = 1

# Every metric a point can carry: (unit, what it is). A metric that was not measured is absent.
METRICS: dict[str, tuple[str, str]] = {
    "rps": ("1/s", "responses completed in the measured window, per second"),
    "cpu_us": ("µs", "CPU time of the whole process tree per response, user + system"),
    "cpu_user_us": ("µs", "the user share of cpu_us (split by the kernel's tick sampling)"),
    "cpu_system_us": ("µs", "the system share of cpu_us"),
    "worker_cpu_us": ("µs", "CPU time per response of the worker processes alone"),
    "worker_user_us": ("µs", "the user share of worker_cpu_us"),
    "control_cpu_us": (
        "µs",
        "paid: CPU time per response of all other processes, until the ledger has all usage",
    ),
    "control_user_us": ("µs", "paid: the user share of control_cpu_us"),
    "charged": ("", "paid: requests that the ledger has charged; as many as were answered"),
    "settled_s": ("s", "paid: from the end of the load until the ledger had all usage"),
    "p50_us": ("µs", "median latency; open loop: from when the request was due"),
    "p99_us": ("µs", "99th percentile"),
    "p999_us": ("µs", "99.9th percentile"),
    "max_us": ("µs", "the slowest request"),
    "added_p50_us": ("µs", "p50_us less that of the backend without a proxy, same round and rate"),
    "added_p99_us": ("µs", "p99_us less that of the backend without a proxy, same round and rate"),
    "busy": ("cores", "how much of its cores the proxy used"),
    "waiting": ("cores", "how much it was ready to run while something else had its core"),
    "stolen": ("cores", "how much of its cores a hypervisor kept, as far as it reports this"),
    "backend_busy": ("cores", "how much of its core the backend used"),
    "load_busy": ("cores", "how much of its core the load generator used (open loop: it spins)"),
    "rate": ("1/s", "open loop: requests due per second"),
    "handshakes": ("1/s", "TLS handshakes completed in the window, per second"),
    "handshakes_per_core": (
        "1/s",
        "TLS handshakes, each with its request, for a second of the proxy's CPU time",
    ),
    "upstream_handshakes": ("", "TLS handshakes of the proxy with the backend, warm-up included"),
    "calm_p99_us": ("µs", "flood: 99th percentile of the other clients before the flood"),
    "flood_p99_us": ("µs", "flood: 99th percentile of the other clients in the flood"),
    "flood_added_us": ("µs", "flood_p99_us less calm_p99_us of the same round"),
    "hellos": ("1/s", "flood: ClientHellos answered, none of which became a handshake"),
    "flood_failed": ("", "flood: requests of the other clients that failed in it"),
    "loaded_pss_mib": ("MiB", "proportional set size of the whole tree after a second of load"),
    "idle_pss_mib": ("MiB", "proportional set size of the whole tree, started and idle"),
    "connection_bytes": (
        "B",
        "memory of the workers per idle kept-alive client connection",
    ),
    "used_pss_mib": ("MiB", "the same once the control API was asked for more than probes"),
    "supervisor_pss_mib": ("MiB", "the supervisor's part of idle_pss_mib"),
    "worker_pss_mib": ("MiB", "the worker's part of idle_pss_mib"),
    "control_pss_mib": ("MiB", "the control process's part of idle_pss_mib"),
    "start_s": ("s", "from exec to the first proxied response"),
    "start_cpu_s": ("s", "processor time of all processes until the first proxied response"),
    "above_key_us": (
        "µs",
        "identity: worker_cpu_us less that of the subject with an API key, same visit",
    ),
    "above_open_us": (
        "µs",
        "identity: cpu_us less that of the proxy without authentication",
    ),
    "verify_us": ("µs", "identity: a verification by libcrypto alone, by `openssl speed`"),
    "quiet_p99_us": ("µs", "99th percentile at the same rate with no reload"),
    "reload_p99_us": ("µs", "99th percentile while reloading"),
    "p99_ratio": ("", "reload_p99_us / quiet_p99_us of the same round"),
    "failed": ("", "requests that failed while reloading, kept-alive connections"),
    "failed_fresh": ("", "requests that failed while reloading, a fresh connection each"),
    "requests": ("", "requests sent while reloading"),
    "reloads": ("", "reloads asked for"),
    "reload_s": ("s", "from asking for a reload to the new configuration answering"),
}


class Spread(msgspec.Struct, frozen=True):
    """A figure over the rounds."""

    median: float
    low: float  # the least of the rounds
    high: float  # the greatest
    values: list[float]  # one a visit, in order
    rounds: int = 0  # how many those are: several a round where a scenario has turns

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "rounds", len(self.values))

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From one value a round. Raises ValueError when there are none."""
        if not values:
            raise ValueError("a spread needs at least one round")
        kept = [round(v, 4) for v in values]
        return cls(round(statistics.median(kept), 4), min(kept), max(kept), kept)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One subject in one scenario."""

    scenario: str
    subject: str
    workers: int
    connections: int
    body: int  # bytes of the response's body
    request_body: int = 0  # bytes of the request's
    mode: str  # closed | open | reload | idle | paid | sidecar | flood | identity
    metrics: dict[str, Spread]
    statuses: dict[str, int]  # responses by status, all rounds, warm-up included
    errors: dict[str, int]  # connect_errors, tls_errors, resets, timeouts, protocol_errors, …
    notes: list[str] = []
    visits: list[int] = []  # which visit each value is of: those of one number are neighbours


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one subject over that of another, formed by pairs of neighbouring visits."""

    scenario: str
    over: str
    under: str
    metric: str
    median: float
    lower: float  # the quartiles: half of the pairs are between them
    upper: float
    low: float  # the least of the pairs
    high: float  # the greatest
    pairs: int


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One thing compared."""

    name: str
    product: str
    version: str
    description: str
    libssl: str = ""  # version and path of the one its workers have loaded; "": no TLS measured


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the run was made on."""

    cpu: str
    cores: int  # this program may use
    architecture: str
    kernel: str
    hypervisor: str  # "" on bare metal, as far as the processor reports it
    memory_gib: float
    python: str
    load_average: float  # before the run: whatever else was going on


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the verdict: `figure sense limit`."""

    budget: str
    figure: float | None  # None: not measured in this run
    sense: str  # "<=" or ">=": how the figure must stand to the limit
    limit: float
    unit: str
    met: bool | None
    note: str = ""
    lower: float | None = None  # a ratio by pairs: the quartiles of them
    upper: float | None = None
    pairs: int = 0


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be measured here, and why."""

    scenario: str
    subject: str
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    schema: str = NAME
    version: int = VERSION
    started: str  # RFC 3339, UTC
    seconds: float
    complete: bool = True  # False: written while it ran, or interrupted; see the figures' `rounds`
    options: dict[str, str | int | float | bool]
    machine: Machine
    placement: dict[str, str]
    subjects: list[Subject]
    points: list[Point]
    skipped: list[Skipped]
    crosscheck: dict[str, float]  # "<subject> <tool>" → requests/s
    verdict: list[Budget]
    ratios: list[Ratio] = []


def read(text: bytes) -> Report:
    """Decodes a result. Raises msgspec.ValidationError, ValueError for another schema."""
    report = msgspec.json.decode(text, type=Report)
    if report.schema != NAME or report.version != VERSION:
        raise ValueError(f"not a {NAME} {VERSION} document: {report.schema} {report.version}")
    return report


def write(report: Report) -> bytes:
    """Encodes a result, indented, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def find(points: Sequence[Point], scenario: str, subject: str) -> Point | None:
    """The point of a subject in a scenario."""
    for point in points:
        if point.scenario == scenario and point.subject == subject:
            return point
    return None


def figure(points: Sequence[Point], scenario: str, subject: str, metric: str) -> float | None:
    """The median of one metric, None when it was not measured."""
    point = find(points, scenario, subject)
    if point is None or metric not in point.metrics:
        return None
    return point.metrics[metric].median
