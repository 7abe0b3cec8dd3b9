"""Answers http-01 challenges of ACME authorities (RFC 8555, 8.3), in front of the other pages.

    GET /.well-known/acme-challenge/TOKEN   → the key authorization, while the challenge is pending

Everything else below that path is 404. The answer is not secret, but says which authority an
account belongs to, so only tokens of pending challenges have one, and nothing can be listed.

It is a plain ASGI application, so that a challenge does not wait until the pages are composed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastgate.config.public_route import CHALLENGES

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_MISSING = b"There is no pending challenge with this token.\n"


class WithChallenges:
    """Answers challenges itself, and leaves all other requests to `pages`."""

    def __init__(self, find: Callable[[str], str | None], pages: Asgi) -> None:
        """`find`: the key authorization of a token; None if no challenge with it is pending."""
        self._find = find
        self._pages = pages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(CHALLENGES):
            await self._pages(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, b"", [(b"allow", b"GET, HEAD")])
            return
        found = self._find(path.removeprefix(CHALLENGES))
        body = _MISSING if found is None else found.encode()
        await _answer(
            send,
            404 if found is None else 200,
            b"" if scope["method"] == "HEAD" else body,
            [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ],
        )


async def _answer(send: Any, status: int, body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
