"""Passive ejection, where the answer's head was good and its body was not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from enginekit import Backend, Plane, Seen, proxied

from fastgate._core.shared.counters import counters_snapshot
from fastgate.handlers import UpstreamError

AFTER = 3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def breaks_off(_: Backend, seen: Seen) -> bytes | None:
    seen.writer.write(HEAD + b"abc")
    return None


async def bad_chunk(_: Backend, seen: Seen) -> bytes | None:
    seen.writer.write(CHUNKED + b"3\r\nabc\r\n")
    await asyncio.sleep(0.05)
    seen.writer.write(b"zz\r\n")
    return None


async def silent(_: Backend, seen: Seen) -> bytes | None:
    seen.writer.write(HEAD + b"abc")
    await asyncio.sleep(1)
    return None


def config(url: str, **eject: object) -> dict[str, Any]:
    found = proxied(url)
    found["upstreams"][0]["eject"] = {"after": AFTER, "for": "1h", **eject}
    found["upstreams"][0]["timeouts"] = {"idle": "200ms"}
    return found


@asynccontextmanager
async def planed(
    respond: Callable[[Backend, Seen], Awaitable[bytes | None]], **more: Any
) -> AsyncIterator[Plane]:
    upstream = await Backend(respond).start()
    try:
        async with Plane(config(upstream.url), **more) as plane:
            yield plane
    finally:
        await upstream.stop()


def ejections(plane: Plane) -> int:
    return int(counters_snapshot(plane.segment).workers[0]["ejections"])


@pytest.mark.parametrize("respond", [breaks_off, bad_chunk, silent])
async def test_bodies_that_fail_eject_their_target(respond):
    async with planed(respond) as plane:
        for i in range(AFTER):
            assert ejections(plane) == 0, i
            assert (await plane.raw(GET % b"")).startswith(b"HTTP/1.1 200")
        assert ejections(plane) == 1


async def test_a_whole_answer_between_them_starts_the_count_again():
    async def respond(backend: Backend, seen: Seen) -> bytes | None:
        return HEAD + b"whole" if seen.target == "/good" else await breaks_off(backend, seen)

    async with planed(respond) as plane:
        for path in (b"", b"", b"good", b"", b"", b"good", b""):
            await plane.raw(GET % path)
        assert ejections(plane) == 0
        for _ in range(AFTER - 1):
            await plane.raw(GET % b"")
        assert ejections(plane) == 1


async def test_a_status_that_counts_and_a_body_that_breaks_are_one_failure():
    async def respond(_: Backend, seen: Seen) -> bytes | None:
        seen.writer.write(HEAD.replace(b"200 OK", b"503 No") + b"abc")
        return None

    async with planed(respond) as plane:
        for _ in range(AFTER - 1):
            await plane.raw(GET % b"")
        assert ejections(plane) == 0
        await plane.raw(GET % b"")
        assert ejections(plane) == 1


async def test_clients_that_leave_do_not_eject_a_target():
    """What came of their answers was good."""

    async def respond(_: Backend, seen: Seen) -> bytes | None:
        seen.writer.write(CHUNKED + b"3\r\nabc\r\n")
        await asyncio.sleep(60)
        return None

    found: list[int] = []
    upstream = await Backend(respond).start()
    slow = config(upstream.url)
    del slow["upstreams"][0]["timeouts"]
    async with Plane(slow) as plane:
        for _ in range(AFTER + 1):
            client = await plane.client()
            await client.send("GET", "/")
            await client.event()
            await client.reset()
            await plane.settled(exchanges=0)
        found.append(ejections(plane))
    assert found == [0]
    await upstream.stop()


async def test_what_a_handler_reads_counts_too():
    async def handler(x):
        response = await x.forward("u")
        try:
            await response.read()
        except UpstreamError as error:
            await x.respond(502, body=str(error).encode())

    upstream = await Backend(breaks_off).start()
    handled = config(upstream.url)
    del handled["routes"][0]["service"]
    handled["routes"][0]["handler"] = "h:one"
    async with Plane(handled, handlers={"h:one": handler}) as plane:
        for _ in range(AFTER):
            assert (await plane.get("/")).status == 502
        assert ejections(plane) == 1
    await upstream.stop()
