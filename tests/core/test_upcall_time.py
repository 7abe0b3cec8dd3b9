"""Python handlers: their time, and clients that leave before it has begun."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

import orjson
import pytest
from enginekit import Backend, GatedBackend, Plane, Seen
from handlerkit import config, plane

from fastgate._core.handlers.errors import UpstreamError


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


async def test_a_handler_has_the_routes_timeout_to_begin_its_answer(caplog):
    settled = asyncio.Event()

    async def handler(x):
        if x.path == "/h/stream":
            await x.start(200)
            for _ in range(20):
                await x.write(b"x")
                await asyncio.sleep(0.05)
            x.finish()
            return
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)  # it may still settle
            with pytest.raises(TimeoutError, match="answered with a 504"):
                await x.respond(200)
            settled.set()

    with caplog.at_level(logging.WARNING):
        async with plane(handler, timeout="300ms") as p:
            stream, late = await asyncio.gather(p.get("/h/stream"), p.get("/h/1"))
            await asyncio.wait_for(settled.wait(), 10)
            await p.settled(exchanges=0, upcalls=0)
    assert (stream.status, stream.body) == (200, b"x" * 20)
    assert late.status == 504
    assert orjson.loads(late.body)["reason"] == "upstream_timeout"
    assert late.headers["connection"] == "close"
    assert late.headers["x-request-id"] in caplog.text


async def test_a_handler_that_will_not_end_does_not_keep_its_client_waiting():
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def handler(x):
        begun.set()
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    async with plane(handler, timeout="100ms") as p:
        assert (await p.get("/h/1")).status == 504
        assert p.engine.stats()["upcalls"] == 1  # it still counts
        may_end.set()
        await p.settled(exchanges=0, upcalls=0)


async def test_calls_of_a_handler_whose_time_is_over_are_given_up(backend):
    arrived = asyncio.Event()

    async def respond(_: Backend, seen: Seen) -> None:
        arrived.set()
        await seen.reader.read()

    backend.respond = respond

    async def handler(x):
        await x.relay(await x.forward("u0"))

    async with plane(handler, backend.url, timeout="200ms") as p:
        assert (await p.get("/h/1")).status == 504
        assert arrived.is_set()
        await p.settled(exchanges=0, upcalls=0, calls=0, upstreams=0)


@pytest.mark.parametrize("seconds", [0, -1, 1e6, float("nan")])
async def test_a_call_needs_a_timeout_that_makes_sense(backend, seconds):
    async def handler(x):
        with pytest.raises(ValueError, match=r"is not between 0\.001 and 86400 seconds"):
            await x.forward("u0", timeout=seconds)
        await x.respond(200)

    async with plane(handler, backend.url) as p:
        assert (await p.get("/h/1")).status == 200


async def test_a_client_that_leaves_before_its_handler_began():
    """A task that is cancelled before its first step never runs: who lets the exchange go then?"""
    called = []

    async def handler(x):
        called.append(x)

    async with plane(handler) as p:
        client = socket.create_connection(("127.0.0.1", p.port))
        await p.settled(connections=1)
        client.send(b"GET /h/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        p.engine.poll()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        p.engine.poll()
        await p.settled(connections=0, exchanges=0, upcalls=0)
    assert called == []


async def test_deadlines_that_a_handler_set_pass_though_nothing_else_happens(backend):
    """The timer is armed after a handler's turn too: no other event may come for hours."""
    gate = asyncio.Event()
    slow = await GatedBackend().start()
    failed = []

    async def handler(x):
        if x.params["id"] == "first":
            await x.respond((await x.forward("u0", path="/")).status)
            return
        await gate.wait()
        try:
            await x.forward("u0", path="/", timeout=0.05)
        except UpstreamError as error:
            failed.append(str(error))
        await x.respond(200, None, b"late")

    settings = config(slow.url)
    settings["timeouts"] = {"idle": "100ms"}
    async with Plane(settings, handlers={"test:handler": handler}) as p:
        slow.gate.set()
        assert (await p.get("/h/first")).status == 200
        slow.gate.clear()
        client = await p.client()
        await client.send("GET", "/h/second")
        await p.settled(upcalls=1)
        await asyncio.sleep(0.15)  # the deadlines of what went before have passed
        gate.set()
        assert (await asyncio.wait_for(client.reply(), 20)).body == b"late"
        assert "upstream_timeout" in failed[0]
        # The client says nothing more: its connection is given up too.
        assert await asyncio.wait_for(client.reader.read(), 20) == b""
        await p.settled(connections=0)
    await slow.stop()
