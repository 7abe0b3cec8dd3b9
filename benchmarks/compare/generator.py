"""Running the load generator (tools/load.c), in step with the sampling of processor time."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.compare.encryption import Agreed, Tls
from benchmarks.compare.subjects import NAME
from benchmarks.histogram import Histogram
from benchmarks.tools import tool

ERRORS = ("connect_errors", "tls_errors", "resets", "timeouts", "protocol_errors", "unanswered")

# What an API client sends. With the key it is about 220 bytes in seven lines.
HEADERS = (
    f"Host: {NAME}",
    "User-Agent: bench-client/1.0 (linux)",
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate",
    "X-Trace: 4bf92f3577b34da6a3ce929d0e0e4736",
)


class LoadFailed(RuntimeError):
    """The load generator did not finish as it should."""


@dataclass(frozen=True)
class Plan:
    """One run of the generator."""

    port: int
    connections: int = 64
    duration: float = 3.0  # seconds measured
    warmup: float = 0.5  # seconds before
    rate: float = 0.0  # requests/s; 0: closed loop
    count: int = 0  # so many requests, in place of warm-up and duration
    path: str = "/bytes/100"
    body: int = 0  # bytes of the request's body: POST; 0: GET
    headers: tuple[str, ...] = ()  # besides HEADERS
    requests: Path | None = None  # a file of paths, in place of `path`
    fresh: bool = False  # a new connection for every request
    spin: bool = False
    timeout: float = 5.0
    hold: bool = False  # one request on each connection, then stay
    tls: Tls | None = None
    ca: Path = Path()  # with `tls`: who has issued the proxy's certificate, PEM

    def all_headers(self) -> tuple[str, ...]:
        """Every header line that is sent."""
        return (*HEADERS, *self.headers)

    def arguments(self) -> list[str]:
        """The command line, without the program."""
        given = ["--target", f"127.0.0.1:{self.port}", "--connections", str(self.connections)]
        given += ["--duration", f"{self.duration:g}", "--warmup", f"{self.warmup:g}"]
        given += ["--timeout", f"{self.timeout:g}"]
        if self.body:
            given += ["--body", str(self.body)]
        if self.count:
            given += ["--count", str(self.count)]
        if self.rate:
            given += ["--rate", f"{self.rate:g}"]
        if self.requests:
            given += ["--requests", str(self.requests)]
        else:
            given += ["--path", self.path]
        for line in self.all_headers():
            given += ["--header", line]
        if self.tls:
            given += self.tls.arguments(self.ca)
        given += ["--close"] * self.fresh + ["--spin"] * self.spin + ["--hold"] * self.hold
        return given


@dataclass(frozen=True)
class Outcome:
    """What the generator saw."""

    window_s: float
    responses: int
    statuses: dict[str, int]
    errors: dict[str, int]
    reconnects: int
    latency: Histogram = field(default_factory=Histogram)
    tls: Agreed | None = None

    @property
    def failed(self) -> int:
        """Requests without an answer, for whatever reason, and answers that blame the proxy."""
        bad = sum(n for status, n in self.statuses.items() if status >= "500")
        return sum(self.errors.values()) + bad


def parse(line: str) -> Outcome:
    """Reads the generator's last line. Raises LoadFailed when it is not a result."""
    try:
        shape = json.loads(line)
        if shape["version"] != 1:
            raise LoadFailed(f"result of version {shape['version']}")
        return Outcome(
            window_s=float(shape["window_s"]),
            responses=int(shape["responses"]),
            statuses={str(k): int(v) for k, v in shape["statuses"].items()},
            errors={name: int(shape[name]) for name in ERRORS},
            reconnects=int(shape["reconnects"]),
            latency=Histogram.read(shape["latency"]),
            tls=Agreed.read(shape["tls"]) if "tls" in shape else None,
        )
    except (ValueError, KeyError, TypeError) as e:
        raise LoadFailed(f"not a result of the load generator: {line[:200]!r}") from e


def launch(plan: Plan, cores: Iterable[int]) -> subprocess.Popen[str]:
    """Starts the generator, pinned."""
    pinned = ["taskset", "-c", ",".join(map(str, cores)), str(tool("load")), *plan.arguments()]
    return subprocess.Popen(
        pinned,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    process: subprocess.Popen[str],
    plan: Plan,
    on_open: Callable[[int], None] = lambda _: None,
    on_shut: Callable[[int], None] = lambda _: None,
    on_held: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Reads a launched generator to its end; calls back with its pid as the window opens and shuts.

    on_held is called instead of on_shut with a plan that holds: it lets go when stdin is closed.

    Bounded: warm-up, window, twice the time-out and a second more; then it is killed and
    LoadFailed raised.
    """
    bound = plan.warmup + plan.duration + 2 * plan.timeout + 1
    watchdog = threading.Timer(bound, process.kill)
    watchdog.start()
    last = ""
    try:
        assert process.stdout
        assert process.stderr
        for text in process.stdout:
            line = text.strip()
            if line == "measuring":
                on_open(process.pid)
            elif line == "measured":
                on_shut(process.pid)
            elif line == "held":
                on_held(process.pid)
            elif line:
                last = line
        complaint = process.stderr.read()
        code = process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
    if code:
        raise LoadFailed(f"load ended with {code}: {complaint.strip() or 'no word'}")
    return parse(last)


def run(
    plan: Plan,
    cores: Sequence[int],
    on_open: Callable[[int], None] = lambda _: None,
    on_shut: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """One whole run. Raises LoadFailed."""
    return finish(launch(plan, cores), plan, on_open, on_shut)
