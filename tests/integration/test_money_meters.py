"""Units of meters from a handler in real workers to the ledger, reports and the audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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
