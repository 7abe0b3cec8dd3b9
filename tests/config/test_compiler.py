"""From a configuration to the image: what was said is what a worker finds."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
from compilerkit import BASE, NONE, compiled, one_route, refused

from fastgate._core.http.faults import FAULT_TEXTS
from fastgate._core.snapshot.router import Router
from fastgate._core.snapshot.snapshot import (
    AuthFlag,
    HeaderAction,
    LimitFlag,
    LimitKind,
    LimitScope,
    Period,
    PredicateKind,
    RouteFlag,
    SettingFlag,
    Snapshot,
    stable_hash,
)
from fastgate.config.compiler import SlotBook, compile_gateway
from fastgate.errors import REASONS
from fastgate.model import codec

# ---- routes ------------------------------------------------------------------------------


def test_a_plain_route() -> None:
    with compiled(one_route(path="/orders/{id}")) as snapshot:
        route = snapshot.route(0)
        assert route["name"] == b"r"
        assert route["pattern"] == b"/orders/{id}"
        assert route["params"] == [b"id"]
        assert route["service"] == 0
        assert (route["methods"], route["tokens"]) == (0, [])
        assert route["body_cap"] == 10 << 20
        assert [route[f] for f in ("handler", "static_response", "auth", "cors")] == [NONE] * 4
        assert (route["flags"], route["strip"], route["replace"], route["notice"]) == (
            0,
            0,
            b"",
            b"",
        )
        assert Router(snapshot).find(path="/orders/5").params == ("5",)


def test_methods_with_and_without_numbers() -> None:
    with compiled(one_route(methods=["GET", "PATCH", "PURGE"])) as snapshot:
        route = snapshot.route(0)
        assert route["methods"] == 1 << 1 | 1 << 9
        assert route["tokens"] == [b"PURGE"]
        router = Router(snapshot)
        assert router.find(path="/x", method="PURGE").status == 200
        assert router.find(path="/x", method="PUT").allowed == {"GET", "PATCH", ""}


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"encoded_slash": True}, RouteFlag.ROUTE_ENCODED_SLASH),
        ({"preserve_host": True}, RouteFlag.ROUTE_PRESERVE_HOST),
        ({"websocket": True}, RouteFlag.ROUTE_WEBSOCKET),
        ({"limit_headers": True}, RouteFlag.ROUTE_LIMIT_HEADERS),
        ({"log": False}, RouteFlag.ROUTE_LOG_OFF),
        ({"retired": True}, RouteFlag.ROUTE_RETIRED),
        ({"openai_errors": True}, RouteFlag.ROUTE_OPENAI_ERRORS),
    ],
)
def test_flags(fields: dict[str, Any], flag: RouteFlag) -> None:
    with compiled(one_route(**fields)) as snapshot:
        assert snapshot.route(0)["flags"] == flag


@pytest.mark.parametrize(
    ("own", "flags", "all_of_them"), [(None, 8, 1), (True, 8, 1), (False, 0, 0)]
)
def test_limit_headers_on_all_routes_and_the_exception(
    own: bool | None, flags: int, all_of_them: int
) -> None:
    document = {**one_route(limit_headers=own), "headers": {"rate_limits": True}}
    with compiled(document) as snapshot:
        assert snapshot.route(0)["flags"] == flags
        assert snapshot.settings()["flags"] & 1 == all_of_them


@pytest.mark.parametrize(
    ("path", "rewrite", "expected"),
    [
        ("/api/v1/{rest*}", {"strip_prefix": "/api"}, (4, b"")),
        ("/api/v1/{rest*}", {"strip_prefix": "/api/"}, (4, b"")),
        ("/api/{rest*}", {"strip_prefix": "/api", "replace_prefix": "/v2/"}, (4, b"/v2")),
        ("/api/{rest*}", {"replace_prefix": "/base"}, (0, b"/base")),
        ("/api", {"strip_prefix": "/api", "replace_prefix": "/"}, (4, b"")),
        ("/%61pi/{rest*}", {"strip_prefix": "/%61pi"}, (4, b"")),
    ],
)
def test_rewriting(path: str, rewrite: dict[str, str], expected: tuple[int, bytes]) -> None:
    with compiled(one_route(path=path, rewrite=rewrite)) as snapshot:
        route = snapshot.route(0)
        assert (route["strip"], route["replace"]) == expected


def test_stripping_half_a_segment_is_refused() -> None:
    error = refused(one_route(path="/files/{rest*}", rewrite={"strip_prefix": "/fi"}))
    assert error.path == "routes[0].rewrite.strip_prefix"
    assert "within a segment" in error.message


def test_handlers_fixed_responses_and_notices() -> None:
    routes = [
        {"name": "h", "path": "/h", "handler": "pkg.mod:run"},
        {"name": "h2", "path": "/h2", "handler": "pkg.mod:run", "timeout": "250ms"},
        {"name": "f", "path": "/f", "respond": {"json": {"ok": True}}},
        {"name": "old", "path": "/old", "retired": True, "sunset": "2026-01-01"},
    ]
    with compiled({"routes": routes, "headers": {"server": "gate"}}) as snapshot:
        assert snapshot.handlers() == ["pkg.mod:run"]
        assert [snapshot.route(i)["handler"] for i in range(3)] == [0, 0, NONE]
        assert snapshot.route(1)["timeout_ms"] == 250
        static = snapshot.static(snapshot.route(2)["static_response"])
        assert static["status"] == 200
        assert static["body"] == b'{"ok":true}'
        assert b"\r\nServer: gate\r\n" in static["fields"]
        assert snapshot.route(3)["notice"] == b"Sunset: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        assert snapshot.route(3)["service"] == NONE


def test_predicates_are_the_same_in_any_order() -> None:
    one = {
        "headers": {"X-B": {"prefix": "1"}, "X-A": {"present": True}},
        "query": {"q": {"equals": "v"}},
    }
    other = {"headers": {"x-a": {"present": True}, "x-b": {"prefix": "1"}}, "query": one["query"]}
    with compiled(one_route(match=one)) as snapshot:
        predicates = snapshot.route(0)["predicates"]
        assert [(p["kind"], p["name"], p["value"]) for p in predicates] == [
            (PredicateKind.PREDICATE_HEADER_PRESENT, b"x-a", b""),
            (PredicateKind.PREDICATE_HEADER_PREFIX, b"x-b", b"1"),
            (PredicateKind.PREDICATE_QUERY_EQUALS, b"q", b"v"),
        ]
        router = Router(snapshot)
        headers = [("X-A", ""), ("x-b", "12")]
        assert router.find(path="/x", headers=headers, query="a=b&q=v").status == 200
        assert router.find(path="/x", headers=headers, query="q=w").status == 404
    both = [
        {"name": "one", "path": "/x", "service": "svc", "match": one},
        {"name": "other", "path": "/x", "service": "svc", "match": other},
    ]
    assert "'one' and 'other'" in refused({"routes": both}).message


def test_a_conflict_names_both_routes_and_the_place() -> None:
    routes = [
        {"name": "a", "path": "/o/{id}", "service": "svc", "methods": ["GET", "PUT"]},
        {"name": "b", "path": "/o/{key}", "service": "svc", "methods": ["POST"]},
        {"name": "c", "path": "/o/{other}", "service": "svc", "methods": ["PUT"]},
    ]
    error = refused({"routes": routes})
    assert error.path == "routes[2]"
    assert "'a' and 'c'" in error.message
    assert "/o/{id} and /o/{other}" in error.message
    routes[2]["priority"] = 1
    with compiled({"routes": routes}) as snapshot:
        assert Router(snapshot).find(path="/o/1", method="PUT").name == "c"


# ---- several paths -----------------------------------------------------------------------


def test_several_paths_are_one_route() -> None:
    paths = ["/orders", "/orders/{id}", "/v1/{version}/orders/{number}"]
    rewrite = {"replace_prefix": "/new"}
    with compiled(one_route(path=None, paths=paths, rewrite=rewrite)) as snapshot:
        assert snapshot.routes() == ["r"] * 3
        first, *others = [snapshot.route(i) for i in range(3)]
        assert [snapshot.route(i)["pattern"].decode() for i in range(3)] == paths
        for other in others:
            for name in ("identity", "slot", "policy", "service", "limits", "replace"):
                assert other[name] == first[name], name
        router = Router(snapshot)
        assert router.find(path="/orders").params == ()
        assert router.find(path="/orders/5").params == ("5",)
        assert router.find(path="/v1/2/orders/7").params == ("2", "7")
        assert router.find(path="/orders/5/6").status == 404


def test_a_conflict_of_one_of_several_paths_names_it() -> None:
    routes = [
        {"name": "a", "paths": ["/a", "/o/{id}"], "service": "svc"},
        {"name": "b", "paths": ["/b", "/o/{key}", "/c"], "service": "svc"},
    ]
    error = refused({"routes": routes})
    assert error.path == "routes[1].paths[1]"
    assert "'a' and 'b' match the same requests (any host, /o/{id} and /o/{key})" in error.message


def test_two_paths_of_a_route_that_are_the_same() -> None:
    error = refused(one_route(path=None, paths=["/o/{id}", "/x", "/o/{key}"]))
    assert error.path == "routes[0].paths[2]"
    assert "the paths '/o/{id}' and '/o/{key}' of the route 'r'" in error.message
    assert "'/%7ex' and '/~x'" in refused(one_route(path=None, paths=["/%7ex", "/~x"])).message


def test_each_of_several_paths_is_checked() -> None:
    both = {"paths": ["/a", "/b/%2e%2e"], "path": None}
    assert refused(one_route(**both)).path == "routes[0].paths[1]"
    strip = {"strip_prefix": "/a/b"}
    assert (
        "literal beginning of the path '/c'"
        in refused(one_route(path=None, paths=["/a/b/{rest*}", "/c"], rewrite=strip)).message
    )
    error = refused(one_route(path=None, paths=["/a/b/c", "/a/bc"], rewrite=strip))
    assert (error.path, "ends within a segment of '/a/bc'" in error.message) == (
        "routes[0].rewrite.strip_prefix",
        True,
    )


@pytest.mark.parametrize("path", ["/a/%2e%2e/b", "/a/%2E"])
def test_dot_segments_in_disguise_are_refused(path: str) -> None:
    assert refused(one_route(path=path)).path == "routes[0].path"


def test_a_bad_escape_in_a_path_names_its_route() -> None:
    error = refused(one_route(path="/a%zz"))
    assert error.path.startswith("routes[0]")


def test_dangling_names_are_refused_with_a_hint() -> None:
    error = refused(one_route(service="svx"))
    assert error.path == "routes[0].service"
    assert "svc" in (error.hint or "")


# ---- rules -------------------------------------------------------------------------------


def test_limits_of_route_policies_and_service_in_one_table() -> None:
    document = {
        "services": [
            {
                "name": "svc",
                "upstream": "up",
                "quotas": [{"by": ["service"], "period": "day", "requests": 9}],
            }
        ],
        "policies": [
            {"name": "fair", "limits": [{"by": ["address"], "rate": "5/s", "name": "fair"}]}
        ],
        **one_route(
            auth={"api_key": {}},
            policies=["fair"],
            limits=[{"by": ["consumer", "route"], "rate": "50/s", "burst": 100}],
            concurrency=[{"by": ["credential"], "max": 3}],
        ),
    }
    with compiled(document) as snapshot:
        limits = snapshot.route(0)["limits"]
        assert snapshot.service(0)["limits"] == []
    assert [limit["identity"] for limit in limits] == [
        stable_hash(key)
        for key in (
            "policy:fair/rate/fair", "service:svc/quota/0",
            "route:r/rate/0", "route:r/concurrency/0",
        )
    ]  # fmt: skip
    assert [limit["scope"] for limit in limits] == [
        LimitScope.BY_ADDRESS,
        LimitScope.BY_SERVICE,
        LimitScope.BY_CONSUMER | LimitScope.BY_ROUTE,
        LimitScope.BY_CREDENTIAL,
    ]
    rate, quota, burst, busy = limits
    assert (rate["kind"], rate["interval_ns"], rate["tolerance_ns"]) == (1, 200_000_000, 10**9)
    assert (quota["kind"], quota["period"], quota["amount"]) == (2, Period.PERIOD_DAY, 9)
    assert quota["window_s"] == 86_400
    assert (burst["amount"], burst["tolerance_ns"], burst["window_s"]) == (100, 2 * 10**9, 2)
    assert burst["policy"] == b'"consumer-route-rate";q=100;w=2'
    assert (busy["kind"], busy["amount"]) == (LimitKind.LIMIT_CONCURRENCY, 3)


def test_the_longest_bucket_does_not_overflow() -> None:
    limit = {"by": ["address"], "rate": "1/366d", "burst": 1_000_000_000}
    with compiled(one_route(limits=[limit])) as snapshot:
        assert snapshot.route(0)["limits"][0]["tolerance_ns"] == 2**62


def test_plans_stand_at_their_slots() -> None:
    plans = [
        {"name": "free", "quotas": [{"period": "month", "requests": 10, "then": "offer_upgrade"}]},
        {"name": "gold", "services": ["svc"], "limits": [{"rate": "10/s"}]},
    ]
    slots = SlotBook(plans={"gone": 0, "gold": 1})
    with compiled({"plans": plans, **one_route(auth={"api_key": {}})}, slots=slots) as snapshot:
        assert snapshot.plans() == {1: "gold", 2: "free"}
        assert snapshot.plan(2)["limits"][0]["flags"] == LimitFlag.LIMIT_OFFER_UPGRADE
        assert snapshot.plan(1)["identity"] == stable_hash("gold")
        assert snapshot.service(0)["plans"] == [1]


def test_more_limits_than_a_request_can_meet() -> None:
    limits = [{"by": ["address"], "rate": "1/s", "name": f"l{i}"} for i in range(24)]
    with compiled(one_route(limits=limits)) as snapshot:
        assert len(snapshot.route(0)["limits"]) == 24
    plans = [{"name": "p", "limits": [{"rate": "1/s"}]}]
    error = refused({"plans": plans, **one_route(limits=limits)})
    assert error.path == "routes[0]"
    assert "24" in error.message


def test_auth_is_shared_by_routes_that_ask_the_same() -> None:
    routes = [
        {"name": f"r{i}", "path": f"/{i}", "service": "svc", "auth": {"api_key": {"query": query}}}
        for i, query in enumerate(("k", "k", "other"))
    ]
    with compiled({"routes": routes}) as snapshot:
        assert [snapshot.route(i)["auth"] for i in range(3)] == [0, 0, 1]
        auth = snapshot.auth(0)
        assert (auth["header"], auth["query"]) == (b"x-api-key", b"k")
        assert auth["flags"] == AuthFlag.AUTH_BEARER
        assert auth["challenge"].startswith(b'ApiKey realm="fastgate"')


def folded(*steps: dict[str, Any]) -> list[tuple[int, bytes]]:
    """The rules of a route whose policies have these, in the order they are applied."""
    policies = [{"name": f"p{i}", "headers": {"request": step}} for i, step in enumerate(steps)]
    document = {"policies": policies, **one_route(policies=[p["name"] for p in policies])}
    with compiled(document) as snapshot:
        route = snapshot.route(0)
        assert route["response_rules"] == []
        return [(rule["action"], rule["line"]) for rule in route["request_rules"]]


def test_header_rules_of_one_field_are_folded_into_what_comes_out() -> None:
    set_, add = HeaderAction.HEADER_SET, HeaderAction.HEADER_ADD
    default, remove = HeaderAction.HEADER_DEFAULT, HeaderAction.HEADER_REMOVE
    a, b = b"X-A: a\r\n", b"X-A: b\r\n"
    assert folded({"set": {"X-A": "a"}}, {"set": {"x-a": "b"}}) == [(set_, b"x-a: b\r\n")]
    assert folded({"set": {"X-A": "a"}}, {"add": {"X-A": "b"}}) == [(set_, a), (add, b)]
    assert folded({"add": {"X-A": "a"}}, {"remove": ["X-A"]}) == [(remove, b"")]
    assert folded({"remove": ["X-A"]}, {"default": {"X-A": "a"}}) == [(set_, a)]
    assert folded({"remove": ["X-A"], "add": {"X-A": "a"}}) == [(set_, a)]
    assert folded({"add": {"X-A": "a"}}, {"default": {"X-A": "b"}}) == [(add, a)]
    assert folded({"default": {"X-A": "a"}}, {"default": {"X-A": "b"}}) == [(default, a)]
    assert folded({"default": {"X-A": "a"}}, {"add": {"X-A": "b"}}) == [(default, a), (add, b)]


def test_the_rules_of_the_route_come_last() -> None:
    document = {
        "policies": [{"name": "p", "headers": {"response": {"set": {"X-A": "policy"}}}}],
        "services": [{"name": "svc", "upstream": "up", "policies": ["p"]}],
        **one_route(headers={"response": {"set": {"X-A": "own"}, "remove": ["X-Z"]}}),
    }
    with compiled(document) as snapshot:
        rules = snapshot.route(0)["response_rules"]
    assert [(rule["action"], rule["name"], rule["value"]) for rule in rules] == [
        (HeaderAction.HEADER_SET, b"x-a", b"own"),
        (HeaderAction.HEADER_REMOVE, b"x-z", b""),
    ]


def test_deny_goes_before_allow() -> None:
    addresses = {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}
    with compiled(one_route(addresses=addresses)) as snapshot:
        rules = snapshot.route(0)["addresses"]
        assert [(raw[12:14], prefix, allow) for raw, prefix, allow in rules] == [
            (b"\x0a\x01", 112, False),
            (b"\x0a\x00", 104, True),
        ]


def test_cors() -> None:
    cors = {"origins": ["https://a.example"], "credentials": True, "expose": ["ETag", "X-Q"]}
    with compiled(one_route(cors=cors, methods=["GET", "PUT"])) as snapshot:
        record = snapshot.cors(snapshot.route(0)["cors"])
        assert record["origins"] == [b"https://a.example"]
        assert record["allow_methods"] == b"GET, PUT"
        exposed = record["expose_headers"].split(b", ")
        assert exposed[:2] == [b"ETag", b"X-Q"]
        assert {b"Retry-After", b"RateLimit", b"PAYMENT-REQUIRED"} <= set(exposed)
        assert (record["max_age"], record["flags"]) == (600, 1)
    with compiled(one_route(cors={"origins": ["*"]})) as snapshot:
        assert snapshot.cors(0)["flags"] == 2


def test_routes_without_rules_of_their_own_share_the_service_rules() -> None:
    document = {
        "services": [
            {"name": "svc", "upstream": "up", "limits": [{"by": ["address"], "rate": "1/s"}]}
        ],
        "routes": [{"name": f"r{i}", "path": f"/{i}", "service": "svc"} for i in range(1000)],
    }
    with compiled(document) as snapshot:
        assert snapshot.route(999)["limits"] == snapshot.route(0)["limits"] != []
        alone = snapshot.bytes
    with compiled({**document, "services": BASE["services"]}) as snapshot:
        assert alone - snapshot.bytes < 500


# ---- the whole ---------------------------------------------------------------------------


def test_every_reason_with_a_status_has_its_refusal() -> None:
    with compiled({"problems": {"base": "https://p.example/"}}) as snapshot:
        for reason in REASONS:
            refusal = snapshot.refusal(reason.number)
            assert refusal["status"] == reason.status
            if reason.status:
                assert refusal["fields"].startswith(b"Content-Type: application/problem+json\r\n")
                assert b"https://p.example/%s" % reason.code.encode() in refusal["body"]
                assert bool(refusal["close"]) == reason.close
        assert snapshot.faults()[: len(FAULT_TEXTS)] == list(FAULT_TEXTS)
        assert snapshot.faults()[0] == ""


def test_settings() -> None:
    document = {
        "caps": {"line": "4KiB", "fields": 50, "upcalls": 7, "connections": 11, "requests": 13},
        "timeouts": {"head": "2s", "min_rate": "100B"},
        "headers": {"underscores": "reject", "server": "s", "via": "edge", "max_loops": 1},
        "trusted_proxies": ["10.0.0.0/8"],
        "observability": {"recent": 0},
    }
    with compiled(document) as snapshot:
        found = snapshot.settings()
    expected = {
        "max_line": 4096,
        "max_head": 16384,
        "max_fields": 50,
        "max_field": 8192,
        "head_ms": 2000,
        "body_ms": 30_000,
        "idle_ms": 75_000,
        "write_ms": 30_000,
        "min_rate": 100,
        "max_requests": 13,
        "max_connections": 11,
        "max_upcalls": 7,
        "underscores": 1,
        "loop_max": 1,
        "via": b"edge",
        "server": b"s",
        "identity": stable_hash("edge"),
        "flags": 4,  # half_close
    }
    assert {key: found[key] for key in expected} == expected
    assert found["trusted_proxies"][0][1:] == (104, True)
    with compiled({}) as snapshot:
        assert snapshot.settings()["flags"] == 2 | 4  # finished requests are kept for `explain`


def test_settings_of_the_access_log_of_unix_peers_and_of_slashes() -> None:
    document = {
        "trusted_proxies": ["unix"],
        "merge_slashes": False,
        "observability": {"access_log": {"query": True, "hide_params": ["Sign", "sign"]}},
        "routes": [
            {"name": "r", "path": "/", "respond": 200, "auth": {"api_key": {"query": "apiKey"}}}
        ],
    }
    with compiled(document) as snapshot:
        found = snapshot.settings()
    wanted = SettingFlag.LOG_QUERY | SettingFlag.TRUST_UNIX | SettingFlag.KEEP_SLASHES
    assert found["flags"] == SettingFlag.ACCESS_LOG | SettingFlag.HALF_CLOSE | wanted
    assert found["trusted_proxies"] == []
    assert found["hidden_params"] == b"apikey\0cap\0sign\0"
    del document["observability"]
    with compiled(document) as snapshot:
        assert snapshot.settings()["hidden_params"] == b""


def test_slots_stay_with_their_names_over_compilations() -> None:
    slots = SlotBook()
    routes = [{"name": name, "path": f"/{name}", "service": "svc"} for name in "abc"]
    with compiled({"routes": routes}, slots=slots) as snapshot:
        assert [snapshot.route(i)["slot"] for i in range(3)] == [0, 1, 2]
    with compiled({"routes": [routes[2], routes[0]]}, slots=slots) as snapshot:
        assert [snapshot.route(i)["slot"] for i in range(2)] == [2, 0]
    assert slots.retired["routes"] == {"b": 1}


def test_an_empty_gateway_compiles() -> None:
    image = compile_gateway(
        codec.decode({"version": 1}), generation=1, slots=SlotBook(), addresses={}
    )
    try:
        assert [str(listener.bind) for listener in image.listeners] == ["127.0.0.1:8080"]
        assert Router(Snapshot(image.fd)).find(path="/").status == 404
    finally:
        os.close(image.fd)


def test_a_refused_configuration_leaves_no_descriptor_open() -> None:
    gc.collect()  # what other tests left would otherwise be closed at any time
    before = len(os.listdir("/proc/self/fd"))
    refused(one_route(path="/a/%2e"))
    assert len(os.listdir("/proc/self/fd")) == before
