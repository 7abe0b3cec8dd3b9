"""Limits of requests in progress at targets, and requests that wait for one with room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from deadlinekit import unstalled_for
from enginekit import Backend, Client, Plane, Seen, until

from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.places import in_progress, key_of_places, waiting
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash

TURN = 0.003
"""Seconds. A worker that does not run for longer may lose its turn: both are in this process."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADED = b"HTTP/1.1 101 Upgraded\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
DEAD = "http://127.0.0.1:1"


class Stepped(Backend):
    """It answers a request for each `step`, in the order in which they came."""

    def __init__(self, answer: bytes | None = OK) -> None:
        super().__init__(self._wait)
        self.answer = answer
        self.steps = asyncio.Semaphore(0)
        self.running = 0
        self.most = 0

    async def _wait(self, _: Backend, seen: Seen) -> bytes | None:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.steps.acquire()
        self.running -= 1
        return self.answer

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            self.steps.release()

    @property
    def paths(self) -> list[str]:
        return [seen.target for seen in self.requests]


@asynccontextmanager
async def stepped(n: int = 1, **more: Any) -> AsyncIterator[list[Stepped]]:
    backends = [Stepped(**more) for _ in range(n)]
    for each in backends:
        await each.start()
    try:
        yield backends
    finally:
        for each in backends:
            await each.stop()


def limited(*urls: str, most: int = 1, queue: Any = None, **more: Any) -> dict[str, Any]:
    retries = more.pop("retries", {})
    upstream = {"name": "u", "targets": list(urls), "max_connections": most, **more}
    if queue is not None:
        upstream["queue"] = queue
    return {
        "upstreams": [upstream],
        "services": [{"name": "s", "upstream": "u", "retries": retries}],
        "routes": [{"name": "r", "path": "/{rest*}", "service": "s"}],
    }


def waits(n: int = 10, timeout: str = "1m") -> dict[str, Any]:
    return {"max": n, "timeout": timeout}


def identities(plane: Plane) -> list[int]:
    return [stable_hash(f"target:{key}") for key in plane.slots.targets]


def placed(plane: Plane) -> int:
    """Places that are taken, over all targets and workers."""
    return sum(in_progress(plane.segment, each) for each in identities(plane))


def queued(plane: Plane) -> int:
    return waiting(plane.segment, stable_hash("u"))


def counted(plane: Plane, name: str) -> int:
    return sum(worker[name] for worker in counters_snapshot(plane.segment).workers)


async def sends(plane: Plane, path: str, **more: Any) -> Client:
    client = await plane.client()
    await client.send(more.pop("method", "GET"), path, **more)
    return client


async def in_line(plane: Plane, path: str) -> Client:
    """A request that waits in this plane."""
    before = plane.engine.stats()["waiting"]
    client = await sends(plane, path)
    await plane.settled(waiting=before + 1)
    return client


async def test_without_a_queue_a_request_beyond_the_limit_is_refused() -> None:
    async with stepped() as (target,), Plane(limited(target.url, most=2)) as plane:
        first = [await sends(plane, f"/{i}") for i in range(2)]
        await until(lambda: target.running == 2)
        reply = await plane.get("/beyond")
        assert (reply.status, b"overloaded" in reply.body) == (503, True)
        assert placed(plane) == 2
        target.step(2)
        assert [(await each.reply()).status for each in first] == [200, 200]
        assert placed(plane) == 0
        target.step()
        assert (await plane.get("/again")).status == 200
        assert (target.most, counted(plane, "queued")) == (2, 0)


async def test_they_wait_in_order() -> None:
    async with stepped() as (target,), Plane(limited(target.url, queue=waits())) as plane:
        clients = [await sends(plane, "/0")]
        await until(lambda: target.running == 1)
        clients += [await in_line(plane, f"/{i}") for i in range(1, 6)]
        assert (placed(plane), queued(plane)) == (1, 5)
        for client in clients:
            target.step()
            assert (await client.reply()).status == 200
        assert target.paths == [f"/{i}" for i in range(6)]
        assert (target.most, placed(plane), queued(plane)) == (1, 0, 0)
        assert counted(plane, "queued") == 5
        assert counted(plane, "queue_refused") == counted(plane, "queue_timeouts") == 0


async def test_a_new_request_does_not_overtake_those_that_wait() -> None:
    """A client that sends its next request at once would otherwise always have the free place."""
    async with stepped() as (target,), Plane(limited(target.url, queue=waits())) as plane:
        both = asyncio.ensure_future(
            plane.raw(
                b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n"
                b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            )
        )
        await until(lambda: target.running == 1)
        second = await in_line(plane, "/1")
        target.step(3)
        assert (await second.reply()).status == 200
        assert (await both).count(b"HTTP/1.1 200 OK") == 2
        assert target.paths == ["/0", "/1", "/2"]


async def test_a_full_queue_refuses_at_once() -> None:
    async with stepped() as (target,), Plane(limited(target.url, queue=waits(2))) as plane:
        clients = [await sends(plane, "/0")]
        await until(lambda: target.running == 1)
        clients += [await in_line(plane, f"/{i}") for i in (1, 2)]
        reply = await plane.get("/beyond")
        assert (reply.status, b"overloaded" in reply.body) == (503, True)
        assert counted(plane, "queue_refused") == 1
        target.step(3)
        assert [(await each.reply()).status for each in clients] == [200] * 3


async def test_they_wait_for_a_limited_time() -> None:
    async with stepped() as (target,), Plane(limited(target.url, queue=waits(5, "20ms"))) as plane:
        first = await sends(plane, "/0")
        await until(lambda: target.running == 1)
        reply = await plane.get("/late")
        assert (reply.status, b"overloaded" in reply.body) == (503, True)
        assert reply.headers["retry-after"]
        assert (counted(plane, "queue_timeouts"), queued(plane)) == (1, 0)
        target.step()
        assert (await first.reply()).status == 200
        assert target.paths == ["/0"]


async def test_a_client_that_leaves_frees_its_place_in_the_queue() -> None:
    async with stepped() as (target,), Plane(limited(target.url, queue=waits(2))) as plane:
        first = await sends(plane, "/0")
        await until(lambda: target.running == 1)
        leaves, stays = await in_line(plane, "/leaves"), await in_line(plane, "/stays")
        await leaves.reset()
        await plane.settled(waiting=1)
        assert queued(plane) == 1
        third = await in_line(plane, "/third")
        target.step(3)
        for client in (first, stays, third):
            assert (await client.reply()).status == 200
        assert target.paths == ["/0", "/stays", "/third"]


async def test_a_body_comes_after_it() -> None:
    body = bytes(range(256)) * 4096
    async with stepped() as (target,), Plane(limited(target.url, queue=waits())) as plane:
        first = await sends(plane, "/0")
        await until(lambda: target.running == 1)
        client = await plane.client()
        sending = asyncio.ensure_future(
            client.send("POST", "/1", {"Content-Length": str(len(body))}, body)
        )
        await plane.settled(waiting=1)
        target.step(2)
        assert (await first.reply()).status == 200
        await sending
        assert (await client.reply()).status == 200
        assert target.requests[1].body == body


async def test_another_target_with_room_is_not_waited_for() -> None:
    async with (
        stepped(2) as (one, other),
        Plane(limited(one.url, other.url, queue=waits())) as plane,
    ):
        clients = [await sends(plane, f"/{i}") for i in range(2)]
        await until(lambda: one.running == other.running == 1)
        assert queued(plane) == 0
        clients.append(await in_line(plane, "/2"))
        other.step(2)
        assert (await clients[2].reply()).status == 200
        assert "/2" in other.paths
        one.step()
        assert [(await each.reply()).status for each in clients[:2]] == [200, 200]


async def test_a_target_that_gets_healthy_ends_the_wait() -> None:
    async with (
        stepped(2) as (one, other),
        Plane(limited(one.url, other.url, queue=waits())) as plane,
    ):
        ((key, slot),) = (each for each in plane.slots.targets.items() if other.url in each[0])
        row = plane.segment.target_row(slot)
        row.claim(stable_hash(f"target:{key}"))
        row.health = 2
        first = await sends(plane, "/0")
        await until(lambda: one.running == 1)
        second = await in_line(plane, "/1")
        row.health = 1
        other.step()
        assert (await second.reply()).status == 200
        one.step()
        assert (await first.reply()).status == 200


async def test_nobody_waits_for_targets_that_are_all_unhealthy() -> None:
    async with stepped() as (target,), Plane(limited(target.url, queue=waits())) as plane:
        row = plane.segment.target_row(0)
        row.claim(identities(plane)[0])
        first = await sends(plane, "/0")
        await until(lambda: target.running == 1)
        second = await in_line(plane, "/1")
        row.health = 2
        reply = await second.reply()
        assert (reply.status, b"no_healthy_target" in reply.body) == (503, True)
        assert b"no_healthy_target" in (await plane.get("/2")).body
        target.step()
        assert (await first.reply()).status == 200


async def test_a_full_target_is_waited_for_while_the_others_are_ejected() -> None:
    async with stepped() as (target,):
        config = limited(
            target.url,
            DEAD,
            queue=waits(),
            eject={"after": 1, "for": "1h"},
            retries={"attempts": 2},
        )
        async with Plane(config) as plane:
            target.step(2)
            for i in range(2):
                assert (await plane.get(f"/{i}")).status == 200
            first = await sends(plane, "/2")
            await until(lambda: target.running == 1)
            second = await in_line(plane, "/3")
            target.step(2)
            assert (await first.reply()).status == (await second.reply()).status == 200


async def test_a_deadline_of_the_route_ends_the_wait() -> None:
    async with stepped() as (target,):
        config = limited(target.url, queue=waits())
        config["routes"].append(
            {"name": "d", "path": "/deadline", "service": "s", "deadline": "50ms"}
        )
        async with Plane(config) as plane:
            first = await sends(plane, "/0")
            await until(lambda: target.running == 1)
            assert (await plane.get("/deadline")).status == 504
            assert (queued(plane), counted(plane, "queued")) == (0, 1)
            target.step()
            assert (await first.reply()).status == 200
            assert target.paths == ["/0"]


# ---- every way that a request ends frees its place ----------------------------------------------


async def test_places_after_failures() -> None:
    """A refused connection, a retry at another target, an answer that is not one."""
    async with stepped(answer=b"nonsense\r\n\r\n") as (bad,), stepped() as (good,):
        bad.step(100)
        good.step(100)
        for config in (
            limited(DEAD),
            limited(DEAD, good.url, eject={"after": 0}),
            limited(bad.url, eject={"after": 0}),
        ):
            async with Plane(config) as plane:
                for _ in range(4):
                    await plane.get("/")
                    assert placed(plane) == 0


async def test_a_stale_connection_takes_a_place_again() -> None:
    async with stepped() as (target,), Plane(limited(target.url)) as plane:
        target.step(2)
        assert (await plane.get("/0")).status == 200
        await plane.settled(idle_upstreams=1)
        for writer in list(target.writers):
            writer.transport.abort()
        assert (await plane.get("/1")).status == 200
        assert placed(plane) == 0


async def test_a_client_that_leaves_in_the_middle_frees_its_place() -> None:
    async with stepped() as (target,), Plane(limited(target.url)) as plane:
        client = await sends(plane, "/0")
        await until(lambda: target.running == 1)
        assert placed(plane) == 1
        await client.reset()
        await plane.settled(exchanges=0)
        assert placed(plane) == 0
        target.step()


async def test_a_retried_answer_frees_its_place() -> None:
    async with stepped(answer=OK.replace(b"200 OK", b"503 No")) as (bad,), stepped() as (good,):
        bad.step(100)
        good.step(100)
        retries = {"attempts": 2, "statuses": ["503"], "budget": "100%"}
        config = limited(bad.url, good.url, retries=retries, eject={"after": 0})
        async with Plane(config) as plane:
            for _ in range(6):
                assert (await plane.get("/")).status == 200
                assert placed(plane) == 0


async def test_a_tunnel_has_its_place_until_it_ends() -> None:
    upgraded = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    async with stepped(answer=upgraded) as (target,):
        config = limited(target.url)
        config["routes"][0]["websocket"] = True
        await tunnelled(config, target)


async def tunnelled(config: dict[str, Any], target: Stepped) -> None:
    async with Plane(config) as plane:
        target.step()
        client = await plane.client()
        await client.raw(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert placed(plane) == 1
        assert (await plane.get("/")).status == 503
        await client.reset()
        await plane.settled(exchanges=0)
        assert placed(plane) == 0


async def test_calls_of_handlers_wait_too() -> None:
    async def handler(exchange: Any) -> Any:
        exchange.relay(await exchange.forward("u", path=f"/from-handler{exchange.path}"))

    async with stepped() as (target,):
        config = limited(target.url, queue=waits())
        config["routes"].append({"name": "h", "path": "/h", "handler": "test:handler"})
        async with Plane(config, handlers={"test:handler": handler}) as plane:
            first = await sends(plane, "/0")
            await until(lambda: target.running == 1)
            second, leaves = await in_line(plane, "/h"), await in_line(plane, "/h")
            await leaves.reset()
            await plane.settled(waiting=1)
            target.step(2)
            assert (await first.reply()).status == 200
            assert (await second.reply()).body == b"ok"
            assert target.paths == ["/0", "/from-handler/h"]
            assert (placed(plane), queued(plane)) == (0, 0)


async def test_a_reload_while_they_wait() -> None:
    """Those that wait do so by the settings with which they came."""
    async with stepped(2) as (old, new), Plane(limited(old.url, queue=waits())) as plane:
        first = await sends(plane, "/0")
        await until(lambda: old.running == 1)
        second = await in_line(plane, "/1")
        plane.install(limited(new.url, queue=waits()))
        third = await in_line(plane, "/2")
        old.step(2)
        new.step()
        assert [(await each.reply()).status for each in (first, second, third)] == [200] * 3
        assert (old.paths, new.paths) == (["/0", "/1"], ["/2"])


# ---- over all workers ---------------------------------------------------------------------------


@asynccontextmanager
async def two_workers(config: dict[str, Any]) -> AsyncIterator[list[Plane]]:
    segment = Segment.create(2, log_records=1024)
    async with Plane(config, segment=segment) as a, Plane(config, segment=segment, worker=1) as b:
        yield [a, b]


async def test_the_limit_is_one_over_all_workers() -> None:
    async with stepped() as (target,), two_workers(limited(target.url, most=2)) as (a, b):
        clients = [await sends(a, "/0"), await sends(b, "/1")]
        await until(lambda: target.running == 2)
        assert (await a.get("/2")).status == (await b.get("/3")).status == 503
        target.step(2)
        assert [(await each.reply()).status for each in clients] == [200, 200]
        assert placed(a) == 0


async def test_the_queue_is_one_over_all_workers() -> None:
    config_of = lambda url: limited(url, queue=waits(2))  # noqa: E731
    async with stepped() as (target,), two_workers(config_of(target.url)) as (a, b):
        clients = [await sends(a, "/0")]
        await until(lambda: target.running == 1)
        clients += [await in_line(a, "/1"), await in_line(b, "/2")]
        assert (await a.get("/3")).status == (await b.get("/4")).status == 503
        target.step(3)
        assert [(await each.reply()).status for each in clients] == [200] * 3
        assert queued(a) == 0


@unstalled_for(TURN)
async def test_the_oldest_goes_first_wherever_it_waits() -> None:
    async with stepped() as (target,), two_workers(limited(target.url, queue=waits())) as (a, b):
        clients = [await sends(a, "/0")]
        await until(lambda: target.running == 1)
        for i in range(1, 7):
            clients.append(await in_line((a, b)[i % 2], f"/{i}"))
            await asyncio.sleep(0.02)  # order between workers is kept beyond a few milliseconds
        target.step(7)
        assert [(await each.reply()).status for each in clients] == [200] * 7
        assert target.paths == [f"/{i}" for i in range(7)]


@unstalled_for(TURN)
async def test_a_new_request_does_not_overtake_those_of_other_workers() -> None:
    async with stepped() as (target,), two_workers(limited(target.url, queue=waits())) as (a, b):
        segment = a.segment
        other = Concurrency(segment, 0)
        key = key_of_places(identities(a)[0])
        assert other.enter(key, 1)[0]
        older = await in_line(b, "/older")
        await asyncio.sleep(0.02)
        newer = await in_line(a, "/newer")
        other.leave(key)
        target.step(2)
        assert (await older.reply()).status == (await newer.reply()).status == 200
        assert target.paths == ["/older", "/newer"]


async def test_a_worker_that_does_not_come_is_not_waited_for() -> None:
    """It is stopped, or busy: its place in the order does not block the others."""
    async with stepped() as (target,), two_workers(limited(target.url, queue=waits())) as (a, b):
        loop = asyncio.get_running_loop()
        if b.waits:
            pytest.skip("the engine of this loop cannot be stopped alone")
        clients = [await sends(a, "/0")]
        await until(lambda: target.running == 1)
        stopped = await in_line(b, "/stopped")
        loop.remove_reader(b.engine.fileno())
        await asyncio.sleep(0.02)
        clients += [await in_line(a, f"/{i}") for i in range(1, 4)]
        target.step(4)
        assert [(await each.reply()).status for each in clients] == [200] * 4
        assert target.paths == ["/0", "/1", "/2", "/3"]
        loop.add_reader(b.engine.fileno(), b.engine.poll)
        target.step()
        assert (await stopped.reply()).status == 200


async def test_never_above_the_limit_and_nobody_is_forgotten() -> None:
    running = most = 0

    async def respond(_: Backend, seen: Seen) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return OK

    target = await Backend(respond).start()
    config = limited(target.url, most=3, queue=waits(100))
    async with two_workers(config) as planes:

        async def client_of(plane: Plane) -> list[int]:
            client = await plane.client()
            return [(await client.request("GET", "/")).status for _ in range(40)]

        results = await asyncio.gather(*(client_of(planes[i % 2]) for i in range(16)))
        assert {status for each in results for status in each} == {200}
        assert most == 3
        assert (placed(planes[0]), queued(planes[0])) == (0, 0)
        assert counted(planes[0], "queued") > 0
        rows = [Concurrency(planes[0].segment, worker).rows for worker in range(2)]
        assert rows == [0, 0], "a row of the table was left behind"
    await target.stop()
