"""A feed of server-sent events, one a second, until the client leaves.

    cd examples/handlers
    fastgate run handlers.yaml
    curl -N http://127.0.0.1:8080/events?count=5

`write` returns when the kernel has the bytes, so a client that reads slowly slows its own feed
and nobody else's. When the client leaves, the task is cancelled: `finally` runs, and the
request is logged like any other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from urllib.parse import parse_qs

import orjson

from fastgate.handlers import Exchange

log = logging.getLogger("events")


async def feed(exchange: Exchange) -> None:
    """GET /events[?count=N&every=SECONDS]: N events, or events without end."""
    asked = parse_qs(exchange.query)
    try:
        count = int(asked["count"][0]) if "count" in asked else None
        every = max(0.01, float(asked.get("every", ["1"])[0]))
    except ValueError:
        await exchange.respond(400, {"Content-Type": "text/plain"}, "count and every are numbers\n")
        return
    sent = 0
    await exchange.start(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    try:
        for number in itertools.count(1) if count is None else range(1, count + 1):
            event = orjson.dumps({"number": number, "time": time.time()})
            await exchange.write(b"id: %d\ndata: %s\n\n" % (number, event))
            sent = number
            if number != count:
                await asyncio.sleep(every)
        exchange.finish()
    finally:
        log.info("sent %d events", sent)
