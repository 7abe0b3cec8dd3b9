"""Handlers of the tests of money over real processes."""

from __future__ import annotations

import json

from fastgate.handlers import Exchange

UNITS = 40


async def ask(exchange: Exchange) -> None:
    """Uses 40 tokens of the 100 that it holds for, and answers as the upstream's echo does."""
    exchange.hold_units("tokens", 100)
    exchange.use_units("tokens", UNITS)
    body = json.dumps({"headers": {"x-request-id": exchange.request_id}})
    await exchange.respond(200, {"Content-Type": "application/json"}, body)
