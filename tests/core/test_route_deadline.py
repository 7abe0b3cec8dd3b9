"""A route's `deadline`: all of a request is over by then, whatever it waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from chargingkit import ANN, SharedMoney, call, config
from chargingkit import plane as paid
from deadlinekit import DEADLINE, STEP, Peer, answer, caller, request, target
from enginekit import Backend, Plane, proxied

from fastgate._core.logs.drain import LogDrain

BIG = bytes(10_000_000)  # more than the kernel's buffers of a connection


def limited(url: str, **more: Any) -> dict[str, Any]:
    return proxied(url, **{"deadline": DEADLINE, **more})


def lines_of(plane: Plane) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]


async def problem(peer: Peer) -> tuple[int, str]:
    """Status and reason of the refusal that comes."""
    head = await peer.head()
    size = int(head.split(b"Content-Length: ")[1].split(b"\r")[0])
    return int(head.split()[1]), orjson.loads(await peer.exactly(size))["reason"]


async def silent(peer: Peer) -> None:
    """Reads requests, and answers none."""
    while await peer.recv():
        pass


async def prompt(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(answer(b"here"))


async def slow_body(peer: Peer) -> None:
    """Begins each answer at once, and goes on with it in small steps for a long time."""
    while True:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await peer.trickle(b"x" * 10, 200)


async def test_a_target_that_does_not_answer():
    async with (
        target(silent) as url,
        Plane(limited(url)) as plane,
        caller(plane) as client,
    ):
        for _ in range(2):  # its connection stays open
            await client.send(request("GET"))
            assert await problem(client) == (504, "deadline_exceeded")
        for line in lines_of(plane):
            assert (line["status"], line["reason"]) == (504, "deadline_exceeded")


async def test_an_answer_that_is_complete_in_time():
    async with target(prompt) as url, Plane(limited(url)) as plane, caller(plane) as client:
        for _ in range(3):
            await client.send(request("GET"))
            assert b" 200 OK" in await client.head()
            assert await client.exactly(4) == b"here"
            await asyncio.sleep(STEP * 4)  # in all it is longer, but each is a request of its own
        assert not any("reason" in line for line in lines_of(plane))


async def test_an_answer_that_makes_progress_is_broken_off():
    async with (
        target(slow_body) as url,
        Plane(limited(url)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        body = (await client.rest())[0].partition(b"\r\n\r\n")[2]
        assert 0 < len(body) < 100000
        await plane.settled(exchanges=0)
        (line,) = lines_of(plane)
        assert (line["status"], line["reason"]) == (200, "deadline_exceeded")


async def test_an_answer_that_is_not_read_is_broken_off():
    async def source(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(BIG))

    async with target(source) as url, Plane(limited(url)) as plane, caller(plane) as client:
        await client.send(request("GET"))
        await plane.settled(exchanges=1)
        await plane.settled(exchanges=0)
        assert len((await client.rest())[0]) < len(BIG)
        (line,) = lines_of(plane)
        assert line["reason"] == "deadline_exceeded"


async def test_a_client_that_reads_until_the_end_is_not_deceived():
    """To a client of HTTP/1.0, the end of the connection is that of the answer: it is reset."""

    async def chunks(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.trickle(b"1\r\nx\r\n", 200)

    async with target(chunks) as url, Plane(limited(url)) as plane, caller(plane) as client:
        await client.send(request("GET", minor=0))
        data, end = await client.rest()
        assert b" 200 OK" in data
        assert end == "reset"


async def test_a_body_that_makes_progress():
    async with target(silent) as url, Plane(limited(url)) as plane, caller(plane) as client:
        await client.send(request("POST", "Content-Length: 100000"))
        sending = asyncio.ensure_future(client.trickle(b"x" * 10, 200))
        assert await problem(client) == (504, "deadline_exceeded")
        sending.cancel()
        await asyncio.wait([sending])
        # What follows on this connection would be the rest of the body.
        (line,) = lines_of(plane)
        assert line["reason"] == "deadline_exceeded"


async def test_attempts_share_it():
    """Each attempt would take less; all of them would take longer."""

    async def failing(peer: Peer) -> None:
        while True:
            await peer.head()
            await asyncio.sleep(STEP * 4)
            await peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async with target(failing) as url:
        document = limited(url)
        document["services"][0]["retries"] = {"attempts": 3, "statuses": [503]}
        async with Plane(document) as plane, caller(plane) as client:
            await client.send(request("GET"))
            assert await problem(client) == (504, "deadline_exceeded")
            (line,) = lines_of(plane)
            assert line["attempts"] > 1


async def test_a_handler_that_does_not_answer():
    ended = []

    async def handler(x: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(x)

    document = {
        "routes": [{"name": "h", "path": "/", "handler": "test:handler", "deadline": DEADLINE}]
    }
    async with Plane(document, handlers={"test:handler": handler}) as plane:
        reply = await plane.get("/")
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (504, "deadline_exceeded")
        await plane.settled(exchanges=0)
        assert len(ended) == 1


async def test_a_handlers_stream_is_broken_off():
    async def handler(x: Any) -> None:
        await x.start(200)
        while True:
            await x.write(b"x")
            await asyncio.sleep(STEP)

    document = {
        "routes": [{"name": "h", "path": "/", "handler": "test:handler", "deadline": DEADLINE}]
    }
    async with (
        Plane(document, handlers={"test:handler": handler}) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        data, _ = await client.rest()
        assert data.startswith(b"HTTP/1.1 200 ")
        assert b"\r\n0\r\n\r\n" not in data
        await plane.settled(exchanges=0)


async def test_waiting_for_a_decision_counts():
    """What limits had taken is given back, as for other requests that never began."""
    rules: dict[str, Any] = {"limits": {"rate": "1/d", "by": ["address"]}}
    async with target(prompt) as url:
        delayed = limited(url, fault={"delay": "1h"}, **rules)
        async with Plane(delayed) as plane, caller(plane) as client:
            await client.send(request("GET"))
            assert await problem(client) == (504, "deadline_exceeded")
            plane.install(limited(url, **rules))
            await client.send(request("GET"))
            assert b" 200 OK" in await client.head()


async def test_a_request_that_is_too_late_costs_nothing():
    shared = SharedMoney()
    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    backend = await Backend(lambda *_: asyncio.Event().wait()).start()
    try:
        async with paid(shared, config(backend, deadline=DEADLINE)) as p:
            reply = await call(p)
            assert (reply.status, orjson.loads(reply.body)["reason"]) == (504, "deadline_exceeded")
            await p.settled(exchanges=0)
    finally:
        await backend.stop()
    assert shared.balance() == 1_000_000
    assert shared.money.open_holds() == []


async def test_an_answer_of_an_older_configuration_keeps_its_deadline():
    async with (
        target(slow_body) as url,
        Plane(limited(url)) as plane,
        caller(plane) as client,
    ):
        await client.send(request("GET"))
        await client.head()
        plane.install(proxied(url))
        await client.rest()
        await plane.settled(exchanges=0)
        (line,) = lines_of(plane)
        assert line["reason"] == "deadline_exceeded"


async def test_a_tunnel_has_no_deadline():
    async def tunnel(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        while piece := await peer.recv():
            await peer.send(piece)

    async with (
        target(tunnel) as url,
        Plane(limited(url, websocket=True)) as plane,
        caller(plane) as client,
    ):
        await client.send(
            request(
                "GET",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        assert b" 101 " in await client.head()
        for _ in range(15):  # 1.5 times the deadline
            await client.send(b"ping")
            assert await client.exactly(4) == b"ping"
            await asyncio.sleep(STEP)


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (
            {"service": "s", "deadline": "1s", "timeout": "2s"},
            "timeout: 2s would never pass before the deadline of 1s",
        ),
        ({"redirect": "/x", "deadline": "1s"}, "deadline: a redirect takes no time; leave it out"),
    ],
)
def test_deadlines_that_make_no_sense(route: dict[str, Any], message: str):
    from fastgate.errors import ConfigurationError
    from fastgate.model.codec import decode

    with pytest.raises(ConfigurationError) as raised:
        decode({"version": 1, "routes": [{"name": "r", "path": "/", **route}]})
    assert message in str(raised.value)
