"""What a gateway beside one service costs: memory and time of a small one with one worker.

It is started with one route and nothing else, on a core of its own, and is served,
probed (health, readiness, metrics, as an orchestrator and a scraper do) and left alone until it
is quiet: memory at rest. Then its control API is asked for the status, which imports the rest of
the API: memory once it was used. Both by process. Processor time to the first response is that of
all its processes, since the time on the clock depends on what else the machine does.
"""

from __future__ import annotations

import contextlib
import time
import urllib.request

from benchmarks.compare.keyed import ControlApi
from benchmarks.compare.processes import Tree, name_of, pss_of, settle
from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.session import Collected, Session, say
from benchmarks.compare.subjects import NotServing, Setup

MIB = 1 << 20
PATIENCE = 60.0  # seconds until the control API answers
PROBES = ("/healthz", "/readyz", "/metrics")
PARTS = {"fg-control": "control_pss_mib", "fg-worker-0": "worker_pss_mib"}


def run_sidecar(session: Session, scenario: Scenario) -> None:
    """All rounds. Adds its points."""
    begun = session.begin(scenario, 1)
    if begun is None:
        return
    placement, subjects = begun
    collected = {s.name: Collected() for s in subjects}
    for round_ in range(session.options.rounds):
        for subject in subjects:
            try:
                with session.running(subject, scenario, placement.proxy) as (tree, setup):
                    metrics = small(tree, setup)
            except (NotServing, OSError, ValueError) as e:
                session.skip(scenario.name, subject.name, str(e))
                continue
            collected[subject.name].put(metrics, round_)
            say(
                f"  {round_ + 1} {subject.name:18} serving after {metrics['start_s']:.3f} s "
                f"({metrics['start_cpu_s']:.3f} s of a processor), {metrics['idle_pss_mib']:.1f} "
                f"MiB, {metrics['used_pss_mib']:.1f} once its API was used"
            )
        session.keep(scenario, collected)


def small(tree: Tree, setup: Setup) -> dict[str, float]:
    """The figures of one that has just served its first request. Raises NotServing."""
    run_ns = sum(cpu.run_ns for cpu in tree.cpu().values())
    metrics = {"start_s": tree.served_after, "start_cpu_s": run_ns / 1e9}
    probe(tree, setup)
    settle([tree])
    metrics["idle_pss_mib"] = tree.pss() / MIB
    metrics["supervisor_pss_mib"] = pss_of(tree.pid) / MIB
    metrics |= {PARTS[name]: pss_of(pid) / MIB for pid in tree.pids()
                if (name := name_of(pid)) in PARTS}  # fmt: skip
    ControlApi(setup).ask("/v1/status")
    settle([tree])
    metrics["used_pss_mib"] = tree.pss() / MIB
    return metrics


def probe(tree: Tree, setup: Setup) -> None:
    """Ask each probe, once the control API is there. Raises NotServing."""
    end = time.monotonic() + PATIENCE
    for path in PROBES:
        url = f"http://127.0.0.1:{setup.spare}{path}"  # loopback, our own
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                answer.read()
                break
            if not tree.alive() or time.monotonic() > end:
                raise NotServing(f"no answer at {path}: {tree.last_words()}")
            time.sleep(0.02)
