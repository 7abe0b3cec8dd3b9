"""What routes do with their traffic, as records of the image."""

from __future__ import annotations

from typing import Any

from compilerkit import BASE, NONE, compiled, one_route

from fastgate._core.snapshot.router import Router
from fastgate._core.snapshot.snapshot import PredicateKind, RouteFlag
from fastgate.config.slots import SlotBook


def with_new(document: dict[str, Any]) -> dict[str, Any]:
    """With a second service, `new`."""
    return {"services": [*BASE["services"], {"name": "new", "upstream": "up"}], **document}


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


def test_a_split_has_a_policy_for_each_of_its_services() -> None:
    route = {
        "name": "r",
        "paths": ["/a/{x}", "/b"],
        "service": "svc",
        "split": {
            "sticky": "cookie",
            "to": [
                {"service": "new", "weight": "12.5%"},
                {"service": "new", "when": {"query": {"x": "1"}}},
            ],
        },
        "mirror": {"service": "new", "share": "0.25%"},
    }
    document = {"routes": [route]}
    with compiled(with_new(document)) as snapshot:
        first, second = snapshot.route(0), snapshot.route(1)
        assert first["flags"] == second["flags"]
        assert first["flags"] == RouteFlag.ROUTE_SPLIT | RouteFlag.ROUTE_MIRROR
        record = snapshot.traffic(first["traffic"])
        split = record["split"]
        assert [snapshot.service(each["service"])["name"] for each in split] == [
            b"new", b"new", b"svc",
        ]  # fmt: skip
        assert [each["weight"] for each in split] == [125_000, 0, 875_000]
        assert [bool(each["tag"]) for each in split] == [True, False, False]
        assert [len(each["when"]) for each in split] == [0, 1, 0]
        assert split[0]["row"] == split[1]["row"] != split[2]["row"]
        assert first["slot"] not in {each["row"] for each in split}
        assert record["mirror_share"] == 2500
        assert snapshot.service(record["mirror_service"])["name"] == b"new"


def test_rows_of_a_split_stay_with_it() -> None:
    route = {
        "name": "r", "path": "/", "service": "svc", "split": [{"service": "new", "weight": "1%"}],
    }  # fmt: skip
    other = {"name": "q", "path": "/q", "service": "svc"}
    slots = SlotBook()
    rows = []
    for routes in ([route], [other, route], [other], [other, route]):
        with compiled(with_new({"routes": routes}), slots=slots) as snapshot:
            index = snapshot.routes().index("r") if "r" in snapshot.routes() else None
            if index is not None:
                record = snapshot.traffic(snapshot.route(index)["traffic"])
                rows.append([each["row"] for each in record["split"]])
    assert rows[0] == rows[1] == rows[2]


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
