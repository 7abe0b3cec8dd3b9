"""The data plane over real sockets: targets that refuse, die or break off, and who is next."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, Seen, proxied

from fastgate._core.shared.counters import counters_snapshot

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DEAD = "http://127.0.0.1:1"
LARGE = bytes(range(256)) * 1000  # no buffer holds it


def retrying(*urls: str, retries: object = 2, **upstream: object) -> dict[str, Any]:
    config = proxied(*urls)
    config["upstreams"] = [
        {"name": "u", "targets": list(urls), "eject": {"after": 0}, **upstream},
    ]
    config["services"] = [{"name": "s", "upstream": "u", "retries": retries}]
    return config


@asynccontextmanager
async def backends(*responds: Any) -> AsyncIterator[list[Backend]]:
    started = [await Backend(respond).start() for respond in responds]
    try:
        yield started
    finally:
        for each in started:
            await each.stop()


async def closing(_: Backend, seen: Seen) -> None:
    return None


# ---- a pooled connection that refuses its first byte ---------------------------------------------


def in_a_process(scenario: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run it where it can be ended: a worker that hangs in C listens to no signal handler."""
    process = multiprocessing.get_context("fork").Process(
        target=lambda: asyncio.run(scenario(*args))
    )
    process.start()
    process.join(30)
    try:
        assert process.exitcode == 0, "it hangs" if process.is_alive() else "it failed"
    finally:
        process.kill()
        process.join()


async def dies_while_pooled(path: str | None, others: int) -> None:
    """The request is in the engine's hands before the news that the pooled connection is gone."""
    loop = asyncio.get_running_loop()
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(path or ("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    dying = f"unix:{path}" if path else f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with backends(*[None] * others) as alive:
        config = retrying(dying, *(each.url for each in alive))
        async with Plane(config) as plane:
            client = socket.create_connection(("127.0.0.1", plane.port))
            client.setblocking(False)
            client.sendall(GET)
            upstream, _ = await loop.sock_accept(listener)
            upstream.setblocking(False)
            await loop.sock_recv(upstream, 65536)
            await loop.sock_sendall(upstream, OK)
            assert (await loop.sock_recv(client, 65536)).startswith(b"HTTP/1.1 200")
            for _ in alive:  # their turns
                assert (await plane.get("/")).status == 200
            client.sendall(GET)
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            upstream.close()
            listener.close()
            reply = await asyncio.wait_for(loop.sock_recv(client, 65536), 20)
            expected = b"HTTP/1.1 200" if others else b"HTTP/1.1 502"
            assert reply.startswith(expected), reply
            assert plane.engine.stats()["upstreams"] == others
            client.close()


@pytest.mark.parametrize("family", ["unix", "tcp"])
@pytest.mark.parametrize("others", [0, 1])
def test_a_pooled_connection_that_refuses_its_first_byte(tmp_path, family, others):
    in_a_process(dies_while_pooled, str(tmp_path / "s") if family == "unix" else None, others)


async def test_a_stale_connection_costs_no_attempt():
    """With a single attempt, a target that closed its idle connections still gets the request."""
    async with backends(None) as (backend,), Plane(retrying(backend.url, retries=1)) as plane:
        loop = asyncio.get_running_loop()
        client = socket.create_connection(("127.0.0.1", plane.port))
        client.setblocking(False)
        for round_ in range(3):
            client.sendall(GET)
            for writer in list(backend.writers):  # in the same turn of the loop
                writer.transport.abort()
            assert (await loop.sock_recv(client, 65536)).startswith(b"HTTP/1.1 200"), round_
        client.close()


# ---- nothing was sent: bodies of any size ----------------------------------------------------


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        (b"Content-Length: %d\r\n" % len(LARGE), LARGE),
        (b"Transfer-Encoding: chunked\r\n", chunked(LARGE)),
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("expect", [False, True], ids=["at-once", "expect"])
async def test_a_refused_connection_fails_over_with_any_body(fields, sent, expect):
    if expect:
        fields += b"Expect: 100-continue\r\n"
    async with backends(None) as (backend,), Plane(retrying(DEAD, backend.url)) as plane:
        for _ in range(4):  # two of them begin with the dead one
            reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
            if expect:
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(sent)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        assert [seen.body for seen in backend.requests] == [LARGE] * 4


async def test_all_refuse_a_large_body():
    async with Plane(retrying(DEAD, "http://127.0.0.1:2", retries=3)) as plane:
        reply = await plane.raw(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + LARGE
        )
        assert reply.startswith(b"HTTP/1.1 502")
        assert b"upstream_connect_failed" in reply


async def test_a_body_of_which_some_was_sent_is_not_sent_twice():
    got = asyncio.Event()

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(10)
        got.set()
        writer.transport.abort()

    server = await asyncio.start_server(breaks, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with backends(None) as (backend,), Plane(retrying(url, backend.url)) as plane:
        reply = await plane.raw(
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n0123456789"
        )
        assert got.is_set()
        assert reply.startswith(b"HTTP/1.1 502"), reply
        assert backend.requests == []
    server.close()
    await server.wait_closed()


async def test_an_untouched_body_goes_to_the_next_after_a_reset():
    """Its head was sent, but none of the body: an idempotent request may go elsewhere."""
    parts = asyncio.Event()

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        parts.set()

    server = await asyncio.start_server(breaks, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        backends(None) as (backend,),
        Plane(retrying(url, DEAD, backend.url, retries=3)) as plane,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        await parts.wait()
        writer.write(b"hello")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert [seen.body for seen in backend.requests] == [b"hello"]
        writer.close()
    server.close()
    await server.wait_closed()


# ---- part of an answer came ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        b"H",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2",
    ],
)
async def test_part_of_an_answer_is_the_last_word(part):
    async def respond(_: Backend, seen: Seen) -> None:
        seen.writer.write(part)
        await seen.writer.drain()

    async with (
        backends(respond, respond) as (one, other),
        Plane(retrying(one.url, other.url, retries=4)) as plane,
    ):
        client = await plane.client()
        reply = await client.request("GET", "/")
        assert reply.status == 502
        assert orjson.loads(reply.body)["reason"] == "upstream_reset"
        assert len(one.requests) + len(other.requests) == 1


async def test_part_of_an_answer_on_a_pooled_connection_is_the_last_word():
    async def respond(backend: Backend, seen: Seen) -> bytes | None:
        if len(backend.requests) == 1:
            return OK
        seen.writer.write(b"HTTP/1.1 200")
        await seen.writer.drain()
        return None

    async with backends(respond) as (backend,), Plane(retrying(backend.url, retries=3)) as plane:
        assert (await plane.get("/")).status == 200
        assert (await plane.get("/")).status == 502
        assert len(backend.requests) == 2
        assert backend.connections == 1


# ---- statuses that are retried ------------------------------------------------------------------


def answering(status: int, body: bytes = b"x") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def test_statuses_are_passed_on_unless_asked_for():
    async with (
        backends(answering(503), None) as (bad, good),
        Plane(retrying(bad.url, good.url)) as plane,
    ):
        assert [(await plane.get("/")).status for _ in range(4)] == [503, 200] * 2


async def test_a_status_is_retried_where_asked_for():
    retries = {"attempts": 2, "statuses": [503, "504"], "budget": "100%"}
    async with (
        backends(answering(503, b"y" * 2000), None) as (bad, good),
        Plane(retrying(bad.url, good.url, retries=retries)) as plane,
    ):
        for method in ("GET", "PUT", "DELETE", "HEAD"):
            for _ in range(4):
                assert (await plane.request(method, "/")).status == 200
        assert len(bad.requests) == 8
        # The whole answer was here, so the connection it came on is used again ...
        assert bad.connections <= 3  # (but not HEAD's)
        assert counters_snapshot(plane.segment).workers[0]["retries"] == 8


async def test_a_long_answer_that_is_not_wanted_is_not_read():
    retries = {"statuses": "5xx", "budget": "100%"}

    async def long(_: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 500 X\r\nContent-Length: 100000000\r\n\r\n" + bytes(1000))
        assert await seen.reader.read() == b""  # closed by the gateway

    async with (
        backends(long, None) as (bad, good),
        Plane(retrying(bad.url, good.url, retries=retries)) as plane,
    ):
        assert [(await plane.get("/")).status for _ in range(4)] == [200] * 4
        assert len(bad.requests) == 2


async def test_what_may_not_be_repeated_is_not():
    retries = {"statuses": ["503"], "budget": "100%"}
    async with (
        backends(answering(503), answering(503)) as (one, other),
        Plane(retrying(one.url, other.url, retries=retries)) as plane,
    ):
        assert (await plane.request("POST", "/", body=b"x")).status == 503
        assert len(one.requests) + len(other.requests) == 1
        # The second answer is the last word, as it is.
        reply = await plane.get("/")
        assert (reply.status, reply.body) == (503, b"x")
        assert len(one.requests) + len(other.requests) == 3


async def test_a_body_that_was_sent_in_part_is_not_retried_on_a_status():
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1000)
        writer.write(answering(503))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = retrying(url, DEAD, retries={"statuses": ["503"]})
    async with Plane(config) as plane:
        reply = await plane.raw(
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000)
        )
        assert reply.startswith(b"HTTP/1.1 503"), reply
    server.close()
    await server.wait_closed()


async def test_an_answer_is_kept_when_there_is_nobody_else():
    """A bound on connections leaves no room: the 503 that is here is passed on."""
    config = retrying("", retries={"statuses": ["503"], "budget": "100%"}, max_connections=1)
    async with backends(answering(503)) as (bad,):
        config["upstreams"][0]["targets"] = [bad.url]
        async with Plane(config) as plane:
            for _ in range(3):
                reply = await plane.get("/")
                assert (reply.status, reply.body) == (503, b"x")
        assert len(bad.requests) == 3


@pytest.mark.parametrize(("budget", "retried"), [("0%", 0), ("10%", 13), ("50%", 53)])
async def test_retries_have_a_budget(budget, retried):
    """3 are free, then each request earns its share; a budget of 0 allows none."""
    retries = {"attempts": 2, "statuses": ["503"], "budget": budget}
    async with (
        backends(answering(503), answering(503)) as (one, other),
        Plane(retrying(one.url, other.url, retries=retries)) as plane,
    ):
        client = await plane.client()
        for _ in range(100):
            assert (await client.request("GET", "/")).status == 503
        assert abs(len(one.requests) + len(other.requests) - 100 - retried) <= 1


async def test_a_refused_connection_costs_no_budget():
    async with backends(None) as (good,):
        config = retrying(DEAD, good.url, retries={"budget": "0%"})
        async with Plane(config) as plane:
            for _ in range(20):
                assert (await plane.get("/")).status == 200


# ---- buffers ----------------------------------------------------------------------------------


async def test_one_large_answer_does_not_make_the_connection_large():
    """After it, a pooled connection reads into small buffers again."""
    sizes = []

    async def handler(exchange):
        response = await exchange.forward("u", path=exchange.path)
        sizes.append([len(chunk) async for chunk in response])
        await exchange.start(204)
        exchange.finish()

    async def respond(backend: Backend, seen: Seen) -> bytes:
        size = 1_000_000 if seen.target == "/large" else 30_000
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)

    async with backends(respond) as (backend,):
        config = retrying(backend.url)
        config["routes"] = [{"name": "r", "path": "/{rest*}", "handler": "t:h"}]
        async with Plane(config, handlers={"t:h": handler}) as plane:
            for path in ("/large", "/", "/"):
                await plane.get(path)
        assert backend.connections == 1
    assert max(sizes[0]) > 16384  # it did use large ones
    assert sizes[1][0] <= 16384
    assert sizes[2][0] <= 16384


async def test_the_time_of_an_answer_that_is_not_wanted_is_the_upstreams():
    async def late(_: Backend, seen: Seen) -> bytes:
        await asyncio.sleep(0.3)
        return answering(503)

    retries = {"statuses": ["503"], "budget": "100%"}
    async with (
        backends(late, None) as (bad, good),
        Plane(retrying(bad.url, good.url, retries=retries)) as plane,
    ):
        assert (await plane.get("/")).status == 200
        await plane.settled(exchanges=0)
        (route,) = counters_snapshot(plane.segment).routes
        assert route.upstream.sum_ns >= 300_000_000
        assert route.total.sum_ns - route.gateway.sum_ns >= 300_000_000


# ---- all of it together -------------------------------------------------------------------------


class Unreliable:
    """A target that does something else with each request, and knows what it saw and did.

    ok, error: an answer. part, hint: some of one, then the end. close: the end at once, or after
    `later` some of the body was read. reset: as close, by force. idle: an answer, then the end.
    """

    DEEDS = ("ok", "ok", "ok", "error", "part", "hint", "close", "reset", "later", "idle")

    def __init__(self, chance: random.Random, log: list[tuple[str, str, bytes | None]]) -> None:
        self.chance = chance
        self.log = log
        self.tasks: list[Any] = []

    async def start(self, path: str) -> Unreliable:
        self.server = await asyncio.start_unix_server(self.serve, path)
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self.one(reader, writer):
                pass
        writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        deed = self.chance.choice(self.DEEDS)
        seen = Seen(head, reader, writer)
        name = seen.headers["x-number"]
        if deed in ("close", "reset", "later"):
            self.log.append((name, deed, None))
            if deed == "later" and {"content-length", "transfer-encoding"} & set(seen.headers):
                await reader.read(1)
            elif deed == "reset":
                writer.transport.abort()
            return False
        try:
            await seen.read_body()
        except asyncio.IncompleteReadError:
            self.log.append((name, "broken", None))
            raise
        self.log.append((name, deed, seen.body))
        status = 503 if deed == "error" else 200
        answer = answering(status, name.encode())
        if deed == "hint":
            answer = b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"
        writer.write(answer[: len(answer) // 2] if deed == "part" else answer)
        await writer.drain()
        return deed in ("ok", "error")


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_sent_twice_that_may_not_be(tmp_path, seed):
    """Requests of all kinds to three targets that fail in all ways, one of which comes and goes."""
    chance = random.Random(seed)
    attempts = 3
    log: list[tuple[str, str, bytes | None]] = []
    paths = [str(tmp_path / name) for name in "abc"]
    targets = [await Unreliable(chance, log).start(path) for path in paths]
    gone: list[Unreliable] = []
    config = retrying(
        *(f"unix:{path}" for path in paths),
        retries={"attempts": attempts, "statuses": ["503"], "budget": "100%"},
    )
    sent: dict[str, tuple[str, bytes, int | None]] = {}

    async def one(plane: Plane, number: str) -> None:
        method = chance.choice(("GET", "PUT", "DELETE", "POST", "PATCH"))
        body = bytes(chance.choice((0, 10, 20_000, 300_000)))
        if method in ("GET", "DELETE"):
            body = b""
        fields = b"Content-Length: %d\r\n" % len(body) if body else b""
        framed = body
        if body and chance.random() < 0.3:
            fields, framed = b"Transfer-Encoding: chunked\r\n", chunked(body)
        head = f"{method} / HTTP/1.1\r\nHost: a\r\nX-Number: {number}\r\nConnection: close\r\n"
        reply = await plane.raw(head.encode() + fields + b"\r\n" + framed)
        final = reply.removeprefix(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n")
        if final.startswith(b"HTTP/1.1 103"):
            final = final.partition(b"\r\n\r\n")[2]
        sent[number] = (method, body, int(final[9:12]) if final else None)
        if final.startswith(b"HTTP/1.1 200"):
            assert final.endswith(number.encode())

    async with Plane(config) as plane:
        for turn in range(15):
            if turn % 5 == 3:
                targets[2].server.close()
                gone.append(targets[2])
            elif turn % 5 == 0 and turn:
                targets[2] = await Unreliable(chance, log).start(paths[2])
            await asyncio.gather(*(one(plane, f"{turn}-{i}") for i in range(10)))
    for target in targets:
        target.server.close()
    for target in targets + gone:
        await asyncio.gather(*target.tasks)
    for number, (method, body, status) in sent.items():
        seen = [(deed, got) for name, deed, got in log if name == number]
        deeds = [deed for deed, _ in seen]
        stale = deeds.count("close") + deeds.count("reset") + deeds.count("later")
        assert len(seen) <= attempts + stale, (number, deeds)
        assert all(got == body for _, got in seen if got is not None), number
        if method in ("POST", "PATCH"):
            assert len(seen) <= 1, (number, deeds)
        # What was answered, in whole or in part, is asked for again only where that was wished.
        assert not set(deeds[:-1]) & {"ok", "idle", "part", "hint", "broken"}, (number, deeds)
        if deeds and deeds[-1] in ("ok", "idle"):
            assert status == 200, (number, deeds, status)
        elif deeds and deeds[-1] == "error":
            assert status in (503, 502), (number, deeds, status)
        else:
            assert status == 502, (number, deeds, status)
