"""Limits that count by the value of a header, through the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from enginekit import GatedBackend, Plane

from fastgate._core.exchange.dry_run import DryRun
from fastgate._core.logs.drain import LogDrain

TENANT = "header:X-Tenant"
AUTH = {"api_key": {"header": "X-Api-Key"}}


def answering(**route: Any) -> dict[str, Any]:
    return {"routes": [{"name": "r", "path": "/{rest*}", "respond": 204, **route}]}


def limited(by: list[str], rate: str = "2/h", **route: Any) -> dict[str, Any]:
    return answering(limits=[{"by": by, "rate": rate}], **route)


async def used_up(plane: Plane, *fields: tuple[str, str]) -> bool:
    reply = await plane.get("/", headers=list(fields))
    assert reply.status in (204, 429)
    return reply.status == 429


async def test_each_value_has_a_count_of_its_own():
    async with Plane(limited([TENANT])) as plane:
        for _ in range(2):
            assert not await used_up(plane, ("X-Tenant", "a"))
            assert not await used_up(plane, ("x-tenant", "b"))
        assert await used_up(plane, ("X-TENANT", "a"))
        assert await used_up(plane, ("X-Tenant", "b"))
        assert not await used_up(plane, ("X-Tenant", "A")), "values are compared exactly"
        assert not await used_up(plane, ("X-Other", "a")), "another field is not looked at"


async def test_requests_without_the_header_share_a_count():
    async with Plane(limited([TENANT])) as plane:
        assert not await used_up(plane)
        assert not await used_up(plane, ("X-Other", "1"))
        assert await used_up(plane)
        assert not await used_up(plane, ("X-Tenant", "")), "an empty value is one"


async def test_a_header_that_is_there_twice_counts_with_both_values():
    async with Plane(limited([TENANT])) as plane:
        for _ in range(2):
            assert not await used_up(plane, ("X-Tenant", "a"), ("X-Tenant", "b"))
        assert await used_up(plane, ("X-Tenant", "a"), ("X-Tenant", "b"))
        assert not await used_up(plane, ("X-Tenant", "a"))
        assert not await used_up(plane, ("X-Tenant", "b"), ("X-Tenant", "a"))


async def test_several_headers_do_not_stand_in_for_one_another():
    async with Plane(limited(["header:X-A", "header:X-B"], "1/h")) as plane:
        assert not await used_up(plane, ("X-A", "v"))
        assert not await used_up(plane, ("X-B", "v"))
        assert not await used_up(plane, ("X-A", "v"), ("X-B", "v"))
        assert await used_up(plane, ("X-B", "v"), ("X-A", "v")), "the order of fields is no matter"
    async with Plane(limited(["header:X-B", "header:x-a"], "1/h")) as plane:
        assert not await used_up(plane, ("X-A", "v"))


async def test_a_header_with_a_consumer():
    config = limited(["consumer", TENANT], "1/h", auth=AUTH)
    config["consumers"] = ["ann", "bob"]
    async with Plane(config, keys={"ann-key": "ann", "bob-key": "bob"}) as plane:
        ann, bob = ("X-Api-Key", "ann-key"), ("X-Api-Key", "bob-key")
        assert not await used_up(plane, ann, ("X-Tenant", "a"))
        assert not await used_up(plane, bob, ("X-Tenant", "a"))
        assert not await used_up(plane, ann, ("X-Tenant", "b"))
        assert await used_up(plane, ann, ("X-Tenant", "a"))


async def test_nothing_is_counted_before_the_key_is_known():
    """Else anybody could fill the memory for limits with made-up values."""
    async with Plane(limited(["address", TENANT], "1/h", auth=AUTH), keys={"k": "ann"}) as plane:
        for _ in range(3):
            assert (await plane.get("/", headers={"X-Tenant": "a"})).status == 401
        good = ("X-Api-Key", "k")
        assert not await used_up(plane, good, ("X-Tenant", "a"))
        assert await used_up(plane, good, ("X-Tenant", "a"))


@pytest.mark.parametrize("kind", ["quotas", "concurrency"])
async def test_quotas_and_concurrency_too(kind):
    limit = {"quotas": {"period": "year", "requests": 1}, "concurrency": {"max": 1}}[kind]
    backend = GatedBackend()
    await backend.start()
    try:
        config = {
            "upstreams": [{"name": "u", "targets": [backend.url]}],
            "services": [{"name": "s", "upstream": "u"}],
            "routes": [
                {"name": "r", "path": "/{rest*}", "service": "s", kind: [{"by": [TENANT], **limit}]}
            ],
        }
        async with Plane(config) as plane:
            first = asyncio.ensure_future(plane.get("/", headers={"X-Tenant": "a"}))
            await plane.settled(exchanges=1, upstreams=1)
            refused = await plane.get("/", headers={"X-Tenant": "a"})
            assert refused.status == 429
            backend.gate.set()
            assert (await plane.get("/", headers={"X-Tenant": "b"})).status == 200
            assert (await first).status == 200
            again = await plane.get("/", headers={"X-Tenant": "a"})
            assert again.status == (200 if kind == "concurrency" else 429)
    finally:
        await backend.stop()


async def test_the_refusal_says_what_is_counted_and_the_value_stands_nowhere():
    config = limited([TENANT], "1/h", limit_headers=True)
    async with Plane(config) as plane:
        fields = {"X-Tenant": "secret-tenant", "Accept": "application/problem+json"}
        reply = await plane.get("/", headers=fields)
        assert reply.headers["ratelimit-policy"] == '"header-x-tenant-rate";q=1;w=3600'
        refused = await plane.get("/", headers=fields)
        assert orjson.loads(refused.body)["policy"] == "header-x-tenant-rate"
        page = await plane.get("/", headers={"X-Tenant": "secret-tenant", "Accept": "text/html"})
        assert b"1 request an hour for each header value" in page.body
        for reply in (refused, page):
            assert b"secret-tenant" not in reply.body
        logged = LogDrain(plane.segment).drain(0)
        assert b"header-x-tenant-rate" in logged
        assert b"secret-tenant" not in logged


async def test_why_leaves_out_what_counts_by_a_header():
    """Which value the caller would send is not known; requests without one use up another count."""
    async with Plane(limited([TENANT], "1/h")) as plane:
        assert not await used_up(plane)
        assert await used_up(plane)
        run = DryRun(plane.segment, None, plane.snapshot, route=0, address=bytes(16))
        outcome = run.of_nobody()
        assert (outcome.reason, outcome.unseen, outcome.limits) == (0, 1, ())
