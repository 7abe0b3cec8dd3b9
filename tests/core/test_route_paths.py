"""A route with several paths, and default policies, through the engine."""

from __future__ import annotations

from typing import Any

from enginekit import Backend, Plane

from fastgate._core.shared.counters import counters_snapshot

PATHS = ["/a", "/b/{id}", "/c/{rest*}"]


async def test_limits_and_metrics_count_the_route_once():
    limits = [{"by": ["address", "route"], "rate": "3/h"}]
    quotas = [{"by": ["route"], "period": "year", "requests": 100}]
    route = {"name": "r", "paths": PATHS, "respond": "x", "limits": limits, "quotas": quotas}
    async with Plane({"routes": [route]}) as plane:
        for path in ("/a", "/b/1", "/c/x/y"):
            assert (await plane.get(path)).status == 200
        for path in ("/a", "/b/2", "/c"):
            assert (await plane.get(path)).status == 429
        assert (await plane.get("/b")).status == 404
        rows = {
            row.slot: {status: count for status, _, count in row.outcomes}
            for row in counters_snapshot(plane.segment).routes
        }
        assert rows[plane.slots.routes["r"]] == {"200": 3, "": 3}  # "": refused


async def test_each_path_is_rewritten_and_a_change_of_paths_keeps_the_counts():
    backend = await Backend().start()
    try:
        config: dict[str, Any] = {
            "upstreams": [{"name": "u", "targets": [backend.url]}],
            "services": [{"name": "s", "upstream": "u"}],
            "routes": [
                {
                    "name": "r",
                    "paths": ["/v1/orders", "/v1/orders/{id}"],
                    "service": "s",
                    "rewrite": {"strip_prefix": "/v1"},
                    "limits": [{"by": "route", "rate": "3/h"}],
                }
            ],
        }
        async with Plane(config) as plane:
            assert (await plane.get("/v1/orders?a=1")).body == b"GET /orders?a=1"
            assert (await plane.get("/v1/orders/7")).body == b"GET /orders/7"
            (route,) = config["routes"]
            plane.install({**config, "routes": [{**route, "paths": ["/v1/new", "/v1/orders"]}]})
            assert (await plane.get("/v1/new")).body == b"GET /new"
            assert (await plane.get("/v1/orders")).status == 429
            assert (await plane.get("/v1/orders/7")).status == 404
    finally:
        await backend.stop()


async def test_a_handler_gets_the_parameters_of_the_path_that_was_met():
    async def handler(x: Any) -> None:
        await x.respond(200, {}, repr(sorted(x.params.items())).encode())

    route = {"name": "r", "paths": ["/a/{x}", "/b/{y}/{z}", "/c"], "handler": "m:h"}
    async with Plane({"routes": [route]}, handlers={"m:h": handler}) as plane:
        assert (await plane.get("/a/1")).body == b"[('x', '1')]"
        assert (await plane.get("/b/1/2")).body == b"[('y', '1'), ('z', '2')]"
        assert (await plane.get("/c")).body == b"[]"


async def test_a_default_policy_is_on_every_route_that_does_not_refuse_it():
    config = {
        "default_policies": ["everywhere"],
        "policies": [
            {
                "name": "everywhere",
                "limits": [{"by": "address", "rate": "4/h"}],
                "headers": {"response": {"set": {"X-From": "default", "X-Default": "1"}}},
                "max_body": 5,
            }
        ],
        "routes": [
            {"name": "one", "path": "/one", "respond": "x"},
            {
                "name": "two",
                "path": "/two",
                "respond": "x",
                "max_body": 50,
                "headers": {"response": {"set": {"X-From": "route"}}},
            },
            {"name": "free", "path": "/free", "respond": "x", "default_policies": False},
        ],
    }
    async with Plane(config) as plane:
        one, two, free = [await plane.get(f"/{name}") for name in ("one", "two", "free")]
        assert (one.headers["x-from"], one.headers["x-default"]) == ("default", "1")
        assert (two.headers["x-from"], two.headers["x-default"]) == ("route", "1")
        assert "x-default" not in free.headers
        assert (await plane.request("POST", "/one", body=b"123456")).status == 413
        assert (await plane.request("POST", "/two", body=b"123456")).status == 200
        assert (await plane.request("POST", "/free", body=b"123456")).status == 200
        assert (await plane.get("/one")).status == 200
        assert [(await plane.get(path)).status for path in ("/one", "/two")] == [429, 429]
        assert (await plane.get("/free")).status == 200
