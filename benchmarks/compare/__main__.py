"""`python -m benchmarks.compare`: runs the comparison and writes benchmarks/results/."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.compare import plot, report, schema
from benchmarks.compare.built import Built
from benchmarks.compare.flood import run_flood
from benchmarks.compare.generator import LoadFailed
from benchmarks.compare.identity import run_identity
from benchmarks.compare.machine import facts, place
from benchmarks.compare.nginx import GIVEN
from benchmarks.compare.paid import run_paid
from benchmarks.compare.processes import settle
from benchmarks.compare.ratios import all_ratios
from benchmarks.compare.scenarios import SUBJECTS, Scenario, table
from benchmarks.compare.session import Options, Session, say
from benchmarks.compare.sidecar import run_sidecar
from benchmarks.compare.special import run_idle, run_reload
from benchmarks.compare.subjects import NotServing, Unavailable
from benchmarks.compare.verdict import judge
from benchmarks.tools import TOOLS, NoCompiler, tool

RESULTS = Path(__file__).parent.parent / "results"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Measures FastGate beside nginx, HAProxy, Envoy, Pingora, Caddy and a relay.",
        epilog="A full run takes about two hours and wants the machine for itself. The first one "
        "builds Pingora and Caddy before, where cargo and go are installed.",
    )
    parser.add_argument("--quick", action="store_true", help="about seven minutes: fewer, shorter")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario (5; quick: 2)")
    parser.add_argument("--window", type=float, help="seconds measured at a time (2.5; quick: 0.7)")
    parser.add_argument(
        "--only", action="append", metavar="SCENARIO", help="this scenario (a glob); repeatable"
    )
    parser.add_argument(
        "--subject", action="append", metavar="NAME", help="this subject (a glob); repeatable"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument(
        "--nginx",
        type=Path,
        metavar="PATH",
        default=os.environ.get(GIVEN) or None,
        help="another nginx to measure besides (mainline, OpenResty): its binary; also taken from "
        f"the environment variable {GIVEN}",
    )
    parser.add_argument(
        "--build",
        action="store_true",
        help="only build the peers that are built from source (Pingora by cargo, Caddy by go)",
    )
    parser.add_argument("--list", action="store_true", help="list scenarios and subjects, and end")
    parser.add_argument(
        "--render",
        action="store_true",
        help="only write compare.md and .png again, from compare.json",
    )
    given = parser.parse_args(argv)
    if given.rounds is not None and not 1 <= given.rounds <= 100:
        parser.error("--rounds: from 1 to 100")
    if given.window is not None and not 0.1 <= given.window <= 60:
        parser.error("--window: from 0.1 to 60 seconds")
    if given.nginx is not None and not (given.nginx.is_file() and os.access(given.nginx, os.X_OK)):
        parser.error(f"--nginx: {given.nginx} is not a program; give the path of an nginx binary")
    return given


def options_of(given: argparse.Namespace) -> Options:
    """How much is measured."""
    options = Options()
    if given.quick:
        options = Options(
            rounds=2, window=0.7, warmup=0.3, quick=True, idle_connections=2000, reload_seconds=2.0
        )
    if given.rounds is not None:
        options = dataclasses.replace(options, rounds=given.rounds)
    if given.window is not None:
        options = dataclasses.replace(options, window=given.window)
    return options


def chosen(scenarios: list[Scenario], only: list[str] | None, quick: bool) -> list[Scenario]:
    """The scenarios to run: those that are named, else all (of a quick run). In table order."""
    if only:
        return [s for s in scenarios if any(fnmatch.fnmatch(s.name, p) for p in only)]
    return [s for s in scenarios if s.quick or not quick]


def wrk_rate(text: str) -> float:
    """Requests/s of wrk's output; 0 when there is none."""
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return float(found.group(1)) if found else 0.0


def crosscheck(session: Session, scenario: Scenario) -> dict[str, float]:
    """The same saturation by wrk and by our own generator, one after the other."""
    wrk = shutil.which("wrk")
    placement = place(session.cores, 1)
    if not wrk or not placement:
        return {}
    say("cross-check with wrk")
    rates: dict[str, float] = {}
    names = ("fastgate", "nginx", "relay")
    for subject in session.available(dataclasses.replace(scenario, subjects=names)):
        try:
            with session.running(subject, scenario, placement.proxy) as (tree, setup):
                settle([tree])
                plan = session.plan(scenario, setup.port, placement)
                _, metrics = session.measure(subject, tree, plan, placement, 1)
                seconds = max(1, round(session.options.window))
                headers = [part for line in plan.all_headers() for part in ("-H", line)]
                done = subprocess.run(
                    ["taskset", "-c", ",".join(map(str, placement.load)), wrk, "-t1", "-c64",
                     f"-d{seconds}s", *headers, f"http://127.0.0.1:{setup.port}{plan.path}"],
                    capture_output=True, text=True, timeout=seconds + 30, check=False,
                )  # fmt: skip
        except (NotServing, LoadFailed, OSError, subprocess.TimeoutExpired) as e:
            session.skip("crosscheck", subject.name, str(e))
            continue
        rates[f"{subject.name} load"] = round(metrics["rps"], 1)
        rates[f"{subject.name} wrk"] = wrk_rate(done.stdout)
        say(f"  {subject.name:18} load {metrics['rps']:.0f}/s, wrk {wrk_rate(done.stdout):.0f}/s")
    return rates


def run(given: argparse.Namespace, save: Callable[[schema.Report], None]) -> schema.Report:
    """The whole session; `save` gets what there is after every round.

    Interrupted, it gives what was measured so far, not `complete`. Raises NoCompiler,
    subprocess.CalledProcessError.
    """
    options = options_of(given)
    scenarios = chosen(table(), given.only, options.quick)
    subjects = None
    if given.subject:
        subjects = [n for n in SUBJECTS if any(fnmatch.fnmatch(n, p) for p in given.subject)]
    for name in TOOLS:
        tool(name)
    machine = facts()
    started, clock = datetime.now(UTC), time.monotonic()

    def so_far(
        session: Session, rates: dict[str, float] | None = None, *, complete: bool = False
    ) -> schema.Report:
        placement = place(session.cores, 1)
        assert placement
        return schema.Report(
            started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=round(time.monotonic() - clock, 1),
            complete=complete,
            options=dataclasses.asdict(options),
            machine=machine,
            placement=placement.describe(),
            subjects=[
                schema.Subject(
                    name=name,
                    product=SUBJECTS[name].product,
                    version=version,
                    description=SUBJECTS[name].description,
                    libssl=session.libssl.get(name, ""),
                )
                for name, version in session.versions.items()
            ],
            points=session.points,
            skipped=session.skipped,
            crosscheck=rates or {},
            verdict=judge(session.points),
            ratios=all_ratios(session.points, scenarios),
        )

    with Session(options, subjects, lambda session: save(so_far(session))) as session:
        try:
            for scenario in scenarios:  # what has to be built is, before anything is measured
                session.available(scenario)
            for scenario in scenarios:
                RUNNERS.get(scenario.mode, Session.run)(session, scenario)
            rates = {}
            if not options.quick and any(s.name == "saturation" for s in scenarios):
                rates = crosscheck(session, scenarios[0])
        except KeyboardInterrupt:
            say("interrupted: what was measured so far is kept")
            return so_far(session)
        return so_far(session, rates, complete=True)


RUNNERS: dict[str, Callable[[Session, Scenario], None]] = {
    "reload": run_reload,
    "idle": run_idle,
    "flood": run_flood,
    "identity": run_identity,
    "paid": run_paid,
    "sidecar": run_sidecar,
}


def save_tables(result: schema.Report, folder: Path) -> None:
    """`compare.json` and `compare.md`, each whole at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = {s.name: s.title for s in table()}
    texts = {
        "compare.json": schema.write(result),
        "compare.md": report.markdown(result, titles).encode(),
    }
    for name, text in texts.items():
        beside = folder / f"{name}.new"
        beside.write_bytes(text)
        beside.replace(folder / name)


def write(result: schema.Report, folder: Path) -> None:
    """The three files of a result."""
    save_tables(result, folder)
    try:
        plot.draw(result, folder / "compare.png")
    except ImportError:
        say("no plot: pip install matplotlib (the dependency group `bench`)")


def listing() -> str:
    """Scenarios and subjects, with what is missing."""
    lines = ["scenarios:"]
    lines += [f"  {s.name:18} {s.title}{'' if s.quick else '  (not quick)'}" for s in table()]
    lines.append("subjects:")
    for name, subject in SUBJECTS.items():
        try:
            state = subject.version()
        except Unavailable as e:
            state = f"missing: {e}"
        lines.append(f"  {name:18} {subject.description} [{state}]")
    return "\n".join(lines)


def build() -> int:
    """Builds the peers that are built from source; 1 when one of them cannot be had."""
    failed = 0
    for subject in SUBJECTS.values():
        if isinstance(subject, Built):
            try:
                subject.ready(build=True)
                print(f"{subject.name} {subject.version()}: {subject.program}")
            except Unavailable as e:
                failed = 1
                print(f"{subject.name}: {e}", file=sys.stderr)
    return failed


class Interruption:
    """Whether the run was asked to end."""

    asked = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was. Where the signal came in a callback of Python's own
        (at a fork, say), its exception was only written down there."""
        if self.asked:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """SIGTERM ends a run as Ctrl-C does, and neither disturbs the ending once it has begun."""
    interruption = Interruption()

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        interruption.asked = True
        raise KeyboardInterrupt

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    """The command. Exits with 130 when it was interrupted; what was measured is written."""
    given = arguments(argv)
    if given.nginx is not None:
        os.environ[GIVEN] = str(given.nginx.resolve())
    if given.list:
        print(listing())
        return 0
    if given.build:
        try:
            with interruptible():
                return build()
        except KeyboardInterrupt:
            return 130
    try:
        if given.render:
            result = schema.read((given.output / "compare.json").read_bytes())
        else:
            with interruptible() as interruption:

                def save(so_far: schema.Report) -> None:
                    save_tables(so_far, given.output)
                    interruption.check()

                result = run(given, save)
    except (NoCompiler, OSError, ValueError) as e:
        print(f"benchmarks.compare: {e}", file=sys.stderr)
        return 1
    write(result, given.output)
    print("\n".join(report.verdict_table(result)))
    say(f"written: {given.output}/compare.json, compare.md, compare.png")
    return 0 if result.complete else 130


if __name__ == "__main__":
    sys.exit(main())
