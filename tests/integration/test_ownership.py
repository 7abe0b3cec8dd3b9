"""Two gateways that price requests on one store: one of them serves."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import Gateway, Upstream, eventually, fetch, proxying
from paidkit import PRICE, customer, paid_config

Start = Callable[..., Gateway]


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> dict[str, Any]:
    return paid_config(upstream, store={"url": f"sqlite:///{tmp_path}/shared.db"})


def owned(running: Gateway, folder: Path) -> None:
    """Wait until it owns the store."""

    def probe() -> bool:
        with sqlite3.connect(folder / "shared.db") as store:
            return store.execute("SELECT pid FROM owners").fetchall() == [(running.pid,)]

    running.api("/v1/accounts")  # the tables are there
    eventually(probe, "it owns the store")


def test_a_second_is_refused_and_says_whose_the_store_is(
    gateway: Start, config: dict[str, Any], tmp_path: Path
) -> None:
    first = gateway(config)
    owned(first, tmp_path)
    second = gateway(config, wait=False)
    assert second.wait() == 1
    said = second.log_text()
    assert "the store belongs to the gateway on" in said
    assert f"pid {first.pid}" in said
    assert "serving generation" not in said  # not for a moment
    shopper = customer(first, "one", 5 * PRICE)
    assert fetch(first.address(), "/", headers=shopper.headers).status == 200
    # Its control process is replaced, and it is the owner all the same.
    first.kill("fg-control")
    eventually(lambda: first.said("control is back"), "control is back")
    assert fetch(first.address(), "/", headers=shopper.headers).status == 200


def test_after_a_graceful_end_and_after_a_crash_the_next_begins_at_once(
    gateway: Start, config: dict[str, Any], tmp_path: Path
) -> None:
    first = gateway(config)
    owned(first, tmp_path)
    assert first.stop() == 0
    second = gateway(config)
    owned(second, tmp_path)
    second.process.kill()
    second.wait()
    third = gateway(config)  # another state directory, and the process is gone
    owned(third, tmp_path)
    assert third.said("took over the store from")


def test_one_that_was_paused_and_taken_over_ends_when_it_wakes_up(
    gateway: Start, config: dict[str, Any], tmp_path: Path
) -> None:
    first = gateway(config)
    owned(first, tmp_path)
    everybody = [first.pid, *first.children().values()]

    def pause() -> bool:
        """Stop it while it is not writing to the store, a minute ago."""
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        long_ago = (datetime.now(UTC) - timedelta(minutes=1)).replace(tzinfo=None)
        try:
            with sqlite3.connect(tmp_path / "shared.db", timeout=0.2) as store:
                store.execute("UPDATE owners SET beat = ?", (str(long_ago),))
        except sqlite3.OperationalError:
            for pid in everybody:
                os.kill(pid, signal.SIGCONT)
            return False
        return True

    eventually(pause, "it is paused")
    try:
        second = gateway(config)
        owned(second, tmp_path)
    finally:
        for pid in everybody:
            os.kill(pid, signal.SIGCONT)
    assert first.wait() == 1
    assert "took over the store at" in first.log_text()
    shopper = customer(second, "one", 5 * PRICE)
    assert fetch(second.address(), "/", headers=shopper.headers).status == 200


def test_without_prices_a_store_is_shared(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    config = proxying(upstream, store={"url": f"sqlite:///{tmp_path}/shared.db"})
    running = [gateway(config), gateway(config)]
    for one in running:
        assert fetch(one.address(), "/").status == 200
        assert one.api("/v1/status").json["ready"] is True


def test_what_follows_the_store_follows_it_also_where_it_was_claimed_before(
    gateway: Start, config: dict[str, Any], tmp_path: Path
) -> None:
    """Keys made by an earlier gateway are known to the next, which has another state directory."""
    first = gateway(config)
    shopper = customer(first, "one", 5 * PRICE)
    assert first.stop() == 0
    second = gateway(config)
    eventually(
        lambda: fetch(second.address(), "/", headers=shopper.headers).status == 200, "it pays"
    )
