"""An ASGI application that is composed at its first request.

Most gateways only get requests for health and metrics. The rest of the control API, and the
gateway's own pages, take half a second to import and use many MiB. So the first request waits for
the import. If composing fails, that request fails, and the next one tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class OnDemand:
    """The application, for the server."""

    def __init__(self, compose: Callable[[], Awaitable[Asgi]]) -> None:
        self._compose = compose
        self._app: Asgi | None = None
        self._one = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            async with self._one:
                if self._app is None:
                    self._app = await self._compose()
        await self._app(scope, receive, send)
