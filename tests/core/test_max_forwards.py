"""Max-Forwards: OPTIONS and TRACE that may go no further (RFC 9110, 7.6.2)."""

from __future__ import annotations

import orjson
import pytest
from enginekit import Backend, Plane, proxied


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    ("said", "passed"), [("1", "0"), ("007", "6"), ("10", "9"), ("9" * 40, "254")]
)
async def test_one_less_at_each_hop(backend, method, said, passed):
    async with Plane(proxied(backend.url)) as plane:
        assert (await plane.request(method, "/", headers={"Max-Forwards": said})).status == 200
    (seen,) = backend.requests
    assert [v for n, v in seen.pairs if n.lower() == "max-forwards"] == [passed]


async def test_other_methods_do_not_count_hops(backend):
    async with Plane(proxied(backend.url)) as plane:
        for said in ("0", "3", "x"):
            assert (await plane.get("/", headers={"Max-Forwards": said})).status == 200
    assert [seen.headers["max-forwards"] for seen in backend.requests] == ["0", "3", "x"]


async def test_options_at_the_last_hop_says_what_the_path_allows(backend):
    document = proxied(backend.url, methods=["GET", "OPTIONS"])
    document["routes"].append({"name": "w", "path": "/w", "methods": ["PUT"], "service": "s"})
    async with Plane(document) as plane:
        reply = await plane.request("OPTIONS", "/w", headers={"Max-Forwards": "0"})
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["allow"] == "GET, PUT, OPTIONS"
    assert backend.requests == []


async def test_trace_at_the_last_hop_shows_the_request_without_secrets(backend):
    auth = {"api_key": {"query": "api_key"}}
    async with Plane(proxied(backend.url, auth=auth), keys={"dee-key": "dee"}) as plane:
        headers = {
            "Max-Forwards": "0", "X-Api-Key": "dee-key", "Authorization": "Basic YTpi",
            "Cookie": "a=secret", "X-One": "1", "Connection": "X-Hop", "X-Hop": "1",
        }  # fmt: skip
        reply = await plane.request("TRACE", "/a?b=1&api_key=dee-key", headers=headers)
    assert (reply.status, reply.headers["content-type"]) == (200, "message/http")
    assert reply.body == (
        b"TRACE /a?b=1 HTTP/1.1\r\nHost: test.example\r\nMax-Forwards: 0\r\nX-One: 1\r\n\r\n"
    )
    assert backend.requests == []


@pytest.mark.parametrize("values", [["x"], [""], ["-1"], ["1", "1"], ["1, 2"], ["0x1"]])
async def test_what_is_no_number_is_refused(backend, values):
    async with Plane(proxied(backend.url)) as plane:
        headers = [("Max-Forwards", value) for value in values]
        reply = await plane.request("OPTIONS", "/", headers=headers)
        assert reply.status == 400
        assert "Max-Forwards" in orjson.loads(reply.body)["fault"]
    assert backend.requests == []


async def test_a_handler_gets_and_forwards_one_less(backend):
    async def handler(x):
        x.relay(await x.forward("u"))

    document = proxied(backend.url, handler="handlers:one")
    document["routes"][0].pop("service")
    async with Plane(document, handlers={"handlers:one": handler}) as plane:
        assert (await plane.request("OPTIONS", "/", headers={"Max-Forwards": "2"})).status == 200
        reply = await plane.request("OPTIONS", "/", headers={"Max-Forwards": "0"})
        assert reply.status == 204
    assert [seen.headers["max-forwards"] for seen in backend.requests] == ["1"]
