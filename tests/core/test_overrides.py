"""Consumers' own numbers for limits, through the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from enginekit import GatedBackend, Plane, Reply

from fastgate._core.exchange.dry_run import DryRun
from fastgate._core.shared.credentials import key_digest
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.identity.overrides import rows

AUTH = {"api_key": {"header": "X-Api-Key"}}
KEYS = {"ann-key": "ann", "bob-key": "bob"}


def document(own: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return {
        "routes": [
            {
                "name": "r", "path": "/{rest*}", "respond": 204, "auth": AUTH,
                "limit_headers": True, **rules,
            }
        ],
        "consumers": [{"name": "ann", "limits": own}, "bob"],
    }  # fmt: skip


BURST = {"limits": [{"rate": "2/h", "name": "burst"}]}


async def ask(plane: Plane, who: str) -> Reply:
    return await plane.get("/", headers={"X-Api-Key": f"{who}-key"})


async def passes(plane: Plane, who: str) -> int:
    """How many requests pass until one is refused."""
    for count in range(100):
        if (await ask(plane, who)).status == 429:
            return count
    raise AssertionError("there is no limit")


@pytest.mark.parametrize(
    ("own", "expected"),
    [("5/h", 5), ({"rate": "1/h", "burst": 7}, 7), ("1/h", 1)],
    ids=["more", "a burst", "less"],
)
async def test_a_rate_of_ones_own(own, expected):
    async with Plane(document({"burst": own}, **BURST), keys=KEYS) as plane:
        assert await passes(plane, "ann") == expected
        assert await passes(plane, "bob") == 2


@pytest.mark.parametrize("where", ["route", "service", "plan", "policy", "default policy"])
async def test_wherever_the_limit_stands(where):
    backend = await GatedBackend().start()
    backend.gate.set()
    try:
        config: dict[str, Any] = {
            "upstreams": [{"name": "u", "targets": [backend.url]}],
            "services": [{"name": "s", "upstream": "u"}],
            "routes": [{"name": "r", "path": "/{rest*}", "service": "s", "auth": AUTH}],
            "plans": [{"name": "p"}],
            "policies": [{"name": "fair"}],
            "consumers": [
                {"name": "ann", "plan": "p", "limits": {"burst": "4/h"}},
                {"name": "bob", "plan": "p"},
            ],
        }
        if where == "policy":
            config["routes"][0]["policies"] = ["fair"]
        if where == "default policy":
            config["default_policies"] = ["fair"]
        kind = {"policy": "policies", "default policy": "policies"}.get(where, f"{where}s")
        config[kind][0] |= BURST
        async with Plane(config, keys=KEYS) as plane:
            assert await passes(plane, "ann") == 4
            assert await passes(plane, "bob") == 2
    finally:
        await backend.stop()


async def test_a_quota_of_ones_own_and_what_is_told():
    quota = {"quotas": [{"period": "year", "requests": 2, "name": "yearly"}]}
    async with Plane(document({"yearly": {"requests": 5}}, **quota), keys=KEYS) as plane:
        first = await ask(plane, "ann")
        assert first.headers["ratelimit"].startswith('"yearly";r=4;')
        assert first.headers["ratelimit-policy"] == '"yearly";q=5;w=31536000'
        assert await passes(plane, "ann") == 4
        refused = orjson.loads((await ask(plane, "ann")).body)
        assert (refused["limit"], refused["used"], refused["policy"]) == (5, 5, "yearly")
        assert (await ask(plane, "bob")).headers["ratelimit-policy"] == '"yearly";q=2;w=31536000'


async def test_a_rates_window_is_ones_own():
    async with Plane(document({"burst": "7/min"}, **BURST), keys=KEYS) as plane:
        assert (await ask(plane, "ann")).headers["ratelimit-policy"] == '"burst";q=7;w=60'
        assert (await ask(plane, "bob")).headers["ratelimit-policy"] == '"burst";q=2;w=3600'


async def test_concurrency_of_ones_own():
    backend = await GatedBackend().start()
    try:
        config = {
            "upstreams": [{"name": "u", "targets": [backend.url]}],
            "services": [{"name": "s", "upstream": "u"}],
            **document({"slots": {"max": 2}}, concurrency=[{"max": 1, "name": "slots"}]),
        }
        del config["routes"][0]["respond"]
        config["routes"][0]["service"] = "s"
        async with Plane(config, keys=KEYS) as plane:
            running = [asyncio.ensure_future(ask(plane, "ann")) for _ in range(2)]
            await plane.settled(exchanges=2, upstreams=2)
            refused = orjson.loads((await ask(plane, "ann")).body)
            assert (refused["reason"], refused["limit"]) == ("concurrency_limited", 2)
            backend.gate.set()
            assert [reply.status for reply in await asyncio.gather(*running)] == [200, 200]
            assert (await ask(plane, "ann")).status == 200
    finally:
        await backend.stop()


async def test_what_another_limit_refuses_is_given_back_at_ones_own_rate():
    limits = [{"rate": "2/h", "name": "burst"}, {"rate": "1/h", "name": "small", "by": "route"}]
    async with Plane(document({"burst": "10/h"}, limits=limits), keys=KEYS) as plane:
        assert (await ask(plane, "ann")).status == 204
        for _ in range(30):
            assert (await ask(plane, "ann")).status == 429
        route = plane.config["routes"][0]
        plane.install({**plane.config, "routes": [{**route, "limits": limits[:1]}]})
        assert await passes(plane, "ann") == 9


async def test_only_the_kind_and_name_that_it_is_for():
    config = document(
        {"burst": "50/h"},
        limits=[{"rate": "3/h", "name": "other"}, {"rate": "30/h", "name": "burst"}],
        quotas=[{"period": "year", "requests": 2, "name": "burst"}],
    )
    async with Plane(config, keys=KEYS) as plane:
        assert await passes(plane, "ann") == 2


async def test_a_limit_that_is_shared_has_one_number():
    """It counts no consumer, so nobody has numbers of their own for it."""
    shared = {"by": "route", "rate": "3/h", "name": "shared"}
    config = document({}, limits=[*BURST["limits"], shared])
    async with Plane(config, keys=KEYS) as plane:
        row = plane.index.set_consumer(
            "ann",
            identity=stable_hash("ann"),
            name="ann",
            overrides=rows({"shared": {"rate": "9/h"}}),
        )
        plane.index.repoint(key_digest("ann-key"), row)
        assert await passes(plane, "ann") == 2
        assert await passes(plane, "bob") == 1


async def test_a_change_holds_from_the_next_request_and_what_was_used_stays_used():
    async with Plane(document({}, **BURST), keys=KEYS) as plane:
        assert await passes(plane, "ann") == 2
        for numbers, more in (({"burst": {"rate": "5/h"}}, 3), ({}, 0)):
            row = plane.index.set_consumer(
                "ann", identity=stable_hash("ann"), name="ann", overrides=rows(numbers)
            )
            plane.index.repoint(key_digest("ann-key"), row)
            assert await passes(plane, "ann") == more


async def test_an_answer_that_outlives_its_snapshot_gives_back_what_it_took():
    backend = await GatedBackend().start()
    try:
        config = {
            "upstreams": [{"name": "u", "targets": [backend.url]}],
            "services": [{"name": "s", "upstream": "u"}],
            **document(
                {"yearly": {"requests": 3}, "slots": {"max": 2}},
                quotas=[{"period": "year", "requests": 1, "name": "yearly"}],
                concurrency=[{"max": 1, "name": "slots"}],
            ),
        }
        del config["routes"][0]["respond"]
        config["routes"][0]["service"] = "s"
        async with Plane(config, keys=KEYS) as plane:
            running = asyncio.ensure_future(ask(plane, "ann"))
            await plane.settled(exchanges=1, upstreams=1)
            plane.install(plane.config)
            backend.gate.set()
            assert (await running).status == 200
            assert await passes(plane, "ann") == 2
    finally:
        await backend.stop()


async def test_why_knows_ones_own_numbers():
    async with Plane(
        document({"burst": {"rate": "10/h", "burst": 4}}, **BURST), keys=KEYS
    ) as plane:
        assert (await ask(plane, "ann")).status == 204
        run = DryRun(plane.segment, None, plane.snapshot, route=0)
        (mine,) = run.of_key(plane.index, key_digest("ann-key")).limits
        assert (mine.amount, mine.used, mine.remaining) == (4, 1, 3)
        assert mine.words == "10 requests an hour for each consumer"
        run = DryRun(plane.segment, None, plane.snapshot, route=0)
        (theirs,) = run.of_key(plane.index, key_digest("bob-key")).limits
        assert (theirs.amount, theirs.words) == (2, "2 requests an hour for each consumer")
