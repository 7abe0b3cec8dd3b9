"""Snapshots that were replaced: held by exchanges that still need them, unmapped with the last.

Where the answer has begun, the exchange takes what it still needs along, and the image goes.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from enginekit import Backend, Client, GatedBackend, Plane, Seen, proxied

from fastgate._core.logs.drain import LogDrain

ASK = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
LARGE = bytes(32 << 20)  # more than kernels hold


def mapped() -> int:
    """How many images are mapped in this process; those that earlier tests left behind are not."""
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("fastgate-snapshot" in line for line in lines)


def reset(client: Client) -> None:
    client.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    client.writer.transport.abort()


@pytest.mark.parametrize("first", [0, 1, 2])
async def test_an_exchange_holds_its_own_snapshot_and_no_other(first):
    """Three long answers, each of another generation, that end in different orders."""
    slow = await GatedBackend(b"late").start()
    before = mapped()
    async with Plane(proxied(slow.url)) as plane:
        clients = []
        for _ in range(3):
            client = await plane.client()
            await client.send("GET", "/")
            clients.append(client)
            await plane.settled(exchanges=len(clients))
            for _ in range(10):
                plane.install(proxied(slow.url))
        assert plane.engine.stats()["retired_snapshots"] == 3
        assert mapped() - before == 4
        for left, at in ((2, first), (1, (first + 1) % 3), (0, (first + 2) % 3)):
            reset(clients[at])
            await plane.settled(retired_snapshots=left)
            assert mapped() - before == 1 + left
        await plane.settled(exchanges=0)
    await slow.stop()


# ---- answers that have begun -----------------------------------------------------------------


def logged(plane: Plane) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]


class Streams:
    """An upstream of long answers: a tunnel that turns round what it gets, events, a download."""

    def __init__(self) -> None:
        self.ask = asyncio.Event()  # for the head of /late
        self.end = asyncio.Event()

    async def __call__(self, _: Backend, seen: Seen) -> bytes | None:
        if "upgrade" in seen.headers:
            seen.writer.write(UPGRADED)
            while data := await seen.reader.read(65536):
                seen.writer.write(data[::-1])
            return None
        if seen.target == "/large":
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE)
        if seen.target == "/late":
            await self.ask.wait()
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        seen.writer.write(head + b"5\r\nbegin\r\n")
        await self.end.wait()
        return b"3\r\nend\r\n0\r\n\r\n"


def streaming(*urls: str, **route: object) -> dict[str, Any]:
    """The name of the route is in the image, and so is that of the target; so are the limits."""
    return proxied(
        *urls,
        name="a-route-of-some-length",
        websocket=True,
        concurrency=[{"max": 1000, "by": ["route"]}],
        quotas=[{"requests": 1000, "period": "day", "by": ["address"]}],
        **route,
    )


@asynccontextmanager
async def streamed(
    change: Callable[[dict[str, Any]], None] = lambda config: None, **more: Any
) -> AsyncIterator[tuple[Plane, Streams, str]]:
    streams = Streams()
    upstream = await Backend(streams).start()
    config = streaming(upstream.url)
    change(config)
    try:
        async with Plane(config, **more) as plane:
            yield plane, streams, upstream.url
    finally:
        await upstream.stop()


async def connected(plane: Plane, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    writer.write(data)
    return reader, writer


def replace(plane: Plane, times: int = 10) -> None:
    """Install other configurations: other names, of other lengths, at other places."""
    for i in range(times):
        plane.install(
            streaming("http://127.0.0.1:1", headers={"response": {"set": {"X-A": "b" * i}}})
        )


async def test_tunnels_streams_and_downloads_keep_no_image():
    before = mapped()
    async with streamed() as (plane, streams, url):
        tunnels = []
        for _ in range(3):  # each of a generation of its own
            reader, writer = await connected(plane, ASK)
            await reader.readuntil(b"\r\n\r\n")
            tunnels.append((reader, writer))
            plane.install(plane.config)
        events, events_writer = await connected(plane, b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        await events.readuntil(b"begin")
        large, large_writer = await connected(plane, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await large.readuntil(b"\r\n\r\n")
        replace(plane)
        await plane.settled(exchanges=5, retired_snapshots=0)
        assert mapped() - before == 1
        # They go on, and end as they would have.
        for reader, writer in tunnels:
            writer.write(b"abc")
            assert await reader.readexactly(3) == b"cba"
            writer.close()
        streams.end.set()
        assert (await events.readuntil(b"0\r\n\r\n")).endswith(b"end\r\n0\r\n\r\n")
        assert await large.readexactly(len(LARGE)) == LARGE
        await plane.settled(exchanges=0)
        events_writer.close()
        large_writer.close()
        lines = logged(plane)
        print(lines)
        assert sorted(line["generation"] for line in lines) == [1, 2, 3, 4, 4]
        assert {line["route"] for line in lines} == {"a-route-of-some-length"}
        assert {line["target"] for line in lines} == {url}
        assert {line["status"] for line in lines} == {101, 200}


async def test_an_answer_that_begins_after_the_reload_keeps_no_image_either():
    before = mapped()
    async with streamed() as (plane, streams, _):
        reader, writer = await connected(plane, b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        await plane.settled(exchanges=1)
        replace(plane)
        assert plane.engine.stats()["retired_snapshots"] == 1
        streams.ask.set()
        await reader.readuntil(b"begin")
        await plane.settled(exchanges=1, retired_snapshots=0)
        assert mapped() - before == 1
        replace(plane)
        streams.end.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"end\r\n0\r\n\r\n")
        await plane.settled(exchanges=0)
        writer.close()


async def test_what_an_exchange_took_is_left_when_its_image_is_gone():
    """Its place among those in progress, and in the quota, as the answer breaks off."""

    def one_at_a_time(config: dict[str, Any]) -> None:
        config["routes"][0]["concurrency"] = [{"max": 1, "by": ["route"]}]
        config["routes"][0]["quotas"] = [{"requests": 1, "period": "day", "by": ["address"]}]

    peers: list[asyncio.StreamWriter] = []

    async def broken(_: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegin")
        peers.append(seen.writer)
        await asyncio.sleep(3600)

    upstream = await Backend(broken).start()
    config = streaming(upstream.url)
    one_at_a_time(config)
    async with Plane(config) as plane:
        for i in range(3):
            reader, writer = await connected(plane, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"begin")
            for _ in range(3):
                plane.install(config)
            await plane.settled(exchanges=1, retired_snapshots=0)
            peers[i].close()
            assert await reader.read() == b""
            await plane.settled(exchanges=0)
            writer.close()
        assert [line["status"] for line in logged(plane)] == [200, 200, 200]
    await upstream.stop()


@pytest.mark.parametrize("by", ["itself", "relay"])
async def test_handlers_keep_their_image_until_they_have_ended(by):
    """One that runs may ask for any upstream that it knew; what it relayed needs nothing."""
    gate = asyncio.Event()

    async def handler(x):
        if by == "relay":
            x.relay(await x.forward("u", path="/events"))
            await gate.wait()
        else:
            await x.start(200)
            await x.write(b"begin")
            await gate.wait()
            await x.write(b"end")
            x.finish()

    def handled(config: dict[str, Any]) -> None:
        del config["routes"][0]["service"], config["routes"][0]["websocket"]
        config["routes"][0]["handler"] = "h:one"

    async with streamed(handled, handlers={"h:one": handler}) as (plane, streams, _):
        reader, writer = await connected(plane, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"begin")
        plane.install(plane.config)
        await asyncio.sleep(0.05)
        assert plane.engine.stats()["retired_snapshots"] == 1
        gate.set()
        await plane.settled(retired_snapshots=0)
        assert plane.engine.stats()["exchanges"] == (by == "relay")
        replace(plane)
        streams.end.set()
        assert b"end" in await reader.readuntil(b"0\r\n\r\n")
        await plane.settled(exchanges=0)
        writer.close()


async def test_among_many_connections_the_walk_is_done_in_turns():
    before = mapped()
    async with streamed() as (plane, streams, _):
        opened = [
            await connected(plane, b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(700)
        ]
        for reader, _ in opened:
            await reader.readuntil(b"begin")
        replace(plane, 2)
        assert plane.engine.stats()["retired_snapshots"] == 1  # not all at once
        for _, writer in opened[::3]:  # some go meanwhile
            writer.transport.abort()
        await plane.settled(retired_snapshots=0)
        assert mapped() - before == 1
        streams.end.set()
        for reader, writer in [pair for i, pair in enumerate(opened) if i % 3]:
            await reader.readuntil(b"0\r\n\r\n")
            writer.close()
        await plane.settled(exchanges=0)
