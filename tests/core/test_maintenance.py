"""Routes that are closed for maintenance."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from enginekit import Backend, GatedBackend, Plane, Reply, proxied

from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.shared.counters import counters_snapshot

MESSAGE = "We're back at 10:00 é ready for *more*."


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def closed(backend: Backend, **more: Any) -> dict[str, Any]:
    setting = {"message": MESSAGE, "retry_after": "90s"}
    return proxied(backend.url, maintenance=setting, **more)


def problem(reply: Reply) -> Any:
    return orjson.loads(reply.body)


async def test_requests_are_refused_with_the_message_and_when_to_try_again(backend):
    async with Plane(closed(backend)) as plane:
        client = await plane.client()
        reply = await client.request("GET", "/x")
        assert (reply.status, reply.headers["retry-after"]) == (503, "90")
        assert "connection" not in reply.headers  # it stays open
        body = problem(reply)
        assert body["reason"] == "maintenance"
        assert (body["message"], body["retry_after"], body["retry"]) == (
            MESSAGE,
            90,
            "after_delay",
        )
        assert body["detail"].endswith(f" {MESSAGE} Try again in 90 seconds.")
        page = await client.request("GET", "/x", headers={"Accept": "text/html"})
        assert "We&#39;re back at 10:00 é ready for *more*." in page.body.decode()
        text = await client.request("GET", "/x", headers={"Accept": "text/markdown"})
        assert "We're back at 10:00 é ready for \\*more\\*." in text.body.decode()
        (row,) = counters_snapshot(plane.segment).routes
        assert row.outcomes == (("", 74, 3),)
        recent = RecentRequests(4)
        LogDrain(plane.segment, recent=recent).drain(0)
        assert recent.latest(1)[0]["outcome"] == "refused"
    assert backend.requests == []


async def test_without_a_message_there_is_none(backend):
    async with Plane(proxied(backend.url, maintenance=True)) as plane:
        reply = await plane.get("/")
        assert "message" not in problem(reply)
        assert problem(reply)["detail"].endswith("charged. Try again in 5 minutes.")
        assert reply.headers["retry-after"] == "300"
        assert (await plane.request("HEAD", "/")).status == 503


async def test_a_message_of_the_greatest_length_and_expansion(backend):
    document = proxied(backend.url, maintenance={"message": "'" * 256}, openai_errors=True)
    document["problems"] = {"bodies": {"no_route": "nothing"}}
    async with Plane(document) as plane:
        assert problem(await plane.get("/"))["message"] == "'" * 256
        page = await plane.get("/", headers={"Accept": "text/html"})
        assert "&#39;" * 256 in page.body.decode()
        document["routes"][0]["maintenance"] = {"message": "😀" * 256}
        plane.install(document)
        assert problem(await plane.get("/"))["message"] == "😀" * 256


async def test_bodies_of_operators_can_show_the_message(backend):
    holes = "{{message}}" * 20
    document = closed(backend)
    document["problems"] = {"bodies": {"maintenance": {"body": f"Closed: {{{{message}}}} {holes}"}}}
    async with Plane(document) as plane:
        assert (await plane.get("/")).body.decode() == f"Closed: {MESSAGE} {MESSAGE * 20}"


async def test_it_is_decided_before_anything_counts(backend):
    """No key is looked up, no limit is taken from, nothing is read of the body."""
    rules: dict[str, Any] = {
        "limits": [{"rate": "1/d", "by": ["address"]}],
        "auth": "api_key",
        "max_body": "1KiB",
    }
    async with Plane(closed(backend, **rules)) as plane:
        for _ in range(3):
            assert problem(await plane.get("/"))["reason"] == "maintenance"
        reply = await plane.request("POST", "/", body=bytes(100_000))
        assert problem(reply)["reason"] == "maintenance"
        plane.install(proxied(backend.url, **rules))
        assert (await plane.get("/")).status == 401  # the one that its address may send


@pytest.mark.parametrize(
    ("allow", "client", "status"),
    [
        (["127.0.0.1"], None, 200),
        (["127.0.0.0/8"], None, 200),
        (["192.0.2.0/24", "2001:db8::/32"], None, 503),
        # Behind a trusted proxy, the client's address is what it reports.
        (["192.0.2.0/24"], "192.0.2.9", 200),
        (["192.0.2.0/24"], "192.0.3.9", 503),
        (["2001:db8::/32"], "2001:db8::7", 200),
        (["127.0.0.1"], "192.0.2.9", 503),
    ],
)
async def test_some_addresses_may_pass(backend, allow, client, status):
    document = proxied(backend.url, maintenance={"allow": allow})
    headers = {}
    if client is not None:
        document["trusted_proxies"] = ["127.0.0.1"]
        headers["X-Forwarded-For"] = client
    async with Plane(document) as plane:
        assert (await plane.get("/", headers=headers)).status == status


async def test_the_whole_gateway(backend):
    document: dict[str, Any] = {
        **proxied(backend.url),
        "maintenance": {"message": "All of it.", "except": ["health"], "allow": ["192.0.2.1"]},
    }
    document["routes"] += [
        {"name": "health", "path": "/health", "respond": 200},
        {"name": "own", "path": "/own", "respond": 200, "maintenance": {"message": "This one."}},
        {"name": "kept", "path": "/kept", "respond": 200, "maintenance": {"enabled": False}},
        {"name": "old", "path": "/old", "retired": True},
    ]
    async with Plane(document) as plane:
        said = {path: problem(await plane.get(path)) for path in ("/x", "/own", "/kept", "/old")}
        assert [body.get("message") for body in said.values()] == [
            "All of it.",
            "This one.",
            "All of it.",
            None,
        ]
        assert said["/old"]["reason"] == "route_retired"
        assert (await plane.get("/health")).status == 200
        document["maintenance"]["enabled"] = False
        plane.install(document)
        statuses = [(await plane.get(path)).status for path in ("/x", "/own", "/kept")]
        assert statuses == [200, 503, 200]


async def test_it_comes_before_faults_and_after_preflights(backend):
    document = closed(backend, fault={"abort": 418}, cors="https://app.example")
    origin = {"Origin": "https://app.example"}
    async with Plane(document) as plane:
        asked = {**origin, "Access-Control-Request-Method": "GET"}
        assert (await plane.request("OPTIONS", "/", headers=asked)).status == 204
        reply = await plane.get("/", headers=origin)
        assert problem(reply)["reason"] == "maintenance"
        assert reply.headers["access-control-allow-origin"] == "https://app.example"


async def test_requests_in_progress_are_completed():
    backend = await GatedBackend(b"done").start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await plane.settled(exchanges=1)
        plane.install(closed(backend))
        assert (await plane.get("/")).status == 503
        backend.gate.set()
        assert (await client.reply()).body == b"done"
        assert (await client.request("GET", "/")).status == 503  # over the same connection
    await backend.stop()


async def test_a_delayed_request_that_was_let_in_goes_on(backend):
    async with Plane(proxied(backend.url, fault={"delay": "300ms"})) as plane:
        waiting = asyncio.ensure_future(plane.get("/"))
        await plane.settled(exchanges=1)
        plane.install(closed(backend))
        assert (await waiting).status == 200


@pytest.mark.parametrize(
    "route", [{"handler": "test:handler"}, {"respond": 200}, {"redirect": "/there"}]
)
async def test_routes_of_any_kind(route):
    async def handler(x):
        raise AssertionError("it must not be called")

    document = {"routes": [{"name": "r", "path": "/", "maintenance": True, **route}]}
    async with Plane(document, handlers={"test:handler": handler}) as plane:
        assert problem(await plane.get("/"))["reason"] == "maintenance"
