"""Clients that behave, while others flood the proxy with handshakes that they never finish.

64 clients over TLS send 1,000 requests/s in an open loop over connections that are kept: first in
calm, then while tools/hello.c floods the same listener. 300 of its connections send a ClientHello,
wait for the answer, by which the proxy has used its private key, reset the connection and start
over; 100 more send half a ClientHello and nothing else. The flood is a closed loop: it takes all
that the proxy gives to handshakes. What counts is what it adds to the 99th percentile of the
others.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from benchmarks.compare import generator
from benchmarks.compare.machine import Placement
from benchmarks.compare.processes import settle
from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.session import Collected, Session, rotated, say
from benchmarks.compare.subjects import NAME, NotServing, Setup
from benchmarks.tools import tool

WHOLE, HALF = 300, 100  # connections of the flood
LEAD = 0.5  # seconds of flood before the others are measured, and after
TOO_FEW = 50  # ClientHellos answered per second: less is no flood


class Flood:
    """A running flood. Leaving the block waits for its end."""

    def __init__(self, setup: Setup, scenario: Scenario, placement: Placement, seconds: float):
        version = scenario.tls.version if scenario.tls else "1.3"
        command = ["taskset", "-c", ",".join(map(str, placement.driver)), str(tool("hello"))]
        command += ["--target", f"127.0.0.1:{setup.port}", "--name", NAME, "--version", version]
        command += ["--connections", str(WHOLE + HALF), "--half", str(HALF)]
        self.seconds = seconds
        self.process = subprocess.Popen(
            [*command, "--duration", f"{seconds:g}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.counts: dict[str, int] = {}

    @property
    def hellos(self) -> float:
        """ClientHellos answered, per second."""
        return self.counts["answered"] / self.seconds

    def finish(self) -> None:
        """Wait for its end and read its counts. Raises LoadFailed."""
        try:
            out, complaint = self.process.communicate(timeout=self.seconds + 10)
        except subprocess.TimeoutExpired as e:
            raise generator.LoadFailed("the flood did not end") from e
        if self.process.returncode:
            raise generator.LoadFailed(f"the flood failed: {complaint.strip()}")
        self.counts = json.loads(out.splitlines()[-1])


@contextlib.contextmanager
def flooding(
    setup: Setup, scenario: Scenario, placement: Placement, seconds: float
) -> Iterator[Flood]:
    """A flood that has begun, ended on leaving. Raises LoadFailed."""
    flood = Flood(setup, scenario, placement, seconds)
    try:
        assert flood.process.stdout
        if flood.process.stdout.readline().strip() != "flooding":
            raise generator.LoadFailed("the flood did not begin")
        yield flood
        flood.finish()
    finally:
        if flood.process.poll() is None:
            flood.process.kill()
        flood.process.communicate()


def run_flood(session: Session, scenario: Scenario) -> None:
    """All rounds. Adds its points."""
    begun = session.begin(scenario, scenario.workers)
    if begun is None:
        return
    placement, subjects = begun
    collected = {s.name: Collected() for s in subjects}
    for round_ in range(session.options.rounds):
        for subject in rotated(subjects, round_):
            kept = collected[subject.name]
            try:
                with session.running(subject, scenario, placement.proxy) as (tree, setup):
                    settle([tree])
                    metrics = one_flood(session, scenario, setup, placement, kept)
            except (NotServing, generator.LoadFailed, OSError) as e:
                session.skip(scenario.name, subject.name, str(e))
                continue
            kept.put(metrics, round_)
            say(
                f"  {round_ + 1}/{session.options.rounds} {subject.name:18} "
                f"{metrics['hellos']:.0f} hellos/s, p99 {metrics['calm_p99_us']:.0f} → "
                f"{metrics['flood_p99_us']:.0f} µs, {metrics['flood_failed']:.0f} failed"
            )
        session.keep(scenario, collected)


def one_flood(
    session: Session, scenario: Scenario, setup: Setup, placement: Placement, kept: Collected
) -> dict[str, float]:
    """Calm, then flooded; the figures of both. Raises LoadFailed."""
    plan = session.plan(scenario, setup.port, placement, scenario.rate)
    calm = generator.run(plan, placement.load)
    seconds = plan.warmup + plan.duration + 2 * LEAD
    with flooding(setup, scenario, placement, seconds) as flood:
        hit = generator.run(plan, placement.load)
    if flood.hellos < TOO_FEW:
        raise generator.LoadFailed(f"no flood: {flood.counts}")
    kept.count(calm)
    kept.count(hit)
    if calm.failed:
        kept.note("some requests failed before the flood")
    calm_p99, flood_p99 = (o.latency.quantile(0.99) / 1000 for o in (calm, hit))
    return {
        "calm_p99_us": calm_p99,
        "flood_p99_us": flood_p99,
        "flood_added_us": flood_p99 - calm_p99,
        "hellos": flood.hellos,
        "flood_failed": float(hit.failed),
        "rps": hit.responses / hit.window_s,
        "rate": scenario.rate,
    }
