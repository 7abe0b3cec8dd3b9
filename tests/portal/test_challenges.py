"""The page that answers http-01 challenges: only pending ones, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from fastgate.config.public_route import CHALLENGES
from fastgate.portal.challenges import WithChallenges

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
ANSWER = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


async def other_pages(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"another page"})


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = WithChallenges({TOKEN: ANSWER}.get, other_pages)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as made:
        yield made


async def test_a_pending_challenge_is_answered(client: httpx.AsyncClient) -> None:
    answer = await client.get(CHALLENGES + TOKEN)
    assert (answer.status_code, answer.text) == (200, ANSWER)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    head = await client.head(CHALLENGES + TOKEN)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(ANSWER))


@pytest.mark.parametrize(
    "path",
    ["", "other", TOKEN[:-1], f"{TOKEN}/", f"{TOKEN}/x", f"./{TOKEN}x", TOKEN.lower(), "%2e%2e/a"],
)
async def test_nothing_else_is_there(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(CHALLENGES + path)
    assert answer.status_code == 404
    assert answer.text == "There is no pending challenge with this token.\n"


async def test_only_reading(client: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = await client.request(method, CHALLENGES + TOKEN)
        assert (answer.status_code, answer.content) == (405, b"")
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/_fastgate/problems", "/.well-known/acme-challenge"])
async def test_other_pages_are_not_touched(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).text == "another page"
