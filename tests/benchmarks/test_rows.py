"""Scenarios, really run: a moment each, and the shape of what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import subjects
from benchmarks.compare.gateway import FastGate
from benchmarks.compare.generator import LoadFailed
from benchmarks.compare.machine import available_cores, place
from benchmarks.compare.nginx import Nginx
from benchmarks.compare.peers import Relay
from benchmarks.compare.processes import Tree
from benchmarks.compare.ratios import all_ratios
from benchmarks.compare.scenarios import Scenario, table
from benchmarks.compare.schema import METRICS, Point
from benchmarks.compare.session import Options, Session, in_turn
from benchmarks.compare.sidecar import run_sidecar
from benchmarks.compare.subjects import (
    Setup,
    Subject,
    Unavailable,
    free_port,
    probe,
    release_port,
)
from benchmarks.tools import tool

pytestmark = pytest.mark.usefixtures("compiled_tools")

MOMENT = Options(rounds=1, window=1.0, warmup=0.1, quick=True)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(MOMENT) as session:
        yield session


def scenario(name: str, *subjects: str) -> Scenario:
    """A scenario of the table, with only these of its subjects."""
    (found,) = (s for s in table() if s.name == name)
    assert set(subjects) <= set(found.subjects)
    return dataclasses.replace(found, subjects=subjects)


def run(session: Session, wanted: Scenario) -> dict[str, Point]:
    """The points of a run, by subject."""
    if place(session.cores, wanted.workers) is None:
        pytest.skip("needs two processors")
    session.run(wanted)
    assert session.skipped == []
    points = {p.subject: p for p in session.points}
    assert set(points) == set(wanted.subjects)
    for point in points.values():
        assert set(point.statuses) == {"200"}
        assert not any(point.errors.values()), point.errors
        assert set(point.metrics) <= set(METRICS)
        assert (point.scenario, point.mode) == (wanted.name, wanted.mode)
    return points


def parts_add_up(point: Point) -> None:
    """User and system make the whole, of the tree and of its workers."""
    total, user, system, worker, worker_user = (
        point.metrics[name].median
        for name in ("cpu_us", "cpu_user_us", "cpu_system_us", "worker_cpu_us", "worker_user_us")
    )
    assert user + system == pytest.approx(total, abs=0.001)
    assert 0 <= worker_user <= worker <= total + 0.001


def test_one_connection_is_a_closed_loop_of_one(session: Session) -> None:
    point = run(session, scenario("connections-1", "relay"))["relay"]
    assert (point.connections, point.visits) == (1, [0])
    assert "rate" not in point.metrics
    parts_add_up(point)


def test_partial_load_sends_at_its_own_rate(session: Session) -> None:
    """Not at half of a saturation, of which there is none."""
    points = run(session, scenario("partial-load", "relay", "direct"))
    assert {p.connections for p in points.values()} == {1000}
    assert {p.metrics["rate"].median for p in points.values()} == {8000}
    assert points["relay"].metrics["added_p50_us"].rounds == 1
    # what was due was sent, however late the answers came
    due = 8000 * (MOMENT.warmup + MOMENT.window)
    assert sum(points["direct"].statuses.values()) == due
    parts_add_up(points["relay"])


def test_a_connection_for_each_request(session: Session) -> None:
    wanted = scenario("connection-per-request", "relay")
    placement = place(session.cores, 1)
    assert placement
    assert "--close" in session.plan(wanted, 1, placement).arguments()
    parts_add_up(run(session, wanted)["relay"])


def test_bodies_are_posted(session: Session) -> None:
    wanted = scenario("post-16k", "relay")
    placement = place(session.cores, 1)
    assert placement
    arguments = session.plan(wanted, 1, placement).arguments()
    assert arguments[arguments.index("--body") + 1] == "16384"
    point = run(session, wanted)["relay"]
    assert (point.request_body, point.body) == (16_384, 100)
    parts_add_up(point)


def test_a_small_gateway_is_measured_by_process(session: Session) -> None:
    wanted = scenario("sidecar", "fastgate")
    if place(session.cores, 1) is None:
        pytest.skip("needs two processors")
    run_sidecar(session, wanted)
    assert session.skipped == []
    (point,) = session.points
    assert (point.scenario, point.mode) == ("sidecar", "sidecar")
    assert point.visits == [0]
    parts = {f"{name}_pss_mib" for name in ("supervisor", "worker", "control")}
    assert parts <= set(point.metrics)
    assert sum(point.metrics[name].median for name in parts) == pytest.approx(
        point.metrics["idle_pss_mib"].median, abs=0.5
    )


def test_unix_sockets_are_set_beside_tcp_by_pairs() -> None:
    wanted = dataclasses.replace(scenario("upstreams-unix", "relay-unix", "relay"), turns=3)
    with Session(dataclasses.replace(MOMENT, quick=False)) as session:
        points = run(session, wanted)
    assert [p.visits for p in points.values()] == [[0, 1, 2]] * 2
    (ratio,) = all_ratios(list(points.values()), [wanted])
    assert (ratio.over, ratio.under) == ("relay-unix", "relay")
    assert 1 <= ratio.pairs <= 3
    assert 0 < ratio.low <= ratio.lower <= ratio.median <= ratio.upper <= ratio.high


@pytest.mark.parametrize("subject", [Relay(unix=True), Nginx(unix=True), FastGate(unix=True)])
def test_a_subject_of_unix_sockets_needs_no_tcp_upstream(subject: Subject, tmp_path: Path) -> None:
    try:
        subject.version()
    except Unavailable as e:
        pytest.skip(str(e))
    port, nobody, spare = free_port(), free_port(), free_port()
    socket = f"{tmp_path}/s"
    setup = Setup(
        port=port, backend=nobody, folder=tmp_path / "proxy", socket=socket, spare=spare,
        descriptors=2000,
    )  # fmt: skip
    command = [str(tool("backend")), f"127.0.0.1:{free_port()}", f"unix:{socket}"]
    cores = tuple(available_cores())
    with (
        Tree(command, cores=cores, folder=tmp_path),
        subject.start(setup, cores),  # NotServing without a 200
    ):
        answer = probe(port)
    assert answer is not None
    assert answer.status == 200
    release_port(port, nobody, spare)


def test_programs_at_once_begin_at_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "_handed_out", set())
    found = []
    for pid in range(500, 510):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        found.append(free_port())
        subjects._handed_out.clear()  # another program knows nothing of it
    assert len(set(found)) == 10
    assert set(found) <= set(subjects.PORTS)
    assert free_port() != free_port()


def test_a_visit_that_fails_is_void_and_its_neighbours_count(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = dataclasses.replace(scenario("windows", "relay"), turns=3)
    session.options = dataclasses.replace(session.options, quick=False)
    failures = iter([True, False, True])
    measure = session.measure

    def sometimes(*given: Any) -> Any:
        if next(failures):
            raise LoadFailed("no request was answered in the window")
        return measure(*given)

    monkeypatch.setattr(session, "measure", sometimes)
    point = run(session, wanted)["relay"]
    assert point.visits == [1]
    assert "a visit is void: no request was answered in the window" in point.notes


def test_what_failed_each_time_is_not_measured(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = dataclasses.replace(scenario("windows", "relay"), turns=2)

    def never(*_: object) -> None:
        raise LoadFailed("load ended with 2: no word")

    monkeypatch.setattr(session, "measure", never)
    session.run(wanted)
    assert session.points == []
    assert [(s.subject, s.reason) for s in session.skipped] == [
        ("relay", "load ended with 2: no word")
    ]


@given(st.integers(1, 7))
def test_nobody_is_always_first(count: int) -> None:
    orders = [in_turn(range(count), turn) for turn in range(2 * count)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert [sum(order[0] == one for order in orders) for one in range(count)] == [2] * count
    for one in range(count):
        for other in range(one):
            assert sum(order.index(one) < order.index(other) for order in orders) == count


def test_windows_alternate_among_gateways_that_all_run(session: Session) -> None:
    """Half a second each at most, however long the other windows are; ratios by pairs."""
    wanted = scenario("windows", "fastgate-policies", "fastgate", "relay")
    placement = place(session.cores, 1)
    assert placement
    long = Session(Options(window=2.5, warmup=0.5))
    with long:
        plan = long.plan(wanted, 1, placement)
    assert (plan.duration, plan.warmup) == (0.5, 0.1)
    assert long.turns(wanted) >= 40
    assert long.turns(wanted) % (2 * len(wanted.subjects)) == 0  # every order as often
    points = run(session, wanted)
    found = all_ratios(list(points.values()), [wanted])
    assert [(r.over, r.under) for r in found] == list(wanted.ratios)
    for point in points.values():
        parts_add_up(point)
