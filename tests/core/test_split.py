"""Splits: which service gets a request, exactly by its share, and for whom it stays."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest
from enginekit import Plane, Reply
from splitkit import config, counted, named, services, tally

from fastgate._core.exchange.dry_run import DryRun
from fastgate._core.logs.drain import LogDrain
from fastgate._core.shared.credentials import key_digest
from fastgate._core.shared.segment import Segment

KEYS = {f"key-{i}": f"c{i}" for i in range(60)}


def to(weight: str, service: str = "new", **more: Any) -> dict[str, Any]:
    return {"service": service, "weight": weight, **more}


def cookie_of(reply: Reply) -> str:
    found = [value for name, value in reply.pairs if name.lower() == "set-cookie"]
    return found[0].partition(";")[0] if found else ""


def caching(reply: Reply) -> list[str]:
    return [value for name, value in reply.pairs if name.lower() == "cache-control"]


async def body_of(plane: Plane, **headers: str) -> str:
    reply = await plane.get("/x", headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert reply.status == 200, reply.body
    return reply.body.decode()


# ---- shares ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["0.5%", "5%", "12.34%", "50%", "99%"])
async def test_a_share_is_exact_after_each_request(weight: str) -> None:
    """Never off by one whole request, from the first on, at whatever worker."""
    share = float(weight[:-1]) / 100
    async with services("own", "new") as backends:
        for worker in (0, 3):
            document = config(backends, [to(weight)])
            segment = Segment.create(4, log_records=64)
            async with Plane(document, segment=segment, worker=worker) as plane:
                client, got = await plane.client(), 0
                for n in range(1, 601):
                    got += (await client.request("GET", "/")).body == b"new"
                    assert abs(got - n * share) < 1


async def test_the_shares_of_several() -> None:
    async with services("own", "a", "b", "c") as backends:
        split = [to("20%", "a"), to("30%", "b"), to("0.1%", "c")]
        async with Plane(config(backends, split)) as plane:
            found = await tally(plane, 1000)
            assert abs(found["a"] - 200) <= 1
            assert abs(found["b"] - 300) <= 1
            assert abs(found["c"] - 1) <= 1
            assert counted(plane) == dict(found)


@pytest.mark.parametrize(("weight", "service"), [("0%", "own"), ("100%", "new")])
async def test_nothing_and_all(weight: str, service: str) -> None:
    async with (
        services("own", "new") as backends,
        Plane(config(backends, [to(weight)])) as plane,
    ):
        assert await tally(plane, 50) == {service: 50}


async def test_the_workers_do_not_begin_at_the_same_point() -> None:
    """Four requests to each of four workers: a quarter is one in each, at different times."""
    firsts = []
    async with services("own", "new") as backends:
        segment = Segment.create(4, log_records=64)
        for worker in range(4):
            document = config(backends, [to("25%")])
            async with Plane(document, segment=segment, worker=worker) as plane:
                client = await plane.client()
                bodies = [(await client.request("GET", "/")).body for _ in range(4)]
                assert bodies.count(b"new") == 1
                firsts.append(bodies.index(b"new"))
    assert len(set(firsts)) > 1


async def test_a_changed_share_holds_at_once() -> None:
    async with (
        services("own", "new") as backends,
        Plane(config(backends, [to("5%")])) as plane,
    ):
        assert (await tally(plane, 30))["new"] in (1, 2)
        for weight, share in (("50%", 50), ("10%", 10), ("0%", 0), ("100%", 100)):
            plane.install(config(backends, [to(weight)]))
            assert abs((await tally(plane, 100))["new"] - share) <= 1
        plane.install(config(backends, None))
        assert await tally(plane, 10) == {"own": 10}


@pytest.mark.parametrize(
    ("when", "target", "headers"),
    [
        ({"headers": {"X-Canary": "1"}}, "/x", {"X-Canary": "1"}),
        ({"cookies": {"beta": "*"}}, "/x", {"Cookie": "a=b; beta=yes"}),
        ({"query": {"canary": "yes"}}, "/x?canary=yes", {}),
    ],
)
async def test_conditions_come_before_shares(when: Any, target: str, headers: Any) -> None:
    async with services("own", "new", "all") as backends:
        split = [{"service": "new", "when": when}, to("100%", "all")]
        async with Plane(config(backends, split)) as plane:
            client = await plane.client()
            for _ in range(3):
                assert (await client.request("GET", target, headers)).body == b"new"
                assert (await client.request("GET", "/x")).body == b"all"
            # Requests that a condition decides take no turn of the others.
            plane.install(config(backends, [to("50%", when=when)]))
            for _ in range(4):
                assert (await client.request("GET", target, headers)).body == b"new"
                bodies = [(await client.request("GET", "/x")).body for _ in range(2)]
                assert sorted(bodies) == [b"new", b"own"]
                assert (await client.request("GET", target, headers)).body == b"new"


async def test_the_first_condition_that_holds_decides() -> None:
    async with services("own", "a", "b") as backends:
        split = [
            {"service": "a", "when": {"headers": {"X": "1*"}}},
            {"service": "b", "when": {"headers": {"X": "*"}}},
            {"service": "a", "when": {"headers": {"Y": "*"}}},
        ]
        async with Plane(config(backends, split)) as plane:
            assert await body_of(plane, X="12") == "a"
            assert await body_of(plane, X="2") == "b"
            assert await body_of(plane, Y="") == "a"
            assert await body_of(plane) == "own"


# ---- by consumer and address -----------------------------------------------------------------


async def sides(plane: Plane, keys: Any = KEYS) -> dict[str, str]:
    return {key: await body_of(plane, X_Api_Key=key) for key in keys}


def people(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "consumers": [{"name": name} for name in KEYS.values()]}


async def test_a_consumer_stays_and_a_growing_share_keeps_whom_it_had() -> None:
    async with services("own", "a", "b") as backends:

        def by_consumer(*split: Any) -> dict[str, Any]:
            return people(
                config(backends, {"sticky": "consumer", "to": list(split)}, auth="api_key")
            )

        async with Plane(by_consumer(to("20%", "a")), keys=KEYS) as plane:
            first = await sides(plane)
            assert 3 <= list(first.values()).count("a") <= 24  # 12 are expected
            plane.install(by_consumer(to("20%", "a")))
            assert await sides(plane) == first
            plane.install(by_consumer(to("45%", "a"), to("20%", "b")))
            more = await sides(plane)
            assert {key for key, side in first.items() if side == "a"} < {
                key for key, side in more.items() if side == "a"
            }
            plane.install(by_consumer(to("50%", "a"), to("45%", "b")))
            most = await sides(plane)
            for side in ("a", "b"):
                assert {k for k in KEYS if more[k] == side} <= {k for k in KEYS if most[k] == side}
            plane.install(by_consumer(to("0%", "a"), to("0%", "b")))
            assert set((await sides(plane)).values()) == {"own"}
            plane.install(by_consumer(to("20%", "a")))
            assert await sides(plane) == first
        # Another worker, with memory of its own, decides the same.
        segment = Segment.create(4, log_records=64)
        async with Plane(
            by_consumer(to("20%", "a")), keys=KEYS, segment=segment, worker=2
        ) as plane:
            assert await sides(plane) == first
            assert (await plane.get("/")).status == 401
            assert sum(counted(plane).values()) == len(KEYS)  # nobody chose for the 401


async def test_anonymous_callers_are_told_apart_by_address() -> None:
    async with services("own", "new") as backends:
        split = {"sticky": "consumer", "to": [to("50%")]}
        auth = {"api_key": {}, "optional": True}
        document = config(backends, split, auth=auth)
        async with Plane({**document, "trusted_proxies": ["127.0.0.1"]}) as plane:
            found = {}
            for i in range(40):
                at = f"192.0.2.{i}"
                found[at] = await body_of(plane, X_Forwarded_For=at)
                assert await body_of(plane, X_Forwarded_For=at) == found[at]
            assert set(found.values()) == {"own", "new"}
            by_address = config(backends, {"sticky": "address", "to": [to("50%")]})
            plane.install({**by_address, "trusted_proxies": ["127.0.0.1"]})
            for at, side in found.items():
                assert await body_of(plane, X_Forwarded_For=at) == side


async def test_routes_with_the_same_service_split_callers_alike() -> None:
    async with services("own", "new") as backends:
        split = {"sticky": "address", "to": [to("50%")]}
        document = config(backends, split)
        document["routes"].append({**document["routes"][0], "name": "q", "path": "/q"})
        async with Plane({**document, "trusted_proxies": ["127.0.0.1"]}) as plane:
            for i in range(20):
                headers = {"X-Forwarded-For": f"2001:db8:0:{i:x}::1"}
                same = {**headers, "X-Forwarded-For": f"2001:db8:0:{i:x}::ffff"}
                side = (await plane.get("/x", headers=headers)).body
                assert (await plane.get("/q", headers=headers)).body == side
                assert (await plane.get("/q", headers=same)).body == side  # of the same /64


# ---- by cookie -------------------------------------------------------------------------------


def by_cookie(*split: Any, **cookie: Any) -> dict[str, Any]:
    return {"sticky": "cookie", "to": list(split), **({"cookie": cookie} if cookie else {})}


async def test_a_client_stays_where_its_cookie_says() -> None:
    async with (
        services("own", "new") as backends,
        Plane(config(backends, by_cookie(to("50%")))) as plane,
    ):
        cookies = {}
        for _ in range(30):
            reply = await plane.get("/")
            cookie = cookie_of(reply)
            tagged = reply.body == b"new"
            assert re.fullmatch(
                r"fastgate_split=[0-9a-f]{8}" + (r"\.[0-9a-f]{8}" if tagged else ""), cookie
            )
            cookies[cookie] = reply.body
        assert set(cookies.values()) == {b"own", b"new"}
        for weight in ("50%", "50%", "20%", "0%"):
            plane.install(config(backends, by_cookie(to(weight))))
            for cookie, side in cookies.items():
                reply = await plane.get("/", headers={"Cookie": cookie})
                if weight == "50%" or side == b"new":
                    assert reply.body == side
                # The route's own service keeps those that a smaller share leaves to it.
                assert (reply.body, cookie_of(reply), caching(reply)) == (side, "", [])
        # At 0%, no new client goes there.
        assert {(await plane.get("/")).body for _ in range(20)} == {b"own"}
        # At 100%, the others follow, and get a cookie that says so.
        plane.install(config(backends, by_cookie(to("100%"))))
        for cookie, side in cookies.items():
            reply = await plane.get("/", headers={"Cookie": cookie})
            assert reply.body == b"new"
            moved = cookie_of(reply)
            assert moved.startswith(cookie) if side == b"own" else moved == ""
        # Once the entry is gone, so is the way there.
        plane.install(config(backends, None))
        for cookie in cookies:
            assert await body_of(plane, Cookie=cookie) == "own"


async def test_cookies_that_are_none_are_replaced() -> None:
    async with (
        services("own", "new") as backends,
        Plane(config(backends, by_cookie(to("100%")))) as plane,
    ):
        good = cookie_of(await plane.get("/"))
        value = good.partition("=")[2]
        for bad in (
            "", f"{value}0", value[:-1], value.upper() + "X", "x" * 8, f"{value[:8]}-{value[9:]}",
            f"{value[:8]}.", '"' + value + '"',
        ):  # fmt: skip
            reply = await plane.get("/", headers={"Cookie": f"fastgate_split={bad}"})
            assert cookie_of(reply), bad
        # The tag of a service that is not there: the point is kept.
        reply = await plane.get("/", headers={"Cookie": f"fastgate_split={value[:8]}.00000001"})
        assert cookie_of(reply) == good
        # The first that is one of ours counts.
        reply = await plane.get("/", headers={"Cookie": f"a=b; fastgate_split=?; {good}"})
        assert (reply.body, cookie_of(reply)) == (b"new", "")


async def test_the_cookie_of_choice_and_its_attributes() -> None:
    async with (
        services("own", "new") as backends,
        Plane(config(backends, by_cookie(to("0%")))) as plane,
    ):
        reply = await plane.get("/")
        assert re.fullmatch(
            r"fastgate_split=\w{8}; Path=/; HttpOnly; SameSite=Lax", reply.headers["set-cookie"]
        )
        cookie = {"cookie": "side", "path": "/shop", "max_age": "30d", "same_site": "strict"}
        plane.install(config(backends, by_cookie(to("0%"), **cookie, secure=True)))
        reply = await plane.get("/")
        assert re.fullmatch(
            r"side=\w{8}; Path=/shop; Max-Age=2592000; HttpOnly; SameSite=Strict; Secure",
            reply.headers["set-cookie"],
        )


@pytest.mark.parametrize(
    ("fields", "sets", "says"),
    [
        (b"", True, ["private"]),
        (b"Cache-Control: no-store\r\n", True, ["no-store"]),
        (b"Cache-Control: public, max-age=60\r\n", False, ["public, max-age=60"]),
    ],
)
async def test_answers_for_shared_caches_set_no_cookie(
    fields: bytes, sets: bool, says: list[str]
) -> None:
    async with services("own", "new") as backends:
        backends["own"].respond = named("own", fields)
        async with Plane(config(backends, by_cookie(to("0%")))) as plane:
            reply = await plane.get("/")
            assert (bool(cookie_of(reply)), caching(reply)) == (sets, says)


async def test_conditions_set_no_cookie_and_follow_none() -> None:
    async with services("own", "new") as backends:
        split = by_cookie(to("0%", when={"headers": {"X-Canary": "1"}}))
        async with Plane(config(backends, split)) as plane:
            reply = await plane.get("/", headers={"X-Canary": "1"})
            assert (reply.body, cookie_of(reply)) == (b"new", "")
            cookie = cookie_of(await plane.get("/"))
            reply = await plane.get("/", headers={"X-Canary": "1", "Cookie": cookie})
            assert (reply.body, cookie_of(reply)) == (b"new", "")


# ---- what belongs to the service ---------------------------------------------------------------


async def test_each_service_has_its_own_limits_and_policies() -> None:
    async with services("own", "new") as backends:
        of = {
            "new": {
                "limits": [{"rate": "2/d", "by": ["service"], "name": "of-new"}],
                "policies": ["tagged"],
                "host": "new.internal",
            },
            "own": {"limits": [{"rate": "1/d", "by": ["address"], "name": "of-own"}]},
        }
        document = config(backends, [to("0%", when={"headers": {"X-Canary": "1"}})], of=of)
        document["policies"] = [
            {
                "name": "tagged",
                "headers": {"request": {"set": {"X-Side": "new"}}},
                "addresses": ["127.0.0.0/8"],
            }
        ]
        canary = {"X-Canary": "1"}
        async with Plane(document) as plane:
            statuses = [(await plane.get("/", headers=canary)).status for _ in range(3)]
            assert statuses == [200, 200, 429]
            assert [(await plane.get("/")).status for _ in range(2)] == [200, 429]
            seen, other = backends["new"].requests[0], backends["own"].requests[0]
            assert (seen.headers["x-side"], seen.headers["host"]) == ("new", "new.internal")
            assert "x-side" not in other.headers
            # The refused ones are counted for the service that would have got them.
            assert counted(plane) == {"new": 3, "own": 2}
            document["policies"][0]["addresses"] = {"deny": ["127.0.0.0/8"]}
            plane.install(document)
            assert (await plane.get("/", headers=canary)).status == 403


async def test_a_plan_that_lacks_the_chosen_service_refuses() -> None:
    async with services("own", "new") as backends:
        of = {"new": {"plans": ["beta"]}}
        split = {"sticky": "consumer", "to": [to("0%", when={"headers": {"X-Canary": "1"}})]}
        document = config(backends, split, of=of, auth="api_key")
        document["plans"] = [{"name": "beta"}, {"name": "basic"}]
        document["consumers"] = [{"name": "ann", "plan": "beta"}, {"name": "bob", "plan": "basic"}]
        keys: dict[str | bytes, str] = {"a": "ann", "b": "bob"}
        for sticky in ("consumer", "address"):
            document["routes"][0]["split"]["sticky"] = sticky
            async with Plane(document, keys=keys) as plane:
                for key, canary, status in (
                    ("a", "1", 200), ("a", "0", 200), ("b", "1", 403), ("b", "0", 200),
                ):  # fmt: skip
                    headers = {"X-Api-Key": key, "X-Canary": canary}
                    assert (await plane.get("/", headers=headers)).status == status


async def test_the_access_log_says_which_service_it_was() -> None:
    async with (
        services("own", "new") as backends,
        Plane(config(backends, [to("50%")])) as plane,
    ):
        assert await tally(plane, 2) == {"own": 1, "new": 1}
        lines = [orjson.loads(x) for x in LogDrain(plane.segment).drain(0).splitlines()]
        assert sorted(line["service"] for line in lines) == ["new", "own"]
        for line in lines:
            assert line["target"] == backends[line["service"]].url
        plane.install(config(backends, None))
        await tally(plane, 1)
        (line,) = [orjson.loads(x) for x in LogDrain(plane.segment).drain(0).splitlines()]
        assert "service" not in line


async def test_a_long_answer_keeps_its_service_over_a_reload() -> None:
    gate = asyncio.Event()

    async def slowly(backend: Any, seen: Any) -> bytes | None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nne")
        await gate.wait()
        return b"xt"

    async with services("own", "new") as backends:
        backends["new"].respond = slowly
        async with Plane(config(backends, [to("100%")])) as plane:
            client = await plane.client()
            await client.send("GET", "/")
            await client.event()
            plane.install(config(backends, None))
            gate.set()
            await plane.settled(exchanges=0, retired_snapshots=0)
            (line,) = [orjson.loads(x) for x in LogDrain(plane.segment).drain(0).splitlines()]
            assert (line["service"], line["status"]) == ("new", 200)
            assert counted(plane) == {"new": 1}


async def test_retries_and_rewrites_are_the_routes() -> None:
    async with services("own", "new") as backends:
        more = {"paths": ["/v1/{id}", "/w/{id}/x"], "rewrite": {"path": "/items/{id}"}}
        document = config(backends, [to("100%")], **more)
        del document["routes"][0]["path"]
        document["upstreams"][1]["targets"].append("http://127.0.0.1:1")
        document["services"][1]["retries"] = 2
        async with Plane(document) as plane:
            for path in ("/v1/7", "/w/8/x", "/v1/9", "/w/10/x"):
                assert (await plane.get(path)).status == 200
            assert [seen.target for seen in backends["new"].requests] == [
                "/items/7", "/items/8", "/items/9", "/items/10",
            ]  # fmt: skip


# ---- what `why` says -----------------------------------------------------------------------------


def told(plane: Plane, key: str | None = None, **more: Any) -> tuple[str, str]:
    run = DryRun(plane.segment, None, plane.snapshot, route=0, **more)
    outcome = run.of_nobody() if key is None else run.of_key(plane.index, key_digest(key))
    return outcome.chosen, outcome.chosen_by


async def test_a_dry_run_chooses_as_the_data_plane_does() -> None:
    async with services("own", "new") as backends:
        split = {"sticky": "consumer", "to": [to("40%")]}
        document = people(config(backends, split, auth="api_key"))
        async with Plane(document, keys=KEYS) as plane:
            for key, side in (await sides(plane)).items():
                assert told(plane, key) == (side, "consumer")
            assert told(plane, "unknown") == ("", "")  # refused before there is a choice
            assert told(plane, "key-1", service="new") == ("new", "asked")
        document = config(backends, {"sticky": "address", "to": [to("40%")]})
        async with Plane({**document, "trusted_proxies": ["127.0.0.1"]}) as plane:
            for i in range(20):
                side = await body_of(plane, X_Forwarded_For=f"192.0.2.{i}")
                address = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, i])
                assert told(plane, address=address) == (side, "address")
            assert told(plane)[1] == "share"
        for weight, side in (("40%", "own"), ("60%", "new"), ("50%", "own")):
            for sticky in ({}, {"sticky": "cookie"}):
                async with Plane(config(backends, {**sticky, "to": [to(weight)]})) as plane:
                    before = counted(plane)
                    assert told(plane) == (side, "share")
                    assert counted(plane) == before
        async with Plane(config(backends, None)) as plane:
            assert told(plane) == ("", "")
