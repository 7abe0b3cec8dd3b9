"""The interleaved rounds: every round starts each subject afresh and visits it once."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from benchmarks.compare import generator
from benchmarks.compare.encryption import (
    GROUP,
    Files,
    Tls,
    certificates,
    libssl_of,
    objection,
)
from benchmarks.compare.machine import Placement, available_cores, place
from benchmarks.compare.processes import (
    Cpu,
    Tree,
    cpu_of,
    raise_descriptors,
    settle,
    spent,
    stolen_ns,
)
from benchmarks.compare.scenarios import SETS_THE_RATE, SUBJECTS, Scenario
from benchmarks.compare.schema import Point, Skipped, Spread, figure
from benchmarks.compare.subjects import (
    KEY,
    NotServing,
    Setup,
    Subject,
    Unavailable,
    connected,
    free_port,
    release_port,
)
from benchmarks.tools import tool
from benchmarks.workload import routes, shuffled_paths

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    rounds: int = 5
    window: float = 2.5  # seconds measured
    warmup: float = 0.7  # seconds before
    quick: bool = False
    idle_connections: int = 10_000
    reload_seconds: float = 5.0


@dataclass
class Collected:
    """What the rounds of one subject in one scenario gave."""

    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(generator.ERRORS, 0))
    notes: list[str] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)

    def put(self, metrics: dict[str, float], visit: int) -> None:
        """Adds a visit's figures; `visit` is the same number for those that are its neighbours."""
        self.visits.append(visit)
        for name, value in metrics.items():
            self.metrics[name].append(value)

    def count(self, outcome: generator.Outcome) -> None:
        """Adds a run's statuses and errors."""
        for status, n in outcome.statuses.items():
            self.statuses[status] += n
        for name, n in outcome.errors.items():
            self.errors[name] += n

    def note(self, text: str) -> None:
        """Adds a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def point(self, scenario: Scenario, subject: str) -> Point:
        """As the result holds it."""
        return Point(
            scenario=scenario.name,
            subject=subject,
            workers=scenario.workers,
            connections=scenario.connections,
            body=scenario.body,
            request_body=scenario.request_body,
            mode=scenario.mode,
            metrics={name: Spread.of(values) for name, values in self.metrics.items()},
            statuses=dict(sorted(self.statuses.items())),
            errors=self.errors,
            notes=self.notes,
            visits=self.visits,
        )


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


class Session:
    """One run. A context manager: leaving ends what it started and removes its folder."""

    def __init__(
        self,
        options: Options,
        subjects: Sequence[str] | None = None,
        on_points: Callable[[Session], None] = lambda _: None,
    ) -> None:
        """subjects: only these. on_points: called after every round, when `points` are newer."""
        self.options = options
        self._on_points = on_points
        self.cores = available_cores()
        self.points: list[Point] = []
        self.skipped: list[Skipped] = []
        self.root = Path(tempfile.mkdtemp(prefix="fastgate-compare-"))
        self.descriptors = raise_descriptors(65_536)
        self.backend_port, self.backend_tls_port = free_port(), free_port()
        self.socket = self.root / "up" / "s"  # short: the path of a socket has 107 bytes at most
        self.versions: dict[str, str] = {}
        self.libssl: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        self._wanted = subjects
        self._backend: Tree | None = None
        self._count = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._backend:
            self._backend.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- parts -----------------------------------------------------------------------------

    @cached_property
    def certificates(self) -> dict[str, Files] | None:
        """Certificates by kind of key; None if none can be made."""
        try:
            return certificates(self.root / "tls")
        except Unavailable:
            return None

    def skip(self, scenario: str, subject: str, reason: str) -> None:
        """Remembers what could not be measured, and why."""
        say(f"  - {subject}: {reason.splitlines()[0] if reason else 'failed'}")
        if not any(s.scenario == scenario and s.subject == subject for s in self.skipped):
            self.skipped.append(Skipped(scenario=scenario, subject=subject, reason=reason))

    def keep(self, scenario: Scenario, collected: Mapping[str, Collected]) -> None:
        """Makes `points` say what the rounds of a scenario have given so far, and reports it. What
        failed at first and was measured after all is not skipped any more."""
        self.points = [p for p in self.points if p.scenario != scenario.name]
        self.skipped = [
            s
            for s in self.skipped
            if s.scenario != scenario.name or not collected.get(s.subject, Collected()).metrics
        ]
        self.points += [
            kept.point(scenario, name) for name, kept in collected.items() if kept.metrics
        ]
        self._on_points(self)

    def available(self, scenario: Scenario) -> list[Subject]:
        """The scenario's subjects that are wanted and installed."""
        found = []
        encrypted = scenario.tls is not None or scenario.upstream_tls
        for name in scenario.subjects:
            if self._wanted is not None and name not in self._wanted:
                continue
            if reason := self._missing(SUBJECTS[name]):
                self.skip(scenario.name, name, reason)
            elif encrypted and self.certificates is None:
                self.skip(scenario.name, name, "no certificates: apt-get install openssl")
            else:
                found.append(SUBJECTS[name])
        return found

    def _missing(self, subject: Subject) -> str:
        """Why a subject cannot be had, "" when it is ready. Asked once: it may have to be built."""
        if subject.name not in self._asked:
            reason = ""
            try:
                subject.ready(build=not self.options.quick)
                self.versions[subject.name] = subject.version()
            except Unavailable as e:
                reason = str(e)
            self._asked[subject.name] = reason
        return self._asked[subject.name]

    def begin(self, scenario: Scenario, workers: int) -> tuple[Placement, list[Subject]] | None:
        """Announce a scenario and start its upstream. Returns where each part goes, for so many
        workers if there are cores for them, and the subjects; None if it cannot be measured."""
        placement = place(self.cores, workers) or place(self.cores, 1)
        subjects = self.available(scenario)
        if placement is None or not subjects:
            return None
        say(f"{scenario.name}: {scenario.title}")
        self.backend(placement)
        return placement, subjects

    def backend(self, placement: Placement) -> Tree:
        """The upstream, started when first wanted and moved to its cores by a restart."""
        if self._backend is None or not self._backend.alive():
            folder = self.socket.parent
            folder.mkdir(exist_ok=True)
            self.socket.unlink(missing_ok=True)  # of one that was killed
            command = [str(tool("backend"))]
            addresses = [f"127.0.0.1:{self.backend_port}", f"unix:{self.socket}"]
            if self.certificates is not None:
                files, terms = self.certificates["ecdsa"], Tls()
                command += ["--cert", str(files.cert), "--key", str(files.key)]
                command += ["--cipher", terms.suite, "--group", GROUP]
                addresses.append(f"tls:127.0.0.1:{self.backend_tls_port}")
            self._backend = Tree([*command, *addresses], cores=placement.backend, folder=folder)
        return self._backend

    def upstream_handshakes(self) -> int:
        """How many the backend has had. Raises OSError."""
        with connected(self.backend_port, tls=False) as s:
            s.sendall(b"GET /handshakes HTTP/1.1\r\nHost: a\r\n\r\n")
            full, resumed = s.recv(65536).partition(b"\r\n\r\n")[2].split()
            return int(full) + int(resumed)

    def _tls_fields(self, scenario: Scenario) -> dict[str, object]:
        """What a scenario with TLS adds to a Setup."""
        kind = scenario.tls.key if scenario.tls else "ecdsa"
        if not (scenario.tls or scenario.upstream_tls) or self.certificates is None:
            return {}
        files = self.certificates[kind]
        fields: dict[str, object] = {"cert": str(files.cert), "key": str(files.key)}
        if scenario.upstream_tls:
            return {**fields, "upstream_tls": True, "backend": self.backend_tls_port}
        return {**fields, "tls": True}

    @contextlib.contextmanager
    def running(
        self, subject: Subject, scenario: Scenario, cores: tuple[int, ...], **changes: object
    ) -> Iterator[tuple[Tree, Setup]]:
        """A started subject, ended and its files removed on leaving. Raises NotServing."""
        self._count += 1
        port, spare = free_port(), free_port()
        fields: dict[str, object] = {
            "port": port,
            "backend": self.backend_port,
            "socket": str(self.socket),
            "folder": self.root / f"{self._count}-{subject.name}",
            "workers": scenario.workers,
            "policies": subject.policies,
            "spare": spare,
            "descriptors": self.descriptors,
            **self._tls_fields(scenario),
            **scenario.setup,
            **changes,
        }
        setup = Setup(**fields)  # type: ignore[arg-type]
        try:
            tree = subject.start(setup, cores)
            try:
                if setup.tls or setup.upstream_tls:
                    workers = subject.workers_of(tree, setup.workers)
                    self.libssl[subject.name] = libssl_of(workers)
                yield tree, setup
            finally:
                tree.stop()
        finally:
            shutil.rmtree(setup.folder, ignore_errors=True)
            release_port(port, spare)

    # ---- measuring -------------------------------------------------------------------------

    def plan(
        self,
        scenario: Scenario,
        port: int,
        placement: Placement,
        rate: float = 0,
        key: str = KEY,
    ) -> generator.Plan:
        """The load of a scenario."""
        requests = None
        if scenario.random_paths:
            requests = self.root / f"paths-{scenario.random_paths}"
            if not requests.exists():
                made = routes(scenario.random_paths)
                requests.write_text("\n".join(shuffled_paths(made, 50_000)) + "\n")
        window = min(self.options.window, scenario.window)
        return generator.Plan(
            port=port,
            connections=scenario.connections,
            duration=window,
            warmup=self.options.warmup * window / self.options.window,
            rate=rate,
            path=f"/bytes/{scenario.body}",
            body=scenario.request_body,
            fresh=scenario.fresh,
            headers=(f"X-Api-Key: {key}",) if scenario.key else (),
            requests=requests,
            spin=bool(rate) and placement.load_is_alone,
            tls=scenario.tls,
            ca=self._ca(scenario),
        )

    def _ca(self, scenario: Scenario) -> Path:
        """Who has issued the proxies' certificate."""
        if scenario.tls is None or self.certificates is None:
            return Path()
        return self.certificates[scenario.tls.key].cert

    def measure(
        self, subject: Subject, tree: Tree, plan: generator.Plan, placement: Placement, workers: int
    ) -> tuple[generator.Outcome, dict[str, float]]:
        """One window: the generator's outcome, and the figures of it. Raises LoadFailed."""
        samples: list[tuple[dict[int, Cpu], Cpu, Cpu, int, float]] = []
        backend = self.backend(placement)

        def sample(load_pid: int) -> None:
            upstream = sum(backend.cpu().values(), Cpu())
            load = cpu_of(load_pid)
            stolen = stolen_ns(placement.proxy)
            samples.append((tree.cpu(), upstream, load, stolen, time.monotonic()))

        outcome = generator.run(plan, placement.load, sample, sample)
        if len(samples) != 2:
            raise generator.LoadFailed("the window did not open and shut")
        reason = "" if outcome.responses else "no request was answered in the window"
        if plan.tls and outcome.tls:
            reason = objection(outcome.tls, plan.tls, outcome.responses, fresh=plan.fresh) or reason
        if reason:
            raise generator.LoadFailed(reason)
        (cpu0, back0, load0, stolen0, t0), (cpu1, back1, load1, stolen1, t1) = samples
        seconds = t1 - t0
        used = spent(cpu0, cpu1)
        total = sum(used.values(), Cpu())
        serving = sum((used[p] for p in subject.workers_of(tree, workers) if p in used), Cpu())
        latency = outcome.latency
        metrics = {
            "rps": outcome.responses / outcome.window_s,
            "p50_us": latency.quantile(0.5) / 1000,
            "p99_us": latency.quantile(0.99) / 1000,
            "p999_us": latency.quantile(0.999) / 1000,
            "max_us": latency.greatest / 1000,
            "busy": total.run_ns / 1e9 / seconds,
            "waiting": total.wait_ns / 1e9 / seconds,
            "stolen": (stolen1 - stolen0) / 1e9 / seconds,
            "backend_busy": (back1 - back0).run_ns / 1e9 / seconds,
            "load_busy": (load1 - load0).run_ns / 1e9 / seconds,
        }
        if plan.rate:
            metrics["rate"] = plan.rate
        # The samples are a little further apart than the window: charge by the sampled time.
        served = outcome.responses * seconds / outcome.window_s
        cpu = total.run_ns / 1000 / served
        worker = serving.run_ns / 1000 / served
        metrics |= {
            "cpu_us": cpu,
            "cpu_user_us": cpu * total.user_share,
            "cpu_system_us": cpu * (1 - total.user_share),
            "worker_cpu_us": worker,
            "worker_user_us": worker * serving.user_share,
        }
        if outcome.tls and plan.fresh:
            metrics["handshakes"] = outcome.tls.handshakes / outcome.window_s
            metrics["handshakes_per_core"] = 1_000_000 / cpu
        return outcome, metrics

    def half_rate(self, subject: str) -> float:
        """Half of what the slowest of those that set the rate can do; Envoy: half of its own."""
        able = {
            name: rps
            for name in SUBJECTS
            if (rps := figure(self.points, "saturation", name, "rps")) is not None
        }
        common = min((able[n] for n in SETS_THE_RATE if n in able), default=0.0)
        common = common or min(able.values(), default=20_000.0)
        return float(round(min(common, able.get(subject, common)) / 2, -2))

    def run(self, scenario: Scenario) -> None:
        """A closed or open scenario: all rounds. Adds its points."""
        placement = place(self.cores, scenario.workers)
        subjects = self.available(scenario)
        if placement is None:
            for subject in subjects:
                self.skip(
                    scenario.name,
                    subject.name,
                    f"{scenario.workers} workers need {scenario.workers + 1} cores; "
                    f"this machine has {len(self.cores)}",
                )
            return
        say(f"{scenario.name}: {scenario.title}")
        self.backend(placement)
        collected: dict[str, Collected] = {s.name: Collected() for s in subjects}
        turns = self.turns(scenario)
        for round_ in range(self.options.rounds):
            with contextlib.ExitStack() as stack:
                started = []
                for subject in rotated(subjects, round_):
                    try:
                        tree, setup = stack.enter_context(
                            self.running(subject, scenario, placement.proxy)
                        )
                    except (NotServing, OSError) as e:
                        self.skip(scenario.name, subject.name, str(e))
                        continue
                    started.append((subject, tree, setup))
                settle([tree for _, tree, _ in started])
                for turn in range(turns):
                    visit = round_ * turns + turn
                    self._visit(scenario, placement, in_turn(started, turn), collected, visit)
            if scenario.mode == "open":
                add_latency(collected)
            self.keep(scenario, collected)

    def turns(self, scenario: Scenario) -> int:
        """How often a round of the scenario visits each subject."""
        return 1 if self.options.quick else scenario.turns

    def _visit(
        self,
        scenario: Scenario,
        placement: Placement,
        started: Sequence[tuple[Subject, Tree, Setup]],
        collected: Mapping[str, Collected],
        visit: int,
    ) -> None:
        """Each of the subjects once."""
        label = f"{visit + 1}/{self.options.rounds * self.turns(scenario)}"
        for subject, tree, setup in started:
            rate = 0.0
            if scenario.mode == "open":
                rate = scenario.rate or self.half_rate(subject.name)
            plan = self.plan(scenario, setup.port, placement, rate)
            kept = collected[subject.name]
            try:
                before = self.upstream_handshakes() if scenario.upstream_tls else 0
                outcome, metrics = self.measure(subject, tree, plan, placement, scenario.workers)
                if scenario.upstream_tls:
                    metrics["upstream_handshakes"] = float(self.upstream_handshakes() - before)
            except (generator.LoadFailed, OSError) as e:
                say(f"  {label} {subject.name:18} void: {e}")
                kept.note(f"a visit is void: {e}")
                if not kept.metrics:
                    self.skip(scenario.name, subject.name, str(e))
                continue
            kept.put(metrics, visit)
            kept.count(outcome)
            self._remark(kept, scenario, outcome, metrics)
            say(
                f"  {label} {subject.name:18} "
                f"{metrics['rps']:9.0f}/s  {metrics['cpu_us']:6.2f} µs CPU "
                f"({metrics['cpu_user_us']:.1f} user)  "
                f"p50 {metrics['p50_us']:.0f}  p99 {metrics['p99_us']:.0f} µs"
            )

    @staticmethod
    def _remark(
        kept: Collected, scenario: Scenario, outcome: generator.Outcome, metrics: dict[str, float]
    ) -> None:
        """Notes what would make the figures say something else than they seem to."""
        if outcome.failed and scenario.expect < 500:
            kept.note("some requests failed")
        if outcome.tls and outcome.tls.bare_ends:
            kept.note("connections ended without close_notify")
        answered = sum(outcome.statuses.values())
        expected = outcome.statuses.get(str(scenario.expect), 0)
        if answered - expected > max(0.01 * answered, 16):
            kept.note(f"answers other than {scenario.expect}")
        if scenario.mode == "closed" and scenario.connections > 1:
            wanted = 0.9 * scenario.workers
            if metrics["busy"] + metrics["waiting"] < wanted:
                kept.note("the proxy was not saturated: another part was the bottleneck")
            elif metrics["busy"] < wanted:
                kept.note("the proxy had to share its cores with something else")
        if scenario.mode == "open" and outcome.errors["unanswered"]:
            kept.note("could not keep up with the rate")


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The same, beginning with another one each time: none is always first."""
    at = by % max(1, len(items))
    return [*items[at:], *items[:at]]


def in_turn(items: Sequence[T], turn: int) -> list[T]:
    """The order of a turn: each begins once, then each again with the order reversed. So of any
    two, each goes before the other as often as after it."""
    order = rotated(items, turn)
    return order[::-1] if turn // max(1, len(items)) % 2 else order


def add_latency(collected: dict[str, Collected]) -> None:
    """Adds added_p50_us and added_p99_us: a round's figure less that of the backend alone."""
    base = collected.get("direct")
    if base is None:
        return
    for metric in ("p50_us", "p99_us"):
        bare = dict(zip(base.visits, base.metrics.get(metric, []), strict=True))
        for name, kept in collected.items():
            mine = zip(kept.visits, kept.metrics.get(metric, []), strict=True)
            added = [value - bare[visit] for visit, value in mine if visit in bare]
            if name != "direct" and added:
                kept.metrics[f"added_{metric}"] = added
