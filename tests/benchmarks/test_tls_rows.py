"""The scenarios with TLS, really run: a moment each, by every proxy that is here."""

from __future__ import annotations

import dataclasses
import os
import ssl
from collections.abc import Iterator

import pytest

from benchmarks.compare import encryption, flood, report, schema, special, verdict
from benchmarks.compare.encryption import Tls, libssl_of
from benchmarks.compare.flood import run_flood
from benchmarks.compare.generator import LoadFailed
from benchmarks.compare.machine import facts, place
from benchmarks.compare.scenarios import SECURE, SUBJECTS, Scenario, table
from benchmarks.compare.schema import METRICS, Point, Spread
from benchmarks.compare.session import Options, Session
from benchmarks.compare.special import run_idle
from benchmarks.compare.subjects import Unavailable, connected

pytestmark = pytest.mark.usefixtures("compiled_tools")

MOMENT = Options(rounds=1, window=0.5, warmup=0.2, quick=True, idle_connections=1000)
ROWS = [s for s in table() if s.name.startswith("tls")]
LOADS = [s.name for s in ROWS if s.mode == "closed"]


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(MOMENT) as session:
        if place(session.cores, 1) is None:
            pytest.skip("needs two processors")
        yield session


def scenario(name: str) -> Scenario:
    """A row, with the subjects that are installed."""
    (found,) = (s for s in ROWS if s.name == name)
    here = []
    for subject in found.subjects:
        try:
            SUBJECTS[subject].ready(build=False)
        except Unavailable:
            continue
        here.append(subject)
    return dataclasses.replace(found, subjects=tuple(here))


def points_of(session: Session, wanted: Scenario) -> dict[str, Point]:
    assert session.skipped == []
    points = {p.subject: p for p in session.points}
    assert set(points) == set(wanted.subjects)
    for point in points.values():
        assert set(point.statuses) == ({"200"} if point.mode != "idle" else set())
        assert not any(point.errors.values()), point.errors
        assert set(point.metrics) <= set(METRICS)
    return points


def test_every_row_compares_the_same_proxies() -> None:
    assert {s.subjects for s in ROWS} == {SECURE}
    assert all(s.tls is not None or s.upstream_tls for s in ROWS)


@pytest.mark.parametrize("name", LOADS)
def test_a_row_measures_what_it_says(session: Session, name: str) -> None:
    wanted = scenario(name)
    session.run(wanted)
    for subject, point in points_of(session, wanted).items():
        made = point.metrics
        assert ("handshakes_per_core" in made) is wanted.fresh
        if wanted.fresh:
            assert made["handshakes_per_core"].median == pytest.approx(
                1_000_000 / made["cpu_us"].median, rel=0.001
            )
            assert made["handshakes"].median > 0
        if wanted.upstream_tls:  # the first visit makes all connections
            assert 1 <= made["upstream_handshakes"].median <= 1000
        assert "libssl" in session.libssl[subject]


def test_idle_connections_over_tls_need_more_than_clear_ones(session: Session) -> None:
    wanted = scenario("tls-idle")
    run_idle(session, wanted)
    for point in points_of(session, wanted).values():
        assert point.metrics["connection_bytes"].median > 4096  # a session of libssl alone
        assert point.connections == 1000


def test_a_flood_of_halves_is_survived(session: Session) -> None:
    wanted = scenario("tls-flood")
    run_flood(session, wanted)
    for point in points_of(session, wanted).values():
        made = {name: spread.median for name, spread in point.metrics.items()}
        assert made["flood_added_us"] == pytest.approx(
            made["flood_p99_us"] - made["calm_p99_us"], abs=0.001
        )
        assert made["hellos"] >= flood.TOO_FEW
        assert made["flood_failed"] == 0


def test_what_is_no_flood_does_not_count(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = scenario("tls-flood")
    monkeypatch.setattr(flood, "TOO_FEW", 10_000_000)
    run_flood(session, wanted)
    assert session.points == []
    assert {s.subject for s in session.skipped} == set(wanted.subjects)
    assert all(s.reason.startswith("no flood: {") for s in session.skipped)


def test_a_flood_that_cannot_run_is_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = dataclasses.replace(scenario("tls-flood"), tls=Tls(version="1.1"))
    begun = session.begin(wanted, 1)
    assert begun is not None
    setup = special.Setup(port=9, backend=0, folder=session.root)
    with (
        pytest.raises(LoadFailed, match="did not begin"),
        flood.flooding(setup, wanted, begun[0], 0.2),
    ):
        pass


def test_a_proxy_that_agrees_to_something_else_is_void(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All agree to the one thing that is offered; so another key is expected afterwards."""
    wanted = scenario("tls")
    monkeypatch.setitem(encryption.SEEN_KEYS, "ecdsa", "EC-384")
    session.run(wanted)
    assert session.points == []
    assert all("agreed on TLSv1.3" in s.reason for s in session.skipped)
    assert {s.subject for s in session.skipped} == set(wanted.subjects)


def test_without_openssl_rows_are_skipped_with_the_reason(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: None if name == "openssl" else name)
    wanted = scenario("tls")
    session.run(wanted)
    assert session.points == []
    assert {s.reason for s in session.skipped} == {"no certificates: apt-get install openssl"}
    # and the backend serves without: clear rows go on
    placement = place(session.cores, 1)
    assert placement
    assert session.backend(placement).alive()


def test_the_backend_of_a_session_counts_handshakes(session: Session) -> None:
    placement = place(session.cores, 1)
    assert placement
    backend = session.backend(placement)
    while backend.alive():
        try:
            before = session.upstream_handshakes()
            break
        except ConnectionRefusedError:
            continue
    with connected(session.backend_tls_port, tls=True) as s:
        assert isinstance(s, ssl.SSLSocket)
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 200")
    assert session.upstream_handshakes() == before + 1


def test_a_process_says_which_libssl_it_has() -> None:
    """Python's own, by what its module says."""
    assert libssl_of([]) == ""
    found = libssl_of([os.getpid()])
    assert not found or ssl.OPENSSL_VERSION in found


# ---- verdict and report ----------------------------------------------------------------------


def a_point(scenario: str, subject: str, mode: str, **metrics: float) -> Point:
    return Point(
        scenario=scenario, subject=subject, workers=1, connections=64, body=100, mode=mode,
        metrics={name: Spread.of([value]) for name, value in metrics.items()},
        statuses={"200": 1}, errors={},
    )  # fmt: skip


def points() -> list[Point]:
    """FastGate at 0.84 of nginx and 0.81 of HAProxy, at 0.98 and 0.97 of their handshakes."""
    made = [a_point("saturation", "fastgate", "closed", cpu_us=5.5)]
    for subject, cpu, rate in (("fastgate", 8.4, 980.0), ("nginx", 10.0, 1000.0),
                               ("haproxy", 8.4 / 0.81, 980 / 0.97)):  # fmt: skip
        made.append(a_point("tls", subject, "closed", cpu_us=cpu))
        for name in ("tls-handshakes", "tls-resumed"):
            made.append(a_point(name, subject, "closed", cpu_us=1e6 / rate,
                                handshakes_per_core=rate))  # fmt: skip
    made.append(a_point("tls-idle", "fastgate", "idle", connection_bytes=16_384))
    made.append(a_point("tls-flood", "fastgate", "flood", flood_added_us=2001, hellos=1000,
                        calm_p99_us=100, flood_p99_us=2101, flood_failed=0, rate=1000))  # fmt: skip
    return made


def test_the_budgets_of_tls_are_judged() -> None:
    found = {b.budget: b for b in verdict.judge(points()) if b.figure is not None}
    assert [(b.budget, b.met) for b in found.values()] == [
        ("CPU per request over TLS / nginx", True),
        ("CPU per request over TLS / HAProxy", False),
        ("CPU per request over TLS, above clear HTTP", True),
        ("full handshakes a core / nginx", True),
        ("full handshakes a core / HAProxy", False),
        ("resumed handshakes a core / nginx", True),
        ("resumed handshakes a core / HAProxy", False),
        ("memory per idle TLS connection", True),
        ("p99 of others under a flood of half handshakes, above calm", False),
    ]
    assert found["CPU per request over TLS, above clear HTTP"].figure == 2.9
    assert found["memory per idle TLS connection"].figure == 16


@pytest.mark.parametrize(("other", "words"), [("A", "all on one libssl"), ("B", "**not all")])
def test_the_report_says_which_libssl(other: str, words: str) -> None:
    made = schema.Report(
        started="2030-01-01T00:00:00Z", seconds=1, options={}, machine=facts(), placement={},
        subjects=[
            schema.Subject(name=name, product=name, version="1", description="", libssl=libssl)
            for name, libssl in (("fastgate", "A"), ("nginx", other), ("relay", ""))
        ],
        points=points(), skipped=[], crosscheck={}, verdict=[],
    )  # fmt: skip
    text = report.markdown(schema.read(schema.write(made)), {s.name: s.title for s in table()})
    assert f"TLS: {words}" in text
    assert "relay:" not in text.partition("TLS:")[2].partition("\n")[0]
    by_title = {title: body for title, _, body in
                (section.partition("\n") for section in text.split("\n## "))}  # fmt: skip
    titles = {s.name: s.title for s in table()}
    assert "handshakes/s of a core" in by_title[titles["tls-resumed"]]
    assert "handshakes/s of a core" not in by_title[titles["tls"]]
    assert (
        "| fastgate | 1,000 | 1,000 | 100 | 2,101 | 2,001 | 0 | 1 |"
        in by_title[titles["tls-flood"]]
    )
