"""Units of meters from a handler in real workers to the ledger, reports and the audit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from billing.stripekit import StripeKit
from gatewaykit import Gateway, eventually, fetch
from paidkit import MICROS, Customer, audit, call, customer, made, reason_of, settled, wallet

HANDLERS = '''
import os
import signal


async def answer(exchange):
    """?N: uses N tokens of the 1,000 that are held for; ?die: its worker is killed over 100."""
    exchange.hold_units("tokens", 1000)
    if exchange.query == "die":
        exchange.use_units("tokens", 100)
        os.kill(os.getpid(), signal.SIGKILL)
    exchange.use_units("tokens", int(exchange.query))
    await exchange.respond(200, body=b"{}")
'''

CONFIG: dict[str, Any] = {
    "routes": [
        {
            "name": "ask",
            "path": "/ask",
            "handler": "metered_handlers:answer",
            "auth": {"api_key": {"header": "X-Api-Key"}},
        }
    ],
    "plans": [
        {
            "name": "tokens",
            "price": {
                "per_request": "0.01 USD",
                "per_unit": [
                    {"meter": "tokens", "price": "3 USD", "per": 1_000, "included": 500},
                ],
            },
        }
    ],
}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Gateway]:
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "metered_handlers.py").write_text(HANDLERS)
    gateway = Gateway(CONFIG, folder, workers=2, state=tmp_path / "state")
    try:
        gateway.wait_serving()
        yield gateway
    finally:
        gateway.stop()


def ask(gateway: Gateway, who: Customer, query: str) -> int:
    return fetch(gateway.address(), f"/ask?{query}", headers=who.headers).status


def test_units_are_charged_recorded_and_reported(running: Gateway) -> None:
    acme = customer(running, "acme", 10 * MICROS, plan="tokens")
    used = [300, 150, 400, 7, 1000]
    assert [ask(running, acme, str(units)) for units in used] == [200] * len(used)
    settled(running)
    for_units = (sum(used) - 500) * 3 * MICROS // 1_000
    spent = for_units + len(used) * 10_000
    assert wallet(running, acme)["captured"] == spent
    records = made(running.api(f"/v1/accounts/{acme.account}/usage"))["items"]
    tokens = [one for one in records if one["meter"] == "tokens"]
    assert sorted(one["units"] for one in tokens) == sorted(used)
    assert sum(one["amount"] for one in tokens) == for_units
    assert {one["request"] for one in tokens} == {
        one["request"] for one in records if not one["meter"]
    }
    rows = made(running.api("/v1/reports/usage?group_by=meter&account=acme"))["rows"]
    assert [(row["meter"], row["requests"], row["units"], row["amount"]) for row in rows] == [
        ("", len(used), len(used), len(used) * 10_000),
        ("tokens", 0, sum(used), for_units),
    ]
    audit(running)
    # What is left pays for a request, not for all that it may use.
    refused = call(running, customer(running, "poor", MICROS, plan="tokens"), "/ask?1")
    assert (refused.status, reason_of(refused)) == (402, "insufficient_balance")


def test_a_worker_that_is_killed_has_charged_what_it_reported(running: Gateway) -> None:
    acme = customer(running, "acme", 10 * MICROS, plan="tokens")
    assert ask(running, acme, "500") == 200  # the included ones
    with pytest.raises((OSError, EOFError)):
        ask(running, acme, "die")
    settled(running)
    eventually(lambda: ask(running, acme, "0") == 200, "a worker serves again")
    settled(running)
    records = made(running.api(f"/v1/accounts/{acme.account}/usage"))["items"]
    recovered = [(one["meter"], one["amount"]) for one in records if one["recovered"]]
    assert ("tokens", 100 * 3_000) in recovered
    audit(running)


async def test_units_are_reported_to_stripe_by_the_next_round(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "metered_handlers.py").write_text(HANDLERS)
    async with StripeKit(int(time.time())).serving() as kit:
        stripe = {
            "secret": "env:STRIPE_KEY",
            "api": kit.url,
            "usage": {"tokens": "api_tokens", "requests": "api_requests"},
        }
        config = {**CONFIG, "billing": {"stripe": stripe, "currency": "USD"}}

        def life(work: Callable[[Gateway], None]) -> None:
            gateway = Gateway(
                config, folder, workers=1, state=tmp_path / "state",
                environ={"STRIPE_KEY": kit.key},
            )  # fmt: skip
            try:
                gateway.wait_serving()
                work(gateway)
            finally:
                gateway.stop()

        def use(gateway: Gateway) -> None:
            acme = customer(gateway, "acme", 10 * MICROS, plan="tokens")
            page = {"amount": "5 USD", "return_url": "https://shop.example/"}
            made(gateway.api(f"/v1/accounts/{acme.account}/top-ups", method="POST", body=page))
            assert [ask(gateway, acme, "400"), ask(gateway, acme, "12")] == [200, 200]
            settled(gateway)

        def hear(gateway: Gateway) -> None:
            eventually(lambda: len(kit.meter_events) == 2, "Stripe was told")

        await asyncio.to_thread(life, use)
        await asyncio.to_thread(life, hear)  # a round is begun with each start
        told = {one["event_name"]: one["payload"]["value"] for one in kit.meter_events}
        assert told == {"api_tokens": "412", "api_requests": "2"}
