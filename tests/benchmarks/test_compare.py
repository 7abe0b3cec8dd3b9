"""The comparison's parts: configurations, placement, accounting, statistics, verdict, report."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import __main__ as command
from benchmarks.compare import generator, schema, verdict
from benchmarks.compare.envoy import Envoy
from benchmarks.compare.gateway import FastGate
from benchmarks.compare.keyed import PRICE, Keyed
from benchmarks.compare.machine import available_cores, facts, place
from benchmarks.compare.nginx import Nginx
from benchmarks.compare.peers import HAProxy
from benchmarks.compare.processes import (
    Cpu,
    Tree,
    cpu_of,
    parse_stat,
    pss_of,
    runs,
    settle,
    spent,
    tree_of,
)
from benchmarks.compare.programs import program
from benchmarks.compare.ratios import all_ratios
from benchmarks.compare.report import COLUMNS, markdown
from benchmarks.compare.scenarios import SUBJECTS, table
from benchmarks.compare.schema import Point, Spread
from benchmarks.compare.session import Collected, Options, Session, add_latency
from benchmarks.compare.subjects import KEY, Setup, Unavailable, all_keys
from benchmarks.workload import base36, routes, shuffled_paths

# ---- what is measured ------------------------------------------------------------------------


def test_scenarios_have_names_of_their_own_and_known_subjects() -> None:
    scenarios = table()
    names = [s.name for s in scenarios]
    assert len(set(names)) == len(names)
    for scenario in scenarios:
        assert set(scenario.subjects) <= set(SUBJECTS)
        assert set(scenario.setup) <= set(Setup.__dataclass_fields__)
    assert names.index("saturation") < names.index("half-load")  # sets its rate


def test_every_budget_reads_figures_that_some_scenario_measures() -> None:
    """With every scenario measured, no budget is left without a figure."""
    points = []
    for scenario in table():
        for subject in scenario.subjects:
            metrics = {name: Spread.of([1.0, 2.0, 3.0]) for name in schema.METRICS}
            points.append(a_point(scenario.name, subject, metrics, mode=scenario.mode))
    assert [b.budget for b in verdict.judge(points) if b.figure is None] == []


def test_scenarios_are_chosen_by_name_or_by_quick() -> None:
    names = [s.name for s in command.chosen(table(), ["flood-*", "idle"], quick=True)]
    assert names == ["flood-401", "flood-429", "idle"]
    quick = {s.name for s in command.chosen(table(), None, quick=True)}
    assert "saturation" in quick
    assert "body-1m" not in quick
    assert len(command.chosen(table(), None, quick=False)) == len(table())


# ---- the workload ----------------------------------------------------------------------------


def test_routes_are_the_same_each_time_and_match_their_paths() -> None:
    made = routes(400)
    assert made == routes(400)
    assert len({r.pattern for r in made}) == 400
    for route in made:
        assert route.path.startswith(route.literal)
        shape = re.escape(route.pattern).replace(r"\{rest\*\}", ".*").replace(r"\{id\}", "[^/]+")
        assert re.fullmatch(shape, route.path), route
    assert set(shuffled_paths(made, 1000)) <= {r.path for r in made}


@given(st.integers(0, 10**9))
def test_base36_is_read_back(number: int) -> None:
    assert int(base36(number), 36) == number


# ---- configurations --------------------------------------------------------------------------


def setup(folder: Path, **fields: object) -> Setup:
    return Setup(port=21000, backend=21001, folder=folder, spare=21002, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("policies", [False, True])
@pytest.mark.parametrize("many", [1, 10])
def test_nginx_takes_its_configuration(tmp_path: Path, policies: bool, many: int) -> None:
    try:
        binary = program("nginx", "nginx")
    except Unavailable as e:
        pytest.skip(str(e))
    made = setup(tmp_path, policies=policies, routes=many, mark="7", descriptors=1024)
    Nginx(policies=policies).write(made)
    done = subprocess.run(
        [binary, "-t", "-p", f"{tmp_path}/", "-c", "nginx.conf", "-e", "stderr"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "nginx.conf").read_text()
    assert text.count("location ") == (1 if many == 1 else many + 1)
    assert ("limit_req zone" in text) is policies
    assert ("access_log off" in text) is not policies


@pytest.mark.parametrize("policies", [False, True])
def test_haproxy_takes_its_configuration(tmp_path: Path, policies: bool) -> None:
    try:
        binary = program("haproxy", "haproxy")
    except Unavailable as e:
        pytest.skip(str(e))
    made = setup(tmp_path, policies=policies, descriptors=512)
    HAProxy(policies=policies).write(made)
    done = subprocess.run(
        [binary, "-c", "-f", str(tmp_path / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("stick-table" in (tmp_path / "haproxy.cfg").read_text()) is policies


def test_envoy_gets_its_ports(tmp_path: Path) -> None:
    conf = json.loads(Envoy().files(setup(tmp_path))["envoy.json"])["static_resources"]
    assert conf["listeners"][0]["address"]["socket_address"]["port_value"] == 21000
    assert "21001" in json.dumps(conf["clusters"])


@pytest.mark.parametrize("policies", [False, True])
@pytest.mark.parametrize("many", [1, 50])
def test_fastgate_takes_its_configuration(tmp_path: Path, policies: bool, many: int) -> None:
    codec = pytest.importorskip("fastgate.model.codec")
    made = setup(tmp_path, policies=policies, routes=many, mark="7", rate=5, burst=9)
    text = FastGate(policies=policies).files(made)["gateway.json"]
    gateway = codec.decode(json.loads(text))
    assert len(gateway.routes) == (1 if many == 1 else many + 1)
    assert gateway.workers == 1
    for route in gateway.routes:
        assert (route.auth.api_key is not None) is policies
        assert len(route.limits) == len(route.quotas) == int(policies)
    assert len(gateway.consumers) == (len(all_keys()) if policies else 0)
    assert KEY not in text  # digests only


def test_paid_and_limited_differ_by_the_price_alone(tmp_path: Path) -> None:
    codec = pytest.importorskip("fastgate.model.codec")
    made = setup(tmp_path)
    limited, paid = (
        json.loads(Keyed(paid=paid).files(made)["gateway.json"]) for paid in (False, True)
    )
    price = codec.decode(paid).routes[0].price
    assert (price.micros, price.currency) == (PRICE, "USD")
    del paid["routes"][0]["price"]
    assert paid == limited
    route = codec.decode(limited).routes[0]
    assert route.auth.api_key is not None
    assert len(route.limits) == 1


def test_all_keys_are_known_to_everybody(tmp_path: Path) -> None:
    made = setup(tmp_path, policies=True)
    for subject in (Nginx(policies=True), HAProxy(policies=True)):
        listed = subject.files(made)["keys.map"]
        assert len(listed.splitlines()) == len(all_keys()) == 1000
        assert KEY in listed


# ---- the machine -----------------------------------------------------------------------------


@given(st.integers(1, 16), st.integers(1, 8))
def test_the_proxy_never_shares_unless_there_is_one_core(cores: int, workers: int) -> None:
    placement = place(list(range(100, 100 + cores)), workers)
    if cores == 1 and workers == 1:
        assert placement
        assert placement.describe()["shared"] == "yes"
    elif cores < workers + 1:
        assert placement is None
    else:
        assert placement
        assert len(placement.proxy) == workers
        assert placement.proxy_is_alone
        assert placement.load_is_alone is (cores >= workers + 2)


def test_facts_name_the_machine() -> None:
    machine = facts()
    assert machine.cores >= 1
    assert machine.cpu
    assert machine.kernel


# ---- processes -------------------------------------------------------------------------------


def test_a_name_may_hold_anything() -> None:
    line = "42 (a b) c) S 7 42 42 0 -1 4194304 1 2 3 4 55 66 0 0 20 0 1 0 1 2 3"
    assert parse_stat(line) == (7, 55, 66)


def test_own_time_and_memory_can_be_read() -> None:
    before = cpu_of(os.getpid())
    sum(i * i for i in range(300_000))
    assert cpu_of(os.getpid()).run_ns > before.run_ns
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this kernel has no /proc/PID/smaps_rollup")
    assert pss_of(os.getpid()) > 1 << 20


def test_who_is_gone_used_nothing() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert cpu_of(gone.pid) == Cpu()
    assert pss_of(gone.pid) == 0


def test_spent_counts_newcomers_from_zero() -> None:
    before = {1: Cpu(100, 1, 1)}
    after = {1: Cpu(150, 3, 2), 2: Cpu(10, 1, 0)}
    used = spent(before, after)
    assert used == {1: Cpu(50, 2, 1), 2: Cpu(10, 1, 0)}
    assert used[1].user_share == pytest.approx(2 / 3)


class Scripted:
    """A tree whose processes' accounts are told in advance, one dict (pid → ms) a look."""

    def __init__(self, *looks: dict[int, int]) -> None:
        self.looks = list(looks)

    def cpu(self) -> dict[int, Cpu]:
        now = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return {pid: Cpu(run_ns=ms * 1_000_000) for pid, ms in now.items()}


def test_settling_waits_for_who_goes_on_when_a_process_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    at_work = Scripted({1: 0, 2: 500}, {1: 0}, {1: 1}, {1: 90}, {1: 91}, {1: 91})
    settle([at_work, Scripted({3: 7})])  # type: ignore[list-item]
    assert at_work.looks == [{1: 91}]


def test_settling_is_bounded() -> None:
    class Restless(Scripted):
        def cpu(self) -> dict[int, Cpu]:
            self.looks.append({1: len(self.looks) * 100})
            return {1: Cpu(run_ns=len(self.looks) * 100_000_000)}

    restless = Restless()
    settle([restless], patience=0.1)  # type: ignore[list-item]
    assert 2 <= len(restless.looks) < 10


def test_a_tree_ends_with_all_its_children(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print('up', flush=True)\n"
        "child.wait()\n"
    )
    tree = Tree([sys.executable, "-c", script], cores=available_cores(), folder=tmp_path)
    while not (tmp_path / "stdout.log").read_text():
        assert tree.alive()
    family = tree.pids()
    assert len(family) == 2
    assert tree_of(tree.pid) == family
    assert set(tree.cpu()) == set(family)
    tree.stop(patience=0.05)
    assert not tree.alive()
    assert not runs(family[1])


# ---- the generator's answer ------------------------------------------------------------------


def an_answer(**fields: object) -> str:
    shape: dict[str, object] = {
        "version": 1, "window_s": 2.0, "responses": 10, "statuses": {"200": 9, "502": 1},
        "reconnects": 0, **dict.fromkeys(generator.ERRORS, 0),
        "latency": {"count": 2, "sum": 30, "max": 20, "buckets": [[10, 1], [20, 1]]},
    }  # fmt: skip
    return json.dumps(shape | fields)


def test_an_answer_is_read() -> None:
    outcome = generator.parse(an_answer(resets=2))
    assert (outcome.responses, outcome.window_s) == (10, 2.0)
    assert outcome.failed == 3  # two resets and a 502
    assert outcome.latency.quantile(1.0) == 20


@pytest.mark.parametrize("line", ["", "{}", "[]", "held", an_answer(version=2)])
def test_what_is_no_answer_is_refused(line: str) -> None:
    with pytest.raises(generator.LoadFailed):
        generator.parse(line)


def test_wrk_is_read() -> None:
    assert command.wrk_rate("Running\nRequests/sec:  52558.83\nTransfer") == 52558.83
    assert command.wrk_rate("unable to connect") == 0


# ---- figures ---------------------------------------------------------------------------------


def a_point(scenario: str, subject: str, metrics: dict[str, Spread], mode: str = "closed") -> Point:
    return Point(
        scenario=scenario, subject=subject, workers=1, connections=64, body=100, mode=mode,
        metrics=metrics, statuses={"200": 1}, errors={},
    )  # fmt: skip


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, [3.0, 1.0, 2.0])
    assert Spread.of([3.0, 1.0, 2.0]).rounds == 3
    with pytest.raises(ValueError, match="at least one round"):
        Spread.of([])


def test_a_charge_is_judged_in_the_workers_and_with_control() -> None:
    points = [
        a_point(
            "paid",
            name,
            {"worker_cpu_us": Spread.of([worker]), "cpu_us": Spread.of([worker + control])},
            "paid",
        )
        for name, worker, control in (("fastgate-limited", 20.0, 0.0), ("fastgate-paid", 21.0, 9.0))
    ]
    found = [b for b in verdict.judge(points) if "paid" in b.budget]
    assert [(b.figure, b.limit, b.met) for b in found] == [(1.05, 1.05, True), (1.5, 1.05, False)]


@pytest.mark.parametrize(("mine", "met"), [(17.0, True), (19.0, False)])
def test_a_budget_is_met_or_not(mine: float, met: bool) -> None:
    points = [
        a_point("saturation", "fastgate-policies", {"cpu_us": Spread.of([mine])}),
        a_point("saturation", "nginx-policies", {"cpu_us": Spread.of([20.0])}),
    ]
    first = verdict.judge(points)[0]
    assert (first.met, first.limit) == (met, 0.90)
    unknown = verdict.judge(points)[1]
    assert (unknown.met, unknown.figure, unknown.note) == (None, None, "not measured in this run")


def test_a_peer_that_had_a_lower_rate_is_not_the_best_one() -> None:
    def at(rate: float, added: float) -> dict[str, Spread]:
        return {"rate": Spread.of([rate]), "added_p99_us": Spread.of([added])}

    points = [
        a_point("half-load", "fastgate-policies", at(9000, 50), "open"),
        a_point("half-load", "nginx", at(9000, 60), "open"),
        a_point("half-load", "pingora", at(4000, 10), "open"),
    ]
    (judged,) = (b for b in verdict.judge(points) if b.figure is not None)
    assert (judged.figure, judged.limit, judged.note) == (50, 60, "best: nginx")


def test_latency_is_added_to_that_of_the_backend_alone() -> None:
    collected = {name: Collected() for name in ("direct", "nginx", "envoy")}
    collected["direct"].put({"p50_us": 50.0, "p99_us": 100.0}, 0)
    collected["nginx"].put({"p50_us": 80.0, "p99_us": 190.0}, 0)
    collected["nginx"].put({"p50_us": 81.0, "p99_us": 191.0}, 1)  # `direct` failed in this one
    add_latency(collected)
    assert collected["nginx"].metrics["added_p50_us"] == [30.0]
    assert collected["nginx"].metrics["added_p99_us"] == [90.0]
    assert "added_p50_us" not in collected["direct"].metrics
    assert not collected["envoy"].metrics  # every visit of it failed
    add_latency({"direct": Collected(), "nginx": collected["nginx"]})


# ---- the report ------------------------------------------------------------------------------


def report_of(points: list[Point]) -> schema.Report:
    """What a run that goes on has so far."""
    return schema.Report(
        started="2026-11-21T12:00:00Z", seconds=1.5, complete=False, options={"rounds": 2},
        machine=facts(), placement={"proxy": "1"}, subjects=[], points=list(points), skipped=[],
        crosscheck={}, verdict=verdict.judge(points),
    )  # fmt: skip


def a_report() -> schema.Report:
    points = []
    for scenario in table():
        for i, subject in enumerate(scenario.subjects):
            metrics = {n: Spread.of([10.0 + i, 12.0 + i]) for n in schema.METRICS}
            points.append(a_point(scenario.name, subject, metrics, scenario.mode))
    return schema.Report(
        started="2026-11-21T12:00:00Z",
        seconds=1.5,
        options={"rounds": 2},
        machine=facts(),
        placement={"proxy": "1"},
        subjects=[
            schema.Subject(name="nginx", product="nginx", version="1", description="a proxy")
        ],
        points=points,
        skipped=[
            schema.Skipped(scenario=name, subject="envoy", reason="not there")
            for name in ("idle", "saturation")
        ],
        crosscheck={"nginx load": 1.0, "nginx wrk": 2.0},
        verdict=verdict.judge(points),
        ratios=all_ratios(points, table()),
    )


def test_a_report_is_read_back() -> None:
    report = a_report()
    text = schema.write(report)
    assert schema.read(text) == report
    raw = json.loads(text)
    assert (raw["schema"], raw["version"]) == ("fastgate.compare", 1)
    with pytest.raises(ValueError, match="not a"):
        schema.read(msgspec.json.encode(raw | {"version": 99}))


def test_every_metric_and_scenario_is_in_the_tables() -> None:
    text = markdown(a_report(), {s.name: s.title for s in table()})
    for scenario in table():
        assert f"## {scenario.title}" in text
    assert "| nginx |" in text
    for ratio in (r for s in table() for r in s.ratios):
        assert f"| {' / '.join(ratio)} |" in text
    assert "- envoy: not there (idle, saturation)" in text
    for row in text.splitlines():
        if row.startswith("| ---"):
            assert set(row) <= set("| -:")


def test_cpu_is_never_shown_without_its_user_part() -> None:
    for mode, columns in COLUMNS.items():
        shown = [metric for metric, _, _ in columns]
        for total, user in (
            ("cpu_us", "cpu_user_us"),
            ("worker_cpu_us", "worker_user_us"),
            ("control_cpu_us", "control_user_us"),
        ):
            assert (total in shown) == (user in shown), mode
        assert ("cpu_us" in shown) == ("cpu_system_us" in shown), mode


def test_the_report_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    from benchmarks.compare import plot

    plot.draw(a_report(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    missing = [name for name in schema.METRICS if f"`{name}`" not in text]
    assert missing == []
    for scenario in table():
        assert f"`{scenario.name}`" in text


def test_what_rounds_gave_is_kept_after_each(tmp_path: Path) -> None:
    """A run that ends anywhere has all rounds that were finished, and says that it is not whole."""
    scenario = table()[0]
    kept: list[schema.Report] = []
    collected = {"fastgate": Collected()}
    with Session(
        Options(rounds=2), on_points=lambda s: kept.append(report_of(s.points))
    ) as session:
        for visit, rate in enumerate((10.0, 20.0)):
            collected["fastgate"].put({"rps": rate}, visit)
            session.keep(scenario, collected)
    assert [p.metrics["rps"].rounds for report in kept for p in report.points] == [1, 2]
    command.save_tables(kept[-1], tmp_path)
    written = schema.read((tmp_path / "compare.json").read_bytes())
    assert written == kept[-1]
    assert not written.complete
    assert "not complete" in (tmp_path / "compare.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compare.json", "compare.md"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    command_line = [
        sys.executable, "-m", "benchmarks.compare", "--only", "saturation", "--subject", "relay",
        "--subject", "direct", "--rounds", "100", "--window", "0.2",
        "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            command_line,
            cwd=Path(__file__).parents[2],
            stderr=said,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    try:
        while not (tmp_path / "out" / "compare.json").exists():
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.01)
        family = tree_of(process.pid)
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert len(family) > 1  # the backend at least
    assert not [pid for pid in family if runs(pid)]
    assert not list(tmp_path.glob("fastgate-compare-*"))
    report = schema.read((tmp_path / "out" / "compare.json").read_bytes())
    assert not report.complete
    assert all(s.rounds >= 1 for p in report.points for s in p.metrics.values())


def test_an_interruption_that_was_swallowed_is_remembered() -> None:
    with command.interruptible() as interruption:
        interruption.check()
        with contextlib.suppress(KeyboardInterrupt):  # as a callback of Python's own would
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_a_run_without_scenarios_writes_its_files(tmp_path: Path) -> None:
    assert command.main(["--only", "none-such", "--output", str(tmp_path), "--quick"]) == 0
    report = schema.read((tmp_path / "compare.json").read_bytes())
    assert report.points == []
    assert all(b.met is None for b in report.verdict)
    assert (tmp_path / "compare.md").read_text().startswith("# FastGate")
