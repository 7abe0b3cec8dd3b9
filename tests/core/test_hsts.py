"""Strict-Transport-Security: on every answer over TLS of a listener that has it, and only once."""

from __future__ import annotations

from typing import Any

import pytest
from enginekit import Backend, Client, Plane, proxied

BIND = "0.0.0.0:443"
LINE = "max-age=15552000; includeSubDomains"
THEIRS = (
    b"HTTP/1.1 200 OK\r\nstrict-transport-SECURITY: max-age=1\r\nX-Other: 1\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def config(hsts: Any = "given", **more: Any) -> dict[str, Any]:
    """One listener with TLS; `more` as in a document."""
    if hsts == "given":
        hsts = {"max_age": "180d", "include_subdomains": True}
    tls = {} if hsts is None else {"hsts": hsts}
    return {
        "listeners": [{"name": "secure", "bind": ":443", "tls": tls}],
        "certificates": [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}],
        "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}],
        **more,
    }


def sent(reply: Any) -> list[str]:
    return [value for name, value in reply.pairs if name.lower() == "strict-transport-security"]


async def asked(plane: Plane, *requests: tuple[str, str, dict[str, str]]) -> list[Any]:
    client: Client = await plane.encrypted()
    return [await client.request(*request) for request in requests]


@pytest.mark.parametrize(
    ("hsts", "line"),
    [
        ({"max_age": "180d"}, "max-age=15552000"),
        ({"max_age": "0s"}, "max-age=0"),
        ({"max_age": "1h", "include_subdomains": True}, "max-age=3600; includeSubDomains"),
        (
            {"max_age": "730d", "include_subdomains": True, "preload": True},
            "max-age=63072000; includeSubDomains; preload",
        ),
        (None, None),
    ],
)
async def test_what_the_listener_says(hsts: Any, line: str | None) -> None:
    async with Plane(config(hsts), bind=BIND) as plane:
        (reply,) = await asked(plane, ("GET", "/", {}))
        assert reply.body == b"hello"
        assert sent(reply) == ([] if line is None else [line])


async def test_all_kinds_of_answers_carry_it() -> None:
    backend = await Backend(THEIRS).start()

    async def handler(exchange: Any) -> None:
        headers = {"Strict-Transport-Security": "max-age=2", "X-Other": "1"}
        if exchange.path == "/made":
            await exchange.respond(200, headers)
        else:
            exchange.relay(await exchange.forward("u"), headers=headers)

    document = config(**proxied(backend.url))
    fixed = {"headers": {"strict-transport-security": "max-age=3", "X-Other": "1"}, "body": ""}
    document["routes"] = [
        {"name": "p", "path": "/proxied", "service": "s"},
        {"name": "f", "path": "/fixed", "respond": fixed},
        {"name": "m", "path": "/moved", "redirect": {"to": "/fixed"}},
        {"name": "k", "path": "/keyed", "respond": {"body": ""}, "auth": "api_key"},
        {"name": "h", "paths": ["/made", "/relayed"], "handler": "a.b:c"},
        {"name": "c", "path": "/shared", "respond": fixed, "cors": {"origins": ["https://a.example"]}},
    ]  # fmt: skip
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    try:
        async with Plane(document, bind=BIND, handlers={"a.b:c": handler}) as plane:
            for method, target, headers, status in (
                ("GET", "/proxied", {}, 200),
                ("HEAD", "/proxied", {}, 200),
                ("GET", "/fixed", {}, 200),
                ("GET", "/moved", {}, 307),
                ("GET", "/keyed", {}, 401),
                ("GET", "/keyed", {"Accept": "text/html"}, 401),
                ("GET", "/made", {}, 200),
                ("GET", "/relayed", {}, 200),
                ("GET", "/shared", {"Origin": "https://a.example"}, 200),
                ("OPTIONS", "/shared", preflight, 204),
                ("GET", "/nowhere", {}, 404),
                ("OPTIONS", "*", {}, 204),
            ):
                (reply,) = await asked(plane, (method, target, headers))
                assert reply.status == status, target
                assert sent(reply) == [LINE], target
                if status == 200:
                    assert reply.headers["x-other"] == "1", target
            answer = await plane.raw(b"GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 400 ")  # clear, at a listener with TLS
            assert b"trict-Transport-Security" not in answer
            plane.install({**document, "listeners": config(None)["listeners"]})
            (reply,) = await asked(plane, ("GET", "/proxied", {}))
            assert sent(reply) == ["max-age=1"]
    finally:
        await backend.stop()


async def test_a_malformed_request_is_told_too() -> None:
    async with Plane(config(), bind=BIND) as plane:
        client = await plane.encrypted()
        await client.raw(b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n")
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nStrict-Transport-Security: %b\r\n" % LINE.encode() in answer


@pytest.mark.parametrize(
    ("rules", "values"),
    [
        ({"set": {"Strict-Transport-Security": "max-age=9"}}, ["max-age=9"]),
        ({"add": {"strict-transport-security": "max-age=9"}}, ["max-age=1", "max-age=9"]),
        ({"default": {"Strict-Transport-Security": "max-age=9"}}, ["max-age=1"]),
        ({"remove": ["Strict-Transport-Security"]}, []),
        ({"set": {"Strict-Transport": "max-age=9"}}, [LINE]),
    ],
)
async def test_a_route_can_decide_otherwise(rules: dict[str, Any], values: list[str]) -> None:
    backend = await Backend(THEIRS).start()
    try:
        served = proxied(backend.url, headers={"response": rules})
        async with Plane({**config(), **served}, bind=BIND) as plane:
            (reply,) = await asked(plane, ("GET", "/", {}))
            assert sent(reply) == values
    finally:
        await backend.stop()
