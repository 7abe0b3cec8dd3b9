"""Listeners that are for HTTPS: redirects and refusals of what is not encrypted, and exceptions."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.logs.drain import LogDrain
from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import RouteFlag
from fastgate.config import compiler
from fastgate.config.public_route import PublicSide

CLEAR = {"name": "clear", "bind": ":80", "redirect": "https"}
SECURE = {"name": "secure", "bind": ":443", "tls": {}}
CERTIFICATES = [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}]


def config(*listeners: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One open route with a fixed answer. The first listener is the one that is called."""
    return {
        "listeners": list(listeners or (CLEAR, SECURE)),
        "certificates": CERTIFICATES,
        "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}],
        **more,
    }


def redirecting(**more: Any) -> Plane:
    return Plane(config(**more), bind="0.0.0.0:80")


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/", "https://test.example/"),
        ("/a/b?c=d&e", "https://test.example/a/b?c=d&e"),
        ("/a?", "https://test.example/a?"),
        ("/a//b/../c%2fd;x=%7e?%41", "https://test.example/a//b/../c%2fd;x=%7e?%41"),
        ("//evil.example/", "https://test.example//evil.example/"),
        ("/%0d%0aX:%20y", "https://test.example/%0d%0aX:%20y"),
        ("http://other.example:81/x?y", "https://other.example/x?y"),
        ("http://other.example", "https://other.example/"),
    ],
)
async def test_every_request_is_redirected_as_it_came(target: str, location: str) -> None:
    host = "other.example:81" if ":81" in target else "other.example"
    headers = {"Host": host} if target.startswith("http") else {}
    async with redirecting() as plane:
        for method in ("GET", "HEAD", "POST", "DELETE", "PURGE"):
            reply = await plane.request(method, target, headers=headers)
            assert (reply.status, reply.headers["location"], reply.body) == (308, location, b"")
            assert reply.headers["content-length"] == "0"
            assert "x-request-id" in reply.headers


@pytest.mark.parametrize(
    ("host", "there"),
    [
        ("a.example:8080", "a.example"),
        ("A.Example.", "A.Example"),
        ("[::1]:80", "[::1]"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
async def test_the_host_is_kept_and_the_port_is_that_of_https(host: str, there: str) -> None:
    async with redirecting() as plane:
        reply = await plane.get("/x", headers={"Host": host})
        assert reply.headers["location"] == f"https://{there}/x"
        plane.install(config({**CLEAR, "https_port": 8443}, SECURE))
        reply = await plane.get("/x", headers={"Host": host})
        assert reply.headers["location"] == f"https://{there}:8443/x"


async def test_a_connection_goes_on_after_a_redirect_and_its_body() -> None:
    async with redirecting() as plane:
        client = await plane.client()
        for _ in range(3):
            reply = await client.request("POST", "/x", body=b"0123456789")
            assert reply.status == 308
        assert (await client.request("GET", "/y")).headers["location"] == "https://test.example/y"


@pytest.mark.parametrize("host", [b"evil.example/x", b"a@evil.example", b"a,b", b"", b"a b"])
async def test_nobody_is_sent_to_a_host_that_is_none(host: bytes) -> None:
    async with redirecting() as plane:
        answer = await plane.raw(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"reason":"bad_host"' in answer
        assert b"ocation:" not in answer


async def test_without_a_host_there_is_nowhere_to_go() -> None:
    async with redirecting() as plane:
        answer = await plane.raw(b"GET /x HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"reason":"https_required"' in answer
        assert b"\r\nConnection: close\r\n" in answer
        answer = await plane.raw(b"GET http://a.example/x HTTP/1.0\r\n\r\n")
        assert b"\r\nLocation: https://a.example/x\r\n" in answer


async def test_requests_without_a_path_are_redirected_too() -> None:
    async with redirecting() as plane:
        reply = await plane.request("OPTIONS", "*")
        assert (reply.status, reply.headers["location"]) == (308, "https://test.example/")
        answer = await plane.raw(b"CONNECT a.example:1 HTTP/1.1\r\nHost: a.example:1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 405 ")


async def test_nothing_of_the_route_applies() -> None:
    route = {
        "name": "r", "path": "/{rest*}", "respond": {"body": "hello"}, "auth": "api_key",
        "headers": {"response": {"set": {"X-Of-The-Route": "1"}}},
        "limits": [{"rate": "1/h", "by": ["address"]}], "cors": {"origins": ["https://a.example"]},
    }  # fmt: skip
    async with redirecting(routes=[route]) as plane:
        for _ in range(3):
            reply = await plane.request(
                "OPTIONS", "/x",
                headers={"Origin": "https://a.example", "Access-Control-Request-Method": "GET"},
            )  # fmt: skip
            assert reply.status == 308
            assert "x-of-the-route" not in reply.headers
            assert "access-control-allow-origin" not in reply.headers
            assert not any(name.startswith("ratelimit") for name in reply.headers)
        lines = [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]
        assert [(line["status"], line["path"], line.get("route")) for line in lines] == [
            (308, "/x", None)
        ] * 3
        assert not any("tls" in line or "reason" in line for line in lines)


async def test_what_a_trusted_proxy_got_over_https_is_served() -> None:
    """It would lead back here for ever."""
    async with redirecting(trusted_proxies=["127.0.0.1"]) as plane:
        assert (await plane.get("/", headers={"X-Forwarded-Proto": "https"})).body == b"hello"
        assert (await plane.get("/", headers={"X-Forwarded-Proto": "http"})).status == 308
        plane.install(config())
        assert (await plane.get("/", headers={"X-Forwarded-Proto": "https"})).status == 308


async def test_requests_over_tls_are_never_redirected() -> None:
    async with redirecting() as plane:
        client = await plane.encrypted()
        assert (await client.request("GET", "/x")).body == b"hello"


async def test_a_listener_with_tls_refuses_what_is_not_encrypted() -> None:
    async with Plane(config(SECURE), bind="0.0.0.0:443") as plane:
        client = await plane.encrypted()
        assert (await client.request("GET", "/x")).body == b"hello"
        for target in ("/x", "*"):
            reply = await plane.request("OPTIONS", target)
            assert (reply.status, orjson.loads(reply.body)["reason"]) == (400, "https_required")
            assert reply.headers["connection"] == "close"
        headers = {"X-Forwarded-Proto": "https"}
        plane.install(config(SECURE, trusted_proxies=["127.0.0.1"]))
        assert (await plane.get("/x", headers=headers)).status == 400


async def test_links_of_the_refusal_are_to_https(tmp_path: Path) -> None:
    public = PublicSide(str(tmp_path / "public.sock"), bytes(range(16)))
    async with Plane(config(SECURE), bind="0.0.0.0:443", public=public) as plane:
        headers = {"Host": "a.example:8443"}
        page = b"https://a.example:8443/_fastgate/problems/"
        for accept in ("text/html", "text/markdown"):
            reply = await plane.get("/x%5C", headers={**headers, "Accept": accept})
            assert page + b"https_required" in reply.body
        client = await plane.encrypted()
        reply = await client.request("GET", "/x%5C", {**headers, "Accept": "text/markdown"})
        assert page + b"bad_target" in reply.body


async def test_a_reload_applies_to_connections_that_are_open() -> None:
    async with Plane(config({"name": "web", "bind": ":80"}), bind="0.0.0.0:80") as plane:
        client = await plane.client()
        assert (await client.request("GET", "/x")).body == b"hello"
        plane.install(config())
        assert (await client.request("GET", "/x")).status == 308
        plane.install(config({"name": "web", "bind": ":80"}))
        assert (await client.request("GET", "/x")).body == b"hello"
        plane.install(config({**SECURE, "bind": ":80"}))
        assert (await client.request("GET", "/x")).status == 400


def another(plane: Plane, bind: str) -> socket.socket:
    """One more listener of this plane."""
    made = socket.create_server(("127.0.0.1", 0))
    made.setblocking(False)
    plane.engine.listen(made.fileno(), bind)
    return made


async def test_each_listener_has_its_own_rules() -> None:
    three = config(CLEAR, SECURE, {"name": "open", "bind": ":8080"})
    async with Plane(three, bind="0.0.0.0:80") as plane:
        with another(plane, "0.0.0.0:443") as secure, another(plane, "0.0.0.0:8080") as clear:
            for listener, status in ((plane.socket, 308), (secure, 400), (clear, 200)):
                plane.port = listener.getsockname()[1]
                assert (await plane.get("/x")).status == status
            plane.engine.unlisten(secure.fileno())
            plane.engine.unlisten(clear.fileno())


async def test_a_connection_keeps_its_listener_when_another_takes_its_place() -> None:
    async with Plane(config(CLEAR, SECURE), bind="0.0.0.0:8080") as plane:
        client = await plane.client()
        assert (await client.request("GET", "/x")).body == b"hello"
        plane.engine.unlisten(plane.socket.fileno())
        with another(plane, "0.0.0.0:80") as clear:
            assert (await client.request("GET", "/x")).body == b"hello"
            await client.close()
            await plane.settled(connections=0)
            with another(plane, "0.0.0.0:443") as secure:
                for listener, status in ((clear, 308), (secure, 400)):
                    plane.port = listener.getsockname()[1]
                    assert (await plane.get("/x")).status == status
                plane.engine.unlisten(secure.fileno())
            plane.engine.unlisten(clear.fileno())
        plane.engine.listen(plane.socket.fileno(), "0.0.0.0:8080")


async def test_listeners_come_and_go_without_end() -> None:
    """A worker has 64 at one time, and a place is free once its connections are closed."""
    async with Plane(config(), bind="0.0.0.0:8080") as plane:
        for number in range(200):
            with another(plane, f":{number}") as made:
                plane.engine.unlisten(made.fileno())
        made = [another(plane, f":{number}") for number in range(63)]
        with pytest.raises(ValueError, match="at most 64 listeners"):
            plane.engine.listen(made[0].fileno(), "one more")
        for each in made:
            plane.engine.unlisten(each.fileno())
            each.close()


class ServedClearToo(ImageBuilder):
    """Gives the flag of the challenges' route to the one with this name."""

    def add_route(self, name: str, **fields: Any) -> int:
        if name == "challenge":
            fields["flags"] = fields.get("flags", 0) | int(RouteFlag.ROUTE_CLEAR_TOO)
        return super().add_route(name, **fields)


async def test_challenges_are_served_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "ImageBuilder", ServedClearToo)
    path = "/.well-known/acme-challenge/{token}"
    challenge = {"name": "challenge", "path": path, "methods": ["GET"], "respond": {"body": "key"}}
    async with redirecting(routes=[*config()["routes"], challenge]) as plane:
        assert (await plane.get("/.well-known/acme-challenge/t")).body == b"key"
        assert (await plane.get("/.well-known/x/../acme-challenge/t")).body == b"key"
        for method, target in (
            ("GET", "/.well-known/acme-challenge/"),
            ("GET", "/.well-known/acme-challenge/t/u"),
            ("POST", "/.well-known/acme-challenge/t"),
            ("OPTIONS", "*"),
        ):
            assert (await plane.request(method, target)).status == 308, target
        plane.install(config({**SECURE, "bind": ":80"}, routes=[challenge]))
        assert (await plane.get("/.well-known/acme-challenge/t")).status == 400


async def test_long_hosts_and_targets_fit() -> None:
    host = ".".join(["a" * 60] * 4)
    target = "/" + "x" * 3000 + "?" + "y" * 4000
    async with redirecting() as plane:
        reply = await plane.get(target, headers={"Host": host})
        assert reply.headers["location"] == f"https://{host}{target}"


# ---- what upstreams and URLs say about the scheme -----------------------------------------------


async def test_upstreams_learn_that_the_client_used_https() -> None:
    backend = await Backend().start()
    served = {**config(SECURE), **proxied(backend.url)}
    try:
        async with Plane(served, bind="0.0.0.0:443") as plane:
            client = await plane.encrypted()
            for headers in ({}, {"X-Forwarded-Proto": "http", "Forwarded": "proto=http"}):
                assert (await client.request("GET", "/", headers=headers)).status == 200
                assert backend.requests[-1].headers["x-forwarded-proto"] == "https"
                assert "forwarded" not in backend.requests[-1].headers
            plane.install({**served, "trusted_proxies": ["127.0.0.1"]})
            assert (await client.request("GET", "/")).status == 200
            assert backend.requests[-1].headers["x-forwarded-proto"] == "https"
            told = {"X-Forwarded-Proto": "http"}
            assert (await client.request("GET", "/", headers=told)).status == 200
            assert backend.requests[-1].headers["x-forwarded-proto"] == "http"
    finally:
        await backend.stop()


async def test_urls_and_links_have_the_scheme_of_the_connection() -> None:
    routes = [
        {"name": "r", "path": "/old", "redirect": {"to": "{scheme}://{host}/new"}},
        {"name": "k", "path": "/keyed", "respond": {"body": ""}, "auth": "api_key"},
    ]
    async with Plane(config(SECURE, routes=routes), bind="0.0.0.0:443") as plane:
        client = await plane.encrypted()
        reply = await client.request("GET", "/old")
        assert reply.headers["location"] == "https://test.example/new"
        assert (await client.request("GET", "/keyed")).status == 401
        lines = [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]
        assert [line["tls"] for line in lines] == [True, True]


async def test_a_handler_sees_https() -> None:
    seen = []

    async def handler(exchange: Any) -> None:
        seen.append(exchange.scheme)
        await exchange.respond(200)

    routes = [{"name": "h", "path": "/", "handler": "a.b:c"}]
    async with Plane(
        config(SECURE, routes=routes), bind="0.0.0.0:443", handlers={"a.b:c": handler}
    ) as plane:
        client = await plane.encrypted()
        assert (await client.request("GET", "/")).status == 200
    assert seen == ["https"]
