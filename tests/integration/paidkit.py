"""What tests of money over real processes share: a paid gateway, its customers, and its books."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from calendarkit import steady_zone
from gatewaykit import (
    PATIENCE,
    PROJECT,
    Answer,
    Client,
    Gateway,
    Upstream,
    eventually,
    fetch,
    proxying,
    render,
)

from fastgate._core.money.usage_block import unpack_lines

PRICE = 10_000  # micro-units: 0.01 USD
MICROS = 1_000_000
AUDIT_S = 300.0  # it reads every usage record


def paid_config(upstream: Upstream, **more: Any) -> dict[str, Any]:
    """A configuration with one keyed route for everything, at 0.01 USD a request."""
    route = {
        "name": "paid",
        "path": "/{rest*}",
        "price": "0.01 USD",
        "auth": {"api_key": {"header": "X-Api-Key"}},
    }
    billing = {"time_zone": steady_zone(), **more.pop("billing", {})}
    return proxying(upstream, route, billing=billing, **more)


def ruled_config(upstream: Upstream, **more: Any) -> dict[str, Any]:
    """The same with everything else that decides on requests and what they cost: a plan that makes
    them cheaper, with a quota, a rate and units; spending limits; a handler at /ask. Start it with
    `environ=HANDLERS`."""
    config = paid_config(upstream, **more)
    config["routes"][0]["price"] = "0.07 USD"  # for who is on no plan
    ask = {
        "name": "ask",
        "path": "/ask",
        "handler": "paid_handlers:ask",
        "auth": {"api_key": {"header": "X-Api-Key"}},
    }
    tokens = {"meter": "tokens", "price": "0.001 USD", "per": 10}
    pro = {
        "name": "pro",
        "price": {"per_request": "0.01 USD", "per_unit": [tokens]},
        "quotas": [{"by": ["consumer"], "period": "month", "requests": 10**9}],
        "limits": [{"by": ["consumer"], "rate": "1000000/s"}],
    }
    limits = {"account": "100000000 USD", "credential": "100000000 USD"}
    return {
        **config,
        "routes": [ask, *config["routes"]],
        "plans": [pro],
        "billing": {**config["billing"], "spending": limits},
    }


HANDLERS = {"PYTHONPATH": os.pathsep.join([str(PROJECT), str(Path(__file__).parent)])}
UNITS_PRICE = 4_000  # of the units that a request at /ask uses


class Customer(NamedTuple):
    """An account with a consumer and a key."""

    account: str
    consumer: str
    credential: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Api-Key": self.key}


def customer(gateway: Gateway, name: str, micros: int = 0, **consumer: Any) -> Customer:
    """Make one, with a balance."""
    account = made(gateway.api("/v1/accounts", method="POST", body={"name": name}))["id"]
    body = {"name": f"{name}-app", "account": account, **consumer}
    who = made(gateway.api("/v1/consumers", method="POST", body=body))["id"]
    issued = made(gateway.api(f"/v1/consumers/{who}/credentials", method="POST"))
    found = Customer(account, who, issued["id"], issued["key"])
    if micros:
        credit(gateway, found, micros)
    return found


def subscribe(gateway: Gateway, who: Customer, plan: str) -> str:
    """Subscribe a customer to a plan; the subscription's id."""
    body = {"account": who.account, "plan": plan}
    found = made(gateway.api("/v1/subscriptions", method="POST", body=body))
    return str(found["id"])


def paused(gateway: Gateway, name: str, plan: str = "pro") -> Customer:
    """A customer with money whose subscription is paused: every request is to be refused."""
    who = customer(gateway, name, 1_000 * MICROS)
    ident = subscribe(gateway, who, plan)
    made(gateway.api(f"/v1/subscriptions/{ident}/pause", method="POST"))
    return who


def made(answer: Answer) -> Any:
    """The document of an answer that must be a success."""
    assert answer.status in (200, 201), answer.body
    return answer.json


def text(micros: int) -> str:
    """An amount as the API takes it."""
    return f"{micros // MICROS}.{micros % MICROS:06d} USD"


def credit(gateway: Gateway, who: Customer, micros: int) -> None:
    """Put money into a wallet; on disk and in effect when it returns."""
    body = {"amount": text(micros), "reference": uuid.uuid4().hex}
    made(gateway.api(f"/v1/accounts/{who.account}/credits", method="POST", body=body))


def wallet(gateway: Gateway, who: Customer) -> dict[str, Any]:
    """The customer's wallet in USD."""
    found = made(gateway.api(f"/v1/accounts/{who.account}/wallets"))["items"]
    return next(item for item in found if item["currency"] == "USD")


def call(gateway: Gateway, who: Customer, path: str = "/echo") -> Answer:
    """One request of the customer's."""
    return fetch(gateway.address(), path, headers=who.headers)


def reason_of(answer: Answer) -> str:
    """The reason of a refusal."""
    return str(answer.json["reason"])


def passed(gateway: Gateway) -> bool:
    """Whether every check of the audit passes now. Raises OSError."""
    answer = gateway.api("/v1/ledger/audit", patience=AUDIT_S)
    return answer.status == 200 and all(check["passed"] for check in answer.json["checks"])


def audit(gateway: Gateway) -> dict[str, Any]:
    """The audit, which has to pass."""
    report = made(gateway.api("/v1/ledger/audit", patience=AUDIT_S))
    wrong = [check for check in report["checks"] if not check["passed"]]
    assert not wrong, json.dumps(wrong, indent=1)
    return {check["name"]: check["numbers"] for check in report["checks"]}


def settled(gateway: Gateway, patience: float = PATIENCE) -> None:
    """Wait until nothing is on its way from shared memory to the ledger."""

    found: dict[str, Any] = {}

    def done() -> bool:
        found.update(made(gateway.api("/v1/ledger/pipeline")))
        return found["problem"] is None and not (
            found["waiting"] or found["spooled"] or found["open_holds"]
        )

    try:
        eventually(done, "all usage is in the ledger", patience)
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from None


def charged_requests(state: Path, meter: str = "") -> dict[str, list[int]]:
    """Request id → amounts charged (for the request, or for units of a meter), from the SQLite
    store itself."""
    query = "SELECT lines FROM usage_blocks WHERE meter = ?"
    return amounts_of(lines for (lines,) in rows_of(state, query, meter))


def unnamed_usage(state: Path) -> list[Any]:
    """Usage that is booked under a hash or a slot in place of a name."""
    names = ("account", "consumer", "credential", "route", "service", "plan", "meter")
    unnamed = " OR ".join(f"{name} LIKE '#%'" for name in names)
    return rows_of(state, f"SELECT {', '.join(names)} FROM usage_blocks WHERE {unnamed}")


def rows_of(state: Path, query: str, *values: Any) -> list[Any]:
    """What a query of the SQLite store gives."""
    connection = sqlite3.connect(f"file:{state / 'fastgate.db'}?mode=ro", uri=True)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def amounts_of(blocks: Iterable[bytes]) -> dict[str, list[int]]:
    """Request id → amounts, of the blocks' lines."""
    found: dict[str, list[int]] = {}
    for lines in blocks:
        for line in unpack_lines(lines):
            found.setdefault(line.request.hex(), []).append(line.amount)
    return found


class Tally:
    """What clients saw: ids of requests that were answered 200, and counts of all answers."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.sent = 0
        self.broken = 0
        self.reasons: dict[str, int] = {}

    def note(self, answer: Answer) -> None:
        if answer.status == 200:
            self.served.append(answer.json["headers"]["x-request-id"])
        else:
            reason = reason_of(answer)
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


async def traffic(
    address: Callable[[], tuple[str, int]],
    who: Customer,
    tally: Tally,
    stop: asyncio.Event,
    pause: float = 0.0,
    path: str = "/echo",
) -> None:
    """One client that calls, whatever happens to the gateway, `pause` seconds after each answer."""
    client = Client(address())
    while not stop.is_set():
        tally.sent += 1
        try:
            tally.note(await client.request(path, headers=who.headers))
            await asyncio.sleep(pause)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            tally.broken += 1
            client.close()
            await asyncio.sleep(0.01)
            client = Client(address())
    client.close()


async def leaving(
    address: Callable[[], tuple[str, int]],
    who: Customer,
    tally: Tally,
    stop: asyncio.Event,
    pause: float,
) -> None:
    """One client that hangs up before it is answered, at different moments."""
    wait = 0.0
    while not stop.is_set():
        tally.sent += 1
        wait = (wait + 0.003) % 0.02
        try:
            _, writer = await asyncio.open_connection(*address())
            writer.write(render("GET", "/slow/0.03", who.headers))
            await asyncio.sleep(wait)
            writer.transport.abort()
        except OSError:
            tally.broken += 1
        await asyncio.sleep(pause)
