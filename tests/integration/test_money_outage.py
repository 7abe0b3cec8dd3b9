"""The store is away while customers pay: charging goes on, and nothing is missing afterwards.

SQLite is locked; PostgreSQL is stopped and started again, and frozen (SIGSTOP: connections stay
and nobody answers). For how long says FASTGATE_OUTAGE_S: 2 seconds, and 60 in `make outage`.
Clients note the id of every request that was answered 200; afterwards each of those has exactly one
usage record, with its price, there is no other, and the audit passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import StartGateway
from gatewaykit import Gateway, Upstream, eventually
from paidkit import (
    PRICE,
    Customer,
    Tally,
    amounts_of,
    audit,
    call,
    charged_requests,
    customer,
    made,
    paid_config,
    reason_of,
    settled,
    traffic,
    wallet,
)
from storekit import Cluster

from fastgate.store.engine import COMMAND_S

AWAY_S = float(os.environ.get("FASTGATE_OUTAGE_S", "2"))
PLENTY = 100_000_000 * PRICE
CLIENTS = 6
CATCH_UP_S = 60 + 5 * AWAY_S

pytestmark = pytest.mark.timeout(240 + 8 * AWAY_S)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else can write to a SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def served_more(tally: Tally, count: int) -> None:
    """Wait until so many more requests were answered 200."""
    wanted = len(tally.served) + count
    eventually(lambda: len(tally.served) >= wanted, "traffic goes on")


def stay(tally: Tally) -> None:
    """Let the time of an outage pass, in which requests never cease to be served."""
    end = time.monotonic() + AWAY_S
    while time.monotonic() < end:
        served_more(tally, 20)


def with_traffic(running: Gateway, who: Customer, tally: Tally, during: Callable[[], None]) -> None:
    """Do something while clients call as fast as they are answered."""

    async def run() -> None:
        stop = asyncio.Event()
        callers = [
            asyncio.ensure_future(traffic(running.address, who, tally, stop))
            for _ in range(CLIENTS)
        ]
        try:
            await asyncio.to_thread(served_more, tally, 100)
            await asyncio.to_thread(during)
            await asyncio.to_thread(served_more, tally, 100)
        finally:
            stop.set()
            await asyncio.gather(*callers)

    asyncio.run(run())


def check(running: Gateway, who: Customer, tally: Tally, charged: dict[str, list[int]]) -> None:
    """Everybody was served, everything is charged, once, and the books agree."""
    assert not tally.reasons
    assert not tally.broken
    assert len(tally.served) == tally.sent
    assert charged == {request: [PRICE] for request in tally.served}
    numbers = audit(running)
    assert numbers["charges"]["charged"] == len(tally.served) * PRICE
    found = wallet(running, who)
    assert found["captured"] == len(tally.served) * PRICE
    assert found["available"] == PLENTY - len(tally.served) * PRICE
    print(f"\n{len(tally.served)} requests served and charged, the store away for {AWAY_S:g} s")


def test_sqlite_is_locked_under_load(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(paid_config(upstream), workers=4)
    acme = customer(running, "acme", PLENTY)
    tally = Tally()

    def during() -> None:
        with locked(running.state / "fastgate.db"):
            stay(tally)
            eventually(lambda: running.said("usage.spool"), "usage goes to the spool")

    with_traffic(running, acme, tally, during)
    settled(running, CATCH_UP_S)
    check(running, acme, tally, charged_requests(running.state))


def test_postgresql_is_stopped_under_load(
    gateway: StartGateway, upstream: Upstream, postgres_cluster: Cluster
) -> None:
    def during(running: Gateway, tally: Tally) -> None:
        postgres_cluster.stop()
        try:
            stay(tally)
            served_more(tally, 1000)
            found = made(running.api("/v1/ledger/pipeline"))
            assert found["spooled"] or found["waiting"]
        finally:
            postgres_cluster.start()

    on_postgresql(gateway, upstream, postgres_cluster, during)


def test_postgresql_is_frozen_under_load(
    gateway: StartGateway, upstream: Upstream, postgres_cluster: Cluster
) -> None:
    def during(running: Gateway, tally: Tally) -> None:
        with postgres_cluster.frozen():
            stay(tally)
            if AWAY_S > COMMAND_S:  # what was asked of it has been given up
                eventually(lambda: running.said("usage.spool"), "usage goes to the spool")

    on_postgresql(gateway, upstream, postgres_cluster, during)


def on_postgresql(
    gateway: StartGateway,
    upstream: Upstream,
    cluster: Cluster,
    during: Callable[[Gateway, Tally], None],
) -> None:
    """Under paid traffic, do something to the server of the store; nothing comes of it."""
    url = cluster.database("migrated")
    running = gateway(paid_config(upstream, store={"url": url}), workers=4)
    acme = customer(running, "acme", PLENTY)
    tally = Tally()
    with_traffic(running, acme, tally, lambda: during(running, tally))
    settled(running, CATCH_UP_S)
    check(running, acme, tally, charged_in_postgresql(url))


def charged_in_postgresql(url: str) -> dict[str, list[int]]:
    """Request id → amounts charged, from the database itself."""

    async def read() -> dict[str, list[int]]:
        import asyncpg

        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch("SELECT lines FROM usage_blocks")
            return amounts_of(lines for (lines,) in rows)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_control_is_killed_while_the_store_is_away(
    gateway: StartGateway, upstream: Upstream, postgres_cluster: Cluster
) -> None:
    config = paid_config(upstream, store={"url": postgres_cluster.database("migrated")})
    running = gateway(config, workers=2)
    acme = customer(running, "acme", PLENTY)
    tally = Tally()

    def during() -> None:
        postgres_cluster.stop()
        try:
            for _ in range(3):
                served_more(tally, 200)
                running.kill("fg-control")
        finally:
            postgres_cluster.start()

    with_traffic(running, acme, tally, during)
    settled(running)
    assert not tally.reasons
    assert audit(running)["charges"]["records"] == len(tally.served)


def test_it_starts_without_its_store_and_knows_who_has_paid(
    gateway: StartGateway, upstream: Upstream, postgres_cluster: Cluster, tmp_path: Path
) -> None:
    config = paid_config(upstream, store={"url": postgres_cluster.database("migrated")})
    state = tmp_path / "state"
    first = gateway(config, workers=2, state=state)
    acme, poor = customer(first, "acme", 5 * PRICE), customer(first, "poor", PRICE)
    assert [call(first, who).status for who in (acme, poor, poor)] == [200, 200, 402]
    settled(first)
    assert first.stop() == 0
    postgres_cluster.stop()
    try:
        running = gateway(config, workers=2, state=state)
        assert [call(running, acme).status for _ in range(5)] == [200, 200, 200, 200, 402]
        assert reason_of(call(running, poor)) == "insufficient_balance"
    finally:
        postgres_cluster.start()
    settled(running)
    assert audit(running)["charges"]["charged"] == 6 * PRICE
    assert wallet(running, acme)["available"] == 0
