"""Handlers that answer as streams: counted apart; and how long each of their steps took."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.testing.worker_counts import bucket_of
from fastgate.handlers import TooManyStreams


def config(**caps: int) -> dict[str, object]:
    routes = [{"name": "r", "path": "/{rest*}", "handler": "handlers:one"}]
    return {"routes": routes, "caps": caps}


def counted(plane: Plane, name: str) -> int:
    return counters_snapshot(plane.segment).workers[0][name]


async def test_open_streams_leave_room_for_other_handlers():
    gate = asyncio.Event()

    async def handler(x):
        if x.path == "/stream":
            await x.start(200)
            await gate.wait()
            await x.write(b"end")
            x.finish()
        else:
            await x.respond(200, body=b"whole")

    async with Plane(config(upcalls=1, streams=3), handlers={"handlers:one": handler}) as plane:
        clients = [await plane.client() for _ in range(3)]
        for i, client in enumerate(clients, 1):
            await client.send("GET", "/stream")
            assert (await client.event()).status_code == 200
            await plane.settled(upcalls=0, streams=i)
        assert (await plane.get("/")).body == b"whole"
        # The fourth stream is one too many; what is no stream is not refused for it.
        refused = await plane.get("/stream")
        assert (refused.status, orjson.loads(refused.body)["reason"]) == (503, "overloaded")
        assert "retry-after" in refused.headers
        assert (await plane.get("/")).status == 200
        assert counted(plane, "streams") == 3
        assert counted(plane, "streams_rejected") == 1
        assert counted(plane, "upcalls_rejected") == 0
        gate.set()
        await plane.settled(streams=0, upcalls=0)
        assert (await plane.get("/stream")).body == b"end"


async def test_a_handler_may_answer_otherwise_when_there_are_too_many_streams():
    gate = asyncio.Event()

    async def handler(x):
        try:
            await x.start(200)
        except TooManyStreams:
            await x.respond(200, body=b"all at once")
            return
        await gate.wait()
        x.finish()

    async with Plane(config(streams=1), handlers={"handlers:one": handler}) as plane:
        first = await plane.client()
        await first.send("GET", "/")
        await plane.settled(streams=1)
        assert (await plane.get("/")).body == b"all at once"
        gate.set()
        assert (await first.reply()).status == 200


async def test_streams_end_with_their_clients():
    forever = asyncio.Event()

    async def handler(x):
        await x.start(200)
        await forever.wait()

    document = {**config(streams=2), "half_close": False}  # else a FIN is no leaving
    async with Plane(document, handlers={"handlers:one": handler}) as plane:
        for _ in range(3):
            client = await plane.client()
            await client.send("GET", "/")
            await plane.settled(streams=1)
            await client.close()
            await plane.settled(streams=0, upcalls=0, exchanges=0)


async def test_a_slow_reader_of_a_whole_answer_is_a_stream():
    async def handler(x):
        await x.respond(200, body=b"x" * (40 << 20 if x.path == "/large" else 1))

    async with Plane(config(upcalls=1), handlers={"handlers:one": handler}) as plane:
        slow = await plane.client()
        await slow.send("GET", "/large")
        await plane.settled(upcalls=0, streams=1)
        assert (await plane.get("/")).status == 200
        await slow.close()


async def test_what_is_relayed_needs_no_handler():
    """A stream that the engine relays is neither of both once its handler returned."""
    gate = asyncio.Event()

    async def endless(_, seen):
        seen.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await gate.wait()
        return b"0\r\n\r\n"

    backend = await Backend(endless).start()

    async def handler(x):
        x.relay(await x.forward("u"))

    document = proxied(backend.url, handler="handlers:one")
    document["routes"][0].pop("service")
    document["caps"] = {"upcalls": 1, "streams": 1}
    async with Plane(document, handlers={"handlers:one": handler}) as plane:
        clients = [await plane.client() for _ in range(2)]
        for client in clients:
            await client.send("GET", "/")
            assert (await client.event()).status_code == 200
            await plane.settled(upcalls=0, streams=0)
        gate.set()
    await backend.stop()


def block() -> None:
    time.sleep(0.05)


@pytest.mark.parametrize("where", ["first step", "after an await", "in finally"])
async def test_a_handler_that_blocks_is_in_the_histogram_of_lag(where):
    async def handler(x):
        if where == "first step":
            block()
        await asyncio.sleep(0)
        if where == "after an await":
            block()
        try:
            await x.respond(200)
        finally:
            if where == "in finally":
                block()

    async with Plane(config(), handlers={"handlers:one": handler}) as plane:
        assert (await plane.get("/")).status == 200
        await plane.settled(upcalls=0)
        lag = counters_snapshot(plane.segment).upcall_lag
        assert lag.sum_ns >= 50_000_000
        assert sum(lag.buckets[bucket_of(50_000_000) :]) >= 1


async def test_waiting_is_no_lag():
    async def handler(x):
        await asyncio.sleep(0.1)
        await x.respond(200)

    async with Plane(config(), handlers={"handlers:one": handler}) as plane:
        assert (await plane.get("/")).status == 200
        await plane.settled(upcalls=0)
        lag = counters_snapshot(plane.segment).upcall_lag
        assert lag.count >= 2
        assert lag.sum_ns < 90_000_000
