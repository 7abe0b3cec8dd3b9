"""What docs/upstreams.md says of shares, failover, ejection and return, for each policy.

Through a real engine, over Unix sockets, so that a target can go away and come back at its address.
`FASTGATE_BALANCING=20000` makes so many requests for each share (default: 600), and looks at shares
of targets that take time, too.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from balancingkit import AFTER, FOR_NS, POLICIES, REQUESTS, Bench, Client, bench, near
from enginekit import Plane

from fastgate.model.gateway import Upstream
from fastgate.model.shape import fields_of, shape_of

GUIDE = Path(__file__).parents[2] / "docs" / "upstreams.md"
LONG = "FASTGATE_BALANCING" in os.environ


def test_the_guide_describes_every_policy_that_can_be_configured() -> None:
    names = shape_of(fields_of(Upstream)["balance"].annotation).choices
    rows = re.findall(r"^\| `(\w+)` \|", GUIDE.read_text(), re.MULTILINE)
    assert set(names) <= set(rows)
    assert set(POLICIES) <= set(names)


# ---- shares -------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", POLICIES)
@pytest.mark.parametrize("weights", [(1, 3), (300, 100), (1, 2, 5)], ids=str)
async def test_shares_are_by_weight(tmp_path, balance, weights):
    async with bench(tmp_path, balance, weights, eject={"statuses": []}) as b:
        if balance == "p2c_ewma":
            for target in b.targets:
                target.answer = 501  # says nothing of speed, so noise takes nobody's turn
        await b.client.send(REQUESTS)
        taken = b.taken()
        for count, weight in zip(taken, weights, strict=True):
            assert near(count, REQUESTS, weight / sum(weights), balance), taken


@pytest.mark.skipif(not LONG, reason="FASTGATE_BALANCING is not set")
@pytest.mark.parametrize("balance", ["least_connections", "p2c_ewma"])
async def test_shares_are_by_weight_where_targets_take_time(tmp_path, balance):
    async with bench(tmp_path, balance, (1, 3)) as b, AsyncExitStack() as stack:
        for target in b.targets:
            target.delay = 0.02
        clients = [await stack.enter_async_context(Client(b.plane)) for _ in range(16)]
        await asyncio.gather(*(client.send(REQUESTS // 64) for client in clients))
        taken = b.taken()
        assert near(taken[0], sum(taken), 1 / 4, balance), taken


async def test_hash_moves_only_what_it_must(tmp_path):
    """A key stays with its target while that can be used, and comes back to it."""

    async def owners(b: Bench) -> dict[bytes, int]:
        b.client.next = 0
        b.taken()
        assert await b.client.send(REQUESTS) == [200] * REQUESTS
        return {key: i for i, target in enumerate(b.targets) for key in target.asked}

    async with bench(tmp_path, "hash", (1, 2, 3)) as b:
        before = await owners(b)
        assert await owners(b) == before
        await b.targets[2].stop()
        without = await owners(b)
        assert all(without[key] == owner for key, owner in before.items() if owner != 2)
        moved = [without[key] for key, owner in before.items() if owner == 2]
        assert near(moved.count(0), len(moved), 1 / 3, "hash")
        await b.targets[2].start()
        b.rested(2)
        assert await owners(b) == before


# ---- one of three -------------------------------------------------------------------------------


async def others_share(b: Bench, balance: str, bad: int = 1) -> None:
    taken = b.taken()
    rest = sum(taken) - taken[bad]
    for i, count in enumerate(taken):
        if i != bad:
            assert near(count, rest, 1 / 2, balance), taken


async def asked_again(b: Bench, index: int) -> None:
    """It gets requests, within the seconds that p2c_ewma may pass it over."""
    b.taken()
    end = time.monotonic() + 20
    while not b.targets[index].asked:
        assert await b.client.send(5) == [200] * 5
        assert time.monotonic() < end


async def ejected(b: Bench, times: int) -> None:
    """Send requests, all of which are served, until there were so many ejections."""
    end = time.monotonic() + 20
    while True:
        assert await b.client.send(REQUESTS) == [200] * REQUESTS
        if b.counters["ejections"] == times:
            return
        assert time.monotonic() < end


async def all_share(b: Bench, balance: str, bad: int = 1) -> None:
    if balance == "p2c_ewma":  # which one is faster is noise here
        await asked_again(b, bad)
        return
    b.taken()
    assert await b.client.send(REQUESTS) == [200] * REQUESTS
    taken = b.taken()
    assert all(near(count, REQUESTS, 1 / 3, balance) for count in taken), taken


@pytest.mark.parametrize("balance", POLICIES)
async def test_one_that_dies_is_ejected_and_comes_back(tmp_path, balance):
    async with bench(tmp_path, balance) as b:
        assert await b.client.send(60) == [200] * 60
        await b.targets[1].stop()
        b.taken()
        # Nobody notices. It is asked `after` times, then no more.
        await ejected(b, 1)
        assert await b.client.send(REQUESTS) == [200] * REQUESTS
        assert b.counters["upstream_connect_failures"] == AFTER
        assert b.counters["retries"] == AFTER
        assert b.counters["ejections"] == 1
        if balance != "p2c_ewma":
            await others_share(b, balance)
        await b.targets[1].start()
        b.rested(1)
        await all_share(b, balance)
        assert b.row(1).failures == b.row(1).ejections == 0


@pytest.mark.parametrize("balance", POLICIES)
async def test_one_that_flaps_is_ejected_for_longer_each_time(tmp_path, balance):
    async with bench(tmp_path, balance) as b:
        await b.targets[1].stop()
        for times in range(1, 13):
            before = time.monotonic_ns()
            assert await b.client.send(REQUESTS // 4) == [200] * (REQUESTS // 4)
            # `after` failures the first time, one each time it was given another chance.
            assert b.counters["upstream_connect_failures"] == AFTER + times - 1
            assert b.counters["ejections"] == times
            until = b.row(1).ejected_until_ns - min(times, 10) * FOR_NS
            assert before <= until <= time.monotonic_ns()
            b.rested(1)
        await b.targets[1].start()
        await all_share(b, balance)
        # One success, and it takes `after` failures again.
        await b.targets[1].stop()
        await ejected(b, 13)
        assert b.counters["upstream_connect_failures"] == 2 * AFTER + 11
        until = b.row(1).ejected_until_ns - FOR_NS
        assert until <= time.monotonic_ns()


@pytest.mark.parametrize("balance", POLICIES)
@pytest.mark.parametrize("retried", [False, True])
async def test_one_that_answers_5xx_is_ejected(tmp_path, balance, retried):
    retries = {"statuses": ["503"] if retried else [], "budget": "100%"}
    async with bench(tmp_path, balance, retries=retries) as b:
        b.targets[1].answer = 503
        statuses = await b.client.send(REQUESTS)
        assert len(b.targets[1].asked) == AFTER
        assert statuses.count(503) == (0 if retried else AFTER)
        assert statuses.count(200) == REQUESTS - statuses.count(503)
        assert b.counters["retries"] == (AFTER if retried else 0)
        if balance != "p2c_ewma":
            await others_share(b, balance)
        # Another chance: one more failure is enough.
        b.taken()
        b.rested(1)
        await b.client.send(REQUESTS)
        assert len(b.targets[1].asked) == 1
        b.targets[1].answer = 200
        b.rested(1)
        await all_share(b, balance)


@pytest.mark.parametrize("balance", POLICIES)
async def test_statuses_that_are_no_failures_eject_nobody(tmp_path, balance):
    async with bench(tmp_path, balance, eject={"statuses": ["502"]}) as b:
        for target in b.targets:
            target.answer = 501
        b.targets[1].answer = 503
        statuses = await b.client.send(REQUESTS)
        assert near(statuses.count(503), REQUESTS, 1 / 3, balance)
        assert b.counters["ejections"] == 0


@pytest.mark.parametrize("balance", POLICIES)
async def test_failures_between_successes_eject_nobody(tmp_path, balance):
    async with bench(tmp_path, balance, eject={"after": 2, "statuses": "5xx"}) as b:
        for _ in range(20):
            b.targets[1].answer = 503
            while not b.targets[1].take():
                await b.client.send(1)
            b.targets[1].answer = 200
            while not b.targets[1].take():
                await b.client.send(1)
        assert b.counters["ejections"] == 0


async def test_an_ejection_ends_by_itself(tmp_path):
    async with bench(tmp_path, "round_robin", eject={"for": "200ms"}) as b:
        b.targets[1].answer = 503
        while not b.counters["ejections"]:
            await b.client.send(1)
        until = b.row(1).ejected_until_ns
        b.targets[1].answer = 200
        await asked_again(b, 1)
        assert time.monotonic_ns() >= until


async def test_workers_count_failures_together(tmp_path):
    async with (
        bench(tmp_path, "round_robin") as b,
        Plane(b.plane.config, segment=b.plane.segment, worker=1) as other,
        Client(other) as client,
    ):
        b.targets[1].answer = 503
        while len(b.targets[1].asked) < AFTER - 2:
            await b.client.send(1)
        while len(b.targets[1].asked) < AFTER:
            await client.send(1)
        assert b.row(1).ejections == 1
        assert await b.client.send(60) == [200] * 60
        assert await client.send(60) == [200] * 60


async def test_failures_expire(tmp_path):
    async with bench(tmp_path, "round_robin", (1,), eject={"after": 3, "within": "150ms"}) as b:
        b.targets[0].answer = 503
        await b.client.send(2)
        assert b.row(0).failures == 2
        await asyncio.sleep(0.3)  # it is the passing of time that is tested
        await b.client.send(1)
        assert (b.row(0).failures, b.row(0).ejections) == (1, 0)
        while b.row(0).ejections == 0:
            await b.client.send(3)


async def test_the_last_ones_are_used_though_they_are_ejected(tmp_path):
    async with bench(tmp_path, "round_robin") as b:
        for target in b.targets:
            target.answer = 503
        assert await b.client.send(60) == [503] * 60
        assert b.counters["ejections"] == 3
        for target in b.targets:
            target.answer = 200
        assert await b.client.send(60) == [200] * 60
        assert all(near(count, 120, 1 / 3, "round_robin") for count in b.taken())


async def test_a_target_that_is_slow_keeps_its_share(tmp_path):
    for balance in ("round_robin", "hash"):
        async with bench(tmp_path, balance) as b:
            b.targets[1].delay = 0.002
            await b.client.send(REQUESTS // 2)
            assert near(len(b.targets[1].asked), REQUESTS // 2, 1 / 3, balance)


async def test_least_connections_passes_over_one_that_is_busy(tmp_path):
    """One that never answers gets one request, and none while it has that."""
    async with bench(tmp_path, "least_connections") as b, Client(b.plane) as waiting:
        b.targets[1].answer = None
        replies = asyncio.ensure_future(waiting.send(3))  # of these it holds one
        await b.targets[1].held.wait()
        b.taken()
        assert await b.client.send(REQUESTS) == [200] * REQUESTS
        assert b.targets[1].asked == []
        await others_share(b, "least_connections")
        await b.targets[1].stop()  # what it held goes to another one
        assert await replies == [200] * 3


async def test_p2c_passes_over_one_that_is_slow_and_comes_back_to_it(tmp_path):
    async with bench(tmp_path, "p2c_ewma") as b:
        for target in b.targets:
            target.delay = 0.001
        b.targets[1].delay = 0.1
        await b.client.send(6)
        assert b.targets[1].asked  # now its speed is known
        b.taken()
        begin = time.monotonic()
        await b.client.send(150)
        # Asked again once the time that is known of it has halved often enough.
        probes = 1 + int((time.monotonic() - begin) / 2)
        assert len(b.targets[1].asked) <= probes
        b.targets[1].delay = 0.001
        b.taken()
        for _ in range(5):
            await asked_again(b, 1)
