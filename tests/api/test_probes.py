"""The probes: answered without the framework, as it would answer them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import httpx
import pytest
from apikit import Client, is_problem
from msgspec.structs import replace

from fastgate.api.probes import PROBES, Probes


class Rest:
    """The rest of the API; `asked` has the paths that came to it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        await self._app(scope, receive, send)


@pytest.fixture
def rest(world: Any) -> Rest:
    return Rest(world.app)


@pytest.fixture
async def probes(world: Any, rest: Rest) -> AsyncIterator[Client]:
    app = Probes(world.control, world.tokens, rest)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def described(response: Any) -> tuple[int, dict[str, str], bytes]:
    return response.status_code, dict(response.headers), response.content


def put_in(world: Any, state: str) -> None:
    """Metrics for those with a token alone, and what else the state says."""
    gateway = world.control.gateway
    metrics = replace(gateway.observability.metrics, enabled=state != "no metrics")
    world.control.gateway = replace(
        gateway,
        control=replace(gateway.control, metrics_open=state == "open"),
        observability=replace(gateway.observability, metrics=metrics),
    )
    world.control.reasons = ["worker 1 serves generation 0"] if state == "unready" else []


@pytest.mark.parametrize("state", ["open", "closed", "no metrics", "unready"])
async def test_a_probe_is_answered_as_by_the_framework(
    world: Any, api: Client, probes: Client, rest: Rest, state: str
) -> None:
    put_in(world, state)
    del api.headers["authorization"]
    for path, method, token in product(PROBES, ("GET", "HEAD"), ("", world.admin, "wrong", "\t")):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        light = await probes.request(method, path, headers=headers)
        whole = await api.request(method, path, headers=headers)
        assert described(light) == described(whole), (path, method, token)
    assert rest.asked == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/status"), ("POST", "/healthz"), ("OPTIONS", "/readyz"), ("GET", "/healthz/x")],
)
async def test_everything_else_goes_to_the_rest(
    api: Client, probes: Client, rest: Rest, method: str, path: str
) -> None:
    headers = dict(api.headers)
    light = await probes.request(method, path, headers=headers)
    assert rest.asked == [path]
    assert described(light) == described(await api.request(method, path))


async def test_an_error_of_ours_is_logged_and_answered(
    world: Any, probes: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bytes:
        raise LookupError("no such row")

    monkeypatch.setattr(world.control, "metrics", fail)
    with caplog.at_level(logging.ERROR):
        is_problem(await probes.get("/metrics"), 500, "internal_error")
    assert "no such row" in caplog.text
