"""Services of a split, and what they and the counters say."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from enginekit import Backend, Plane

from fastgate._core.shared.counters import counters_snapshot


def named(name: str, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (
        len(name),
        fields,
        name.encode(),
    )


@contextlib.asynccontextmanager
async def services(*names: str) -> AsyncIterator[dict[str, Backend]]:
    """A backend for each, which answers with its name."""
    found = {name: await Backend(named(name)).start() for name in names}
    try:
        yield found
    finally:
        for each in found.values():
            await each.stop()


def config(backends: dict[str, Backend], split: Any, **more: Any) -> dict[str, Any]:
    """A route to the first, with this split. more: of the route; `of`: of services, by name."""
    of: dict[str, Any] = more.pop("of", {})
    document = {
        "upstreams": [{"name": name, "targets": [each.url]} for name, each in backends.items()],
        "services": [{"name": name, "upstream": name, **of.get(name, {})} for name in backends],
        "routes": [
            {
                "name": "r",
                "path": "/{rest*}",
                "service": next(iter(backends)),
                "split": split,
                **more,
            }
        ],
    }
    if split is None:
        del document["routes"][0]["split"]
    return document


async def tally(plane: Plane, count: int, **request: Any) -> Counter[str]:
    """How many of so many requests each service got."""
    client = await plane.client()
    found: Counter[str] = Counter()
    for _ in range(count):
        reply = await client.request("GET", "/x", request.get("headers"))
        assert reply.status == 200
        found[reply.body.decode()] += 1
    return found


def counted(plane: Plane) -> dict[str, int]:
    """Requests by the service that was chosen."""
    slots = {slot: name for name, slot in plane.slots.ever("routes").items()}
    return {
        slots[row.slot].partition("/")[2]: sum(count for *_, count in row.outcomes)
        for row in counters_snapshot(plane.segment).routes
        if row.slot is not None and "/" in slots[row.slot]
    }
