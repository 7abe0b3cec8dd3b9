"""A JSON aggregator: one request to the gateway, two upstreams asked at once, one answer.

    cd examples/handlers
    fastgate run handlers.yaml
    curl -s http://127.0.0.1:8080/overview/42

The engine makes the calls through its own connection pools; both are under way at the same
time. A part that cannot be had is null in the answer, with the reason beside it, so that one
slow upstream does not take the whole page with it. The client going away cancels both calls.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from fastgate.handlers import Exchange, UpstreamError


async def overview(exchange: Exchange) -> None:
    """GET /overview/{id}: the order and its customer, side by side."""
    number = exchange.params["id"]
    (order, order_fault), (customer, customer_fault) = await asyncio.gather(
        ask(exchange, "orders", f"/orders/{number}"),
        ask(exchange, "customers", f"/customers/of-order/{number}"),
    )
    faults = {
        name: fault
        for name, fault in (("order", order_fault), ("customer", customer_fault))
        if fault is not None
    }
    answer = {"order": order, "customer": customer, "faults": faults}
    status = 502 if order is None and customer is None else 200
    await exchange.respond(
        status,
        {"Content-Type": "application/json", "Cache-Control": "no-store"},
        orjson.dumps(answer),
    )


async def ask(exchange: Exchange, upstream: str, path: str) -> tuple[Any, str | None]:
    """(what the upstream said, why it said nothing): one of the two is None."""
    try:
        response = await exchange.forward(
            upstream, method="GET", path=path, headers={"Accept": "application/json"}, timeout=2
        )
        body = await response.read(limit=1_000_000)
    except UpstreamError as error:
        return None, error.reason
    except ValueError:
        return None, "answer_too_large"
    if response.status != 200:
        return None, f"status_{response.status}"
    try:
        return orjson.loads(body), None
    except orjson.JSONDecodeError:
        return None, "answer_not_json"
