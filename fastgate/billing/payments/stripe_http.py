"""The HTTP client of the official Stripe library, on httpx, through the library's documented hook.

The library has its own httpx client. This one adds two things: whether a failed request may have
been sent (`NeverSent`), and a limit on the size of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import stripe

ANSWER_MOST = 16 << 20
"""Maximum octets of an answer; a page of a hundred events has a few hundred thousand."""


class NeverSent(stripe.APIConnectionError):
    """No connection was made: nothing can have been sent."""


class HttpxClient(stripe.HTTPClient):
    """One pool of connections. `timeout`: seconds for each of connect, write and read, and for
    the whole call."""

    name = "httpx"

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        self._client = httpx.AsyncClient(timeout=timeout)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Body, status and header fields. Raises stripe.APIConnectionError."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._request(method, url, headers, post_data)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _failed(f"no connection ({type(error).__name__})", NeverSent) from error
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise _failed(f"no answer ({type(error).__name__})") from error

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any
    ) -> tuple[bytes, int, Mapping[str, str]]:
        async with self._client.stream(method, url, headers=headers, content=post_data) as answer:
            body = bytearray()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_MOST:
                    raise _failed("the answer is too large")
            return bytes(body), answer.status_code, answer.headers

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    async def close_async(self) -> None:
        await self._client.aclose()


def _failed(
    text: str, kind: type[stripe.APIConnectionError] = stripe.APIConnectionError
) -> stripe.APIConnectionError:
    return kind(text)
