"""Snapshots that were replaced: held by their own exchanges, unmapped with the last of them."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from enginekit import Client, GatedBackend, Plane, proxied


def mapped() -> int:
    """How many images are mapped in this process."""
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
