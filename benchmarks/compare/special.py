"""Scenarios that are no plain load: reloads under load; memory at rest and the time to serve.

**Reload.** Two open-loop loads at once, 1,000 requests/s over 64 kept-alive connections and 100/s
with a fresh connection each, to random routes: first in quiet, then while the subject is asked to
reload, again and again, each time with a changed configuration; a reload counts as done when the
change shows in an answer, and the next is asked for a tenth of a second later. The proxy has two
cores where the machine has them, as every deployment with a control process or a master has.

**Idle.** Each subject alone on the machine (PSS divides pages by who shares them), with two
workers: started (how long until the first 200), at rest, after a second of load, and with
thousands of kept-alive connections that each had one request and are idle. With TLS they are left
alone for a while before memory is read, since buffers may be given back after a rest.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.compare import generator
from benchmarks.compare.machine import Placement
from benchmarks.compare.processes import Tree, pss_of, settle
from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.session import Collected, Session, say
from benchmarks.compare.subjects import (
    KEY_HEADER,
    NotServing,
    Setup,
    Subject,
    probe,
)
from benchmarks.workload import routes, shuffled_paths

KEPT_RATE = 1000.0
FRESH_RATE = 100.0
PAUSE = 0.1  # seconds between one reload's taking effect and the next
RELOAD_PATIENCE = 30.0
TLS_REST = 2.5  # seconds that connections are idle before memory is read: buffers may be freed
MIB = 1 << 20


# ---- reload ----------------------------------------------------------------------------------


def run_reload(session: Session, scenario: Scenario) -> None:
    """All rounds of a reload scenario. Adds its points."""
    begun = session.begin(scenario, 2)
    if begun is None:
        return
    placement, subjects = begun
    count = int(scenario.setup.get("routes", 1))
    paths = session.root / f"reload-paths-{count}"
    paths.write_text("\n".join(shuffled_paths(routes(count), 5000)) + "\n")
    collected = {s.name: Collected() for s in subjects}
    for round_ in range(session.options.rounds):
        for subject in subjects:
            try:
                with session.running(subject, scenario, placement.proxy, mark="0") as (tree, setup):
                    wait_for_mark(setup, "0")
                    kept = collected[subject.name]
                    metrics = one_round(session, subject, tree, setup, placement, kept)
            except (NotServing, generator.LoadFailed, OSError) as e:
                session.skip(scenario.name, subject.name, str(e))
                continue
            kept.put(metrics, round_)
            say(
                f"  {round_ + 1}/{session.options.rounds} {subject.name:18} "
                f"{metrics['reloads']:.0f} reloads, {metrics['reload_s'] * 1000:.0f} ms each, "
                f"{metrics['failed']:.0f}+{metrics['failed_fresh']:.0f} failed, p99 "
                f"{metrics['quiet_p99_us']:.0f} → {metrics['reload_p99_us']:.0f} µs"
            )
        session.keep(scenario, collected)


def one_round(
    session: Session,
    subject: Subject,
    tree: Tree,
    setup: Setup,
    placement: Placement,
    kept: Collected,
) -> dict[str, float]:
    """Quiet, then reloading; the figures of both."""
    requests = session.root / f"reload-paths-{setup.routes}"
    plan = generator.Plan(
        port=setup.port,
        connections=64,
        duration=session.options.reload_seconds,
        warmup=session.options.warmup,
        rate=KEPT_RATE,
        headers=(KEY_HEADER,),
        requests=requests,
    )
    fresh = dataclasses.replace(plan, connections=16, rate=FRESH_RATE, fresh=True)
    quiet, _ = both(plan, fresh, placement)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reloading = pool.submit(reload_over_and_over, subject, tree, setup, stop)
        try:
            busy, busy_fresh = both(plan, fresh, placement)
        finally:
            stop.set()
        took = reloading.result()
    kept.count(busy)
    kept.count(busy_fresh)
    quiet_p99 = quiet.latency.quantile(0.99) / 1000
    busy_p99 = busy.latency.quantile(0.99) / 1000
    if busy.reconnects:
        kept.note("kept-alive connections were closed between requests by reloads")
    return {
        "quiet_p99_us": quiet_p99,
        "reload_p99_us": busy_p99,
        "p99_ratio": busy_p99 / quiet_p99 if quiet_p99 else 0.0,
        "failed": float(busy.failed),
        "failed_fresh": float(busy_fresh.failed),
        "requests": float(sum(busy.statuses.values()) + sum(busy_fresh.statuses.values())),
        "reloads": float(len(took)),
        "reload_s": sorted(took)[len(took) // 2] if took else 0.0,
        "rps": busy.responses / busy.window_s,
    }


def both(
    plan: generator.Plan, fresh: generator.Plan, placement: Placement
) -> tuple[generator.Outcome, generator.Outcome]:
    """Runs two loads at once."""
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(generator.run, fresh, placement.load)
        first = generator.run(plan, placement.load)
        return first, other.result()


def reload_over_and_over(
    subject: Subject, tree: Tree, setup: Setup, stop: threading.Event
) -> list[float]:
    """Reload until stopped; how long each took to show, seconds. Raises NotServing."""
    took: list[float] = []
    while not stop.is_set():
        marked = dataclasses.replace(setup, mark=str(len(took) + 1))
        subject.write(marked)
        asked = time.monotonic()
        subject.reload(tree, marked)
        wait_for_mark(setup, marked.mark)
        took.append(time.monotonic() - asked)
        stop.wait(PAUSE)
    return took


def wait_for_mark(setup: Setup, mark: str) -> None:
    """Asks every two milliseconds until an answer carries `mark`. Raises NotServing."""
    end = time.monotonic() + RELOAD_PATIENCE
    answer = None
    while time.monotonic() < end:
        answer = probe(setup.port)
        if answer and answer.mark == mark:
            return
        time.sleep(0.002)
    raise NotServing(f"no answer of configuration {mark!r} in time (last: {answer})")


# ---- idle ------------------------------------------------------------------------------------


def run_idle(session: Session, scenario: Scenario) -> None:
    """All rounds of the idle scenario. Adds its points."""
    begun = session.begin(scenario, scenario.workers)
    if begun is None:
        return
    placement, subjects = begun
    wanted = min(session.options.idle_connections, session.descriptors // 2 - 500)
    scenario = dataclasses.replace(scenario, connections=wanted)
    collected = {s.name: Collected() for s in subjects}
    for round_ in range(min(session.options.rounds, 3)):
        for subject in subjects:
            kept = collected[subject.name]
            try:
                with session.running(subject, scenario, placement.proxy) as (tree, setup):
                    metrics = at_rest(session, scenario, subject, (tree, setup), placement)
            except (NotServing, generator.LoadFailed, OSError) as e:
                session.skip(scenario.name, subject.name, str(e))
                continue
            kept.put(metrics, round_)
            say(
                f"  {round_ + 1} {subject.name:18} serving after {metrics['start_s']:.3f} s, "
                f"{metrics['idle_pss_mib']:.1f} MiB, "
                f"{metrics['connection_bytes']:.0f} B a connection"
            )
        session.keep(scenario, collected)


def at_rest(
    session: Session,
    scenario: Scenario,
    subject: Subject,
    running: tuple[Tree, Setup],
    placement: Placement,
) -> dict[str, float]:
    """Start, memory at rest, after load, and with the scenario's connections, idle."""
    tree, setup = running
    count = scenario.connections
    metrics = {"start_s": tree.served_after}
    settle([tree])
    metrics["idle_pss_mib"] = tree.pss() / MIB
    load = dataclasses.replace(
        session.plan(scenario, setup.port, placement), connections=64, duration=1.0, warmup=0.2
    )
    generator.run(load, placement.load)
    settle([tree])
    metrics["loaded_pss_mib"] = tree.pss() / MIB
    serving = subject.workers_of(tree, setup.workers)
    before = sum(map(pss_of, serving))
    hold = dataclasses.replace(load, connections=count, hold=True, duration=30.0, timeout=15.0)
    process = generator.launch(hold, placement.load)

    def held(_: int) -> None:
        if scenario.tls:
            time.sleep(TLS_REST)
        settle([tree])
        metrics["connection_bytes"] = (sum(map(pss_of, serving)) - before) / count
        assert process.stdin
        process.stdin.close()

    outcome = generator.finish(process, hold, on_held=held)
    if "connection_bytes" not in metrics:
        raise generator.LoadFailed(f"{count} connections could not be opened")
    if outcome.reconnects or outcome.failed:
        raise generator.LoadFailed(
            f"of {count} idle connections {outcome.reconnects} were closed; "
            f"{outcome.failed} requests failed"
        )
    return metrics
