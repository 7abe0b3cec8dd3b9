"""Targets that are slow: a row of the table in call.pyx is a test here, with a peer that makes
progress for several times the deadline and one that makes none. And answers that break rules."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import orjson
import pytest
from deadlinekit import (
    DEADLINE,
    STEP,
    STEPS,
    Peer,
    answer,
    caller,
    request,
    target,
    unstalled,
)
from enginekit import Plane, proxied

BIG = bytes(range(256)) * 40_000  # 10 MB: more than the kernel's buffers of a connection
PART = BIG[:400_000]  # less
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def timed(url: str, **timeouts: str) -> dict[str, Any]:
    config = proxied(url, max_body="100MB", websocket=True)
    config["upstreams"][0]["timeouts"] = timeouts
    return config


async def reply(peer: Peer) -> tuple[bytes, str]:
    """Status and body, or the problem's reason."""
    head = await peer.head()
    size = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    body = await peer.exactly(size)
    if b"application/problem+json" in head:
        return head[9:12], orjson.loads(body)["reason"]
    return head[9:12], body.decode()


async def post(plane: Plane, path: str, body: bytes) -> tuple[bytes, str]:
    async with caller(plane) as peer:
        await peer.send(request("POST", f"Content-Length: {len(body)}", path=path))
        sent = asyncio.ensure_future(peer.send(body))
        found = await reply(peer)
        sent.cancel()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await sent
        return found


async def test_a_connection_that_is_not_made():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        full = [socket.socket() for _ in range(3)]
        try:
            for each in full:  # the queue is full: what comes then is not answered
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            config = timed(f"http://127.0.0.1:{listener.getsockname()[1]}", connect=DEADLINE)
            config["services"][0]["retries"] = 1
            async with Plane(config) as plane, caller(plane) as peer:
                await peer.send(request("GET"))
                assert await reply(peer) == (b"502", "upstream_connect_failed")
        finally:
            for each in full:
                each.close()


@pytest.mark.parametrize("body", [BIG, PART], ids=["beyond the buffers", "within them"])
@unstalled
async def test_a_target_may_read_in_small_pieces(body):
    async def serve(peer: Peer) -> None:
        head = await peer.head()
        if b"/silent" in head:
            await asyncio.Event().wait()
        read = 0
        for _ in range(STEPS):
            read += len(await peer.exactly(8192))
            await asyncio.sleep(STEP)
        read += len(await peer.exactly(len(body) - read))
        await peer.send(answer(str(read).encode()))

    async with (
        target(serve) as url,
        Plane(timed(url, write=DEADLINE, first_byte=DEADLINE)) as plane,
    ):
        steady, silent = await asyncio.gather(
            post(plane, "/steady", body), post(plane, "/silent", body)
        )
    assert steady == (b"200", str(len(body)))
    assert silent == (b"504", "upstream_timeout")


@pytest.mark.parametrize("where", ["upstream", "service", "route"])
@unstalled
async def test_the_first_byte_is_due_from_the_requests_last(where):
    async def serve(peer: Peer) -> None:
        while True:
            head = await peer.head()
            if b"Content-Length" in head:
                await peer.exactly(STEPS)
                await asyncio.sleep(STEP)
                await peer.send(answer(b"served"))

    async with target(serve) as url:
        config = timed(url, **({"first_byte": DEADLINE} if where == "upstream" else {}))
        if where != "upstream":
            config["services" if where == "service" else "routes"][0]["timeout"] = DEADLINE
        async with Plane(config) as plane, caller(plane) as steady, caller(plane) as silent:
            await steady.send(request("POST", f"Content-Length: {STEPS}"))
            await silent.send(request("GET"))
            await steady.trickle(b"x")
            assert await reply(steady) == (b"200", "served")
            assert await reply(silent) == (b"504", "upstream_timeout")


@pytest.mark.parametrize("head", [f"Content-Length: {STEPS}", "X-Length: none"])
@unstalled
async def test_an_answer_may_come_in_small_pieces(head):
    async def serve(peer: Peer) -> None:
        silent = b"/silent" in await peer.head()
        await peer.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        if silent:
            await asyncio.Event().wait()
        await peer.trickle(b"x")

    async with (
        target(serve) as url,
        Plane(timed(url, idle=DEADLINE)) as plane,
        caller(plane) as steady,
        caller(plane) as silent,
    ):
        await steady.send(request("GET"))
        await silent.send(request("GET", path="/silent"))
        assert b"HTTP/1.1 200 OK" in await steady.head()
        data = b""
        while data.count(b"x") < STEPS:
            data += await steady.recv()
        data, _ = await silent.rest()
        assert data.startswith(b"HTTP/1.1 200 OK")
        assert data.endswith(b"\r\n\r\n")  # nothing that looks like an end


@unstalled
async def test_an_answer_that_begins_before_the_request_has_ended():
    """While the body goes up, the target need not go on."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        await peer.exactly(STEPS)
        await peer.send(b"served")

    async with (
        target(serve) as url,
        Plane(timed(url, idle=DEADLINE)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("POST", f"Content-Length: {STEPS}"))
        await client.trickle(b"x")
        assert await reply(client) == (b"200", "served")


@unstalled
async def test_a_client_that_pauses_is_not_the_targets_fault():
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(BIG))
        await peer.rest()

    async with (
        target(serve) as url,
        Plane(timed(url, idle=DEADLINE)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        await client.head()
        await asyncio.sleep(STEP * STEPS)
        assert await client.exactly(len(BIG)) == BIG


@pytest.mark.parametrize("speaks", ["client", "target", "nobody"])
@unstalled
async def test_a_tunnel_lives_while_either_side_speaks(speaks):
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        if speaks == "target":
            await peer.trickle(b"x")
            await peer.send(b"end")
        elif speaks == "client":
            await peer.exactly(STEPS)
            await peer.send(b"end")
        await peer.rest()

    async with (
        target(serve) as url,
        Plane(timed(url, idle=DEADLINE)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET", "Connection: upgrade", "Upgrade: websocket"))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        if speaks == "client":
            await client.trickle(b"x")
        if speaks != "nobody":
            await client.until(b"end")
        assert await client.rest() == (b"", "end")


def with_idle(url: str, where: str, idle: str, other: str) -> dict[str, Any]:
    """The deadline stands in one place, another in those that it goes before."""
    config = timed(url, idle=idle if where == "upstream" else other)
    if where != "upstream":
        config["services"][0]["idle_timeout"] = idle if where == "service" else other
    if where == "route":
        config["routes"][0]["idle_timeout"] = idle
    return config


@pytest.mark.parametrize("where", ["upstream", "service", "route"])
@unstalled
async def test_the_nearest_idle_timeout_ends_a_silent_answer(where):
    async def serve(peer: Peer) -> None:
        silent = b"/silent" in await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % STEPS)
        if silent:
            await asyncio.Event().wait()
        await peer.trickle(b"x")

    async with (
        target(serve) as url,
        Plane(with_idle(url, where, DEADLINE, "1h")) as plane,
        caller(plane) as steady,
        caller(plane) as silent,
    ):
        await steady.send(request("GET"))
        await silent.send(request("GET", path="/silent"))
        assert await reply(steady) == (b"200", "x" * STEPS)
        data, _ = await silent.rest()
        assert data.endswith(b"\r\n\r\n")  # broken off: nothing of the body came


@pytest.mark.parametrize("where", ["service", "route"])
@unstalled
async def test_a_longer_idle_timeout_lets_an_answer_pause(where):
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        await asyncio.sleep(STEP * 10)
        await peer.send(b"served")

    async with (
        target(serve) as url,
        Plane(with_idle(url, where, "1h", "100ms")) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        assert await reply(client) == (b"200", "served")


@pytest.mark.parametrize("speaks", ["client", "target", "nobody"])
@unstalled
async def test_a_routes_idle_timeout_holds_in_its_tunnels(speaks):
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        if speaks == "target":
            await peer.trickle(b"x")
            await peer.send(b"end")
        elif speaks == "client":
            await peer.exactly(STEPS)
            await peer.send(b"end")
        await peer.rest()

    async with (
        target(serve) as url,
        Plane(with_idle(url, "route", DEADLINE, "1h")) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET", "Connection: upgrade", "Upgrade: websocket"))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        if speaks == "client":
            await client.trickle(b"x")
        if speaks != "nobody":
            await client.until(b"end")
        assert await client.rest() == (b"", "end")


@unstalled
async def test_a_pooled_connection_is_kept_while_it_is_used():
    ended: list[int] = []
    calls: list[int] = []

    async def serve(peer: Peer) -> None:
        number = len(calls)
        calls.append(0)
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.head()
                calls[number] += 1
                await peer.send(answer(b""))
        ended.append(number)

    async with target(serve) as url:
        config = timed(url)
        config["upstreams"][0]["keepalive"] = {"idle": DEADLINE}
        async with Plane(config) as plane, caller(plane) as client:
            for _ in range(STEPS // 3):
                await client.send(request("GET"))
                await client.head()
                await asyncio.sleep(STEP * 3)
            assert calls == [STEPS // 3]
            await plane.settled(idle_upstreams=0, upstreams=0)


# ---- answers that break rules -----------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [b"", b"Upgrade: h2c\r\n", b"Upgrade: websocket, h2c\r\n"],
    ids=["none", "another", "both"],
)
async def test_an_upgrade_to_something_else_is_none(fields):
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 101 Ok\r\nConnection: upgrade\r\n" + fields + b"\r\n")
        await peer.rest()

    async with target(serve) as url, Plane(timed(url)) as plane, caller(plane) as client:
        await client.send(request("GET", "Connection: upgrade", "Upgrade: websocket"))
        assert await reply(client) == (b"502", "upstream_invalid_response")


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("bad", [b"x\r\n", b"4\r\nfour!\r\n", b"0\r\nA B: c\r\n\r\n", b"-1\r\n"])
async def test_a_bad_chunk_beside_its_head_is_a_502(bad, minor):
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + bad)
        await peer.rest()

    async with target(serve) as url, Plane(timed(url)) as plane, caller(plane) as client:
        await client.send(request("GET", minor=minor))
        assert await reply(client) == (b"502", "upstream_invalid_response")


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("first", [b"", b"4", b"4\r\n", b"4\r\nfo", b"4\r\nfour\r\n"])
async def test_chunks_beside_their_head(first, minor):
    whole = b"4\r\nfour\r\n3\r\n+++\r\n0\r\n\r\n"

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
        await asyncio.sleep(STEP)
        await peer.send(whole[len(first) :])
        await peer.rest()

    async with target(serve) as url, Plane(timed(url)) as plane, caller(plane) as client:
        await client.send(request("GET", "Connection: close", minor=minor))
        await client.head()
        assert await client.rest() == (whole if minor else b"four+++", "end")


@pytest.mark.parametrize("ended_by", ["target", "client"])
async def test_a_tunnel_that_ends_delivers_what_it_was_given(ended_by):
    """The side that did not end it reads slowly: what was said before the end arrives."""
    heard = asyncio.get_running_loop().create_future()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        if ended_by == "target":
            await peer.send(BIG)
            return
        data = bytearray()
        while piece := await peer.recv(1 << 16):
            data += piece
            await asyncio.sleep(0)
        heard.set_result(data == BIG)

    async with (
        target(serve) as url,
        Plane(timed(url)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET", "Connection: upgrade", "Upgrade: websocket"))
        await client.head()
        if ended_by == "client":
            await client.send(BIG)
            client.finish()
            await client.rest()
            assert await asyncio.wait_for(heard, 20)
        else:
            await asyncio.sleep(STEP * 4)
            assert await client.rest() == (BIG, "end")
            client.finish()
        await plane.settled(exchanges=0, upstreams=0)
