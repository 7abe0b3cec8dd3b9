"""Python handlers for the upcall benchmark, imported by the gateway's workers."""

from __future__ import annotations

from typing import Any


async def hello(exchange: Any) -> None:
    """The least a handler can do: answer."""
    await exchange.respond(200, {"Content-Type": "text/plain"}, b"hello")
