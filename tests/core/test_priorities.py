"""Targets of several priorities: SRV records."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.config.rendering import ServiceAddress


class Numbered(Backend):
    def __init__(self, number: int) -> None:
        super().__init__(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@asynccontextmanager
async def served(
    *records: tuple[int, int], **upstream: Any
) -> AsyncIterator[tuple[Plane, list[Numbered]]]:
    """records: priority and weight of each backend."""
    backends = [Numbered(i) for i in range(len(records))]
    for each in backends:
        await each.start()
    config: dict[str, Any] = proxied("http+srv://_http._tcp.app.internal")
    config["upstreams"][0].update({"eject": {"after": 0}, **upstream})
    found = [
        ServiceAddress(
            socket.AF_INET, ("127.0.0.1", backend.port), f"h{i}.internal", priority, weight
        )
        for i, (backend, (priority, weight)) in enumerate(zip(backends, records, strict=True))
    ]
    async with Plane(config, addresses={"_http._tcp.app.internal:0": found}) as plane:
        yield plane, backends
    for each in backends:
        await each.stop()


async def asked(plane: Plane, n: int) -> Counter[bytes]:
    client = await plane.client()
    return Counter([(await client.request("GET", "/")).body for _ in range(n)])


def set_health(plane: Plane, backend: Numbered, health: int) -> None:
    ((key, slot),) = (each for each in plane.slots.targets.items() if f":{backend.port}" in each[0])
    row = plane.segment.target_row(slot)
    row.claim(stable_hash(f"target:{key}"))
    row.health = health


@pytest.mark.parametrize("balance", ["round_robin", "least_connections", "p2c_ewma"])
async def test_the_first_share_by_weight_and_the_others_get_nothing(balance: str) -> None:
    records = ((10, 3), (10, 1), (20, 50))
    async with served(*records, balance=balance) as (plane, _):
        counts = await asked(plane, 400)
        assert counts[b"2"] == 0
        if balance != "p2c_ewma":  # which prefers the faster one
            assert counts == {b"0": 300, b"1": 100}


async def test_the_next_ones_take_over_and_give_back() -> None:
    async with served((10, 1), (20, 1), (30, 1)) as (plane, backends):
        set_health(plane, backends[0], 2)
        assert await asked(plane, 10) == {b"1": 10}
        set_health(plane, backends[1], 2)
        assert await asked(plane, 10) == {b"2": 10}
        set_health(plane, backends[0], 1)
        assert await asked(plane, 10) == {b"0": 10}


async def test_a_retry_goes_to_the_next_priority() -> None:
    async with served((10, 1), (20, 1)) as (plane, backends):
        await backends[0].stop()
        assert await asked(plane, 5) == {b"1": 5}
        await backends[0].start()


async def test_the_hash_chooses_among_the_first() -> None:
    records = ((10, 1), (10, 1), (20, 1))
    async with served(*records, balance="hash", hash_by="path") as (plane, _):
        client = await plane.client()
        found = {(await client.request("GET", f"/{i}")).body for i in range(40)}
        assert found == {b"0", b"1"}
