"""Tunnels: a side may end before the other, which goes on until it has ended or is idle."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from deadlinekit import SMALL, Peer, caller, request, target
from enginekit import Plane, proxied

from fastgate._core.logs.drain import LogDrain

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
BIG = bytes(range(256)) * 16384  # more than both kernels hold


def config(url: str, **upstream: object) -> dict[str, Any]:
    found = proxied(url, websocket=True)
    found["upstreams"][0].update(upstream)
    return found


async def opened(peer: Peer) -> None:
    await peer.send(request("GET", "Upgrade: websocket", "Connection: upgrade"))
    assert (await peer.head()).startswith(b"HTTP/1.1 101 ")


def reasons(plane: Plane) -> list[str]:
    lines = LogDrain(plane.segment).drain(0).splitlines()
    return [orjson.loads(line)["reason"] for line in lines]


@pytest.mark.parametrize("size", [0, 3, len(BIG)])
async def test_a_client_that_ends_first_is_answered(size):
    """The target sees the end, after all that came before it, and has its say."""
    got: list[bytes] = []

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        got.append((await peer.rest())[0])
        await peer.send(BIG)

    async with target(serve) as url, Plane(config(url)) as plane, caller(plane) as peer:
        await opened(peer)
        await peer.send(BIG[:size])
        peer.finish()
        assert await peer.rest() == (BIG, "end")
        await plane.settled(exchanges=0, connections=0)
        assert got == [BIG[:size]]
        assert reasons(plane) == ["tunnel_closed"]


@pytest.mark.parametrize("size", [0, 3, len(BIG)])
async def test_a_target_that_ends_first_is_sent_the_rest(size):
    got: list[tuple[bytes, str]] = []

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED + BIG[:size])
        peer.finish()
        got.append(await peer.rest())

    async with target(serve) as url, Plane(config(url)) as plane, caller(plane) as peer:
        await opened(peer)
        assert await peer.exactly(size) == BIG[:size]
        assert await peer.recv() == b""  # its end
        await peer.send(BIG)
        peer.finish()
        await plane.settled(exchanges=0, connections=0)
        for _ in range(400):
            if got:
                break
            await asyncio.sleep(0.01)
        assert got == [(BIG, "end")]


async def test_both_ends_at_once():
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        await peer.recv()
        peer.finish()

    async with target(serve) as url, Plane(config(url)) as plane, caller(plane) as peer:
        await opened(peer)
        await peer.send(b"x")
        peer.finish()
        assert await peer.rest() == (b"", "end")
        await plane.settled(exchanges=0, connections=0)


@pytest.mark.parametrize("first", ["client", "target"])
async def test_the_side_that_is_left_has_the_idle_time(first):
    held = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        if first == "target":
            peer.finish()
        await held.wait()

    timeouts = {"timeouts": {"idle": "300ms"}}
    async with target(serve) as url, Plane(config(url, **timeouts)) as plane, caller(plane) as peer:
        await opened(peer)
        if first == "client":
            peer.finish()
        await plane.settled(exchanges=1)
        await plane.settled(exchanges=0, connections=0)
        assert reasons(plane) == ["tunnel_closed"]
        held.set()


@pytest.mark.parametrize("first", ["client", "target"])
async def test_a_side_that_goes_away_after_the_other_has_ended_ends_the_tunnel(first):
    gone = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        if first == "target":
            peer.finish()
            await gone.wait()
        else:
            await peer.rest()
            peer.reset()

    async with target(serve) as url, Plane(config(url)) as plane, caller(plane) as peer:
        await opened(peer)
        if first == "target":
            assert await peer.recv() == b""
            peer.reset()
        else:
            peer.finish()
        await plane.settled(exchanges=0, connections=0)
        gone.set()


async def test_pieces_keep_a_half_closed_tunnel_open():
    """Longer than `idle`, in the direction that is left."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        await peer.rest()
        await peer.trickle(b"x", 20)

    timeouts = {"timeouts": {"idle": "300ms"}}
    async with target(serve) as url, Plane(config(url, **timeouts)) as plane, caller(plane) as peer:
        await opened(peer)
        peer.finish()
        assert await peer.rest() == (b"x" * 20, "end")


async def test_a_tunnels_client_that_takes_nothing_is_timed_out():
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(UPGRADED)
        await peer.send(BIG)
        await peer.rest()

    async with target(serve) as url:
        slow = {**config(url), "timeouts": {"write": "300ms"}}
        async with Plane(slow) as plane, caller(plane) as peer:
            await opened(peer)
            await plane.settled(exchanges=0, connections=0)
            assert reasons(plane) == ["client_timeout"]
            assert len(BIG) > SMALL
