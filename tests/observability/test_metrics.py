"""The metrics exposition: what was counted is what is told, in both formats, bounded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate import __version__
from fastgate._core.reason import Reason
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.log_records import write_numbered
from fastgate._core.testing.worker_counts import count_request, count_worker
from fastgate.errors import OWN_STATUS, REASONS
from fastgate.observability import metrics as module
from fastgate.observability.accesslog import AccessLog
from fastgate.observability.metrics import FAMILIES, Metrics, escape, process_memory
from fastgate.runtime.control.acme import ACME_FAMILIES
from fastgate.runtime.control.certificates import CERTIFICATE_FAMILIES
from fastgate.runtime.control.gauges import MONEY_FAMILIES
from fastgate.runtime.control.issuers import ISSUER_FAMILIES
from fastgate.runtime.control.names import DNS_FAMILIES
from fastgate.runtime.control.status_metrics import STATUS_FAMILIES

ROWS = 6
NAMES = {0: "orders", 1: "users", 2: "static"}
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def segment(workers: int = 2) -> Segment:
    return Segment.create(
        workers,
        limiter_cells=64,
        quota_cells=64,
        targets=8,
        route_rows=ROWS,
        concurrency_cells=16,
        log_records=8,
    )


def unescape(value: str) -> str:
    return re.sub(r'\\(["\\n])', lambda m: "\n" if m[1] == "n" else m[1], value)


def parse(text: bytes) -> Samples:
    """Read an exposition as a strict reader would; a sample that comes twice is an error."""
    found: Samples = {}
    typed: dict[str, str] = {}
    family = ""
    for line in text.decode().split("\n")[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in typed
            typed[family] = kind
        elif line.startswith("#"):
            assert line.startswith("# HELP ") or line == "# EOF"
        else:
            match = SAMPLE.match(line)
            assert match is not None, line
            name, labels, value = match[1], match[2] or "", match[3]
            assert name.startswith(family), (name, family)
            assert "".join(m[0] for m in LABEL.finditer(labels)) == labels, line
            key = tuple((m[1], unescape(m[2])) for m in LABEL.finditer(labels))
            assert (name, key) not in found, line
            found[name, key] = float(value)
    return found


def rendered(s: Segment, routes: dict[int, str] | None = None, **options: int) -> Samples:
    return parse(Metrics(s, **options).render(NAMES if routes is None else routes))


def of(samples: Samples, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by the values of their labels."""
    return {
        tuple(value for _, value in labels): number
        for (sample, labels), number in samples.items()
        if sample == name
    }


def test_an_idle_gateway_has_an_exposition_too() -> None:
    samples = rendered(segment())
    assert of(samples, "fastgate_requests_total") == {}
    assert of(samples, "fastgate_generation") == {(): 0}
    assert of(samples, "fastgate_connections") == {("0",): 0, ("1",): 0}
    (labels,) = of(samples, "fastgate_build_info")
    assert labels[0] == __version__


def test_requests_by_route_status_and_reason() -> None:
    s = segment()
    for worker in (0, 1):
        count_request(s, worker, 0, 200)
    count_request(s, 0, 0, 299)
    count_request(s, 0, 1, 429, reason=60)
    count_request(s, 0, 1, 0, reason=100)
    count_request(s, 0, 1, 500, reason=160)
    count_request(s, 1, 2, 0)
    count_request(s, 1, 4_000_000_000, 404, reason=50)
    assert of(rendered(s), "fastgate_requests_total") == {
        ("orders", "200", ""): 2,
        ("orders", "2xx", ""): 1,
        ("users", "429", "rate_limited"): 1,
        ("users", "none", "client_closed"): 1,
        ("users", "other", "other"): 1,
        ("static", "other", ""): 1,
        ("other", "404", "no_route"): 1,
    }


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.code)
def test_each_reason_comes_with_its_status(reason: module.NamedTuple) -> None:
    s = segment(1)
    count_request(s, 0, 0, 0, reason=reason.number)
    status = str(reason.status) if reason.status else "none"
    if reason.code in OWN_STATUS:
        status = "configured"
    assert of(rendered(s), "fastgate_requests_total") == {("orders", status, reason.code): 1}


def test_histograms_are_cumulative_and_end_with_everything() -> None:
    s = segment()
    durations = [1, 15_999, 16_000, 100_000, 5_000_000, 70_000_000_000, 2**62]
    for n, ns in enumerate(durations):
        count_request(s, n % 2, 0, 200, gateway_ns=ns, total_ns=ns, upstream_ns=ns)
    samples = rendered(s)
    for name in ("gateway", "upstream", "request"):
        buckets = of(samples, f"fastgate_{name}_seconds_bucket")
        values = list(buckets.values())
        assert values == sorted(values)
        for (route, le), count in buckets.items():
            assert route == "orders"
            assert count == sum(ns / 1e9 < float(le) for ns in durations), le
        assert of(samples, f"fastgate_{name}_seconds_count") == {("orders",): len(durations)}
        total = of(samples, f"fastgate_{name}_seconds_sum")["orders",]
        assert total == pytest.approx(sum(durations) / 1e9)
        assert ("orders", "+Inf") in buckets
        assert 15 <= len(buckets) <= 20


def test_no_upstream_no_histogram_of_it() -> None:
    s = segment(1)
    count_request(s, 0, 0, 200, total_ns=5)
    samples = rendered(s)
    assert of(samples, "fastgate_upstream_seconds_count") == {}
    assert of(samples, "fastgate_request_seconds_count") == {("orders",): 1}


def test_bytes() -> None:
    s = segment()
    count_request(s, 0, 0, 200, bytes_in=10, bytes_out=100)
    count_request(s, 1, 0, 200, bytes_in=5, bytes_out=2**50)
    samples = rendered(s)
    assert of(samples, "fastgate_request_bytes_total") == {("orders",): 15}
    assert of(samples, "fastgate_response_bytes_total") == {("orders",): 2**50 + 100}


def test_faults_that_were_injected() -> None:
    s = segment()
    fault = int(Reason.FAULT_INJECTED)
    count_request(s, 0, 0, 418, reason=fault, aborts=1, delays=1)
    count_request(s, 1, 0, 200, delays=2)
    count_request(s, 1, 1, 200)
    samples = rendered(s)
    assert of(samples, "fastgate_faults_injected_total") == {
        ("orders", "delay"): 3,
        ("orders", "abort"): 1,
    }
    # The status is the route's own, which the count by reason does not have.
    assert of(samples, "fastgate_requests_total")["orders", "configured", "fault_injected"] == 1


def test_requests_that_were_shed() -> None:
    s = segment()
    overloaded = int(Reason.OVERLOADED)
    count_request(s, 0, 0, 503, reason=overloaded, shed=1)
    count_request(s, 1, 0, 503, reason=overloaded, shed=1)
    count_request(s, 1, 1, 503, reason=overloaded)
    assert of(rendered(s), "fastgate_shed_total") == {("orders",): 2}


def test_routes_past_the_bound_and_routes_that_are_gone_are_the_other_one() -> None:
    s = segment(1)
    for slot in (0, 1, 2, 3, 5):
        count_request(s, 0, slot, 200, total_ns=slot, bytes_in=1)
    samples = rendered(s, {0: "a", 2: "c", 1: "b"}, max_routes=2)
    assert of(samples, "fastgate_requests_total") == {
        ("a", "200", ""): 1,
        ("b", "200", ""): 1,
        ("other", "200", ""): 3,
    }
    assert of(samples, "fastgate_request_seconds_count")["other",] == 3
    assert of(samples, "fastgate_request_seconds_sum")["other",] == pytest.approx(10e-9)
    assert of(samples, "fastgate_request_bytes_total")["other",] == 3


def test_a_route_that_is_called_other_does_not_break_the_exposition() -> None:
    s = segment(1)
    count_request(s, 0, 0, 200)
    count_request(s, 0, 5, 200)
    samples = rendered(s, {0: "other"})
    assert of(samples, "fastgate_requests_total") == {("other", "200", ""): 2}


@given(st.text(max_size=20))
def test_any_route_name_comes_through(name: str) -> None:
    s = segment(1)
    count_request(s, 0, 0, 200)
    assert ("request", name) == ("request", unescape(escape(name)))
    (labels,) = of(rendered(s, {0: name}), "fastgate_requests_total")
    assert labels[0] == name


def test_workers_have_their_own_series() -> None:
    s = segment()
    row = s.worker_row(1)
    row.pid, row.state, row.connections, row.in_flight = os.getpid(), 2, 12, 3
    row.upstream_idle, row.starts, row.generation = 4, 2, 9
    row.upcalls, row.streams, row.load_permille = 21, 22, 1250
    row.heartbeat_ns = 1
    s.generation = 10
    for name, n in (
        ("accepted", 20), ("closed", 8), ("upstream_connects", 5), ("upstream_reused", 60),
        ("upstream_connect_failures", 1), ("retries", 2), ("parse_errors", 7), ("refused", 6),
        ("limiter_allowed", 50), ("limiter_refused", 5), ("quota_allowed", 40),
        ("quota_refused", 4), ("concurrency_refused", 3), ("upcalls", 11), ("polls", 13),
        ("upcalls_rejected", 14), ("tunnels", 15), ("ejections", 16),
        ("streams", 17), ("streams_rejected", 18), ("connections_refused", 23),
        ("connections_uncounted", 24), ("handshakes_refused", 25), ("handshakes_dropped", 26),
        ("bad_proxy_headers", 27), ("queued", 28), ("queue_refused", 29), ("queue_timeouts", 30),
    ):  # fmt: skip
        count_worker(s, 1, name, n)
    count_worker(s, 0, "upcall_lag", 3_000_000)
    samples = rendered(s)
    for name, value in (
        ("connections", 12), ("requests_in_flight", 3), ("upstream_idle_connections", 4),
        ("connections_accepted_total", 20), ("connections_closed_total", 8),
        ("upstream_connects_total", 5), ("upstream_connect_failures_total", 1),
        ("upstream_reused_total", 60), ("retries_total", 2), ("parse_errors_total", 7),
        ("refused_total", 6), ("upcalls_total", 11), ("upcalls_rejected_total", 14),
        ("tunnels_total", 15), ("ejections_total", 16), ("polls_total", 13),
        ("streams_total", 17), ("streams_rejected_total", 18), ("upcalls", 21), ("streams", 22),
        ("worker_generation", 9), ("worker_starts_total", 2), ("worker_up", 1),
        ("connections_uncounted_total", 24), ("upstream_queued_total", 28),
        ("worker_load_ratio", 1.25),
    ):  # fmt: skip
        assert of(samples, f"fastgate_{name}") == {("0",): 0, ("1",): value}, name
    decisions = of(samples, "fastgate_limit_decisions_total")
    assert {labels[1:]: n for labels, n in decisions.items() if labels[0] == "1"} == {
        ("rate", "allowed"): 50, ("rate", "refused"): 5, ("quota", "allowed"): 40,
        ("quota", "refused"): 4, ("concurrency", "refused"): 3,
    }  # fmt: skip
    queues = of(samples, "fastgate_upstream_queue_refused_total")
    assert {labels[1]: n for labels, n in queues.items() if labels[0] == "1"} == {
        "full": 29, "timeout": 30,
    }  # fmt: skip
    refused = of(samples, "fastgate_connections_refused_total")
    assert {labels[1:]: n for labels, n in refused.items() if labels[0] == "1"} == {
        ("connections",): 23, ("handshakes",): 25, ("caps_handshakes",): 26,
        ("proxy_protocol",): 27,
    }  # fmt: skip
    assert of(samples, "fastgate_generation") == {(): 10}
    assert of(samples, "fastgate_upcall_lag_seconds_count") == {(): 1}
    assert of(samples, "fastgate_upcall_lag_seconds_bucket")[("0.004096",)] == 1
    (age,) = of(samples, "fastgate_worker_heartbeat_age_seconds").items()
    assert age[0] == ("1",)
    assert age[1] > 0


def test_a_worker_is_up_only_while_it_serves() -> None:
    s = segment(1)
    row = s.worker_row(0)
    up = []
    for pid, state in ((0, 0), (5, 1), (5, 2), (5, 3), (0, 2)):
        row.pid, row.state = pid, state
        up.append(of(rendered(s), "fastgate_worker_up")["0",])
    assert up == [0, 0, 1, 0, 0]


def test_losses_of_the_log_are_shown() -> None:
    s = segment()
    write_numbered(s, 1, 0, 20)
    log = AccessLog(s)
    try:
        samples = parse(Metrics(s, access_log=log).render({}))
    finally:
        log.close()
    assert of(samples, "fastgate_log_records_total") == {("0",): 0, ("1",): 8}
    assert of(samples, "fastgate_log_dropped_total") == {("0",): 0, ("1",): 1}
    for name in ("lost_lines", "errors", "damaged"):
        assert of(samples, f"fastgate_log_{name}_total") == {(): 0}


def test_memory_of_the_processes() -> None:
    s = segment(1)
    s.worker_row(0).pid = os.getpid()
    samples = parse(Metrics(s).render({}, processes={"control": os.getpid(), "gone": 2**22 + 1}))
    memory = of(samples, "fastgate_process_memory_bytes")
    assert set(memory) == {("worker-0",), ("control",)}
    assert all(1 << 20 < value < 1 << 32 for value in memory.values())
    assert process_memory(2**22 + 1) is None


def test_memory_is_shown_if_the_kernel_has_no_smaps_rollup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(path: str, **more: Any) -> Any:
        if path.endswith("smaps_rollup"):
            raise FileNotFoundError(path)
        return open(path, **more)

    monkeypatch.setattr(module, "open", without, raising=False)
    memory = process_memory(os.getpid())
    assert memory is not None
    assert memory > 1 << 20


def test_validations_are_shown_for_the_routes_that_have_any() -> None:
    s = segment()
    count_request(s, 0, 0, 200, validated=1)
    count_request(s, 1, 0, 201, validated=1)
    count_request(s, 1, 0, 400, reason=Reason.REQUEST_INVALID)
    count_request(s, 0, 1, 200)
    count_request(s, 0, 2, 400, reason=Reason.REQUEST_INVALID)
    shown = {
        dict(labels)["route"] + " " + dict(labels)["result"]: value
        for (name, labels), value in parse(Metrics(s).render(NAMES)).items()
        if name == "fastgate_validations_total"
    }
    assert shown == {
        "orders passed": 2,
        "orders refused": 1,
        "static passed": 0,
        "static refused": 1,
    }


def test_everything_has_help_and_a_type_and_nothing_undeclared_comes() -> None:
    s = segment()
    count_request(
        s, 0, 0, 200, gateway_ns=5, total_ns=5, upstream_ns=5, delays=1, mirrored=(1,), shed=1
    )
    count_request(s, 0, 0, 400, reason=Reason.REQUEST_INVALID)
    count_request(s, 0, 3, 200, total_ns=5)
    count_worker(s, 0, "upcall_lag", 5)
    s.worker_row(0).pid = os.getpid()
    s.worker_row(0).heartbeat_ns = 1
    log = AccessLog(s)
    try:
        text = Metrics(s, access_log=log).render(NAMES, splits={3: ("a", "b")}).decode()
    finally:
        log.close()
    told = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    assert told == [(family.name, family.type) for family in FAMILIES]
    assert [name for name, _ in re.findall(r"^# HELP (\S+) (.+)$", text, re.M)] == [
        name for name, _ in told
    ]
    for name, kind in told:
        assert name.endswith("_total") == (kind == "counter")


def test_the_processes_are_this_one_and_its_parent() -> None:
    assert module.own_processes() == {"supervisor": os.getppid(), "control": os.getpid()}


def test_the_documentation_names_every_metric() -> None:
    page = Path(__file__).parents[2] / "docs" / "observability.md"
    rows = re.findall(r"^\| `(fastgate_\w+)` \| (\w+) \|", page.read_text(), re.M)
    families = [
        *FAMILIES,
        *STATUS_FAMILIES,
        *DNS_FAMILIES,
        *CERTIFICATE_FAMILIES,
        *ACME_FAMILIES,
        *ISSUER_FAMILIES,
        *MONEY_FAMILIES,
    ]
    assert rows == [(family.name, family.type) for family in families]


def test_samples_of_others_stand_after_ours_by_family() -> None:
    mine = module.Family("fastgate_mine", "gauge", "Mine.")
    samples = [module.Sample(mine, f'of="{n}"', n) for n in range(2)]
    with_more = Metrics(segment()).render({}, more=samples).decode()
    assert with_more.endswith(
        "# HELP fastgate_mine Mine.\n# TYPE fastgate_mine gauge\n"
        'fastgate_mine{of="0"} 0\nfastgate_mine{of="1"} 1\n'
    )


def test_services_of_splits_are_no_routes() -> None:
    s = segment()
    splits = {2: ("orders", "orders"), 3: ("orders", "orders-v2")}
    for slot, status in ((0, 200), (2, 200), (0, 503), (3, 503)):
        count_request(s, 0, slot, status, total_ns=1_000_000)
    samples = parse(Metrics(s).render({0: "orders"}, splits=splits))
    assert of(samples, "fastgate_requests_total") == {
        ("orders", "200", ""): 1,
        ("orders", "503", ""): 1,
    }
    assert of(samples, "fastgate_split_total") == {
        ("orders", "orders", "200", ""): 1,
        ("orders", "orders-v2", "503", ""): 1,
    }
    assert of(samples, "fastgate_split_seconds_count") == {
        ("orders", "orders"): 1,
        ("orders", "orders-v2"): 1,
    }


def test_mirrored_requests_are_shown_for_the_routes_that_have_any() -> None:
    s = segment()
    count_request(s, 0, 0, 200, mirrored=(1, 0, 0, 0))
    count_request(s, 1, 0, 200, mirrored=(1, 2, 3, 4))
    count_request(s, 0, 1, 200)
    assert of(rendered(s), "fastgate_mirrored_total") == {
        ("orders", "sent"): 2,
        ("orders", "failed"): 2,
        ("orders", "dropped"): 3,
        ("orders", "too_long"): 4,
    }
