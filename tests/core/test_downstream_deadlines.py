"""Clients that are slow or half gone: a row of the table in server.pyx is a test here, with a
peer that makes progress for several times the deadline and one that makes none."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
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

from fastgate._core.logs.drain import LogDrain

BIG = bytes(range(256)) * 40_000  # 10 MB: more than the kernel's buffers of a connection
LENGTH = f"Content-Length: {len(BIG)}"


async def sink(peer: Peer) -> None:
    """Reads requests with their bodies, and answers each with the length of its body."""
    while True:
        head = (await peer.head()).lower()
        size = 0
        if b"content-length: " in head:
            size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        await peer.exactly(size)
        await peer.send(answer(str(size).encode()))


async def source(peer: Peer) -> None:
    """Answers each request with BIG."""
    while True:
        await peer.head()
        await peer.send(answer(BIG))


def timed(url: str, **timeouts: str) -> dict[str, Any]:
    config = proxied(url)
    config["timeouts"] = timeouts
    return config


async def test_a_head_has_its_time_in_all():
    async with (
        target(sink) as url,
        Plane(timed(url, head=DEADLINE)) as plane,
        caller(plane) as steady,
        caller(plane) as silent,
    ):
        await steady.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        await silent.send(b"GET / HT")
        with pytest.raises(ConnectionError):  # it is answered and closed in the midst of it
            await steady.trickle(b"x", 200)
        assert (await silent.rest())[0].startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_asks_nothing_is_closed_without_a_word():
    async with (
        target(sink) as url,
        Plane(timed(url, head=DEADLINE)) as plane,
        caller(plane) as silent,
    ):
        assert await silent.rest() == (b"", "end")


@unstalled
async def test_a_kept_connection_may_be_idle_between_requests():
    async with (
        target(sink) as url,
        Plane(timed(url, idle=DEADLINE)) as plane,
        caller(plane) as steady,
    ):
        for _ in range(STEPS // 3):
            await steady.send(request("GET"))
            assert (await steady.head()).startswith(b"HTTP/1.1 200 ")
            await steady.exactly(1)
            await asyncio.sleep(STEP * 3)
        assert await steady.rest() == (b"", "end")


async def upload(peer: Peer, *, trickle: bool) -> bytes:
    total = STEPS * 10
    await peer.send(request("POST", f"Content-Length: {total}"))
    if trickle:
        await peer.trickle(b"x" * 10)
    return (await peer.head()).split(b"\r\n")[0]


@pytest.mark.parametrize("answered_by", ["upstream", "handler"])
@unstalled
async def test_a_body_may_come_in_small_pieces(answered_by):
    async def handler(x):
        await x.respond(200, body=str(len(x.body)))

    async with target(sink) as url:
        config = timed(url, body=DEADLINE)
        config["upstreams"][0]["timeouts"] = {"first_byte": DEADLINE}
        if answered_by == "handler":
            config = {
                "timeouts": {"body": DEADLINE},
                "routes": [
                    {"name": "h", "path": "/", "handler": "test:handler", "timeout": DEADLINE}
                ],
            }
        async with Plane(config, handlers={"test:handler": handler}) as plane:
            async with caller(plane) as steady, caller(plane) as silent:
                served, cut = await asyncio.gather(
                    upload(steady, trickle=True), upload(silent, trickle=False)
                )
            assert served == b"HTTP/1.1 200 OK"
            assert cut == b"HTTP/1.1 408 Request Timeout"


async def read_slowly(peer: Peer, size: int) -> bytes:
    """In small steps for several times the deadline; what is left at once."""
    data = b""
    for _ in range(STEPS):
        data += await peer.exactly(8192)
        await asyncio.sleep(STEP)
    return data + await peer.exactly(size - len(data))


@unstalled
async def test_an_answer_may_be_read_in_small_pieces():
    async with (
        target(source) as url,
        Plane(timed(url, write=DEADLINE)) as plane,
        caller(plane) as steady,
        caller(plane) as silent,
    ):
        for peer in (steady, silent):
            await peer.send(request("GET"))
            await peer.head()
        assert await read_slowly(steady, len(BIG)) == BIG
        await plane.settled(exchanges=0)  # the silent one was given up
        data, how = await silent.rest()
        assert how == "reset"  # the kernel keeps nothing for it
        assert len(data) < len(BIG) / 2


def held(port: int, peer: Peer) -> bool:
    """Whether the kernel still has the gateway's end of this client's connection."""
    ends = [f"0100007F:{number:04X}" for number in (port, peer.sock.getsockname()[1])]
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1:3] == ends for line in lines)


@pytest.mark.parametrize("close", [False, True])
@unstalled
async def test_what_the_kernel_holds_of_an_answer_is_read_in_its_time(close):
    """The answer is written, but not read: the next deadline does not cut it off."""
    body = BIG[:400_000]

    async def serve(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(answer(body))

    async with (
        target(serve) as url,
        Plane(timed(url, write=DEADLINE, idle=DEADLINE)) as plane,
        caller(plane) as steady,
        caller(plane) as silent,
    ):
        for peer in (steady, silent):
            await peer.send(request("GET", *(["Connection: close"] if close else [])))
            await peer.head()
        assert await read_slowly(steady, len(body)) == body
        await plane.settled(connections=0)
        if not close:
            assert (await silent.rest())[1] == "reset"
        for _ in range(400):
            if not held(plane.port, silent):
                break
            await asyncio.sleep(STEP)
        assert not held(plane.port, silent)  # closed in order, and yet not kept for ever


async def tunnel(plane: Plane, peer: Peer, path: str = "/") -> None:
    await peer.send(request("GET", "Upgrade: websocket", "Connection: upgrade", path=path))
    assert (await peer.head()).startswith(b"HTTP/1.1 101 ")


@unstalled
async def test_a_tunnels_reader_may_be_slow():
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await peer.send(BIG)
        await peer.rest()

    async with target(serve) as url:
        config = timed(url, write=DEADLINE)
        config["routes"][0]["websocket"] = True
        async with Plane(config) as plane, caller(plane) as steady, caller(plane) as silent:
            await tunnel(plane, steady)
            await tunnel(plane, silent)
            assert await read_slowly(steady, len(BIG)) == BIG
            await plane.settled(connections=1)
            assert (await silent.rest())[1] == "reset"


async def test_what_follows_a_last_answer_is_read_off_for_two_seconds():
    async with (
        target(sink) as url,
        Plane(proxied(url, max_body="1KiB")) as plane,
        caller(plane) as peer,
    ):
        await peer.send(request("POST", LENGTH))
        assert (await peer.head()).startswith(b"HTTP/1.1 413 ")
        await peer.until(b"}")
        with pytest.raises(ConnectionError):
            await peer.trickle(b"x", 400)


# ---- rates ------------------------------------------------------------------------------------


async def sender(plane: Plane, pieces: list[tuple[bytes, float]]) -> bytes:
    """Send pieces, each followed by a pause; the status that came meanwhile, or b"". By the clock:
    who was kept from sending makes up for it, so that the rate is what it is on any machine."""
    loop = asyncio.get_running_loop()
    async with caller(plane) as peer:
        await peer.send(request("POST", LENGTH))
        reply = asyncio.ensure_future(peer.head())
        due = loop.time()
        for piece, pause in pieces:
            try:
                await peer.send(piece)
            except ConnectionError:
                break
            due += pause
            await asyncio.wait([reply], timeout=max(0.0, due - loop.time()))
            if reply.done():
                return reply.result()[9:12]
        reply.cancel()
        await asyncio.wait([reply])
        peer.reset()
        return b""


async def test_senders_below_the_minimum_rate_are_refused_and_no_others():
    """On connections to the upstream that are new, and after back-pressure."""
    waited = asyncio.Event()

    async def serve(peer: Peer) -> None:
        head = await peer.head()
        if b"/late" in head:
            await waited.wait()  # it is the upstream that is slow
        await peer.rest()

    async def paced() -> bytes:
        """The upstream takes nothing for longer than a rate needs to show, then all."""
        async with caller(plane) as peer:
            await peer.send(request("POST", LENGTH, path="/late"))
            sent = asyncio.ensure_future(peer.send(BIG[:-1000]))
            await asyncio.sleep(7)
            waited.set()
            await sent
            reply = asyncio.ensure_future(peer.head())
            for _ in range(10):
                await peer.send(b"x" * 50)
                await asyncio.wait([reply], timeout=0.1)
            done = reply.done()
            reply.cancel()
            await asyncio.wait([reply])
            peer.reset()
            return b"408" if done else b""

    async with (
        target(serve) as url,
        Plane(timed(url, body="3s", min_rate="200B", write="30s")) as plane,
    ):
        plane.install({**timed(url, body="3s", min_rate="200B"), "caps": {"body": "100MB"}})
        found = await asyncio.gather(
            sender(plane, [(b"x", 0.2)] * 50),
            sender(plane, [(b"x" * 30, 0.2)] * 50),  # 150 a second
            sender(plane, [(b"x" * 60, 0.2)] * 50),  # 300 a second
            sender(plane, [(b"x" * 900, 1.5)] * 6),  # in bursts, 600 a second, for half of 3 s
            sender(plane, [(b"x" * 500_000, 0.2)] + [(b"x", 0.2)] * 60),  # fast once
            paced(),
        )
    assert found == [b"408", b"408", b"", b"", b"408", b""]


async def test_readers_below_the_minimum_rate_are_let_go():
    async with (
        target(source) as url,
        Plane(timed(url, min_rate="1MiB", write="2s")) as plane,
        caller(plane) as slow,
    ):
        await slow.send(request("GET"))
        await slow.head()
        for _ in range(400):
            if plane.engine.stats()["exchanges"] == 0:
                break
            await slow.exactly(8192)
            await asyncio.sleep(STEP)
        assert (await slow.rest())[1] == "reset"


async def test_a_client_that_does_not_read_is_logged_as_timed_out():
    """It has not gone: it was let go."""
    for timeouts in ({"write": DEADLINE}, {"min_rate": "100MiB", "write": "5s"}):
        async with (
            target(source) as url,
            Plane(timed(url, **timeouts)) as plane,
            caller(plane) as slow,
            caller(plane) as leaving,
        ):
            await slow.send(request("GET"))
            await slow.head()
            await leaving.send(request("GET"))
            await leaving.head()
            leaving.reset()
            while plane.engine.stats()["exchanges"]:
                if "min_rate" in timeouts:
                    with contextlib.suppress(ConnectionError):
                        await slow.exactly(8192)
                await asyncio.sleep(STEP)
            lines = LogDrain(plane.segment).drain(0).splitlines()
            found = [orjson.loads(line) for line in lines]
            assert [(line["status"], line["reason"]) for line in found] == [
                (200, "client_closed"),
                (200, "client_timeout"),
            ]


# ---- clients that close their side -----------------------------------------------------------


async def gated(peer: Peer, gate: asyncio.Event, seen: asyncio.Event) -> None:
    while True:
        await peer.head()
        seen.set()
        await gate.wait()
        await peer.send(answer(b"late"))


async def test_a_client_that_sends_no_more_gets_its_answer():
    gate, seen = asyncio.Event(), asyncio.Event()
    async with (
        target(lambda peer: gated(peer, gate, seen)) as url,
        Plane(proxied(url)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET") + request("GET", path="/2"))
        await seen.wait()
        client.finish()
        await asyncio.sleep(STEP)
        gate.set()
        data, how = await client.rest()
        assert how == "end"
        assert data.count(b"HTTP/1.1 200 OK") == 2  # what it had pipelined, too
        assert data.endswith(b"late")


async def test_a_client_that_is_gone_is_noticed_all_the_same():
    gate, seen = asyncio.Event(), asyncio.Event()
    async with (
        target(lambda peer: gated(peer, gate, seen)) as url,
        Plane(proxied(url)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        await seen.wait()
        client.finish()
        await asyncio.sleep(STEP)
        assert plane.engine.stats()["exchanges"] == 1
        client.reset()
        await plane.settled(exchanges=0, upstreams=0)


async def test_half_closed_clients_can_count_as_gone():
    gate, seen = asyncio.Event(), asyncio.Event()
    async with (
        target(lambda peer: gated(peer, gate, seen)) as url,
        Plane({**proxied(url), "half_close": False}) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        await seen.wait()
        client.finish()
        await plane.settled(exchanges=0, upstreams=0)
        assert (await client.rest())[0] == b""


async def test_a_body_that_ends_too_early_is_no_request():
    async with target(sink) as url, Plane(proxied(url)) as plane, caller(plane) as client:
        await client.send(request("POST", "Content-Length: 10") + b"half")
        client.finish()
        assert (await client.rest())[0] == b""


# ---- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_truncated_answer_does_not_look_whole_to_http_1_0(framing):
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        await peer.send(b"4\r\nhalf\r\n" if "chunked" in framing else b"half")
        await asyncio.sleep(STEP)

    async with target(serve) as url, Plane(proxied(url)) as plane, caller(plane) as client:
        await client.send(request("GET", minor=0))
        data, how = await client.rest()
        assert data.endswith(b"half")
        assert how == ("reset" if "chunked" in framing else "end")  # or its length says so


@pytest.mark.parametrize("fails", [False, True])
async def test_a_handlers_stream_to_http_1_0_ends_as_it_ended(fails):
    async def handler(x):
        await x.start(200)
        await x.write(b"half")
        await asyncio.sleep(STEP)
        if fails:
            raise KeyError
        x.finish()

    config = {"routes": [{"name": "h", "path": "/", "handler": "test:handler"}]}
    async with Plane(config, handlers={"test:handler": handler}) as plane, caller(plane) as client:
        await client.send(request("GET", minor=0))
        data, how = await client.rest()
        assert data.endswith(b"half")
        assert how == ("reset" if fails else "end")


async def test_a_whole_answer_to_http_1_0_ends_in_order():
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(b"f4240\r\n" + BIG[:1_000_000] + b"\r\n0\r\n\r\n")
        await peer.rest()

    async with target(serve) as url, Plane(proxied(url)) as plane, caller(plane) as client:
        await client.send(request("GET", minor=0))
        await client.head()
        data, how = await client.rest()
        assert (data, how) == (BIG[:1_000_000], "end")


async def test_connect_ends_the_connection():
    async with target(sink) as url, Plane(proxied(url)) as plane, caller(plane) as client:
        await client.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + request("GET"))
        data, _ = await client.rest()
        assert data.startswith(b"HTTP/1.1 405 ")
        assert data.count(b"HTTP/1.1 ") == 1
        assert b"Connection: close\r\n" in data
