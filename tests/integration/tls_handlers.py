"""Handlers of the tests of TLS over real processes."""

from __future__ import annotations

import os

from fastgate.handlers import Exchange


async def worker(exchange: Exchange) -> None:
    """Says which worker serves the request, by its pid."""
    await exchange.respond(200, {"Content-Type": "text/plain"}, f"worker {os.getpid()}.")
