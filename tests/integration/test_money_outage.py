"""The store is away while customers pay: charging goes on, and nothing is missing afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from conftest import StartGateway
from gatewaykit import Upstream, eventually
from paidkit import (
    PRICE,
    Tally,
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

PLENTY = 1_000_000 * PRICE
AWAY_S = 6.0


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


async def _with_traffic(running: object, who: object, tally: Tally, during: object) -> None:
    stop = asyncio.Event()
    callers = [
        asyncio.ensure_future(traffic(running.address, who, tally, stop))  # type: ignore[attr-defined, arg-type]
        for _ in range(6)
    ]
    await asyncio.sleep(0.3)
    before = len(tally.served)
    await asyncio.to_thread(during)  # type: ignore[arg-type]
    assert len(tally.served) > before + 100, "traffic went on"
    stop.set()
    await asyncio.gather(*callers)


def test_sqlite_is_locked_under_load(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(paid_config(upstream), workers=4)
    acme = customer(running, "acme", PLENTY)
    tally = Tally()

    def during() -> None:
        with locked(running.state / "fastgate.db"):
            eventually(lambda: running.said("usage.spool"), "usage goes to the spool")

    asyncio.run(_with_traffic(running, acme, tally, during))
    settled(running)
    audit(running)
    assert not tally.reasons
    assert not tally.broken
    assert charged_requests(running.state) == {request: [PRICE] for request in tally.served}


def test_postgresql_is_stopped_under_load(
    gateway: StartGateway, upstream: Upstream, postgres_cluster: Cluster
) -> None:
    config = paid_config(upstream, store={"url": postgres_cluster.database("migrated")})
    running = gateway(config, workers=4)
    acme = customer(running, "acme", PLENTY)
    tally = Tally()

    def during() -> None:
        postgres_cluster.stop()
        try:
            served = len(tally.served)
            eventually(lambda: len(tally.served) > served + 1000, "traffic goes on")
            found = made(running.api("/v1/ledger/pipeline"))
            assert found["spooled"] or found["waiting"]
        finally:
            postgres_cluster.start()

    asyncio.run(_with_traffic(running, acme, tally, during))
    settled(running)
    numbers = audit(running)
    assert not tally.reasons
    assert not tally.broken
    assert numbers["charges"]["records"] == len(tally.served)
    assert numbers["charges"]["charged"] == len(tally.served) * PRICE
    assert wallet(running, acme)["available"] == PLENTY - len(tally.served) * PRICE


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
                served = len(tally.served)
                eventually(lambda served=served: len(tally.served) > served + 200, "traffic")
                running.kill("fg-control")
        finally:
            postgres_cluster.start()

    asyncio.run(_with_traffic(running, acme, tally, during))
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
