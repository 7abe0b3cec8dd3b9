"""`redirect`: an answer of the gateway's own with a Location made from a template, over sockets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from enginekit import Plane

from fastgate._core.logs.drain import LogDrain


def redirected(to: str, **more: Any) -> dict[str, Any]:
    """A configuration with one route, which redirects. `more`: of the redirect and of the route."""
    of_redirect = {name: more.pop(name) for name in ("status", "keep_query") if name in more}
    route = {"name": "r", "path": "/old/{id}/{rest*}", "redirect": {"to": to, **of_redirect}}
    return {"routes": [{**route, **more}]}


@pytest.mark.parametrize(
    ("to", "sent", "location"),
    [
        ("/new/{rest}?id={id}", "/old/7/a/b?c", "/new/a/b?id=7&c"),
        ("/new/{id}", "/old/7", "/new/7"),
        ("/new/{rest}", "/old/7/a%20b/%7e", "/new/a%20b/~"),
        ("/new/{rest}", "/old/7", "/new/"),
        ("/new/{rest}", "/old/7/a/../b", "/new/b"),
        ("/new/{id}", "/old/%3F%23%0d%0aX:%20y", "/new/%3F%23%0D%0AX:%20y"),
        ("/new/{id}", "/old/7?a=1&b", "/new/7?a=1&b"),
        ("/new/{id}?x=1", "/old/7?a=1", "/new/7?x=1&a=1"),
        ("/new/{id}#part", "/old/7?a=1", "/new/7?a=1#part"),
        ("/new/{id}?to={path}", "/old/7/&x=1", "/new/7?to=%2Fold%2F7%2F%26x%3D1"),
        ("https://{host}/new/{id}", "/old/7?a", "https://test.example/new/7?a"),
        ("https://www.{host}:8443{path}", "/old/7/x", "https://www.test.example:8443/old/7/x"),
        ("{scheme}://other.example", "/old/7?a=1", "http://other.example?a=1"),
        ("/{rest}", "/old/7//evil.example", "/evil.example"),
        ("/{rest}", "/old/7/%2F%2Fevil.example", None),
        ("/{rest}", "/old/7/\\evil.example", None),
    ],
)
async def test_where_it_leads(to, sent, location):
    async with Plane(redirected(to)) as plane:
        reply = await plane.get(sent)
        if location is None:
            assert reply.status == 400
        else:
            assert (reply.status, reply.headers["location"]) == (307, location)


@pytest.mark.parametrize("path", ["/old/7//evil.example", "/old/7///evil.example/%2F..x"])
async def test_no_request_names_the_host_that_it_is_sent_to(path):
    config = {**redirected("/{rest}", encoded_slash=True), "merge_slashes": False}
    async with Plane(config) as plane:
        location = (await plane.get(path)).headers["location"]
        assert location.startswith("/evil.example")
        location = (await plane.get("/old/7/%2F%2Fevil.example")).headers["location"]
        assert location == "/%2F%2Fevil.example"
    route = {"name": "r", "path": "/{rest*}", "redirect": "https://{host}{path}"}
    async with Plane({"routes": [route], "merge_slashes": False}) as plane:
        reply = await plane.get("//evil.example")
        assert reply.headers["location"] == "https://test.example//evil.example"


@pytest.mark.parametrize(
    ("host", "location"),
    [
        ("a.example:8080", "https://a.example/"),
        ("A.Example.", "https://A.Example/"),
        ("[::1]:8080", "https://[::1]/"),
    ],
)
async def test_the_host_that_was_called(host, location):
    async with Plane(redirected("https://{host}/")) as plane:
        reply = await plane.get("/old/7", headers={"Host": host})
        assert reply.headers["location"] == location


@pytest.mark.parametrize("host", ["evil.example/x", "a@evil.example", "a,b", "", "a b"])
async def test_a_host_that_is_none_is_refused(host):
    async with Plane(redirected("https://{host}/")) as plane:
        answer = await plane.raw(b"GET /old/7 HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"Location" not in answer


async def test_a_client_that_names_no_host():
    async with Plane(redirected("https://{host}/")) as plane:
        answer = await plane.raw(b"GET /old/7 HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"reason":"bad_host"' in answer
        assert b"The Host header is missing." in answer
        answer = await plane.raw(b"GET http://b.example/old/7 HTTP/1.0\r\n\r\n")
        assert b"\r\nLocation: https://b.example/\r\n" in answer
    async with Plane(redirected("/new/{id}")) as plane:
        answer = await plane.raw(b"GET /old/7 HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 307 Temporary Redirect\r\n")
        assert b"\r\nLocation: /new/7\r\n" in answer
        assert b"\r\nConnection: close\r\n" in answer


async def test_the_scheme_that_a_trusted_proxy_was_called_with():
    config = {**redirected("{scheme}://{host}/new"), "trusted_proxies": ["127.0.0.0/8"]}
    async with Plane(config) as plane:
        for said in ("https", "http"):
            reply = await plane.get("/old/7", headers={"X-Forwarded-Proto": said})
            assert reply.headers["location"] == f"{said}://test.example/new"
    async with Plane(redirected("{scheme}://{host}/new")) as plane:
        reply = await plane.get("/old/7", headers={"X-Forwarded-Proto": "https"})
        assert reply.headers["location"] == "http://test.example/new"


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (301, b"Moved Permanently"),
        (302, b"Found"),
        (303, b"See Other"),
        (307, b"Temporary Redirect"),
        (308, b"Permanent Redirect"),
    ],
)
async def test_its_status(status, phrase):
    async with Plane(redirected("/new/{id}", status=status)) as plane:
        answer = await plane.raw(b"GET /old/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d %b\r\n" % (status, phrase))
    assert b"\r\nContent-Length: 0\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")
    assert b"\r\nCache-Control:" not in answer


async def test_the_query_can_be_dropped():
    async with Plane(redirected("/new/{id}", keep_query=False)) as plane:
        assert (await plane.get("/old/7?a=1")).headers["location"] == "/new/7"
    async with Plane(redirected("/new?x=1", keep_query=False)) as plane:
        assert (await plane.get("/old/7?a=1")).headers["location"] == "/new?x=1"


async def test_every_path_of_the_route():
    config = redirected("/n/{b}/{a}", path=None, paths=["/x/{a}/{b}", "/y/{b}/{a}"])
    async with Plane(config) as plane:
        for path in ("/x/1/2", "/y/2/1"):
            assert (await plane.get(path)).headers["location"] == "/n/2/1"


async def test_every_method_and_what_follows_on_the_connection():
    async with Plane(redirected("/new/{id}")) as plane:
        client = await plane.client()
        for method, body in (
            ("HEAD", b""),
            ("POST", b"x" * 100),
            ("PUT", b"x" * 100_000),
            ("OPTIONS", b""),
            ("DELETE", b""),
            ("GET", b""),
        ):
            reply = await client.request(method, "/old/7", body=body)
            assert (reply.status, reply.headers["location"]) == (307, "/new/7"), method
            assert (reply.headers["content-length"], reply.body) == ("0", b"")
            if body:
                client = await plane.client()  # a body that is not wanted may end it


async def test_requests_behind_it_are_served_in_order():
    config = redirected("/new/{id}")
    config["routes"].append({"name": "ok", "path": "/ok", "respond": "fine"})
    async with Plane(config) as plane:
        answer = await plane.raw(
            b"GET /old/1 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"POST /old/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            b"HEAD /old/3 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
    found = [line for line in answer.split(b"\r\n") if line.startswith((b"HTTP", b"Location"))]
    assert found[:6] == [
        line
        for number in (b"1", b"2", b"3")
        for line in (b"HTTP/1.1 307 Temporary Redirect", b"Location: /new/" + number)
    ]
    assert found[6] == b"HTTP/1.1 200 OK"
    assert answer.endswith(b"fine")


async def test_a_location_that_becomes_too_long():
    config = {**redirected("/new/{rest}?a={rest}"), "caps": {"line": "4KiB"}}
    async with Plane(config) as plane:
        reply = await plane.get("/old/7/" + "a" * 2100)
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (414, "target_too_long")
        assert "location" not in reply.headers
        reply = await plane.get("/old/7/" + "a" * 2000)
        assert len(reply.headers["location"]) == len("/new/?a=") + 4000


# ---- as any route --------------------------------------------------------------------------------


async def test_addresses_keys_and_limits_come_first():
    keyed = {"auth": {"api_key": {"query": "key"}}, "limits": [{"by": "consumer", "rate": "2/h"}]}
    config = {
        **redirected("https://x/{id}", **keyed),
        "consumers": [{"name": "c", "keys": ["demo-key-1"]}],
    }
    async with Plane(config, keys={"demo-key-1": "c"}) as plane:
        assert (await plane.get("/old/7")).status == 401
        # The key goes to no other host.
        reply = await plane.get("/old/7?a=1&key=demo-key-1")
        assert (reply.status, reply.headers["location"]) == (307, "https://x/7?a=1")
        reply = await plane.get("/old/7", headers={"X-Api-Key": "demo-key-1"})
        assert (reply.status, reply.headers["location"]) == (307, "https://x/7")
        assert (await plane.get("/old/7?key=demo-key-1")).status == 429
    forward = {"auth": {"api_key": {"query": "key", "forward": True}}}
    config = {**redirected("/new", **forward), "consumers": config["consumers"]}
    async with Plane(config, keys={"demo-key-1": "c"}) as plane:
        reply = await plane.get("/old/7?key=demo-key-1")
        assert reply.headers["location"] == "/new?key=demo-key-1"
    async with Plane(redirected("/new", addresses={"deny": ["127.0.0.1"]})) as plane:
        assert (await plane.get("/old/7")).status == 403
    async with Plane(redirected("/new", retired=True)) as plane:
        assert (await plane.get("/old/7")).status == 410


async def test_a_body_that_is_larger_than_the_route_takes():
    async with Plane(redirected("/new", max_body=5)) as plane:
        assert (await plane.request("POST", "/old/7", body=b"123456")).status == 413
        assert (await plane.request("POST", "/old/7", body=b"12345")).status == 307


async def test_preflights_and_answers_with_cors():
    cors = {"origins": ["https://app.example"]}
    async with Plane(redirected("/new", cors=cors, methods=["GET"])) as plane:
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
        reply = await plane.request("OPTIONS", "/old/7", headers=asked)
        assert (reply.status, "location" in reply.headers) == (204, False)
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        reply = await plane.get("/old/7", headers={"Origin": "https://app.example"})
        assert (reply.status, reply.headers["location"]) == (307, "/new")
        assert reply.headers["access-control-allow-origin"] == "https://app.example"


async def test_header_rules_and_the_servers_name():
    rules = {"response": {"set": {"Cache-Control": "max-age=60"}, "default": {"Location": "/no"}}}
    config = {**redirected("/new", headers=rules), "headers": {"server": "gate"}}
    async with Plane(config) as plane:
        reply = await plane.get("/old/7")
        assert (reply.headers["location"], reply.headers["server"]) == ("/new", "gate")
        assert reply.headers["cache-control"] == "max-age=60"
        assert [name for name, _ in reply.pairs].count("Location") == 1


async def test_it_is_logged_with_its_route():
    async with Plane(redirected("/new")) as plane:
        await plane.get("/old/7?a=1")
        (line,) = LogDrain(plane.segment).drain(0).splitlines()
        record = orjson.loads(line)
        assert (record["route"], record["status"], record["path"]) == ("r", 307, "/old/7")
        assert record.get("reason") is None
