"""`rewrite.path`: the target that an upstream gets, made from a template, over sockets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, Seen, proxied

from fastgate._core.logs.drain import LogDrain


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def templated(backend: Backend, template: str, **route: Any) -> dict[str, Any]:
    route = {"path": "/users/{id}/orders/{rest*}", **route}
    return proxied(backend.url, rewrite={"path": template}, **route)


@pytest.mark.parametrize(
    ("template", "sent", "forwarded"),
    [
        # percent-encoding: canonical, and never decoded
        ("/v2/{rest}", "/users/7/orders/a%20b/%7e%c3%a9", "/v2/a%20b/~%C3%A9"),
        ("/v2/{id}", "/users/%3F%23%25/orders", "/v2/%3F%23%25"),
        ("/v2?u={id}", "/users/a&b=c+d/orders", "/v2?u=a%26b%3Dc%2Bd"),
        # an empty parameter
        ("/v2/{rest}", "/users/7/orders", "/v2/"),
        ("/v2/{rest}", "/users/7/orders/", "/v2/"),
        # dot segments are resolved before it is routed
        ("/v2/{rest}", "/users/7/orders/a/../b/%2e%2E/c", "/v2/c"),
        # the request's query
        ("/v2/{rest}", "/users/7/orders/x?a=1&b", "/v2/x?a=1&b"),
        ("/v2/{rest}", "/users/7/orders/x?", "/v2/x?"),
        ("/v2/{rest}?user={id}", "/users/7/orders/x", "/v2/x?user=7"),
        ("/v2/{rest}?user={id}", "/users/7/orders/x?", "/v2/x?user=7"),
        ("/v2/{rest}?user={id}", "/users/7/orders/x?a=1&user=8", "/v2/x?user=7&a=1&user=8"),
        (
            "/v2/orders/{rest}?user={id}",
            "/users/7/orders/a/b?page=2",
            "/v2/orders/a/b?user=7&page=2",
        ),
        ("/v2/orders/{rest}?user={id}", "/users/7/orders", "/v2/orders/?user=7"),
        ("/v2?rest={rest}", "/users/7/orders/a/b&c", "/v2?rest=a%2Fb%26c"),
        # literal braces, no parameter at all, one several times
        ("/%7B{id}%7D", "/users/7/orders", "/%7B7%7D"),
        ("/health", "/users/7/orders/x?a=1", "/health?a=1"),
        ("/{id}/{id}.json", "/users/7/orders", "/7/7.json"),
    ],
)
async def test_what_is_forwarded(backend, template, sent, forwarded):
    async with Plane(templated(backend, template)) as plane:
        assert (await plane.get(sent)).body == f"GET {forwarded}".encode()


async def test_in_front_stands_the_base_path_of_the_target(backend):
    config = templated(backend, "/v2/{rest}?user={id}")
    config["upstreams"] = [{"name": "u", "targets": [f"{backend.url}/base/x"]}]
    async with Plane(config) as plane:
        reply = await plane.get("/users/7/orders/a/b?c=d")
        assert reply.body == b"GET /base/x/v2/a/b?user=7&c=d"


async def test_each_path_of_a_route_has_its_parameters_at_other_places(backend):
    paths = ["/a/{x}/{y}", "/b/{y}/{x}", "/c/{z}/{x}/{y}"]
    config = templated(backend, "/{x}?y={y}", path=None, paths=paths)
    async with Plane(config) as plane:
        for path in ("/a/1/2", "/b/2/1", "/c/0/1/2"):
            assert (await plane.get(path)).body == b"GET /1?y=2"


async def test_an_encoded_slash_stays_one(backend):
    config = templated(backend, "/v2/{id}/x?u={id}", encoded_slash=True)
    async with Plane(config) as plane:
        assert (await plane.get("/users/a%2fb/orders")).body == b"GET /v2/a%2Fb/x?u=a%2Fb"
        assert (await plane.get("/users/a%2f..%2fb/orders")).status == 400


async def test_empty_segments_are_kept_where_they_are_routed(backend):
    config = {**templated(backend, "/v2/{rest}"), "merge_slashes": False}
    async with Plane(config) as plane:
        assert (await plane.get("/users/7/orders//a//b")).body == b"GET /v2//a//b"


async def test_the_key_in_the_query_is_left_out(backend):
    auth = {"api_key": {"query": "key"}}
    consumers = [{"name": "c", "keys": ["secret-key"]}]
    keys = {"secret-key": "c"}
    for template, forwarded in (("/x", b"/x?a=1&b=2"), ("/x?c=3", b"/x?c=3&a=1&b=2")):
        config = {**templated(backend, template, auth=auth), "consumers": consumers}
        async with Plane(config, keys=keys) as plane:
            reply = await plane.get("/users/7/orders?a=1&key=secret-key&b=2")
            assert reply.body == b"GET " + forwarded
            reply = await plane.get("/users/7/orders?key=secret-key")
            assert reply.body == b"GET " + forwarded.replace(b"&a=1&b=2", b"").replace(
                b"?a=1&b=2", b""
            )


async def test_bodies_old_clients_and_absolute_targets(backend):
    async with Plane(templated(backend, "/v2/{rest}")) as plane:
        reply = await plane.request("POST", "/users/7/orders/x", body=b"b" * 50_000)
        assert (reply.body, len(backend.requests[-1].body)) == (b"POST /v2/x", 50_000)
        old = await plane.raw(b"GET /users/7/orders/x?a HTTP/1.0\r\n\r\n")
        assert old.endswith(b"\r\n\r\nGET /v2/x?a")
        await plane.request("HEAD", "/users/7/orders/x")
        assert backend.requests[-1].target == "/v2/x"
        reply = await plane.get("http://test.example/users/7/orders/x?a")
        assert reply.body == b"GET /v2/x?a"


async def test_a_target_that_becomes_too_long_is_refused_before_it_is_counted(backend):
    config = templated(
        backend, "/{rest}?r={rest}", limits=[{"by": "route", "rate": "1/h", "burst": 1}]
    )
    async with Plane({**config, "caps": {"line": "4KiB"}}) as plane:
        reply = await plane.get("/users/7/orders/" + "a" * 2100)
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (414, "target_too_long")
        assert not backend.requests
        reply = await plane.get("/users/7/orders/" + "a" * 2000)
        assert reply.body == b"GET /" + b"a" * 2000 + b"?r=" + b"a" * 2000


async def test_a_target_is_made_for_each_try():
    async def respond(backend: Backend, seen: Seen) -> bytes | None:
        if len(backend.requests) == 1:
            return None
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    backend = await Backend(respond).start()
    config = templated(backend, "/v2/{rest}?user={id}")
    config["services"] = [{"name": "s", "upstream": "u", "retries": 2}]
    async with Plane(config) as plane:
        assert (await plane.get("/users/7/orders/x?a")).status == 200
    assert [seen.target for seen in backend.requests] == ["/v2/x?user=7&a"] * 2
    await backend.stop()


async def test_the_log_has_the_path_that_was_asked_for(backend):
    async with Plane(templated(backend, "/v2/{rest}")) as plane:
        await plane.get("/users/7/orders/x")
        (line,) = LogDrain(plane.segment).drain(0).splitlines()
        assert orjson.loads(line)["path"] == "/users/7/orders/x"


async def test_a_handler_sees_what_would_be_forwarded(backend):
    """Handlers of their own have no `rewrite`: theirs is the request's own."""

    async def handler(x: Any) -> None:
        await x.respond(200, {}, x.target.encode())

    auth = {"api_key": {"query": "key", "optional": True}}
    route = {"name": "r", "path": "/{rest*}", "handler": "m:h", "auth": auth}
    async with Plane({"routes": [route]}, handlers={"m:h": handler}) as plane:
        assert (await plane.get("/%61/../b?x=1")).body == b"/b?x=1"
        assert (await plane.get("/b?")).body == b"/b?"
        assert (await plane.get("/b")).body == b"/b"
