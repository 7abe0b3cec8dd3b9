"""What being paid adds to a request: a keyed, rate-limited route beside the same with a price.

Both gateways of a round are started, then loaded one after the other, saturated. The proxy has two
cores where the machine has them, the worker one and control the other: it writes the ledger while
the worker serves. It writes on when the load has ended, and that is waited for and counted: what a
request costs is the worker's time in the window, and all that control used from the first request
until the last was in the ledger, over the requests. Without a price there is nothing to wait for;
control is watched as long, since it looks after other things meanwhile.

The first load of each gateway is not counted: a worker goes once through its usage ring then, whose
pages it touches for the first time.

A round counts when the ledger has charged exactly the requests that were answered with 200, and
nothing else was answered. If either gateway's does not, the round is void for both: ratios are
formed within rounds.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from benchmarks.compare import generator
from benchmarks.compare.keyed import PAUSES, ControlApi, Keyed
from benchmarks.compare.machine import Placement
from benchmarks.compare.processes import Cpu, Tree, settle, spent
from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.session import Collected, Session, in_turn, rotated, say
from benchmarks.compare.subjects import NotServing, Setup


class Void(RuntimeError):
    """A round that must not count; the text says why."""


def run_paid(session: Session, scenario: Scenario) -> None:
    """All rounds of the scenario. Adds its points."""
    begun = session.begin(scenario, 2)
    if begun is None:
        return
    placement = begun[0]
    subjects = [s for s in begun[1] if isinstance(s, Keyed)]
    collected = {s.name: Collected() for s in subjects}
    for round_ in range(session.options.rounds):
        measured: list[tuple[str, generator.Outcome, dict[str, float]]] = []
        try:
            with contextlib.ExitStack() as stack:
                started = [
                    (s, *stack.enter_context(session.running(s, scenario, placement.proxy)))
                    for s in rotated(subjects, round_)
                ]
                settle([tree for _, tree, _ in started])
                for turn in range(1 + session.turns(scenario)):
                    for subject, tree, setup in in_turn(started, turn):
                        load = one_load(session, scenario, subject, (tree, setup), placement)
                        if turn > 0:
                            measured.append((subject.name, *load))
        except (Void, NotServing, generator.LoadFailed, OSError) as e:
            say(f"  {round_ + 1}/{session.options.rounds} void: {e}")
            for kept in collected.values():
                kept.note(f"a round is void: {e}")
            if not any(kept.metrics for kept in collected.values()):
                for subject in subjects:
                    session.skip(scenario.name, subject.name, str(e))
            continue
        turns = session.turns(scenario)
        for i, (name, outcome, metrics) in enumerate(measured):
            collected[name].put(metrics, round_ * turns + i // len(subjects))
            collected[name].count(outcome)
            say(
                f"  {round_ + 1}/{session.options.rounds} {name:18} {metrics['rps']:9.0f}/s  CPU "
                f"worker {metrics['worker_cpu_us']:.2f}, control {metrics['control_cpu_us']:.2f} µs"
            )
        session.keep(scenario, collected)


def one_load(
    session: Session,
    scenario: Scenario,
    subject: Keyed,
    running: tuple[Tree, Setup],
    placement: Placement,
) -> tuple[generator.Outcome, dict[str, float]]:
    """Load, and the books afterwards. Raises Void, LoadFailed, NotServing, OSError."""
    tree, setup = running
    pin(tree, subject.workers_of(tree, scenario.workers), placement.proxy)
    api = ControlApi(setup)
    before = 0
    if subject.paid:
        api.settle()
        before = api.books().requests
    others = Others(subject, tree)
    plan = session.plan(scenario, setup.port, placement, key=api.key)
    outcome, metrics = session.measure(subject, tree, plan, placement, scenario.workers)
    ended = time.monotonic()
    served = outcome.statuses.get("200", 0)
    if subject.paid:
        api.settle()
        metrics["settled_s"] = time.monotonic() - ended
    else:
        time.sleep(PAUSES[0])
    used = others.used()
    if subject.paid:
        charged = api.books().requests - before
        metrics["charged"] = float(charged)
        if charged != served:
            raise Void(f"{served} requests were answered with 200, {charged} are charged")
    if outcome.failed or set(outcome.statuses) != {"200"}:
        raise Void(f"answers {outcome.statuses}, {outcome.errors}")
    control = used.run_ns / 1000 / served
    metrics["control_cpu_us"] = control
    metrics["control_user_us"] = control * used.user_share
    # In place of those of the window: what control does afterwards is part of them.
    metrics["cpu_us"] = metrics["worker_cpu_us"] + control
    metrics["cpu_user_us"] = metrics["worker_user_us"] + metrics["control_user_us"]
    metrics["cpu_system_us"] = metrics["cpu_us"] - metrics["cpu_user_us"]
    return outcome, metrics


def pin(tree: Tree, workers: list[int], cores: tuple[int, ...]) -> None:
    """The workers to the first of the cores, everything else of the tree to the others."""
    for pid in tree.pids():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores[:1] if pid in workers else cores[-1:])


class Others:
    """The processor time of the processes that serve no requests, from now on."""

    def __init__(self, subject: Keyed, tree: Tree) -> None:
        self._subject, self._tree = subject, tree
        self._before = self._now()

    def _now(self) -> dict[int, Cpu]:
        workers = set(self._subject.workers_of(self._tree, 0))
        return {pid: cpu for pid, cpu in self._tree.cpu().items() if pid not in workers}

    def used(self) -> Cpu:
        """What they used since."""
        return sum(spent(self._before, self._now()).values(), Cpu())
