"""The store is away while customers pay: charging goes on, and nothing is missing afterwards.

SQLite is locked; PostgreSQL is stopped and started again, and frozen (SIGSTOP: connections stay
and nobody answers). For how long says FASTGATE_OUTAGE_S: 2 seconds, and 60 in `make outage`.
Clients note the id of every request that was answered 200; afterwards each of those has exactly one
usage record, with its price, there is no other, and the audit passes. They are on a plan; others
use units, hang up before they are answered, or are on a subscription that is paused.
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
    HANDLERS,
    PRICE,
    UNITS_PRICE,
    Customer,
    Tally,
    amounts_of,
    audit,
    call,
    charged_requests,
    customer,
    leaving,
    made,
    paid_config,
    paused,
    reason_of,
    ruled_config,
    settled,
    subscribe,
    traffic,
    unnamed_usage,
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


class Others:
    """Who calls beside: one that uses units, one that hangs up, one that must not be served."""

    def __init__(self, running: Gateway) -> None:
        self.asks = customer(running, "asks", PLENTY)
        self.leaves = customer(running, "leaves", PLENTY)
        for who in (self.asks, self.leaves):
            subscribe(running, who, "pro")
        self.late = paused(running, "late")
        self.asked, self.left, self.refused = Tally(), Tally(), Tally()

    def tasks(self, running: Gateway, stop: asyncio.Event) -> list[asyncio.Future[None]]:
        calls = (
            traffic(running.address, self.asks, self.asked, stop, 0.01, "/ask"),
            traffic(running.address, self.late, self.refused, stop, 0.01),
            leaving(running.address, self.leaves, self.left, stop, 0.01),
        )
        return [asyncio.ensure_future(each) for each in calls]

    def check(self, running: Gateway) -> int:
        """What they were charged, micro-units."""
        assert self.asked.served
        assert not self.asked.reasons
        assert wallet(running, self.asks)["captured"] == len(self.asked.served) * (
            PRICE + UNITS_PRICE
        )
        left = wallet(running, self.leaves)["captured"]
        assert 0 < left <= self.left.sent * PRICE
        assert left % PRICE == 0
        assert not self.refused.served
        assert set(self.refused.reasons) == {"subscription_paused"}
        return int(left + len(self.asked.served) * (PRICE + UNITS_PRICE))


def subscriber(running: Gateway) -> Customer:
    """Who calls as fast as it is answered, at its plan's price."""
    acme = customer(running, "acme", PLENTY)
    subscribe(running, acme, "pro")
    return acme


def with_traffic(
    running: Gateway,
    who: Customer,
    tally: Tally,
    during: Callable[[], None],
    others: Others | None = None,
) -> None:
    """Do something while clients call as fast as they are answered."""

    async def run() -> None:
        stop = asyncio.Event()
        callers = [
            asyncio.ensure_future(traffic(running.address, who, tally, stop))
            for _ in range(CLIENTS)
        ]
        if others is not None:
            callers += others.tasks(running, stop)
        try:
            await asyncio.to_thread(served_more, tally, 100)
            await asyncio.to_thread(during)
            await asyncio.to_thread(served_more, tally, 100)
        finally:
            stop.set()
            await asyncio.gather(*callers)

    asyncio.run(run())


def check(
    running: Gateway,
    who: Customer,
    tally: Tally,
    charged: dict[str, list[int]],
    others: Others,
) -> None:
    """Everybody was served, everything is charged, once, and the books agree."""
    assert not tally.reasons
    assert not tally.broken
    assert len(tally.served) == tally.sent
    assert all(charged[request] == [PRICE] for request in tally.served)
    assert all(len(amounts) == 1 for amounts in charged.values())
    numbers = audit(running)
    assert numbers["charges"]["charged"] == len(tally.served) * PRICE + others.check(running)
    found = wallet(running, who)
    assert found["captured"] == len(tally.served) * PRICE
    assert found["available"] == PLENTY - len(tally.served) * PRICE
    print(f"\n{len(tally.served)} requests served and charged, the store away for {AWAY_S:g} s")


def test_sqlite_is_locked_under_load(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(ruled_config(upstream), workers=4, environ=HANDLERS)
    acme, others = subscriber(running), Others(running)
    tally = Tally()

    def during() -> None:
        with locked(running.state / "fastgate.db"):
            stay(tally)
            eventually(lambda: running.said("usage.spool"), "usage goes to the spool")

    with_traffic(running, acme, tally, during, others)
    settled(running, CATCH_UP_S)
    check(running, acme, tally, charged_requests(running.state), others)
    assert not unnamed_usage(running.state)


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
    config = ruled_config(upstream, store={"url": url})
    running = gateway(config, workers=4, environ=HANDLERS)
    acme, others = subscriber(running), Others(running)
    tally = Tally()
    with_traffic(running, acme, tally, lambda: during(running, tally), others)
    settled(running, CATCH_UP_S)
    check(running, acme, tally, charged_in_postgresql(url), others)


def charged_in_postgresql(url: str) -> dict[str, list[int]]:
    """Request id → amounts charged, from the database itself."""

    async def read() -> dict[str, list[int]]:
        import asyncpg

        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch("SELECT lines FROM usage_blocks WHERE meter = ''")
            return amounts_of(lines for (lines,) in rows)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_control_is_killed_while_the_store_is_away(
    gateway: StartGateway, upstream: Upstream, postgres_cluster: Cluster
) -> None:
    config = ruled_config(upstream, store={"url": postgres_cluster.database("migrated")})
    running = gateway(config, workers=2, environ=HANDLERS)
    acme, others = subscriber(running), Others(running)
    tally = Tally()

    def during() -> None:
        postgres_cluster.stop()
        try:
            for _ in range(3):
                served_more(tally, 200)
                running.kill("fg-control")
        finally:
            postgres_cluster.start()

    with_traffic(running, acme, tally, during, others)
    settled(running)
    assert not tally.reasons
    audit(running)
    assert wallet(running, acme)["captured"] == len(tally.served) * PRICE
    others.check(running)


def test_it_starts_without_its_store_and_knows_paying_accounts(
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
