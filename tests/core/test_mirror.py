"""Mirrors: what is copied, what is not, and that the original never notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chargingkit import ANN, SharedMoney, call
from chargingkit import config as paid_config
from chargingkit import plane as paid
from deadlinekit import caller, request
from enginekit import Backend, GatedBackend, Plane, RawUpstream, until
from splitkit import named, services
from validatorkit import Validator

from fastgate._core.shared.counters import counters_snapshot

MOST = 65536
RESULTS = ("sent", "failed", "dropped", "too_long")


def config(backend: Backend, mirror_url: str, **more: Any) -> dict[str, Any]:
    of: dict[str, Any] = more.pop("shadow", {})
    mirror = more.pop("mirror", "shadow")
    return {
        "upstreams": [
            {"name": "u", "targets": [backend.url]},
            {"name": "m", "targets": [mirror_url], "eject": {"after": 0}},
        ],
        "services": [
            {"name": "s", "upstream": "u"},
            {"name": "shadow", "upstream": "m", **of},
        ],
        "routes": [{"name": "r", "path": "/{rest*}", "service": "s", "mirror": mirror, **more}],
    }


def results(plane: Plane) -> dict[str, int]:
    """What became of the copies, those that there are."""
    sums = [0] * len(RESULTS)
    for row in counters_snapshot(plane.segment).routes:
        sums = [a + b for a, b in zip(sums, row.mirrored, strict=True)]
    return {name: n for name, n in zip(RESULTS, sums, strict=True) if n}


async def became(plane: Plane, **wanted: int) -> None:
    await until(lambda: results(plane) == wanted)


# ---- what is copied ----------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["length", "chunked", "with the head"])
@pytest.mark.parametrize("size", [0, 1, 1000, 40000, MOST])
async def test_a_body_is_copied_whole(coding: str, size: int) -> None:
    body = bytes(i * 7 % 251 for i in range(size))
    async with services("own", "shadow") as b, Plane(config(b["own"], b["shadow"].url)) as plane:
        async with caller(plane) as client:
            if coding == "chunked":
                await client.send(request("POST", "Transfer-Encoding: chunked", path="/x?a=b"))
                for at in range(0, size, 9000):
                    part = body[at : at + 9000]
                    await client.send(b"%x;ext=1\r\n%b\r\n" % (len(part), part))
                    await asyncio.sleep(0)
                await client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
            else:
                head = request("POST", f"Content-Length: {size}", path="/x?a=b")
                if coding == "length":
                    await client.send(head)
                    await until(lambda: plane.engine.stats()["exchanges"] or size == 0)
                    await client.send(body)
                else:
                    await client.send(head + body)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await became(plane, sent=1)
        (original,), (copy,) = b["own"].requests, b["shadow"].requests
        assert (copy.method, copy.target) == ("POST", "/x?a=b")
        assert copy.body == original.body == body
        assert copy.headers["content-length"] == str(size)


async def test_a_copy_has_the_fields_that_the_upstream_gets() -> None:
    async with services("own", "shadow") as b:
        document = config(
            b["own"],
            b["shadow"].url,
            auth="api_key",
            path="/v1/{rest*}",
            rewrite={"strip_prefix": "/v1"},
            headers={"request": {"set": {"X-Added": "1"}, "remove": ["X-Gone"]}},
        )
        document["consumers"] = [{"name": "ann"}]
        async with Plane(document, keys={"k": "ann"}) as plane:
            headers = {"X-Api-Key": "k", "X-Gone": "1", "X-Kept": "1", "Connection": "X-Hop"}
            headers |= {"X-Hop": "1", "X-Consumer-Name": "eve", "X-FastGate-Mirror": "0"}
            reply = await plane.get("/v1/a?b=c", headers=headers)
            await became(plane, sent=1)
        (original,), (copy,) = b["own"].requests, b["shadow"].requests
        assert copy.target == original.target == "/a?b=c"
        mine = {name: value for name, value in copy.pairs if name != "Host"}
        assert mine.pop("X-FastGate-Mirror") == "1"
        assert mine == {name: value for name, value in original.pairs if name != "Host"}
        assert mine["X-Consumer-Name"] == "ann"
        assert mine["X-Request-ID"] == reply.headers["x-request-id"]
        assert "x-api-key" not in copy.headers
        assert copy.headers["host"] == b["shadow"].url.removeprefix("http://")


@pytest.mark.parametrize("name", ["X-FastGate-Mirror", "x-fastgate-mirror", "X_FastGate_Mirror"])
async def test_nobody_else_can_mark_a_request_as_a_copy(name: str) -> None:
    async with services("own", "shadow") as b:
        document = config(b["own"], b["shadow"].url)
        del document["routes"][0]["mirror"]
        document |= {"trusted_proxies": ["127.0.0.1"], "headers": {"underscores": "allow"}}
        async with Plane(document) as plane:
            assert (await plane.get("/", headers={name: "1"})).status == 200
        assert "fastgate" not in b["own"].requests[0].raw.decode().lower().replace(
            "via: 1.1 fastgate", ""
        )


@pytest.mark.parametrize(
    ("route", "shadow", "host"),
    [
        ({"preserve_host": True}, {}, "test.example"),
        ({}, {"host": "shadow.internal"}, "shadow.internal"),
        ({}, {"host": "client"}, "test.example"),
    ],
)
async def test_the_host_of_a_copy(route: Any, shadow: Any, host: str) -> None:
    async with services("own", "shadow") as b:
        async with Plane(config(b["own"], b["shadow"].url, shadow=shadow, **route)) as plane:
            await plane.get("/")
            await became(plane, sent=1)
        assert b["shadow"].requests[0].headers["host"] == host


async def test_the_targets_base_path_comes_first() -> None:
    async with services("own", "shadow") as b:
        async with Plane(config(b["own"], b["shadow"].url + "/base")) as plane:
            await plane.get("/x/y?z")
            await became(plane, sent=1)
        assert b["shadow"].requests[0].target == "/base/x/y?z"


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT", "PATCH", "PURGE"])
async def test_methods(method: str) -> None:
    async with services("own", "shadow") as b:
        for each in b.values():
            each.respond = b"HTTP/1.1 204 No Content\r\n\r\n"
        async with Plane(config(b["own"], b["shadow"].url)) as plane:
            for n in range(3):
                await plane.request(method, "/")
                await became(plane, sent=n + 1)
        assert [seen.method for seen in b["shadow"].requests] == [method] * 3
        assert b["shadow"].connections == 1  # its answers are read to their ends


async def test_a_share_of_requests_is_copied() -> None:
    """By chance: 500 of 1,000, give or take six standard deviations."""
    async with services("own", "shadow") as b:
        mirror = {"service": "shadow", "share": "50%"}
        async with Plane(config(b["own"], b["shadow"].url, mirror=mirror)) as plane:
            client = await plane.client()
            for _ in range(1000):
                assert (await client.request("GET", "/")).status == 200
            await plane.settled(subrequests=0)
            assert 405 <= results(plane)["sent"] <= 595
            plane.install(
                config(b["own"], b["shadow"].url, mirror={"service": "shadow", "share": "0%"})
            )
            before = results(plane)
            assert (await client.request("GET", "/")).status == 200
            await plane.settled(subrequests=0)
            assert results(plane) == before


async def test_refused_requests_are_not_copied() -> None:
    async with services("own", "shadow") as b:
        document = config(b["own"], b["shadow"].url, limits={"rate": "1/d", "by": ["route"]})
        async with Plane(document) as plane:
            assert [(await plane.get("/")).status for _ in range(3)] == [200, 429, 429]
            await became(plane, sent=1)


async def test_a_copy_costs_nothing() -> None:
    shared = SharedMoney()
    async with services("own", "shadow") as b:
        document = paid_config(b["own"], mirror="shadow")
        document["upstreams"].append({"name": "m", "targets": [b["shadow"].url]})
        document["services"].append({"name": "shadow", "upstream": "m"})
        shared.accounts.set_balance(ANN, "USD", 1_000_000)
        async with paid(shared, document) as p:
            assert (await call(p)).status == 200
            await became(p, sent=1)
            once = shared.balance()
            assert len(shared.records()) == 1
        assert once < 1_000_000


async def test_a_split_and_a_mirror() -> None:
    async with services("own", "new", "shadow") as b:
        document = config(b["own"], b["shadow"].url)
        document["upstreams"].append({"name": "n", "targets": [b["new"].url]})
        document["services"].append({"name": "new", "upstream": "n"})
        document["routes"][0]["split"] = [{"service": "new", "weight": "50%"}]
        async with Plane(document) as plane:
            bodies = [(await plane.get("/")).body for _ in range(4)]
            assert sorted(bodies) == [b"new", b"new", b"own", b"own"]
            await became(plane, sent=4)


async def test_a_validated_request_is_copied_with_its_body() -> None:
    async with services("own", "shadow") as b:
        document = config(b["own"], b["shadow"].url, validate="/api.yaml", max_body="1MiB")
        async with Plane(document, handlers={"validator": Validator()}) as plane:
            for n, size in enumerate((5, 50000, MOST)):
                await plane.request("POST", "/", body=b"x" * size)
                await became(plane, sent=n + 1)
            await plane.request("POST", "/", body=b"x" * (MOST + 1))
            await became(plane, sent=3, too_long=1)
        assert [len(seen.body) for seen in b["shadow"].requests] == [5, 50000, MOST]


# ---- what is not ---------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["Content-Length: 65537", "Transfer-Encoding: chunked"])
async def test_a_longer_body_is_not_copied(coding: str) -> None:
    async with services("own", "shadow") as b, Plane(config(b["own"], b["shadow"].url)) as plane:
        body = b"x" * (MOST + 1)
        if "chunked" in coding:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        async with caller(plane) as client:
            await client.send(request("POST", coding) + body)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await became(plane, too_long=1)
        assert len(b["own"].requests[0].body) == MOST + 1
        assert b["shadow"].requests == []


async def test_many_small_chunks_are_copied_and_too_many_are_not() -> None:
    async with services("own", "shadow") as b, Plane(config(b["own"], b["shadow"].url)) as plane:
        for count, wanted in ((30000, {"sent": 1}), (70000, {"sent": 1, "too_long": 1})):
            async with caller(plane) as client:
                await client.send(
                    request("POST", "Transfer-Encoding: chunked")
                    + b"1\r\nx\r\n" * count
                    + b"0\r\n\r\n"
                )
                assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            await became(plane, **wanted)
        assert b["shadow"].requests[0].body == b"x" * 30000


async def test_a_client_that_leaves_during_its_upload_has_no_copy() -> None:
    async with services("own", "shadow") as b, Plane(config(b["own"], b["shadow"].url)) as plane:
        async with caller(plane) as client:
            await client.send(request("POST", "Content-Length: 1000") + b"x" * 500)
            await plane.settled(exchanges=1, subrequests=1)
            client.reset()
            await plane.settled(exchanges=0, subrequests=0)
        assert results(plane) == {}
        assert b["shadow"].connections == 0


async def test_an_upstream_that_answers_early_ends_the_copy_with_the_request() -> None:
    async with RawUpstream() as upstream, RawUpstream() as shadow:
        document = {
            "upstreams": [
                {"name": "u", "targets": [upstream.url]},
                {"name": "m", "targets": [shadow.url]},
            ],
            "services": [{"name": "s", "upstream": "u"}, {"name": "shadow", "upstream": "m"}],
            "routes": [{"name": "r", "path": "/{rest*}", "service": "s", "mirror": "shadow"}],
        }
        async with Plane(document) as plane, caller(plane) as client:
            await client.send(request("POST", "Content-Length: 1000") + b"x" * 500)
            peer = await upstream.accept()
            await peer.head()
            peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 413 ")
            await plane.settled(exchanges=0, subrequests=0)
            assert results(plane) == {}


async def test_tunnels_are_not_copied() -> None:
    async with (
        services("own", "shadow") as b,
        Plane(config(b["own"], b["shadow"].url, websocket=True)) as plane,
    ):
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        headers |= {"Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
        await plane.get("/", headers=headers)
        assert results(plane) == {}


# ---- the original does not notice ----------------------------------------------------------------


async def test_a_mirror_that_does_not_answer_holds_up_nothing() -> None:
    own, shadow = await Backend(named("own")).start(), await GatedBackend().start()
    async with Plane(config(own, shadow.url)) as plane:
        client = await plane.client()
        for _ in range(20):
            assert (await client.request("POST", "/", body=b"x")).body == b"own"
        await plane.settled(subrequests=20, exchanges=0)
        # Beyond the bound, copies are dropped.
        for _ in range(240):
            assert (await client.request("GET", "/")).body == b"own"
        await plane.settled(subrequests=256)
        assert results(plane) == {"dropped": 4}
        shadow.gate.set()
        await became(plane, sent=256, dropped=4)
    await own.stop()
    await shadow.stop()


@pytest.mark.parametrize("how", ["refuses", "resets", "is no HTTP", "late"])
async def test_a_mirror_that_fails_fails_nothing(how: str) -> None:
    async def respond(backend: Backend, seen: Any) -> bytes | None:
        if how == "late":
            await asyncio.Event().wait()
        return None if how == "resets" else b"hello\r\n\r\n"

    own, shadow = await Backend(named("own")).start(), await Backend(respond).start()
    url = "http://127.0.0.1:1" if how == "refuses" else shadow.url
    more = {"timeout": "50ms"} if how == "late" else {}
    async with Plane(config(own, url, shadow=more)) as plane:
        client = await plane.client()
        for n in range(30):
            reply = await client.request("POST", "/", body=b"%d" % n)
            assert (reply.status, reply.body) == (200, b"own")
        await became(plane, failed=30)
    await own.stop()
    await shadow.stop()


async def test_an_engine_that_closes_drops_what_is_in_progress() -> None:
    own, shadow = await Backend(named("own")).start(), await GatedBackend().start()
    async with Plane(config(own, shadow.url)) as plane, caller(plane) as client:
        assert (await plane.get("/")).body == b"own"
        await client.send(request("POST", "Content-Length: 1000") + b"x" * 500)
        await plane.settled(subrequests=2, exchanges=1)
        plane.engine.close()
        assert plane.engine.stats()["subrequests"] == 0
    await own.stop()
    await shadow.stop()


async def test_a_copy_outlives_the_configuration_it_was_made_for() -> None:
    own, shadow = await Backend(named("own")).start(), await GatedBackend().start()
    document = config(own, shadow.url)
    async with Plane(document) as plane:
        assert (await plane.get("/")).body == b"own"
        await until(shadow.asked.is_set)
        del document["routes"][0]["mirror"]
        plane.install(document)
        assert plane.engine.stats()["retired_snapshots"] == 1
        shadow.gate.set()
        await became(plane, sent=1)
        await plane.settled(retired_snapshots=0)
    await own.stop()
    await shadow.stop()
