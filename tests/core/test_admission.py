"""Credentials, address lists and limits, through the engine."""

from __future__ import annotations

import orjson
import pytest
from enginekit import Backend, Plane, Reply

from fastgate._core.shared.credentials import key_digest


def reason(reply: Reply) -> str:
    return orjson.loads(reply.body)["reason"]


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def config(backend: Backend, **route: object) -> dict[str, object]:
    return {
        "upstreams": [{"name": "u", "targets": [backend.url]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [
            {
                "name": "r",
                "path": "/{rest*}",
                "service": "s",
                "auth": {"api_key": {"header": "X-Api-Key", "query": "key", "bearer": True}},
                **route,
            }
        ],
        "plans": [
            {"name": "small", "limits": [{"by": "consumer", "rate": "1/min", "burst": 3}]},
            {
                "name": "big",
                "quotas": [{"period": "month", "requests": 5, "then": "offer_upgrade"}],
            },
        ],
        "consumers": [
            {"name": "ann", "plan": "small"},
            {"name": "bob", "plan": "small"},
            {"name": "cy", "plan": "big"},
            {"name": "dee"},
        ],
    }


KEYS = {"ann-key": "ann", "ann-key-2": "ann", "bob-key": "bob", "cy-key": "cy", "dee-key": "dee"}


async def test_a_key_is_taken_from_header_bearer_and_query_and_never_forwarded(backend):
    async with Plane(config(backend), keys=KEYS) as plane:
        for path, headers in [
            ("/?a=1", {"x-api-key": "dee-key"}),
            ("/?a=1", {"Authorization": "Bearer dee-key"}),
            ("/?key=dee-key&a=1", {}),
            ("/?a=1&key=dee-key", {}),
            ("/?a=1&key=dee-key&b=2", {}),
        ]:
            assert (await plane.get(path, headers=headers)).status == 200, (path, headers)
        assert (await plane.get("/?key=dee-key")).status == 200
    assert [each.target for each in backend.requests] == ["/?a=1"] * 4 + ["/?a=1&b=2", "/"]
    for seen in backend.requests:
        assert b"dee-key" not in seen.raw
        assert seen.headers["x-consumer-id"] == "dee"
        assert seen.headers["x-consumer-name"] == "dee"


async def test_on_one_connection_each_request_is_judged_by_its_own_key(backend):
    """A connection remembers the key of its last request, so that the next one need not hash it."""
    keys = {"k" * 20: "ann", "k" * 19 + "b": "bob", "k" * 64: "cy", "k" * 65: "dee"}
    first, second, longest, longer = keys
    async with Plane(config(backend, limits=[]), keys=keys) as plane:
        client = await plane.client()

        async def caller(key: str) -> str:
            answer = await client.request("GET", "/", headers={"X-Api-Key": key})
            return (
                backend.requests[-1].headers["x-consumer-id"]
                if answer.status == 200
                else reason(answer)
            )

        for key in (first, first, second, first, longest, longest, longer, longest):
            assert await caller(key) == keys[key]
        for key in ("k" * 19, "k" * 63, "k" * 64 + "y", "k" * 66):
            assert await caller(key) == "credential_unknown"
        assert await caller(longest) == "cy"
        plane.index.revoke(key_digest(longest))
        assert await caller(longest) == "credential_revoked"
        assert await caller(longer) == "dee"


async def test_a_route_may_forward_the_credential(backend):
    auth = {"api_key": {"header": "X-Api-Key", "forward": True}}
    async with Plane(config(backend, auth=auth), keys=KEYS) as plane:
        assert (await plane.get("/", headers={"X-Api-Key": "dee-key"})).status == 200
    assert backend.requests[0].headers["x-api-key"] == "dee-key"


async def test_why_a_credential_is_refused(backend):
    async with Plane(config(backend), keys=KEYS) as plane:
        missing = await plane.get("/")
        assert (missing.status, reason(missing)) == (401, "credential_missing")
        assert "ApiKey" in missing.headers["www-authenticate"]
        assert missing.headers["cache-control"] == "no-store"
        unknown = await plane.get("/", headers={"X-Api-Key": "nope"})
        assert (unknown.status, reason(unknown)) == (401, "credential_unknown")
        assert (await plane.get("/", headers={"X-Api-Key": "x" * 4000})).status == 401
        plane.index.revoke(key_digest("dee-key"))
        revoked = await plane.get("/", headers={"X-Api-Key": "dee-key"})
        assert (revoked.status, reason(revoked)) == (401, "credential_revoked")
        row = plane.index.set_consumer("old", identity=7)
        plane.index.put(key_digest("old-key"), row, identity=1, expires_at=1)
        expired = await plane.get("/", headers={"X-Api-Key": "old-key"})
        assert (expired.status, reason(expired)) == (401, "credential_expired")
        row = plane.index.set_consumer("stopped", identity=8, suspended=True)
        plane.index.put(key_digest("stopped-key"), row, identity=2)
        suspended = await plane.get("/", headers={"X-Api-Key": "stopped-key"})
        assert (suspended.status, reason(suspended)) == (403, "consumer_suspended")
    assert backend.requests == []


async def test_an_optional_credential(backend):
    auth = {"api_key": {"header": "X-Api-Key", "optional": True}}
    async with Plane(config(backend, auth=auth), keys=KEYS) as plane:
        assert (await plane.get("/")).status == 200
        assert (await plane.get("/", headers={"X-Api-Key": "dee-key"})).status == 200
        assert (await plane.get("/", headers={"X-Api-Key": "nope"})).status == 401
    assert "x-consumer-id" not in backend.requests[0].headers
    assert backend.requests[1].headers["x-consumer-id"] == "dee"


async def test_a_plans_rate_limit_is_counted_by_consumer(backend):
    async with Plane(config(backend), keys=KEYS) as plane:
        for key in ("ann-key", "ann-key-2", "ann-key"):
            assert (await plane.get("/", headers={"X-Api-Key": key})).status == 200
        refused = await plane.get("/", headers={"X-Api-Key": "ann-key-2"})
        assert (refused.status, reason(refused)) == (429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert ";r=0;" in refused.headers["ratelimit"]
        assert refused.headers["ratelimit-policy"]
        problem = orjson.loads(refused.body)
        assert problem["limit"] == 3
        assert (await plane.get("/", headers={"X-Api-Key": "bob-key"})).status == 200
        assert (await plane.get("/", headers={"X-Api-Key": "dee-key"})).status == 200


async def test_a_quota_that_offers_an_upgrade(backend):
    async with Plane(config(backend), keys=KEYS) as plane:
        for _ in range(5):
            assert (await plane.get("/", headers={"X-Api-Key": "cy-key"})).status == 200
        refused = await plane.get("/", headers={"X-Api-Key": "cy-key"})
        assert (refused.status, reason(refused)) == (402, "quota_exhausted_upgrade")
        assert refused.headers["cache-control"] == "no-store"


async def test_a_refused_request_consumes_nothing(backend):
    route = {
        "limits": [{"by": "route", "rate": "1/h", "burst": 5, "name": "outer"}],
        "quotas": [{"by": "consumer", "period": "day", "requests": 2, "name": "inner"}],
        "limit_headers": True,
    }
    async with Plane(config(backend, **route), keys=KEYS) as plane:
        headers = {"X-Api-Key": "dee-key"}
        assert (await plane.get("/", headers=headers)).status == 200
        second = await plane.get("/", headers=headers)
        assert second.headers["ratelimit"].startswith('"inner";r=0;')
        for _ in range(10):
            refused = await plane.get("/", headers=headers)
            assert (refused.status, reason(refused)) == (429, "quota_exhausted")
        ok = await plane.get("/", headers={"X-Api-Key": "cy-key"})
        assert ok.status == 200  # the route's bucket still has what the refused gave back
        assert (await plane.get("/", headers={"X-Api-Key": "cy-key"})).status == 200
        assert (await plane.get("/", headers={"X-Api-Key": "bob-key"})).status == 200
        last = await plane.get("/", headers={"X-Api-Key": "bob-key"})
        assert (last.status, orjson.loads(last.body)["policy"]) == (429, "outer")


async def test_limits_survive_a_reload_and_follow_a_raise(backend):
    def limited(burst: int) -> dict[str, object]:
        return config(backend, auth="none", limits=[{"by": "route", "rate": "1/h", "burst": burst}])

    async with Plane(limited(2)) as plane:
        assert [(await plane.get("/")).status for _ in range(3)] == [200, 200, 429]
        plane.install(limited(2))
        assert (await plane.get("/")).status == 429
        plane.install(limited(4))
        assert [(await plane.get("/")).status for _ in range(3)] == [200, 200, 429]


async def test_address_limits_hold_before_the_credential(backend):
    route = {"limits": [{"by": "address", "rate": "1/h", "burst": 3}]}
    async with Plane(config(backend, **route), keys=KEYS) as plane:
        statuses = [(await plane.get("/", headers={"X-Api-Key": "guess"})).status for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        # Behind nothing that is trusted, X-Forwarded-For changes nothing.
        reply = await plane.get("/", headers={"X-Forwarded-For": "9.9.9.9"})
        assert reply.status == 429


async def test_behind_a_trusted_proxy_the_client_is_who_it_says(backend):
    route = {"auth": "none", "limits": [{"by": "address", "rate": "1/h", "burst": 1}]}
    document = config(backend, **route)
    document["trusted_proxies"] = ["127.0.0.0/8", "10.0.0.0/8"]
    async with Plane(document) as plane:
        for chain, status in [
            ("1.1.1.1", 200),
            ("1.1.1.1, 10.0.0.1", 429),
            ("6.6.6.6, 2.2.2.2, 10.0.0.1", 200),
            ("2.2.2.2", 429),
            ("2001:db8::1", 200),
            ("[2001:db8::2]:99", 429),  # the same /64
        ]:
            assert (await plane.get("/", headers={"X-Forwarded-For": chain})).status == status, (
                chain
            )
    assert backend.requests[1].headers["x-forwarded-for"] == "6.6.6.6, 2.2.2.2, 10.0.0.1, 127.0.0.1"


async def test_address_lists(backend):
    async with Plane(config(backend, auth="none", addresses={"deny": ["127.0.0.1"]})) as plane:
        reply = await plane.get("/")
        assert (reply.status, reason(reply)) == (403, "address_denied")
        plane.install(config(backend, auth="none", addresses={"allow": ["127.0.0.0/8"]}))
        assert (await plane.get("/")).status == 200
        plane.install(config(backend, auth="none", addresses={"allow": ["10.0.0.0/8"]}))
        assert (await plane.get("/")).status == 403


async def test_concurrency(backend):
    import asyncio

    gate = asyncio.Event()
    running = 0
    peak = 0

    async def respond(_: Backend, seen: object) -> bytes:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await gate.wait()
        running -= 1
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    slow = await Backend(respond).start()
    async with Plane(config(slow, auth="none", concurrency=3)) as plane:
        tasks = [asyncio.create_task(plane.get("/")) for _ in range(10)]
        while sum(task.done() for task in tasks) < 7 or running < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        gate.set()
        replies = [await task for task in tasks]
        assert sorted(reply.status for reply in replies) == [200] * 3 + [429] * 7
        assert peak == 3
        assert {reason(reply) for reply in replies if reply.status == 429} == {
            "concurrency_limited"
        }
        assert (await plane.get("/")).status == 200  # all places are free again
    await slow.stop()


async def test_a_service_that_belongs_to_plans(backend):
    document = config(backend)
    document["services"] = [{"name": "s", "upstream": "u", "plans": ["big"]}]
    async with Plane(document, keys=KEYS) as plane:
        refused = await plane.get("/", headers={"X-Api-Key": "ann-key"})
        assert (refused.status, reason(refused)) == (403, "not_subscribed")
        assert (await plane.get("/", headers={"X-Api-Key": "cy-key"})).status == 200


async def test_cors(backend):
    document = config(
        backend, cors={"origins": ["https://app.example"], "max_age": "10m", "credentials": True}
    )
    async with Plane(document, keys=KEYS) as plane:
        ask = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "x-api-key",
        }
        preflight = await plane.request("OPTIONS", "/x", headers=ask)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert preflight.headers["access-control-max-age"] == "600"
        assert "access-control-allow-headers" in preflight.headers
        other = await plane.request(
            "OPTIONS", "/x", headers={**ask, "Origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in other.headers
        real = await plane.get(
            "/", headers={"Origin": "https://app.example", "X-Api-Key": "dee-key"}
        )
        assert real.headers["access-control-allow-origin"] == "https://app.example"
        assert real.headers["access-control-allow-credentials"] == "true"
        refused = await plane.get("/", headers={"Origin": "https://app.example"})
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"
    assert len(backend.requests) == 1


async def test_a_plans_whole_name_reaches_the_upstream(backend):
    name = "p" * 56
    document = config(backend)
    document["plans"] = [{"name": name}]
    document["consumers"] = [{"name": "ann", "plan": name}]
    async with Plane(document, keys=KEYS) as plane:
        assert (await plane.get("/", headers={"X-Api-Key": "ann-key"})).status == 200
    assert backend.requests[0].headers["x-consumer-plan"] == name
