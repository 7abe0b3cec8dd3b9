"""Nobody is served by less than the full rules, however often it starts or control is killed.

Clients call while the gateway is started, killed whole, and its control process killed, again and
again: FASTGATE_STARTS times, 500 in `make money-starts`. Accounts whose subscription is paused or
waits for its first payment, who may spend nothing, or have used up their quota, are never served.
Those on a plan pay its price and are not refused; consumers of the configuration are always known.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from calendarkit import steady_zone
from conftest import StartGateway
from gatewaykit import Gateway, Upstream, eventually
from paidkit import (
    MICROS,
    Customer,
    Tally,
    audit,
    call,
    charged_requests,
    customer,
    made,
    paused,
    reason_of,
    rows_of,
    settled,
    subscribe,
    traffic,
    unnamed_usage,
    wallet,
)

STARTS = int(os.environ.get("FASTGATE_STARTS", "8"))
PLAN_PRICE = 2_000
PAUSE_S = 0.003
SEED_KEY = "fg_seed_of_the_configuration_0123456789"


def config(upstream: Upstream) -> dict[str, Any]:
    auth = {"api_key": {"header": "X-Api-Key"}}

    def route(name: str, service: str, **more: Any) -> dict[str, Any]:
        rewrite = {"strip_prefix": f"/{name}"}
        path = f"/{name}/{{rest*}}"
        return {
            "name": name,
            "path": path,
            "service": service,
            "auth": auth,
            "rewrite": rewrite,
        } | more

    names = ("open", "gold", "staff")
    return {
        "billing": {"time_zone": steady_zone()},
        "upstreams": [{"name": "app", "targets": [upstream.url]}],
        "services": [{"name": name, "upstream": "app"} for name in names],
        "routes": [
            route("free", "open"),
            route("paid", "open", price="0.01 USD"),
            route("gold", "gold", price="0.01 USD"),
            route("staff", "staff"),
        ],
        "plans": [
            {"name": "basic"},
            {"name": "fee", "price": {"flat": "20 USD"}},
            {"name": "gold", "services": ["gold"], "price": {"per_request": "0.002 USD"}},
            {
                "name": "tiny",
                "quotas": [{"by": ["consumer"], "period": "year", "requests": 1}],
            },
            {"name": "staff", "services": ["staff"]},
        ],
        "consumers": [{"name": "seed", "plan": "staff", "keys": [SEED_KEY]}],
    }


class Caller:
    """A customer that calls one path all the time, and what must come of it."""

    def __init__(self, who: Customer, path: str, refused: str = "") -> None:
        self.who, self.path, self.refused = who, path, refused
        self.tally = Tally()

    @property
    def answers(self) -> int:
        return len(self.tally.served) + sum(self.tally.reasons.values())

    def check(self) -> None:
        """`refused`: the only reason that it ever heard; "": it was always served."""
        heard = set(self.tally.reasons)
        if self.refused:
            name = f"{self.who.consumer} {self.path}"
            assert not self.tally.served, f"{name}: {len(self.tally.served)} served"
            assert heard <= {self.refused}, heard
        else:
            assert not heard, f"{self.who.consumer} {self.path}: {self.tally.reasons}"


class Starting:
    """A gateway that is started and killed under the eyes of its callers."""

    def __init__(self, start: StartGateway, upstream: Upstream, state: Path) -> None:
        self.begin = lambda: start(config(upstream), workers=2, state=state)
        self.state = state
        self.gateway: Gateway = self.begin()
        self.callers = self.customers()

    def customers(self) -> list[Caller]:
        gateway = self.gateway
        late = paused(gateway, "late", "basic")
        unpaid = customer(gateway, "unpaid", 1_000 * MICROS)
        subscribe(gateway, unpaid, "fee")
        thrifty = customer(gateway, "thrifty", 1_000 * MICROS)
        limit = f"/v1/accounts/{thrifty.account}/spending-limit"
        made(gateway.api(limit, method="PUT", body={"amount": "0 USD"}))
        self.gold = customer(gateway, "gold", 1_000 * MICROS, plan="gold")
        self.subscriber = customer(gateway, "subscriber", 1_000 * MICROS)
        subscribe(gateway, self.subscriber, "gold")
        tiny = customer(gateway, "tiny", plan="tiny")
        saved = self.state / "quotas.bin"
        eventually(saved.exists, "quotas are on disk")
        before = saved.stat().st_size
        assert call(gateway, tiny, "/free/echo").status == 200
        # Counts are saved once a second; a machine that is killed sooner loses them.
        eventually(lambda: saved.stat().st_size > before, "the count is on disk")
        seed = Customer("", "seed", "", SEED_KEY)
        return [
            Caller(late, "/free/echo", "subscription_paused"),
            Caller(late, "/paid/echo", "subscription_paused"),
            Caller(unpaid, "/free/echo", "payment_action_required"),
            Caller(thrifty, "/paid/echo", "spending_limit_reached"),
            Caller(tiny, "/free/echo", "quota_exhausted"),
            Caller(self.gold, "/gold/echo"),
            Caller(self.subscriber, "/paid/echo"),
            Caller(seed, "/staff/echo"),
        ]

    def restart(self, number: int) -> None:
        """Kill control, or all of it, or end it, in turn; then it is whole again."""
        if number % 2 == 0:
            backs = self.gateway.log_text().count("control is back")
            self.gateway.kill("fg-control")
            eventually(
                lambda: self.gateway.log_text().count("control is back") > backs,
                "control is back",
            )
            return
        if number % 4 == 1:
            os.kill(self.gateway.pid, signal.SIGKILL)
            self.gateway.process.wait(30)
        else:
            self.gateway.stop()
        self.gateway = self.begin()

    async def run(self, starts: int) -> None:
        stop = asyncio.Event()
        tasks = [
            asyncio.ensure_future(
                traffic(self._address, each.who, each.tally, stop, PAUSE_S, each.path)
            )
            for each in self.callers
        ]
        try:
            for number in range(starts):
                await asyncio.to_thread(self.restart, number)
                await asyncio.to_thread(self.wait_for_answers)
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    def wait_for_answers(self) -> None:
        before = [each.answers for each in self.callers]

        def heard() -> bool:
            pairs = zip(self.callers, before, strict=True)
            return all(each.answers >= count + 3 for each, count in pairs)

        eventually(heard, "everybody hears answers again")

    def _address(self) -> tuple[str, int]:
        def address() -> tuple[str, int] | None:
            try:
                return self.gateway.address()
            except KeyError:  # it is not up yet, or not any more
                return None

        return eventually(address, "an address")


@pytest.mark.timeout(120 + 20 * STARTS)
def test_no_account_is_served_without_its_rules(
    gateway: StartGateway, upstream: Upstream, tmp_path: Path
) -> None:
    starting = Starting(gateway, upstream, tmp_path / "state")
    asyncio.run(starting.run(STARTS))
    for each in starting.callers:
        each.check()
    settled(starting.gateway, 120)
    audit(starting.gateway)
    charged = charged_requests(starting.state)
    paying = [each for each in starting.callers if each.who in (starting.gold, starting.subscriber)]
    for each in paying:
        assert all(charged[request] == [PLAN_PRICE] for request in each.tally.served)
    total = sum(wallet(starting.gateway, each.who)["captured"] for each in paying)
    assert total == sum(sum(found) for found in charged.values())
    assert not unnamed_usage(starting.state)
    consumers = {one for (one,) in rows_of(starting.state, "SELECT consumer FROM usage_blocks")}
    assert consumers == {each.who.consumer for each in paying}
    print({f"{each.who.consumer} {each.path}": each.answers for each in starting.callers})


def test_while_the_store_is_away_at_a_start_the_caches_decide(
    gateway: StartGateway, upstream: Upstream, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    starting = Starting(gateway, upstream, state)
    late, unpaid, thrifty = (starting.callers[i].who for i in (0, 2, 3))
    settled(starting.gateway)
    assert starting.gateway.stop() == 0
    connection = sqlite3.connect(state / "fastgate.db", isolation_level=None, timeout=30)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        running = starting.begin()
        assert reason_of(call(running, late, "/free/echo")) == "subscription_paused"
        assert reason_of(call(running, unpaid, "/free/echo")) == "payment_action_required"
        assert reason_of(call(running, thrifty, "/paid/echo")) == "spending_limit_reached"
        assert call(running, starting.gold, "/gold/echo").status == 200
        assert call(running, starting.subscriber, "/paid/echo").status == 200
        running.stop()
        # Without what the caches know, who has an account is refused, and told why.
        (state / "accounts.rows").unlink()
        running = starting.begin()
        for who, path in (
            (late, "/free/echo"),
            (starting.gold, "/gold/echo"),
            (thrifty, "/paid/echo"),
        ):
            answer = call(running, who, path)
            assert (answer.status, reason_of(answer)) == (503, "account_not_loaded")
        seed = Customer("", "seed", "", SEED_KEY)
        assert call(running, seed, "/staff/echo").status == 200  # nobody pays for it
    finally:
        connection.execute("ROLLBACK")
        connection.close()
    eventually(lambda: call(running, starting.gold, "/gold/echo").status == 200, "it is loaded")
    assert reason_of(call(running, late, "/free/echo")) == "subscription_paused"
    assert reason_of(call(running, unpaid, "/free/echo")) == "payment_action_required"
    assert reason_of(call(running, thrifty, "/paid/echo")) == "spending_limit_reached"
