"""A setup with one paid route, for the tests of paid routes: engine, upstream, facilitator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, Reply
from x402kit import PRICE, FacilitatorServer, facilitating, paid, sign

from fastgate.billing.x402.claims import Claims
from fastgate.billing.x402.facilitator import FacilitatorClient
from fastgate.billing.x402.handler import PaidRoute, secret_headers, settling
from fastgate.model.x402 import read_terms


@pytest.fixture(scope="module", name="facilitator")
def _facilitator() -> Iterator[FacilitatorServer]:
    with facilitating() as server:
        yield server


@pytest.fixture(autouse=True, name="clean")
def _clean(request: pytest.FixtureRequest) -> None:
    if "facilitator" in request.fixturenames:
        request.getfixturevalue("facilitator").reset()


class Clock:
    """Time that stands still until told; starts with the chain's, which is the wall clock's."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class PaidRouteSetup:
    """A paid route on an engine, and what its test looks at."""

    def __init__(self, plane: Plane, backend: Backend, server: FacilitatorServer) -> None:
        self.plane = plane
        self.backend = backend
        self.server = server
        self.store: Claims
        self.begun = server.chain.earned

    @property
    def runs(self) -> int:
        """How often the upstream was asked."""
        return len(self.backend.requests)

    @property
    def sold(self) -> int:
        """How many payments the setup has got since the test began."""
        earned = self.server.chain.earned - self.begun
        assert earned % PRICE == 0
        return earned // PRICE

    async def idle(self) -> None:
        """Wait for settlements whose clients have gone."""
        await asyncio.gather(*settling())

    async def ask(self, payment: str | None = None, path: str = "/w/1", **more: Any) -> Reply:
        headers = dict(more.pop("headers", {}))
        if payment is not None:
            headers["PAYMENT-SIGNATURE"] = payment
        method = more.pop("method", "GET")
        return await self.plane.request(method, path, headers=headers, **more)

    async def offer(self, path: str = "/w/1", **more: Any) -> str:
        reply = await self.ask(path=path, **more)
        assert reply.status == 402
        return reply.headers["payment-required"]

    async def payment(self, change: Callable[[Any], None] | None = None, **more: Any) -> str:
        """A payment of a new payer for the route."""
        payer = self.server.chain.payer(PRICE * 3)
        return sign(payer, await self.offer(**more), change)


@asynccontextmanager
async def setup(
    server: FacilitatorServer,
    folder: Path,
    respond: Any = None,
    *,
    clock: Callable[[], float] | None = None,
    route: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **x402: Any,
) -> AsyncIterator[PaidRouteSetup]:
    backend = await Backend(respond).start()
    document = {
        "upstreams": [{"name": "app", "targets": [backend.url]}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [
            {
                "name": "paid",
                "path": "/w/{rest*}",
                "service": "app",
                "x402": paid(server, **x402),
                **(route or {}),
            }
        ],
        **(config or {}),
    }
    made: list[FacilitatorClient] = []
    store = Claims(folder, clock or Clock())

    class Handlers(dict[str, Any]):
        """What the worker's resolver does with a name and its text."""

        def __missing__(self, name: str) -> PaidRoute:
            text = name.partition(" ")[2]
            terms = read_terms(text)
            made.append(
                FacilitatorClient(
                    terms.facilitator, secret_headers(terms), terms.facilitator_timeout
                )
            )
            return PaidRoute(text, facilitator=made[-1], store=store)

    async with Plane(document, handlers=Handlers(made={})) as plane:
        found = PaidRouteSetup(plane, backend, server)
        found.store = store
        yield found
        await plane.settled(exchanges=0, upcalls=0)
    for each in made:
        await each.aclose()
    await backend.stop()


def problem(reply: Reply) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["cache-control"] == "no-store"
    assert "payment-signature" in reply.headers["vary"].lower()
    found: dict[str, Any] = orjson.loads(reply.body)
    assert found["status"] == reply.status
    return found
