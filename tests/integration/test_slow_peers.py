"""Peers that take their time, on both sides of a real gateway, all at once.

`make slow` lets each go on for five minutes, against the timeouts as they are by default. Otherwise
timeouts of a second have to do, and five seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from deadlinekit import EndedError, Peer, answer, caller, request, target
from gatewaykit import Gateway

SECONDS = int(os.environ.get("FASTGATE_SLOW_S", "5"))
DEFAULTS = SECONDS >= 300
STEPS = SECONDS * 5  # five a second
PIECE = bytes(range(256)) * 8  # 10 KiB a second
WHOLE = PIECE * STEPS
LARGE = bytes(20_000_000)
SHORT = b"x" * 1000  # fits what the reader's own kernel holds for it
PAUSE = SECONDS * 0.4
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


async def slowly(step: Callable[[], Any]) -> None:
    for _ in range(STEPS):
        await step()
        await asyncio.sleep(0.2)


async def read_slowly(peer: Peer, size: int) -> bytes:
    parts: list[bytes] = []

    async def step() -> None:
        parts.append(await peer.exactly(len(PIECE)))

    await slowly(step)
    left = size - sum(map(len, parts))
    return b"".join(parts) + await peer.exactly(left)


async def serve(peer: Peer) -> None:
    while True:
        what = (await peer.head()).split()[1]
        if what == b"/upload":
            body = await peer.patient(len(WHOLE))
            await peer.send(answer(str(body == WHOLE).encode()))
        elif what == b"/slow-target":
            body = await read_slowly(peer, len(LARGE))
            await peer.send(answer(str(body == LARGE).encode()))
        elif what == b"/slow-answer":
            await peer.send(answer(WHOLE)[: -len(WHOLE)])
            await slowly(lambda: peer.send(PIECE))
        elif what == b"/large":
            await peer.send(answer(LARGE))
        elif what == b"/short":
            await peer.send(answer(SHORT))
        elif what == b"/tunnel/speaks":
            await peer.send(UPGRADED)
            await slowly(lambda: peer.send(PIECE))
        elif what == b"/tunnel/listens":
            await peer.send(UPGRADED)
            await peer.patient(len(WHOLE))
            await peer.send(b"heard")


async def upload(peer: Peer) -> bool:
    await peer.send(request("POST", f"Content-Length: {len(WHOLE)}", path="/upload"))
    await slowly(lambda: peer.send(PIECE))
    await peer.head()
    return await peer.exactly(4) == b"True"


async def slow_target(peer: Peer) -> bool:
    await peer.send(request("POST", f"Content-Length: {len(LARGE)}", path="/slow-target"))
    sent = asyncio.ensure_future(peer.send(LARGE))
    status = await peer.patient(15)
    await sent
    await peer.head()
    return status == b"HTTP/1.1 200 OK" and await peer.exactly(4) == b"True"


async def slow_answer(peer: Peer) -> bool:
    await peer.send(request("GET", path="/slow-answer"))
    await peer.head()
    return await peer.exactly(len(WHOLE)) == WHOLE


async def slow_reader(peer: Peer) -> bool:
    await peer.send(request("GET", path="/large"))
    await peer.head()
    return await read_slowly(peer, len(LARGE)) == LARGE


async def pausing_reader(peer: Peer) -> bool:
    """It reads nothing for longer than `timeouts.write`, and what it misses is large: reset."""
    await peer.send(request("GET", path="/large"))
    await peer.head()
    await asyncio.sleep(PAUSE)
    data, how = await peer.rest()
    return how == "reset" and len(data) < len(LARGE)


async def pausing_reader_of_little(peer: Peer) -> bool:
    """What its own kernel holds for it has arrived."""
    await peer.send(request("GET", path="/short"))
    await asyncio.sleep(PAUSE)
    await peer.head()
    return await peer.exactly(len(SHORT)) == SHORT


async def tunnel(peer: Peer, path: str) -> None:
    await peer.send(request("GET", "Connection: upgrade", "Upgrade: websocket", path=path))
    assert (await peer.head()).startswith(b"HTTP/1.1 101 ")


async def speaking_client(peer: Peer) -> bool:
    await tunnel(peer, "/tunnel/listens")
    await slowly(lambda: peer.send(PIECE))
    return await peer.exactly(5) == b"heard"


async def listening_client(peer: Peer) -> bool:
    await tunnel(peer, "/tunnel/speaks")
    return await peer.exactly(len(WHOLE)) == WHOLE


@pytest.mark.timeout(SECONDS * 2 + 120)
async def test_slow_peers_are_served_and_those_that_stop_are_not(
    gateway: Callable[..., Gateway],
) -> None:
    async def ask(of: Callable[[Peer], Any]) -> tuple[str, object]:
        async with caller(port) as peer:
            try:
                return of.__name__, await of(peer)
            except (EndedError, ConnectionError, TimeoutError, AssertionError) as error:
                return of.__name__, repr(error)

    asked = (
        upload, slow_target, slow_answer, slow_reader, pausing_reader, pausing_reader_of_little,
        speaking_client, listening_client,
    )  # fmt: skip
    async with target(serve) as url:
        config: dict[str, Any] = {
            "caps": {"body": "100MB"},
            "upstreams": [{"name": "u", "targets": [url]}],
            "services": [{"name": "s", "upstream": "u"}],
            "routes": [{"name": "r", "path": "/{rest*}", "service": "s", "websocket": True}],
        }
        if not DEFAULTS:
            config["timeouts"] = dict.fromkeys(("head", "body", "idle", "write"), "1s")
            config["upstreams"][0]["timeouts"] = dict.fromkeys(
                ("connect", "write", "first_byte", "idle"), "1s"
            )
        port = (await asyncio.to_thread(gateway, config)).address()[1]
        found = dict(await asyncio.gather(*map(ask, asked)))
    assert found == dict.fromkeys(found, True)
