"""Faults that are injected on purpose, and the waiting of a delay: parked exchanges."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from chargingkit import ANN, SharedMoney, call, config
from chargingkit import plane as paid
from deadlinekit import STEP, answer, caller, request
from enginekit import Backend, Plane, Reply, proxied

from fastgate._core.logs.drain import LogDrain
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.segment import Segment

DELAY = "600ms"
ALWAYS = {"abort": 500}


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def delayed(backend: Backend, **more: Any) -> dict[str, Any]:
    """One route to the backend, whose requests wait."""
    return proxied(backend.url, fault={"delay": DELAY}, **more)


def log_of(plane: Plane) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]


def problem(reply: Reply) -> Any:
    return orjson.loads(reply.body)


# ---- waiting ---------------------------------------------------------------------------------


async def test_a_delayed_request_goes_on_when_its_time_is_over(backend):
    """However much of its body its client sends in the meantime, or none."""
    document = delayed(backend)
    document["routes"].append({"name": "now", "path": "/now", "service": "s"})
    async with Plane(document) as plane, caller(plane) as steady, caller(plane) as silent:
        await steady.send(request("POST", "Content-Length: 200", path="/steady"))
        await silent.send(request("GET", path="/silent"))
        sending = asyncio.ensure_future(steady.trickle(b"x" * 10, 20))
        await plane.settled(exchanges=2)
        assert (await plane.get("/now")).status == 200
        assert [seen.target for seen in backend.requests] == ["/now"]
        assert (await silent.head()).startswith(b"HTTP/1.1 200 ")
        await sending
        assert (await steady.head()).startswith(b"HTTP/1.1 200 ")
        assert {seen.target: len(seen.body) for seen in backend.requests} == {
            "/now": 0,
            "/silent": 0,
            "/steady": 200,
        }
        # What the worker reports of them. The last byte of the answers is not waited for above.
        lines = {line["path"]: line for line in log_of(plane)}
        assert lines["/silent"]["delayed"] is True
        assert lines["/silent"]["status"] == 200
        assert "delayed" not in lines["/now"]
        (counts,) = [row for row in counters_snapshot(plane.segment).routes if row.delays]
        assert (counts.delays, counts.aborts) == (2, 0)


async def test_nothing_is_read_from_a_client_while_it_waits(backend):
    """Its body stays with the kernel: one buffer of its head is all that it takes."""
    big = 8 << 20
    async with Plane(delayed(backend, max_body="16MiB")) as plane, caller(plane) as client:
        await client.send(request("POST", f"Content-Length: {big}"))
        await plane.settled(exchanges=1)
        sending = asyncio.ensure_future(client.send(bytes(big)))
        await asyncio.sleep(STEP)
        assert plane.engine.stats()["exchanges"] == 1
        assert plane.engine.stats()["buffers"] == 1
        assert not sending.done()
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await sending
        assert len(backend.requests[0].body) == big


async def test_a_client_that_leaves_while_it_waits_is_noticed(backend):
    document = delayed(
        backend, concurrency={"max": 1, "by": ["route"]}, limits={"rate": "5/d", "by": ["address"]}
    )
    async with Plane(document) as plane, caller(plane) as client:
        await client.send(request("GET"))
        await plane.settled(exchanges=1)
        client.reset()
        await plane.settled(exchanges=0, connections=0)
        (line,) = log_of(plane)
        assert (line["status"], line["reason"], line["aborted"]) == (499, "client_closed", True)
        plane.install(proxied(backend.url, limits={"rate": "5/d", "by": ["address"]}))
        assert (await plane.get("/")).status == 200
        assert [seen.target for seen in backend.requests] == ["/"]  # the other never came


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_client_that_closes_its_side_while_it_waits(backend, half_close):
    async with Plane({**delayed(backend), "half_close": half_close}) as plane:
        async with caller(plane) as client:
            await client.send(request("GET"))
            await plane.settled(exchanges=1)
            client.finish()
            said, how = await client.rest()
            assert said.startswith(b"HTTP/1.1 200 ") is half_close
            assert how == "end" or not half_close
        assert len(backend.requests) == int(half_close)


async def test_a_drain_lets_it_wait_to_its_end(backend):
    async with Plane(delayed(backend)) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await plane.settled(exchanges=1)
        plane.engine.drain()
        assert plane.engine.stats()["exchanges"] == 1
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")


async def test_a_worker_that_ends_breaks_it_off(backend):
    async with Plane(delayed(backend)) as plane, caller(plane) as client:
        await client.send(request("GET"))
        await plane.settled(exchanges=1)
        plane.engine.close()
        assert (await client.rest())[0] == b""
        (line,) = log_of(plane)
        assert line["reason"] == "draining"
    assert backend.requests == []


async def test_a_reload_leaves_it_with_its_own_configuration(backend):
    second = await Backend(answer(b"second")).start()
    async with Plane(delayed(backend, headers={"response": {"set": {"X-Gen": "1"}}})) as plane:
        client = await plane.client()
        await client.send("GET", "/old")
        await plane.settled(exchanges=1)
        plane.install(proxied(second.url))
        assert plane.engine.stats()["retired_snapshots"] == 1
        assert (await plane.get("/new")).body == b"second"  # no delay there
        reply = await client.reply()
        assert (reply.headers["x-gen"], reply.body) == ("1", b"GET /old")
        await plane.settled(retired_snapshots=0)
    await second.stop()


async def test_what_is_pipelined_behind_it_waits_its_turn(backend):
    document = delayed(backend)
    document["routes"].append({"name": "now", "path": "/now", "service": "s"})
    async with Plane(document) as plane, caller(plane) as client:
        await client.send(request("GET", path="/first") + request("GET", path="/now"))
        for _ in range(2):
            head = await client.head()
            await client.exactly(int(head.split(b"Content-Length: ")[1].split(b"\r")[0]))
        assert [seen.target for seen in backend.requests] == ["/first", "/now"]


async def test_a_body_that_stays_out_after_the_delay_has_the_time_of_a_body(backend):
    document = {**delayed(backend), "timeouts": {"body": "100ms"}}
    async with Plane(document) as plane, caller(plane) as client:
        await client.send(request("POST", "Content-Length: 10"))
        assert (await client.head()).startswith(b"HTTP/1.1 408 ")


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 418, 429, 500, 503, 599])
async def test_an_aborted_request_has_the_status_of_choice(backend, status):
    async with Plane(proxied(backend.url, fault={"abort": status})) as plane:
        client = await plane.client()
        reply = await client.request("GET", "/")
        assert reply.status == status
        body = problem(reply)
        assert (body["status"], body["reason"]) == (status, "fault_injected")
        assert "on purpose" in body["title"]
        assert "on purpose" in body["detail"]
        assert (await client.request("GET", "/")).status == status  # it stays open
        html = await plane.get("/", headers={"Accept": "text/html"})
        text = html.body.decode()
        assert f'<p class="kicker">{status}</p>' in text
        assert f"<title>{status} Fault injected on purpose</title>" in text
        markdown = await plane.get("/", headers={"Accept": "text/markdown"})
        assert markdown.body.decode().startswith(f"# {status} Fault injected on purpose\n")
        assert {line["status"] for line in log_of(plane)} == {status}
        (row,) = counters_snapshot(plane.segment).routes
        assert (row.delays, row.aborts) == (0, 4)
    assert backend.requests == []


async def test_it_waits_first_where_both_are_asked_for(backend):
    fault = {"delay": DELAY, "abort": 503}
    document = proxied(backend.url, fault=fault, limits={"rate": "1/d", "by": ["address"]})
    async with Plane(document) as plane, caller(plane) as client:
        for _ in range(2):  # what the limit by address took is given back
            await client.send(request("GET"))
            await plane.settled(exchanges=1)
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 503 ")
            await client.exactly(int(head.split(b"Content-Length: ")[1].split(b"\r")[0]))
        lines = log_of(plane)
        assert [(line["reason"], line["delayed"]) for line in lines] == [
            ("fault_injected", True)
        ] * 2


async def test_an_aborted_request_counts_nowhere(backend):
    rules: dict[str, Any] = {
        "limits": [
            {"rate": "2/d", "by": ["address"]},
            {"rate": "2/d", "by": ["consumer"]},
            {"rate": "2/d", "by": ["route"]},
        ],
        "quotas": [{"requests": 2, "period": "year", "by": ["route"]}],
        "concurrency": [{"max": 1, "by": ["address"]}],
        "auth": "api_key",
    }
    document = proxied(backend.url, fault={"abort": 429}, **rules)
    document["consumers"] = [{"name": "ann"}]
    key = {"X-Api-Key": "ann-key"}
    async with Plane(document, keys={"ann-key": "ann"}) as plane:
        for _ in range(5):
            reply = await plane.get("/", headers=key)
            assert problem(reply)["reason"] == "fault_injected"
            assert "retry-after" not in reply.headers
        # Without a key there is no fault, but the refusal that callers must know anyway.
        assert (await plane.get("/")).status == 401
        plane.install({**proxied(backend.url, **rules), "consumers": [{"name": "ann"}]})
        statuses = [(await plane.get("/", headers=key)).status for _ in range(2)]
        # The request without a key has taken one from the limit by address.
        assert statuses == [200, 429]


@pytest.mark.parametrize("more", [{}, {"delay": "50ms"}])
async def test_an_aborted_request_costs_nothing(backend, more):
    shared = SharedMoney()
    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    async with paid(shared, config(backend, fault={**ALWAYS, **more})) as p:
        reply = await call(p)
        assert (reply.status, problem(reply)["reason"]) == (500, "fault_injected")
        # Who could not pay learns of the fault too: it comes before the price.
        assert problem(await call(p, key="cy-key"))["reason"] == "fault_injected"
    assert shared.balance() == 1_000_000
    assert shared.records() == []
    assert shared.money.open_holds() == []


@pytest.mark.parametrize(
    ("when", "good", "bad"),
    [
        ({"headers": {"X-Chaos": "yes"}}, {"x-chaos": "yes"}, {"X-Chaos": "no"}),
        ({"cookies": {"chaos": "1"}}, {"Cookie": "a=b; chaos=1"}, {"Cookie": "chaos=2"}),
        ({"query": {"chaos": "1"}}, None, {}),
    ],
)
async def test_faults_for_some_requests(backend, when, good, bad):
    async with Plane(proxied(backend.url, fault={**ALWAYS, "when": when})) as plane:
        hit = await plane.get("/?chaos=1" if good is None else "/", headers=good or {})
        missed = await plane.get("/?chaos=2" if good is None else "/", headers=bad)
    assert (hit.status, missed.status) == (500, 200)


async def test_shares_are_of_the_requests_concerned(backend):
    """The share is by chance: 500 of 1,000, give or take six standard deviations."""
    fault = {"abort": 500, "abort_share": "50%", "when": {"query": {"x": "*"}}}
    async with Plane(proxied(backend.url, fault=fault)) as plane:
        client = await plane.client()
        replies = [(await client.request("GET", "/?x")).status for _ in range(1000)]
        assert 405 <= replies.count(500) <= 595
        assert replies.count(200) == 1000 - replies.count(500)
        others = [(await client.request("GET", "/")).status for _ in range(100)]
        assert others == [200] * 100


async def test_a_share_of_nothing_is_no_fault(backend):
    fault = {"abort": 500, "abort_share": "0%", "delay": "1h", "delay_share": "0%"}
    async with Plane(proxied(backend.url, fault=fault)) as plane:
        client = await plane.client()
        assert {(await client.request("GET", "/")).status for _ in range(300)} == {200}


@pytest.mark.parametrize(
    "route",
    [
        {"handler": "test:handler"},
        {"respond": {"body": "fixed"}},
        {"redirect": "/there"},
    ],
)
async def test_faults_of_routes_of_any_kind(route):
    async def handler(x):
        raise AssertionError("it must not be called")

    document = {"routes": [{"name": "r", "path": "/", "fault": ALWAYS, **route}]}
    async with Plane(document, handlers={"test:handler": handler}) as plane:
        assert problem(await plane.get("/"))["reason"] == "fault_injected"


async def test_a_delayed_handler_gets_the_body_that_came_meanwhile():
    async def handler(x):
        await x.respond(200, body=x.body)

    document = {
        "routes": [{"name": "r", "path": "/", "fault": {"delay": DELAY}, "handler": "test:handler"}]
    }
    async with Plane(document, handlers={"test:handler": handler}) as plane:
        reply = await plane.request("POST", "/", body=b"the whole body")
    assert reply.body == b"the whole body"


async def test_preflights_are_answered_as_usual(backend):
    document = proxied(backend.url, fault=ALWAYS, cors="https://app.example")
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    async with Plane(document) as plane:
        assert (await plane.request("OPTIONS", "/", headers=asked)).status == 204
        reply = await plane.get("/", headers={"Origin": "https://app.example"})
    # Scripts of that origin can read the fault.
    assert reply.status == 500
    assert reply.headers["access-control-allow-origin"] == "https://app.example"


async def test_counts_are_by_worker_and_kept():
    segment = Segment.create(2, log_records=64)
    document = {"routes": [{"name": "r", "path": "/", "fault": ALWAYS, "respond": 200}]}
    for worker in range(2):
        async with Plane(document, segment=segment, worker=worker) as plane:
            assert (await plane.get("/")).status == 500
    (row,) = counters_snapshot(segment).routes
    assert row.aborts == 2
