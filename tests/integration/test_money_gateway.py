"""Paid traffic through real processes: the last cent, and books that agree at every moment."""

from __future__ import annotations

import asyncio
import random
import resource
from typing import Any

import pytest
from conftest import StartGateway
from gatewaykit import Client, Gateway, Upstream, clients, eventually
from paidkit import (
    PRICE,
    Tally,
    audit,
    call,
    charged_requests,
    credit,
    customer,
    made,
    paid_config,
    proxying,
    reason_of,
    settled,
    text,
    traffic,
    wallet,
)


@pytest.fixture(autouse=True)
def many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


def test_a_request_is_charged_once_and_a_refused_one_is_not(
    gateway: StartGateway, upstream: Upstream
) -> None:
    running = gateway(paid_config(upstream))
    acme = customer(running, "acme", 2 * PRICE)
    assert [call(running, acme).status for _ in range(2)] == [200, 200]
    refused = call(running, acme)
    assert (refused.status, reason_of(refused)) == (402, "insufficient_balance")
    assert refused.headers["cache-control"] == "no-store"
    settled(running)
    found = wallet(running, acme)
    assert (found["available"], found["captured"], found["credited"]) == (0, 2 * PRICE, 2 * PRICE)
    used = made(running.api(f"/v1/accounts/{acme.account}/usage"))["items"]
    assert [(one["amount"], one["status"], one["route"]) for one in used] == [
        (PRICE, 200, "paid")
    ] * 2
    assert {(one["consumer"], one["credential"]) for one in used} == {
        (acme.consumer, acme.credential)
    }
    audit(running)


def test_what_fails_upstream_costs_nothing(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(paid_config(upstream))
    acme = customer(running, "acme", PRICE)
    for path in ("/reset", "/garbage", "/status/503"):
        assert call(running, acme, path).status >= 500
    assert wallet(running, acme)["available"] == PRICE
    assert call(running, acme).status == 200
    settled(running)
    assert audit(running)["charges"]["charged"] == PRICE


def test_of_1000_at_once_for_the_last_cent_one_is_served(
    gateway: StartGateway, upstream: Upstream
) -> None:
    running = gateway(paid_config(upstream), workers=4)
    acme = customer(running, "acme", PRICE)

    async def run() -> list[tuple[int, str]]:
        async with clients(running.address(), 1000) as callers:
            for start in range(0, 1000, 100):  # all connected before the first asks
                await asyncio.gather(*map(connect, callers[start : start + 100]))
            gate = asyncio.Event()

            async def one(client: Client) -> tuple[int, str]:
                await gate.wait()
                answer = await client.request("/slow/0.3", headers=acme.headers)
                return answer.status, reason_of(answer) if answer.status != 200 else ""

            asked = [asyncio.ensure_future(one(client)) for client in callers]
            gate.set()
            return await asyncio.gather(*asked)

    async def connect(client: Client) -> None:
        await client.request("/echo", headers={"X-Api-Key": "unknown"})

    found = asyncio.run(run())
    assert found.count((200, "")) == 1
    # Held by the one while it is in progress, and gone after that.
    others = {(429, "hold_in_flight"), (402, "insufficient_balance")}
    assert set(found) - {(200, "")} <= others
    assert upstream.seen == ["/slow/0.3"]
    settled(running)
    assert audit(running)["charges"] == {
        "records": 1, "used": PRICE, "charged": PRICE, "wrong": 0, "pruned": 0,
    }  # fmt: skip


def test_books_agree_while_everything_moves(gateway: StartGateway, upstream: Upstream) -> None:
    """Random prices, top-ups and refunds under traffic from many clients, audited as it goes."""
    seconds = 15.0
    rng = random.Random(20261121)
    routes = [
        {
            "name": f"r{price}",
            "path": f"/p{price}/{{rest*}}",
            "price": text(price),
            "auth": {"api_key": {"header": "X-Api-Key"}},
        }
        for price in (1, 333, 10_000, 77_777)
    ]
    running = gateway(proxying(upstream, *routes), workers=4)
    customers = [customer(running, f"c{number}", 500_000) for number in range(3)]
    served: dict[str, int] = {}

    async def spend(stop: asyncio.Event, who: int) -> None:
        buyer = customers[who]
        async with clients(running.address(), 1) as (client,):
            while not stop.is_set():
                price = rng.choice((1, 333, 10_000, 77_777))
                path = f"/p{price}/" + rng.choice(("echo", "echo", "echo", "status/503"))
                answer = await client.request(path, headers=buyer.headers)
                assert answer.status in (200, 402, 429, 503), answer
                if answer.status == 200:
                    served[buyer.account] = served.get(buyer.account, 0) + price

    def bookkeeping(number: int) -> None:
        buyer = customers[number % 3]
        if number % 3:
            credit(running, buyer, rng.randrange(1, 300_000))
        else:
            body = {"amount": text(rng.randrange(1, 5000)), "reference": f"refund {number}"}
            answer = running.api(f"/v1/accounts/{buyer.account}/refunds", method="POST", body=body)
            assert answer.status in (201, 409), answer.body
        for one in customers:
            found = wallet(running, one)
            assert found["available"] >= 0, found
            assert found["captured"] + found["held"] <= found["credited"], found
        audit(running)

    async def run() -> None:
        stop = asyncio.Event()
        buyers = [asyncio.ensure_future(spend(stop, n % 3)) for n in range(24)]
        loop = asyncio.get_running_loop()
        ends, number = loop.time() + seconds, 0
        while loop.time() < ends:
            number += 1
            await asyncio.to_thread(bookkeeping, number)
        stop.set()
        await asyncio.gather(*buyers)

    asyncio.run(run())
    settled(running)
    numbers = audit(running)
    assert numbers["cells"]["drift"] == 0
    assert numbers["cells"]["compared"] == 3
    assert numbers["charges"]["charged"] == sum(served.values()) > 0
    for one in customers:
        refunds = [
            entry["amount"] for entry in _entries(running, one.account) if entry["kind"] == "refund"
        ]
        found = wallet(running, one)
        assert found["captured"] == served[one.account] - sum(refunds)
        assert found["available"] == found["balance"]


def _entries(running: Gateway, account: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        path = f"/v1/ledger?account={account}&limit=500"
        page = made(running.api(path + (f"&cursor={cursor}" if cursor else "")))
        found += page["items"]
        if not page["next"]:
            return found
        cursor = page["next"]


def test_a_key_is_charged_to_its_new_account_at_once(
    gateway: StartGateway, upstream: Upstream
) -> None:
    running = gateway(paid_config(upstream))
    poor, rich = customer(running, "poor"), customer(running, "rich", 5 * PRICE)
    assert call(running, poor).status == 402
    made(
        running.api(
            f"/v1/consumers/{poor.consumer}",
            method="PATCH",
            body={"account": rich.account},
            headers={"If-Match": "*"},
        )
    )
    assert call(running, poor).status == 200
    settled(running)
    assert wallet(running, rich)["available"] == 4 * PRICE


def test_tally_and_traffic_agree(gateway: StartGateway, upstream: Upstream) -> None:
    """Each answer of 200 has one usage record with its request's id, and no other has."""
    running = gateway(paid_config(upstream), workers=4)
    acme = customer(running, "acme", 300 * PRICE)
    tally = Tally()

    async def run() -> None:
        stop = asyncio.Event()
        buyers = [
            asyncio.ensure_future(traffic(running.address, acme, tally, stop)) for _ in range(8)
        ]
        await asyncio.to_thread(eventually, lambda: tally.reasons, "the wallet runs dry")
        stop.set()
        await asyncio.gather(*buyers)

    asyncio.run(run())
    settled(running)
    audit(running)
    found = charged_requests(running.state)
    assert len(tally.served) == 300
    assert found == {request: [PRICE] for request in tally.served}
