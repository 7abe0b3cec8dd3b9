"""What routes do with their traffic, as records of the image."""

from __future__ import annotations

from compilerkit import NONE, compiled, one_route

from fastgate._core.snapshot.router import Router
from fastgate._core.snapshot.snapshot import PredicateKind, RouteFlag


def test_a_route_without_any_has_no_record() -> None:
    with compiled(one_route()) as snapshot:
        assert snapshot.route(0)["traffic"] == NONE
        assert snapshot.settings()["traffic"]["count"] == 0


def test_faults() -> None:
    when = {"headers": {"X-Chaos": "yes"}, "cookies": {"chaos": "1*"}}
    fault = {"delay": "1.5s", "delay_share": "5%", "abort": 429, "abort_share": "0.1%"}
    with compiled(one_route(fault={**fault, "when": when})) as snapshot:
        route = snapshot.route(0)
        assert route["flags"] == RouteFlag.ROUTE_FAULT
        record = snapshot.traffic(route["traffic"])
        assert record["delay_ns"] == 1_500_000_000
        assert (record["delay_permille"], record["abort_permille"]) == (50, 1)
        assert record["abort_status"] == 429
        assert [(p["kind"], p["name"], p["value"]) for p in record["fault_when"]] == [
            (PredicateKind.PREDICATE_HEADER_EQUALS, b"x-chaos", b"yes"),
            (PredicateKind.PREDICATE_COOKIE_PREFIX, b"chaos", b"1"),
        ]
    with compiled(one_route(fault={"abort": 503})) as snapshot:
        record = snapshot.traffic(snapshot.route(0)["traffic"])
        assert (record["delay_ns"], record["abort_permille"], record["fault_when"]) == (0, 1000, [])


def test_equal_records_are_there_once() -> None:
    routes = [
        {"name": f"r{i}", "path": f"/{i}", "service": "svc", "fault": {"abort": 500 + i % 2}}
        for i in range(6)
    ]
    with compiled({"routes": routes}) as snapshot:
        assert snapshot.settings()["traffic"]["count"] == 2
        assert snapshot.settings()["policies"]["count"] == 2
        found = [snapshot.traffic(snapshot.route(i)["traffic"])["abort_status"] for i in range(4)]
        assert found == [500, 501, 500, 501]


def test_cookies_are_predicates_of_routes_too() -> None:
    routes = [
        {"name": "beta", "path": "/x", "service": "svc", "match": {"cookies": {"beta": "*"}}},
        {"name": "all", "path": "/x", "service": "svc"},
    ]
    with compiled({"routes": routes}) as snapshot:
        router = Router(snapshot)
        headers = [("Cookie", "a=1; beta=2")]
        assert router.find(path="/x", headers=headers).name == "beta"
        assert router.find(path="/x", headers=[("Cookie", "a=beta")]).name == "all"


def test_maintenance_of_a_route_and_of_all() -> None:
    routes = [
        {"name": "own", "path": "/own", "service": "svc", "maintenance": {"message": "Own."}},
        {"name": "off", "path": "/off", "service": "svc", "maintenance": False},
        {"name": "open", "path": "/open", "service": "svc"},
        {"name": "too", "path": "/too", "service": "svc"},
    ]
    whole = {"retry_after": "1.5s", "allow": "10.0.0.0/8", "except": "open"}
    with compiled({"routes": routes, "maintenance": whole}) as snapshot:
        found = [snapshot.route(i) for i in range(4)]
        flags = [route["flags"] for route in found]
        closed = RouteFlag.ROUTE_MAINTENANCE
        assert flags == [closed, closed, 0, closed]
        assert found[1]["traffic"] == found[3]["traffic"]
        own, all_ = (snapshot.traffic(found[i]["traffic"]) for i in (0, 1))
        assert (own["maintenance_message"], own["maintenance_wait_s"]) == (b"Own.", 300)
        assert (all_["maintenance_message"], all_["maintenance_wait_s"]) == (b"", 2)
        network = b"\0" * 10 + b"\xff\xff" + bytes([10, 0, 0, 0])
        assert all_["maintenance_allow"] == [(network, 104, True)]


def test_marks_of_shedding_and_importance() -> None:
    routes = [
        {"name": level, "path": f"/{level}", "service": "svc", "importance": level}
        for level in ("low", "normal", "high")
    ]
    shed, first = RouteFlag.ROUTE_SHED, RouteFlag.ROUTE_SHED_FIRST
    marks = {"lag": "50ms", "buffers": "256MiB"}
    with compiled({"routes": routes, "shedding": marks}) as snapshot:
        assert [snapshot.route(i)["flags"] for i in range(3)] == [shed | first, shed, 0]
        settings = snapshot.settings()
        assert (settings["shed_lag_ns"], settings["shed_buffers"]) == (50_000_000, 256 << 20)
    with compiled({"routes": routes}) as snapshot:
        assert [snapshot.route(i)["flags"] for i in range(3)] == [0, 0, 0]
        assert (snapshot.settings()["shed_lag_ns"], snapshot.settings()["shed_buffers"]) == (0, 0)
