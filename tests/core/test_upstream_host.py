"""The Host that upstreams get: the target's, the client's, or a name of the configuration's."""

from __future__ import annotations

from typing import Any

import pytest
from enginekit import Backend, Plane

from fastgate.errors import ConfigurationError
from fastgate.handlers import Exchange
from fastgate.model.codec import decode

HOST = "api.example.com:8443"


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def document(url: str, upstream: str | None, service: str | None, preserve: bool) -> dict[str, Any]:
    return {
        "upstreams": [{"name": "u", "targets": [url], **({"host": upstream} if upstream else {})}],
        "services": [{"name": "s", "upstream": "u", **({"host": service} if service else {})}],
        "routes": [
            {"name": "r", "path": "/{rest*}", "service": "s", "preserve_host": preserve},
        ],
    }


@pytest.mark.parametrize(
    ("upstream", "service", "preserve", "expected"),
    [
        (None, None, False, "target"),
        ("target", None, False, "target"),
        ("client", None, False, HOST),
        ("orders.internal", None, False, "orders.internal"),
        ("orders.internal:81", None, False, "orders.internal:81"),
        (None, "client", False, HOST),
        (None, "[::1]:90", False, "[::1]:90"),
        ("client", "orders.internal", False, "orders.internal"),
        ("orders.internal", "client", False, HOST),
        ("orders.internal", "pages.internal", False, "pages.internal"),
        # A route that says so has its client's in any case.
        (None, None, True, HOST),
        ("orders.internal", "pages.internal", True, HOST),
    ],
)
async def test_whose_host_is_sent(backend, upstream, service, preserve, expected):
    async with Plane(document(backend.url, upstream, service, preserve)) as plane:
        ask = b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode()
        assert b" 200 OK" in await plane.raw(ask)
        # A client that sends none: the target's.
        old = await plane.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in old
    first, second = (seen.headers["host"] for seen in backend.requests)
    target = backend.url.removeprefix("http://")
    if expected == "target":
        expected = target
    assert first == expected
    if expected != HOST:
        assert second == expected
    else:
        assert second == (upstream if upstream not in (None, "client") else target)
    assert backend.requests[0].headers["x-forwarded-host"] == HOST


async def test_a_unix_socket_can_be_given_a_name(tmp_path):
    backend = await Backend().start(str(tmp_path / "s"))
    async with Plane(document(backend.url, "app.internal", None, False)) as plane:
        assert (await plane.get("/")).status == 200
    assert backend.requests[0].headers["host"] == "app.internal"
    await backend.stop()


async def test_handlers_requests_have_the_upstreams_name(backend):
    async def handler(exchange: Exchange) -> None:
        for headers in (None, {}, {"Host": "mine.example"}):
            await (await exchange.forward("u", headers=headers)).read(1000)
        await exchange.respond(204)

    config = {
        "upstreams": [{"name": "u", "targets": [backend.url], "host": "orders.internal"}],
        "routes": [{"name": "r", "path": "/", "handler": "m:h"}],
    }
    async with Plane(config, handlers={"m:h": handler}) as plane:
        assert (await plane.get("/")).status == 204
    assert [seen.headers["host"] for seen in backend.requests] == [
        "orders.internal",
        "orders.internal",
        "mine.example",
    ]


@pytest.mark.parametrize(
    ("upstream", "service", "says"),
    [
        ("http://a", None, "host: 'http://a' is not 'target', 'client' or a host such as"),
        ("a b", None, "is not 'target', 'client' or a host"),
        ("a:0", None, "is not 'target', 'client' or a host"),
        ("", None, "is not 'target', 'client' or a host"),
        ("a\r\nX: 1", None, "is not 'target', 'client' or a host"),
        (None, "a:99999", "host: 'a:99999' is not 'client' or a host"),
        (None, "target", "host: leave it out, or write `host: target` at the upstream"),
    ],
)
def test_what_can_be_no_host(upstream, service, says):
    config = {"version": 1, **document("http://10.0.0.1:80", upstream, service, False)}
    if upstream == "":
        config["upstreams"][0]["host"] = ""
    with pytest.raises(ConfigurationError) as caught:
        decode(config)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("health", "says"),
    [
        ({"host": "a/b"}, "host: 'a/b' is not 'target' or a host such as"),
        ({"headers": {"Host": "a"}}, "headers: write `host` for the Host of a check"),
        ({"headers": {"content-length": "1"}}, "headers: 'content-length' is set by the gateway"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers: 'x-a' is there twice"),
        ({"headers": {"X-A": "a\r\nb"}}, "upstreams[0].health.headers"),
        ({"port": 0}, "upstreams[0].health.port"),
        ({"port": 9100}, "health.port: unix:/run/app.sock has no port"),
    ],
)
def test_what_can_be_no_health_check(health, says):
    upstream = {"name": "u", "targets": ["http://10.0.0.1:80", "unix:/run/app.sock"]}
    document = {"version": 1, "upstreams": [{**upstream, "health": {"path": "/", **health}}]}
    with pytest.raises(ConfigurationError) as caught:
        decode(document)
    assert says in str(caught.value)
