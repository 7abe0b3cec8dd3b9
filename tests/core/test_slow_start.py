"""Slow start: the share of a target that became usable grows with time, for each policy."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from balancingkit import POLICIES, REQUESTS, Bench, Client, bench, near
from enginekit import Plane

SLOW_S = max(1, min(3600, int(time.monotonic() / 2)))
"""So long that a test changes nothing, but no longer than the machine runs."""
SLOW = f"{SLOW_S}s"
SLOW_NS = SLOW_S * 1_000_000_000
PARTS = (0.0, 0.25, 0.5, 0.9)


def passed(b: Bench, index: int, part: float) -> None:
    """So much of its slow start is over."""
    b.claimed(index).started_ns = time.monotonic_ns() - int(part * SLOW_NS)


def share(part: float, weights: tuple[int, ...] = (1, 1, 1), index: int = 0) -> float:
    """That it should have."""
    own = weights[index] * (0.01 + 0.99 * part)
    return own / (sum(weights) - weights[index] + own)


def level(b: Bench, balance: str) -> None:
    """Answers say nothing of speed, so that its noise takes nobody's turn."""
    for target in b.targets:
        target.answer = 501 if balance == "p2c_ewma" else 200


@pytest.mark.parametrize("balance", POLICIES)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("weights", [(1, 1, 1), (4, 1, 2)], ids=str)
async def test_shares_grow_with_time(
    tmp_path: Any, balance: str, part: float, weights: tuple[int, ...]
) -> None:
    async with bench(tmp_path, balance, weights, slow_start=SLOW) as b:
        level(b, balance)
        passed(b, 0, part)
        await b.client.send(REQUESTS)
        taken = b.taken()
        assert near(taken[0], REQUESTS, share(part, weights), balance), taken
        rest = REQUESTS - taken[0]
        assert near(taken[1], rest, weights[1] / (weights[1] + weights[2]), balance), taken


@pytest.mark.parametrize("part", PARTS)
async def test_least_connections_under_load(tmp_path: Any, part: float) -> None:
    """A target that has just started has nothing to do, and is still not flooded."""
    async with bench(tmp_path, "least_connections", slow_start=SLOW) as b, AsyncExitStack() as on:
        for target in b.targets:
            target.delay = 0.002
        passed(b, 0, part)
        clients = [await on.enter_async_context(Client(b.plane)) for _ in range(12)]
        await asyncio.gather(*(client.send(REQUESTS // 12) for client in clients))
        taken = b.taken()
        assert near(taken[0], sum(taken), share(part), "round_robin"), taken


async def test_one_that_is_busy_loses_its_turn(tmp_path: Any) -> None:
    async with bench(tmp_path, "least_connections", slow_start=SLOW) as b, Client(b.plane) as held:
        passed(b, 1, 0.9)
        b.targets[1].answer = None
        replies = asyncio.ensure_future(held.send(3))  # of these it holds one
        await b.targets[1].held.wait()
        b.taken()
        assert await b.client.send(60) == [200] * 60
        assert b.targets[1].asked == []
        await b.targets[1].stop()
        assert await replies == [200] * 3


@pytest.mark.parametrize("balance", POLICIES)
@pytest.mark.parametrize("part", [0.0, 0.5])
async def test_all_that_start_at_once_have_their_usual_shares(
    tmp_path: Any, balance: str, part: float
) -> None:
    async with bench(tmp_path, balance, (1, 3), slow_start=SLOW) as b:
        level(b, balance)
        rows = [b.claimed(index) for index in range(2)]
        now = time.monotonic_ns() - int(part * SLOW_NS)
        for row in rows:
            row.started_ns = now
        await b.client.send(REQUESTS)
        assert near(b.taken()[0], REQUESTS, 1 / 4, balance)


@pytest.mark.parametrize("balance", POLICIES)
async def test_its_end(tmp_path: Any, balance: str) -> None:
    async with bench(tmp_path, balance, slow_start=SLOW) as b:
        level(b, balance)
        passed(b, 0, 1.001)
        await b.client.send(REQUESTS)
        assert near(b.taken()[0], REQUESTS, 1 / 3, balance)


@pytest.mark.parametrize("balance", POLICIES)
async def test_after_an_ejection(tmp_path: Any, balance: str) -> None:
    async with bench(tmp_path, balance, slow_start=SLOW, retries=1) as b:
        b.targets[1].answer = 503
        while not b.counters["ejections"]:
            await b.client.send(5)
        level(b, balance)
        for part in (0.0, 0.5):
            b.row(1).ejected_until_ns = time.monotonic_ns() - int(part * SLOW_NS)
            b.taken()
            await b.client.send(REQUESTS)
            assert near(b.taken()[1], REQUESTS, share(part), balance)


@pytest.mark.parametrize("balance", POLICIES)
async def test_ejected_targets_that_are_used_as_the_last_ones(tmp_path: Any, balance: str) -> None:
    """They are not back yet, so their weights are whole."""
    async with bench(tmp_path, balance, (1, 3), slow_start=SLOW) as b:
        level(b, balance)
        for index in range(2):
            b.claimed(index).ejected_until_ns = time.monotonic_ns() + 3600 * 10**9 * (index + 1)
        await b.client.send(REQUESTS)
        assert near(b.taken()[0], REQUESTS, 1 / 4, balance)


@pytest.mark.parametrize("balance", POLICIES)
async def test_one_that_is_alone_gets_everything(tmp_path: Any, balance: str) -> None:
    async with bench(tmp_path, balance, slow_start=SLOW) as b:
        passed(b, 0, 0.0)
        for index in (1, 2):
            b.claimed(index).health = 2
        assert await b.client.send(60) == [200] * 60
        assert b.taken() == [60, 0, 0]


async def test_all_workers_know_the_same(tmp_path: Any) -> None:
    async with (
        bench(tmp_path, "round_robin", slow_start=SLOW) as b,
        Plane(b.plane.config, segment=b.plane.segment, worker=1) as other,
        Client(other) as client,
    ):
        passed(b, 0, 0.25)
        for each in (b.client, client):
            await each.send(REQUESTS)
            assert near(b.taken()[0], REQUESTS, share(0.25), "round_robin")


async def test_reloads_in_the_middle(tmp_path: Any) -> None:
    """It goes on where it was; without the setting, shares are whole at once, and exact."""
    async with bench(tmp_path, "round_robin", (1, 1, 1), slow_start=SLOW) as b:
        passed(b, 0, 0.25)
        await b.client.send(61)
        (upstream,) = b.plane.config["upstreams"]
        for targets, weights in ((3, (1, 1, 5)), (2, (1, 1))):
            changed = [
                {"url": target.url, "weight": weight}
                for target, weight in zip(b.targets[:targets], weights, strict=True)
            ]
            b.plane.install({**b.plane.config, "upstreams": [{**upstream, "targets": changed}]})
            b.taken()
            await b.client.send(REQUESTS)
            assert near(b.taken()[0], REQUESTS, share(0.25, weights), "round_robin")
        off = {**upstream, "targets": changed, "slow_start": "0s"}
        b.plane.install({**b.plane.config, "upstreams": [off]})
        await b.client.send(60)
        assert b.taken()[:2] == [30, 30]


async def test_a_row_of_another_target_says_nothing(tmp_path: Any) -> None:
    async with bench(tmp_path, "round_robin", slow_start=SLOW) as b:
        row = b.row(0)
        row.claim(12345)
        row.started_ns = time.monotonic_ns()
        await b.client.send(60)
        assert b.taken() == [20, 20, 20]


async def test_hash_gives_it_its_keys_one_by_one(tmp_path: Any) -> None:
    """A key that has moved to it stays there, and no key moves between others."""

    async def owners(b: Bench) -> dict[bytes, int]:
        b.client.next = 0
        b.taken()
        assert await b.client.send(REQUESTS) == [200] * REQUESTS
        return {key: i for i, target in enumerate(b.targets) for key in target.asked}

    async with bench(tmp_path, "hash", slow_start=SLOW) as b:
        final = await owners(b)
        before: dict[bytes, int] = {}
        for part in (0.0, 0.2, 0.5, 0.8):
            passed(b, 0, part)
            found = await owners(b)
            assert all(found[key] == 0 for key, owner in before.items() if owner == 0)
            assert all(found[key] == owner for key, owner in final.items() if owner != 0)
            assert all(final[key] == 0 for key, owner in found.items() if owner == 0)
            before = found


async def test_time_passes(tmp_path: Any) -> None:
    """With a short slow start, by the clock itself."""
    async with bench(tmp_path, "round_robin", slow_start="100ms") as b:
        b.claimed(0).started_ns = time.monotonic_ns()
        end = time.monotonic() + 20
        while True:
            b.taken()
            await b.client.send(60)
            if b.taken()[0] == 20:
                break
            assert time.monotonic() < end
