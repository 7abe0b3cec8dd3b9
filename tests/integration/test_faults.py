"""Killed processes: the others go on, nothing is counted wrong, what died is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import (
    PATIENCE,
    Client,
    Gateway,
    Upstream,
    clients,
    eventually,
    fetch,
    proxying,
)

Start = Callable[..., Gateway]


class Tally:
    """Answers by status, and requests that got none."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.broken = 0

    @property
    def total(self) -> int:
        return sum(self.statuses.values()) + self.broken

    async def one(self, client: Client, path: str) -> None:
        try:
            answer = await client.request(path)
        except (OSError, EOFError):
            self.broken += 1
        else:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1


async def under_load(
    address: tuple[str, int], path: str, work: Callable[[], Any], clients: int = 16
) -> Tally:
    """Keep clients asking, half of them on a fresh connection each time, while `work` runs in a
    thread."""
    tally = Tally()
    stop = False

    async def ask(keep: bool) -> None:
        client = Client(address)
        while not stop:
            await tally.one(client, path)
            if not keep:
                client.close()
        client.close()

    tasks = [asyncio.ensure_future(ask(i % 2 == 0)) for i in range(clients)]
    try:
        await asyncio.to_thread(work)
    finally:
        stop = True
        await asyncio.gather(*tasks)
    return tally


# ---- workers -----------------------------------------------------------------------------


async def test_a_killed_worker_takes_only_its_own_requests_with_it(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream))
    first = running.worker(0)
    clients = 16

    def kill() -> None:
        before = len(upstream.seen)
        running.kill("fg-worker-0")
        eventually(lambda: len(upstream.seen) > before + 200, "traffic goes on")

    tally = await under_load(running.address(), "/echo", kill, clients)
    assert set(tally.statuses) == {200}
    assert tally.broken <= clients  # at most what each client had in progress
    assert running.worker(0) != first
    answer = running.api("/v1/workers")
    assert answer.status == 200, answer
    workers = answer.json["items"]
    assert [worker["starts"] for worker in workers] == [2, 1]
    assert [worker["state"] for worker in workers] == ["serving", "serving"]
    assert running.api("/readyz").status == 200


async def test_new_connections_are_served_while_workers_die_again_and_again(
    gateway: Start, upstream: Upstream
) -> None:
    """A connection waits in the queue of a dead worker's socket; it is never refused."""
    running = gateway(proxying(upstream))
    kills = 6

    def kill() -> None:
        for i in range(kills):
            running.kill(f"fg-worker-{i % 2}")
            serving = len(upstream.seen)
            eventually(lambda n=serving: len(upstream.seen) > n + 20, "traffic goes on")  # type: ignore[misc]

    tally = Tally()
    stop = False
    refused = 0

    async def ask() -> None:
        nonlocal refused
        while not stop:
            async with Client(running.address()) as client:
                try:
                    await client.request("/echo")
                except ConnectionRefusedError:
                    refused += 1
                except (OSError, EOFError):
                    tally.broken += 1

    tasks = [asyncio.ensure_future(ask()) for _ in range(8)]
    await asyncio.to_thread(kill)
    stop = True
    await asyncio.gather(*tasks)
    assert refused == 0
    # A worker's death breaks what it had accepted: for each kill at most all clients' one.
    assert tally.broken <= kills * 8


def test_a_worker_that_dies_several_times_in_a_row_is_replaced_at_once(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream))
    for _ in range(4):
        running.kill("fg-worker-0")
    assert "starting another in" not in running.log_text()
    assert running.log_text().count("starting another") == 4
    assert fetch(running.address(), "/echo").status == 200


def state_of(pid: int) -> str:
    """ "T": stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def ask_anew(address: tuple[str, int], count: int) -> list[int]:
    """So many requests at once, each on a connection of its own: the statuses."""

    async def ask() -> int:
        async with Client(address) as client:
            return (await client.request("/echo")).status

    return await asyncio.gather(*(ask() for _ in range(count)))


async def test_others_accept_for_a_stopped_worker_until_it_goes_on(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream), workers=3)
    stopped = running.worker(1)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    try:
        # A third of them lands in its queue, before and after that is noticed.
        for _ in range(3):
            assert await ask_anew(running.address(), 40) == [200] * 40
        print(f"120 new connections beside a stopped worker: {time.monotonic() - began:.1f} s")
        # They were served by others: it was not killed and replaced.
        assert state_of(stopped) == "T"
        await asyncio.to_thread(
            eventually, lambda: running.said("worker 1 (pid"), "it is logged", PATIENCE
        )
        assert "no heartbeat" in running.log_text()
    finally:
        os.kill(stopped, signal.SIGCONT)

    async def its_share() -> int:
        async with clients(running.address(), 30) as found:
            await asyncio.gather(*(client.request("/echo") for client in found))
            workers = (await asyncio.to_thread(running.api, "/v1/workers")).json["items"]
            assert workers[1]["pid"] == stopped
            return int(workers[1]["connections"])

    deadline = time.monotonic() + PATIENCE
    while not await its_share():  # it takes part again
        assert time.monotonic() < deadline


async def test_others_accept_for_a_worker_whose_handler_computes(gateway: Start) -> None:
    handler = """
import pathlib, time

async def block(exchange):
    pathlib.Path("blocked").touch()
    while not pathlib.Path("release").exists():
        time.sleep(0.01)  # the loop of this worker stands still
    await exchange.respond(200, body="done")
"""
    routes = [
        {"name": "block", "path": "/block", "handler": "blocking:block"},
        {"name": "echo", "path": "/echo", "respond": {"status": 200, "body": "here"}},
    ]
    running = gateway({"routes": routes}, workers=2, wait=False)
    (running.folder / "blocking.py").write_text(handler)
    running.wait_serving()
    async with Client(running.address()) as client:
        blocked = asyncio.ensure_future(client.request("/block"))
        mark = running.folder / "blocked"
        await asyncio.to_thread(eventually, mark.exists, "the handler runs")
        assert await ask_anew(running.address(), 40) == [200] * 40
        (running.folder / "release").touch()
        assert (await blocked).status == 200


async def test_a_dead_worker_that_is_not_replaced_yet_delays_no_client(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream))
    os.kill(running.pid, signal.SIGSTOP)  # nobody replaces it
    try:
        os.kill(running.worker(0), signal.SIGKILL)
        assert await ask_anew(running.address(), 40) == [200] * 40
    finally:
        os.kill(running.pid, signal.SIGCONT)


def test_a_dead_worker_holds_nothing_of_a_concurrency_limit(
    gateway: Start, upstream: Upstream
) -> None:
    route = {"name": "one", "path": "/{rest*}", "concurrency": [{"by": "route", "max": 1}]}
    running = gateway(proxying(upstream, route), workers=1)
    held = threading.Thread(
        target=lambda: _ignore(lambda: fetch(running.address(), "/hold")), daemon=True
    )
    held.start()
    eventually(lambda: "/hold" in upstream.seen, "it is upstream")
    assert fetch(running.address(), "/echo").status == 429
    running.kill("fg-worker-0")
    assert fetch(running.address(), "/echo").status == 200
    held.join()


def _ignore(work: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        work()


# ---- control -----------------------------------------------------------------------------


async def test_traffic_does_not_notice_that_control_was_killed(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream))
    generation = running.generation

    def kill() -> None:
        running.kill("fg-control")
        eventually(lambda: running.generation > generation, "the new control publishes")
        running.reload_and_wait(proxying(upstream, drain_timeout="9s"))

    tally = await under_load(running.address(), "/echo", kill)
    assert set(tally.statuses) == {200}
    assert tally.broken == 0
    assert running.api("/readyz").json["ready"] is True
    workers = running.api("/v1/workers").json["items"]
    assert {worker["starts"] for worker in workers} == {1}
    assert {worker["generation"] for worker in workers} == {running.generation}


def test_a_worker_born_while_control_is_dead_serves(gateway: Start, upstream: Upstream) -> None:
    keyed = {"name": "keyed", "path": "/{rest*}", "auth": {"api_key": {"header": "X-Api-Key"}}}
    config = proxying(upstream, keyed, consumers=[{"name": "me", "keys": ["secret-of-mine-123"]}])
    running = gateway(config, workers=1)
    control = running.children()["fg-control"]
    os.kill(control, signal.SIGSTOP)  # as good as dead, and none takes its place
    try:
        running.kill("fg-worker-0")
        address = running.address()
        assert fetch(address, "/echo", headers={"X-Api-Key": "secret-of-mine-123"}).status == 200
        assert fetch(address, "/echo", headers={"X-Api-Key": "another"}).status == 401
    finally:
        os.kill(control, signal.SIGCONT)
    running.reload_and_wait(proxying(upstream))
    assert fetch(running.address(), "/echo").status == 200


def test_a_new_control_goes_on_when_the_file_is_broken_meanwhile(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream))
    generation = running.generation
    running.write("version: 1\nroutes: [\n")
    running.kill("fg-control")
    eventually(lambda: running.generation > generation, "the new control publishes")
    assert running.said("the file is not used")
    assert fetch(running.address(), "/echo").status == 200
    running.reload_and_wait(proxying(upstream))


def test_keys_are_known_after_a_control_and_revoked_ones_are_not(
    gateway: Start, upstream: Upstream
) -> None:
    keyed = {"name": "keyed", "path": "/{rest*}", "auth": {"api_key": {"header": "X-Api-Key"}}}
    running = gateway(proxying(upstream, keyed))
    made = running.api("/v1/consumers", method="POST", body={"name": "acme"})
    assert made.status == 201, made.body
    path = f"/v1/consumers/{made.json['id']}/credentials"
    keys = [running.api(path, method="POST", body={}).json for _ in range(2)]

    def statuses() -> list[int]:
        return [
            fetch(running.address(), "/echo", headers={"X-Api-Key": key["key"]}).status
            for key in keys
        ]

    assert statuses() == [200, 200]
    gone = running.api(f"{path}/{keys[1]['id']}", method="DELETE")
    assert gone.status in (200, 204), gone.body
    assert statuses() == [200, 401]
    generation = running.generation
    running.kill("fg-control")
    eventually(lambda: running.generation > generation, "the new control publishes")
    assert statuses() == [200, 401]


# ---- exactness ---------------------------------------------------------------------------

LIMIT = 1000
ALL_WORKERS = 4


def limited(upstream: Upstream, **more: Any) -> dict[str, Any]:
    # A day, so that no window ends in the middle of the test.
    quota = {"by": "route", "period": "day", "requests": LIMIT}
    return proxying(upstream, {"name": "q", "path": "/{rest*}", "quotas": [quota]}, **more)


async def hammer(running: Gateway, until: Callable[[Tally], bool]) -> Tally:
    """50 clients, until they have had enough."""
    tally = Tally()

    async def ask() -> None:
        async with Client(running.address()) as client:
            while not until(tally):
                await tally.one(client, "/echo")

    await asyncio.gather(*(ask() for _ in range(50)))
    return tally


async def test_four_workers_let_through_exactly_the_quota(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(limited(upstream), workers=ALL_WORKERS)
    tally = await hammer(running, lambda tally: tally.total >= LIMIT + 1000)
    assert tally.broken == 0
    assert set(tally.statuses) == {200, 429}
    assert tally.statuses[200] == LIMIT
    assert len(upstream.seen) == LIMIT


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_quota_is_exact_while_workers_and_control_are_killed_and_reloaded(
    gateway: Start, upstream: Upstream, seed: int
) -> None:
    """What was admitted is what clients got, plus what died on the way with a worker."""
    chance = random.Random(seed)
    running = gateway(limited(upstream), workers=ALL_WORKERS)
    over = threading.Event()

    def disturb() -> None:
        version = 0
        while not over.is_set():
            kind = chance.random()
            if kind < 0.5:
                victim = chance.randrange(ALL_WORKERS)
                pid = running.children().get(f"fg-worker-{victim}")
                if pid:
                    _kill(pid)
            elif kind < 0.6:
                pid = running.children().get("fg-control")
                if pid:
                    _kill(pid)
            else:
                version += 1
                running.reload(limited(upstream, drain_timeout=f"{10 + version % 20}s"))
            over.wait(chance.uniform(0.0, 0.15))

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        # Refusals prove that the quota is used up; go on a while to see none slip through.
        tally = await hammer(running, lambda tally: tally.statuses.get(429, 0) >= 500)
    finally:
        over.set()
        disturbing.join()
    assert set(tally.statuses) == {200, 429}
    passed = tally.statuses[200]
    assert passed <= LIMIT
    assert passed + tally.broken >= LIMIT
    assert len(upstream.seen) <= LIMIT
    assert fetch(running.address(), "/echo").status == 429


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
