"""Requests that are refused because their worker has too much to do."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from typing import Any

import orjson
import pytest
from enginekit import Backend, Client, GatedBackend, Plane, until

from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.reason import Reason
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.testing.load_sample import buffer_bytes, hold_lag
from fastgate.config.public_route import PublicSide

MS = 1_000_000
LEVELS = ("low", "normal", "high")


def answering(shedding: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A route of each importance; `default` does not say."""
    routes = [
        {"name": level, "path": f"/{level}", "respond": 200, "importance": level, **more}
        for level in LEVELS
    ]
    routes.append({"name": "default", "path": "/default", "respond": 200, **more})
    return {"routes": routes, **({} if shedding is None else {"shedding": shedding})}


async def statuses(plane: Plane) -> list[int]:
    return [(await plane.get(f"/{level}")).status for level in (*LEVELS, "default")]


@pytest.mark.parametrize(
    ("lag", "expected"),
    [
        (0, [200, 200, 200, 200]),
        (50 * MS - 1, [200, 200, 200, 200]),
        (50 * MS, [503, 200, 200, 200]),
        (100 * MS - 1, [503, 200, 200, 200]),
        (100 * MS, [503, 503, 200, 503]),
        (3600 * 1000 * MS, [503, 503, 200, 503]),
    ],
)
async def test_less_important_routes_are_refused_first(lag, expected):
    async with Plane(answering({"lag": "50ms"})) as plane:
        hold_lag(plane.engine, lag)
        assert await statuses(plane) == expected


async def test_a_refusal_says_when_to_try_again_and_is_counted():
    async with Plane(answering({"lag": "50ms"})) as plane:
        hold_lag(plane.engine, 75 * MS)
        client = await plane.client()
        for _ in range(2):  # over the same connection
            reply = await client.request("GET", "/low")
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert "connection" not in reply.headers
        assert orjson.loads(reply.body)["reason"] == "overloaded"
        assert (await client.request("GET", "/normal")).status == 200
        low, normal = counters_snapshot(plane.segment).routes
        assert (low.shed, low.outcomes) == (2, (("", int(Reason.OVERLOADED), 2),))
        assert (normal.shed, normal.outcomes) == (0, (("200", 0, 1),))
        await until(lambda: counters_snapshot(plane.segment).workers[0]["load_permille"] == 1500)
        recent = RecentRequests(4)
        LogDrain(plane.segment, recent=recent).drain(0)
        assert recent.latest(3)[-1]["reason"] == "overloaded"


@pytest.mark.parametrize("shedding", [None, {"buffers": "1GiB"}])
async def test_without_a_mark_lag_does_not_matter(shedding):
    async with Plane(answering(shedding)) as plane:
        hold_lag(plane.engine, 3600 * 1000 * MS)
        assert await statuses(plane) == [200] * 4


async def test_a_reload_changes_it():
    async with Plane(answering()) as plane:
        hold_lag(plane.engine, 60 * MS)
        assert await statuses(plane) == [200] * 4
        plane.install(answering({"lag": "50ms"}))
        hold_lag(plane.engine, 60 * MS)
        assert await statuses(plane) == [503, 200, 200, 200]
        plane.install(answering({"lag": "1s"}))
        hold_lag(plane.engine, 60 * MS)
        assert await statuses(plane) == [200] * 4


async def test_it_is_decided_before_anything_counts():
    """No key is looked up, no limit is taken from, no fault injected, nothing read of the body."""
    rules: dict[str, Any] = {
        "limits": [{"rate": "1/d", "by": ["address"]}],
        "auth": "api_key",
        "max_body": "1KiB",
        "fault": {"abort": 418},
        "price": "0.01 EUR",
    }
    document = answering({"lag": "50ms"}, **rules)
    async with Plane(document) as plane:
        hold_lag(plane.engine, 50 * MS)
        for _ in range(3):
            assert (await plane.get("/low")).status == 503
        reply = await plane.request("POST", "/low", body=bytes(100_000))
        assert orjson.loads(reply.body)["reason"] == "overloaded"
        hold_lag(plane.engine, 0)
        assert (await plane.get("/low")).status == 401  # the one that its address may send
        assert (await plane.get("/low")).status == 429


async def test_it_comes_after_maintenance_and_preflights():
    document = answering({"lag": "50ms"}, cors="https://app.example")
    document["routes"] += [
        {"name": "closed", "path": "/closed", "respond": 200, "importance": "low"}
        | {"maintenance": {"allow": ["192.0.2.1"]}},
        {"name": "tried", "path": "/tried", "respond": 200, "importance": "low"}
        | {"maintenance": {"allow": ["127.0.0.1"]}},
        {"name": "old", "path": "/old", "retired": True, "importance": "low"},
    ]
    origin = {"Origin": "https://app.example"}
    async with Plane(document) as plane:
        hold_lag(plane.engine, 50 * MS)
        asked = {**origin, "Access-Control-Request-Method": "GET"}
        assert (await plane.request("OPTIONS", "/low", headers=asked)).status == 204
        reply = await plane.get("/low", headers=origin)
        assert reply.status == 503
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        replies = [await plane.get(path) for path in ("/closed", "/tried", "/old")]
        reasons = [orjson.loads(reply.body)["reason"] for reply in replies]
        assert reasons == ["maintenance", "overloaded", "route_retired"]


async def test_pages_of_the_gateway_are_never_refused(tmp_path):
    public = PublicSide(str(tmp_path / "public.sock"), bytes(range(16)))
    async with Plane(answering({"lag": "50ms", "buffers": "1MiB"}), public=public) as plane:
        hold_lag(plane.engine, 3600 * 1000 * MS)
        assert (await plane.get("/normal")).status == 503
        reply = await plane.get("/_fastgate/problems/overloaded")
        assert orjson.loads(reply.body)["reason"] == "upstream_connect_failed"  # nobody is there


async def test_requests_in_progress_are_completed():
    backend = await GatedBackend(b"done").start()
    document = {
        "upstreams": [{"name": "u", "targets": [backend.url]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [{"name": "r", "path": "/{rest*}", "service": "s", "importance": "low"}],
        "shedding": {"lag": "50ms"},
    }
    async with Plane(document) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await plane.settled(exchanges=1)
        hold_lag(plane.engine, 50 * MS)
        assert (await plane.get("/")).status == 503
        backend.gate.set()
        assert (await client.reply()).body == b"done"
    await backend.stop()


# ---- a worker that is busy for real -----------------------------------------------------------


class Callers(threading.Thread):
    """One connection that makes one request after the other, outside of the worker's loop."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self.port, self.path = port, path
        self.over = threading.Event()
        self.seen: list[int] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.over.is_set():
            connection.request("GET", self.path)
            reply = connection.getresponse()
            reply.read()
            self.seen.append(reply.status)
        connection.close()


def ask(port: int, path: str, wanted: int) -> bool:
    """Whether a request gets this status, of very many."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for _ in range(5000):
            connection.request("GET", path)
            reply = connection.getresponse()
            reply.read()
            if reply.status == wanted:
                return True
        return False
    finally:
        connection.close()


async def test_a_handler_that_computes_makes_its_worker_refuse_until_it_is_over():
    async def computing(x):
        until_ns = time.monotonic_ns() + 20 * MS
        while time.monotonic_ns() < until_ns:  # computes
            pass
        await x.respond(200, b"")

    document = answering({"lag": "5ms"})
    document["routes"].append(
        {"name": "busy", "path": "/busy", "handler": "test:busy", "importance": "high"}
    )
    async with Plane(document, handlers={"test:busy": computing}) as plane:
        assert await statuses(plane) == [200] * 4
        callers = [Callers(plane.port, "/busy") for _ in range(4)]
        for each in callers:
            each.start()
        assert await asyncio.to_thread(ask, plane.port, "/low", 503)
        assert await asyncio.to_thread(ask, plane.port, "/high", 200)
        for each in callers:
            each.over.set()
        for each in callers:
            await asyncio.to_thread(each.join)
            assert set(each.seen) == {200}  # of high importance
        assert await asyncio.to_thread(ask, plane.port, "/low", 200)
        assert sum(row.shed for row in counters_snapshot(plane.segment).routes) > 0


# ---- memory -----------------------------------------------------------------------------------


async def slow_reader(plane: Plane) -> Client:
    """A connection that asks for something long and does not read it."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", plane.port))
    client = Client(*await asyncio.open_connection(sock=peer, limit=4096))
    plane.clients.append(client)
    await client.send("GET", "/long")
    return client


async def test_slow_readers_of_long_answers_fill_the_buffers():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (16 << 20) + bytes(16 << 20)
    backend = await Backend(answer).start()
    document = answering({"buffers": "1MiB"})
    document["upstreams"] = [{"name": "u", "targets": [backend.url]}]
    document["services"] = [{"name": "s", "upstream": "u"}]
    document["routes"].append(
        {"name": "long", "path": "/long", "service": "s", "importance": "high"}
    )
    async with Plane(document) as plane:
        assert await statuses(plane) == [200] * 4
        readers: list[Client] = []
        while buffer_bytes(plane.engine) < 1 << 20:
            readers.append(await slow_reader(plane))
            held = buffer_bytes(plane.engine)
            await until(lambda held=held: buffer_bytes(plane.engine) > held)
            assert len(readers) < 200
        assert await statuses(plane) == [503, 200, 200, 200]
        while buffer_bytes(plane.engine) < 2 << 20:
            readers.append(await slow_reader(plane))
            held = buffer_bytes(plane.engine)
            await until(lambda held=held: buffer_bytes(plane.engine) > held)
            assert len(readers) < 400
        assert await statuses(plane) == [503, 503, 200, 503]
        for each in readers:
            await each.reset()
        await until(lambda: buffer_bytes(plane.engine) < 1 << 20)
        assert await statuses(plane) == [200] * 4
    assert buffer_bytes(plane.engine) == 0
    await backend.stop()
