"""Paid traffic while processes are killed: no charge lost, none doubled, nothing left held.

Workers, control and the whole tree are killed with SIGKILL at random moments. After each kill the
audit passes again, under traffic. Clients note the id of every request that was answered 200; in
the end each of those has exactly one usage record, with its price. Requests that broke off may be
charged (the answer was on its way) or not; never twice.

The account has a subscription, whose plan makes requests cheaper than their route does and has
limits, quotas and a meter; there are spending limits; some clients hang up before they are
answered. Another account's subscription is paused: of its requests none is ever served.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest
from conftest import StartGateway
from gatewaykit import Gateway, Upstream, eventually
from messagekit import render
from paidkit import (
    HANDLERS,
    PRICE,
    UNITS_PRICE,
    Customer,
    Tally,
    audit,
    charged_requests,
    customer,
    leaving,
    paid_config,
    passed,
    paused,
    ruled_config,
    settled,
    subscribe,
    traffic,
    unnamed_usage,
    wallet,
)

KILLS = int(os.environ.get("FASTGATE_KILLS", "36"))
CLIENTS = 6
PAUSE_S = 0.01  # between two requests of a client: audits read all of them, after each kill
CATCH_UP_S = 300.0  # a control that was killed again and again has much to take over
PLENTY = 10_000_000 * PRICE


class Killing:
    """A paid gateway under traffic, and what is killed of it."""

    def __init__(self, start: StartGateway, upstream: Upstream, state: Path, seed: int) -> None:
        self.begin = lambda: start(ruled_config(upstream), workers=4, state=state, environ=HANDLERS)
        self.state = state
        self.rng = random.Random(seed)
        self.gateway: Gateway = self.begin()
        self.acme: Customer = customer(self.gateway, "acme", PLENTY)
        subscribe(self.gateway, self.acme, "pro")
        self.refused = paused(self.gateway, "late")
        self.tally, self.asked, self.left, self.late = Tally(), Tally(), Tally(), Tally()
        self.killed: Counter[str] = Counter()

    def victim(self) -> str:
        return self.rng.choices(("worker", "control", "tree"), (12, 5, 1))[0]

    def kill(self, what: str) -> None:
        """Kill, and wait until there is another in its place."""
        self.killed[what] += 1
        if what == "tree":
            os.kill(self.gateway.pid, signal.SIGKILL)
            self.gateway.process.wait(30)
            self.gateway = self.begin()
            return
        name = "fg-control"
        if what == "worker":
            name = f"fg-worker-{self.rng.randrange(4)}"
        self.gateway.kill(name)

    async def run(self, kills: int) -> None:
        stop = asyncio.Event()
        callers = [
            asyncio.ensure_future(traffic(self._address, self.acme, self.tally, stop, PAUSE_S))
            for _ in range(CLIENTS)
        ]
        for work in (
            traffic(self._address, self.acme, self.asked, stop, PAUSE_S, "/ask"),
            traffic(self._address, self.refused, self.late, stop, PAUSE_S),
            leaving(self._address, self.acme, self.left, stop, PAUSE_S),
        ):
            callers.append(asyncio.ensure_future(work))
        for _ in range(kills):
            seen = len(self.tally.served)
            await asyncio.sleep(self.rng.random() * 0.1)
            await asyncio.to_thread(self.kill, self.victim())
            await asyncio.to_thread(
                eventually, lambda seen=seen: len(self.tally.served) > seen + 20, "traffic flows"
            )
            await asyncio.to_thread(self.audit)
        stop.set()
        await asyncio.gather(*callers)

    def audit(self) -> None:
        """The books are right again, under traffic, once control has taken over what there was."""

        def passes() -> bool:
            try:
                return passed(self.gateway)
            except (OSError, KeyError):  # control is not up yet
                return False

        eventually(passes, "the audit passes", CATCH_UP_S)

    def _address(self) -> tuple[str, int]:
        def address() -> tuple[str, int] | None:
            try:
                return self.gateway.address()
            except KeyError:  # it is not up yet, or not any more
                return None

        return eventually(address, "an address")

    def check(self) -> None:
        settled(self.gateway, CATCH_UP_S)
        audit(self.gateway)
        charged = charged_requests(self.state)
        units = charged_requests(self.state, "tokens")
        for found in (charged, units):
            assert not {request: each for request, each in found.items() if len(each) > 1}
        served = self.tally.served + self.asked.served
        assert not [request for request in served if request not in charged]
        assert all(charged[request] == [PRICE] for request in served)  # the plan's, not the route's
        assert all(units[request] == [UNITS_PRICE] for request in self.asked.served)
        total = sum(sum(each) for found in (charged, units) for each in found.values())
        found = wallet(self.gateway, self.acme)
        assert found["captured"] == total
        assert found["available"] == PLENTY - total
        assert not unnamed_usage(self.state)
        # Nobody pays for what was never asked; of those who left, most pay.
        sent = self.tally.sent + self.asked.sent + self.left.sent
        assert len(served) < len(charged) <= sent
        for tally in (self.tally, self.asked):
            assert set(tally.reasons) <= {"overloaded", "upstream_reset"}, tally.reasons
        assert not self.late.served
        assert set(self.late.reasons) == {"subscription_paused"}, self.late.reasons
        assert wallet(self.gateway, self.refused)["captured"] == 0


@pytest.mark.timeout(300 + 8 * KILLS)
def test_no_charge_is_lost_or_doubled_by_kills(
    gateway: StartGateway, upstream: Upstream, tmp_path: Path
) -> None:
    killing = Killing(gateway, upstream, tmp_path / "state", seed=1)
    for _ in range(6):
        asyncio.run(killing.run(KILLS // 6))
        killing.check()
    assert sum(killing.killed.values()) == KILLS // 6 * 6
    assert min(killing.killed["worker"], killing.killed["control"]) > 0


@pytest.mark.parametrize("what", ["worker", "control", "tree"])
def test_each_kind_of_kill_by_itself(
    gateway: StartGateway, upstream: Upstream, tmp_path: Path, what: str
) -> None:
    killing = Killing(gateway, upstream, tmp_path / "state", seed=7)
    killing.victim = lambda: what  # type: ignore[method-assign]
    asyncio.run(killing.run(3))
    killing.check()


def test_a_request_under_way_is_not_charged_when_its_worker_dies(
    gateway: StartGateway, upstream: Upstream
) -> None:
    running = gateway(paid_config(upstream), workers=1)
    acme = customer(running, "acme", 3 * PRICE)
    callers = []
    for _ in range(3):
        sock = socket.create_connection(running.address())
        sock.sendall(render("GET", "/silent", acme.headers))
        callers.append(sock)
    eventually(lambda: wallet(running, acme)["in_flight"] == 3 * PRICE, "three holds")
    running.kill("fg-worker-0")
    eventually(lambda: wallet(running, acme)["available"] == 3 * PRICE, "given back")
    for sock in callers:
        sock.close()
    settled(running)
    assert audit(running)["charges"]["charged"] == 0


def test_a_worker_that_dies_while_control_comes_up_is_not_waited_for(
    gateway: StartGateway, upstream: Upstream
) -> None:
    running = gateway(paid_config(upstream), workers=2)
    customer(running, "acme", PRICE)
    for round_ in range(1, 4):
        running.kill("fg-control")  # its successor has just been forked
        running.kill("fg-worker-0")
        running.kill("fg-worker-0")
        eventually(
            lambda round_=round_: running.log_text().count("control is back") == round_,
            "control is back",
            patience=15,
        )
    audit(running)
