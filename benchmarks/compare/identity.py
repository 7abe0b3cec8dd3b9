"""What it costs to know who calls: a token that is known, one that is new, and an API key.

The gateways of a round are started, then loaded one after the other. A load is a number of
requests, not a time: so each request of a visit can have a token of its own that was never sent
before. The processor time is taken before the generator starts and after it has ended; it contains
the opening of 16 connections. The first load of each gateway is not counted: it opens the
connections to the backend, and makes the few tokens known in the row where they are.

New tokens come at a constant rate, the same for all. Saturated, a slow gateway would pay for more
than the token: its backend and the generator sleep while it verifies, and it has to wake them.

The open gateways get the same requests as those that check tokens; the one with a key gets a key.

A visit counts when all requests were answered with 200, and FastGate's own metrics say that the
tokens were what the row is about: each found among those that are known, or each verified.
"""

from __future__ import annotations

import contextlib
import re
import urllib.request

from benchmarks.compare import generator
from benchmarks.compare.bearers import WITH_KEY, WITH_TOKEN
from benchmarks.compare.machine import Placement
from benchmarks.compare.processes import Cpu, Tree, settle, spent
from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.session import Collected, Session, in_turn, rotated, say
from benchmarks.compare.subjects import KEY_HEADER, NotServing, Setup, Subject, Unavailable
from benchmarks.compare.tokens import Issued, Tokens, floor_us, issue

OPEN = {"fastgate-key": "fastgate", "fastgate-jwt": "fastgate", "haproxy-jwt": "haproxy"}
"""The subject that does the same without asking who calls."""
Visit = dict[str, tuple[generator.Outcome, dict[str, float]]]


class Void(RuntimeError):
    """A visit that must not count; the text says why."""


def run_identity(session: Session, scenario: Scenario) -> None:
    """All rounds of the scenario. Adds its points."""
    begun = session.begin(scenario, 1)
    if begun is None or scenario.tokens is None:
        return
    placement, subjects = begun
    turns = session.turns(scenario)
    path = f"/bytes/{scenario.body}"
    try:
        issued = issue(session.root / f"issuer-{scenario.name}", scenario.tokens, 1 + turns, path)
    except Unavailable as e:
        for subject in subjects:
            session.skip(scenario.name, subject.name, str(e))
        return
    changes = {
        "token": issued.sample,
        "algorithm": scenario.tokens.algorithm,
        "issuer_pem": str(issued.pem),
        "issuer_jwks": str(issued.jwks),
    }
    collected = {s.name: Collected() for s in subjects}
    for round_ in range(session.options.rounds):
        with contextlib.ExitStack() as stack:
            started = []
            for subject in rotated(subjects, round_):
                try:
                    running = session.running(subject, scenario, placement.proxy, **changes)
                    started.append((subject, *stack.enter_context(running)))
                except (NotServing, OSError) as e:
                    session.skip(scenario.name, subject.name, str(e))
            settle([tree for _, tree, _ in started])
            floor = floor_us(scenario.tokens.algorithm, placement.proxy[0])
            for turn in range(1 + turns):
                seen: Visit = {}
                for subject, tree, setup in in_turn(started, turn):
                    try:
                        load = one_load(
                            session, scenario, subject, (tree, setup), placement, issued, turn
                        )
                    except (Void, generator.LoadFailed, OSError) as e:
                        say(f"  {round_ + 1}/{session.options.rounds} {subject.name:18} void: {e}")
                        collected[subject.name].note(f"a visit is void: {e}")
                        if not collected[subject.name].metrics:
                            session.skip(scenario.name, subject.name, str(e))
                        continue
                    seen[subject.name] = load
                if turn > 0:  # the first is not counted
                    keep(collected, seen, floor, round_ * turns + turn - 1)
        session.keep(scenario, collected)


def keep(collected: dict[str, Collected], seen: Visit, floor: float | None, visit: int) -> None:
    """Adds the figures of one turn, with what each subject took above those that it extends."""
    for name, (outcome, metrics) in seen.items():
        if name in OPEN and OPEN[name] in seen:
            bare = seen[OPEN[name]][1]
            metrics["above_open_us"] = metrics["cpu_us"] - bare["cpu_us"]
        if name == WITH_TOKEN and WITH_KEY in seen:
            keyed = seen[WITH_KEY][1]
            metrics["above_key_us"] = metrics["worker_cpu_us"] - keyed["worker_cpu_us"]
        if floor is not None and name.endswith("-jwt"):
            metrics["verify_us"] = floor
        collected[name].put(metrics, visit)
        collected[name].count(outcome)
    shown = ", ".join(f"{name} {metrics['cpu_us']:.2f}" for name, (_, metrics) in seen.items())
    say(f"  {visit + 1} CPU µs: {shown}")


def one_load(
    session: Session,
    scenario: Scenario,
    subject: Subject,
    running: tuple[Tree, Setup],
    placement: Placement,
    issued: Issued,
    turn: int,
) -> tuple[generator.Outcome, dict[str, float]]:
    """So many requests, and what the proxy used for them. Raises Void, LoadFailed, OSError."""
    assert scenario.tokens
    tree, setup = running
    keyed = subject.name == WITH_KEY
    count = scenario.tokens.requests
    plan = generator.Plan(
        port=setup.port,
        connections=scenario.connections,
        count=count,
        rate=scenario.rate,
        path=f"/bytes/{scenario.body}",
        headers=(KEY_HEADER,) if keyed else (),
        requests=None if keyed else issued.visits[turn],
    )
    checks = subject.name == WITH_TOKEN
    counted = tokens_counted(setup) if checks else {}
    before = tree.cpu()
    outcome = generator.run(plan, placement.load)
    used = spent(before, tree.cpu())
    if outcome.failed or outcome.statuses != {"200": count}:
        raise Void(f"answers {outcome.statuses}, {outcome.errors}")
    if checks and turn > 0:
        now = tokens_counted(setup)
        wrong = objection({k: n - counted.get(k, 0) for k, n in now.items()}, scenario.tokens)
        if wrong:
            raise Void(wrong)
    total = sum(used.values(), Cpu())
    serving = sum((used[p] for p in subject.workers_of(tree, 1) if p in used), Cpu())
    cpu, worker = total.run_ns / 1000 / count, serving.run_ns / 1000 / count
    return outcome, {
        "cpu_us": cpu,
        "cpu_user_us": cpu * total.user_share,
        "cpu_system_us": cpu * (1 - total.user_share),
        "worker_cpu_us": worker,
        "worker_user_us": worker * serving.user_share,
        "p50_us": outcome.latency.quantile(0.5) / 1000,
        "p99_us": outcome.latency.quantile(0.99) / 1000,
    }


def objection(counted: dict[str, int], wanted: Tokens) -> str:
    """Why the tokens of a visit were not those that the row is about; "" if they were."""
    result = "verified" if wanted.first else "known"
    found = {name: n for name, n in counted.items() if n}
    if found == {result: wanted.requests}:
        return ""
    return f"{wanted.requests} tokens should have been {result}; FastGate counted {found}"


def tokens_counted(setup: Setup) -> dict[str, int]:
    """FastGate's `fastgate_tokens_total` by result. Raises OSError (urllib's are)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{setup.spare}/metrics", timeout=30) as answer:
        return read_counts(answer.read().decode())


def read_counts(text: str) -> dict[str, int]:
    """Tokens by result, of the text of metrics."""
    found = re.findall(r'^fastgate_tokens_total\{[^}]*result="(\w+)"[^}]*\} (\d+)', text, re.M)
    counts: dict[str, int] = {}
    for result, n in found:
        counts[result] = counts.get(result, 0) + int(n)
    return counts
