"""Asking an issuer: one document, within bounds.

10 seconds for everything, 1 MiB, no compression, at most 3 redirects and none of them to another
origin, no proxy but the configured one, https except where the configuration allows http. Every
error says which address, and what is wrong with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urljoin

import httpx

from fastgate.errors import FastGateError
from fastgate.model.gateway import Issuer
from fastgate.model.issuer import origin_of

TIME_S, CONNECT_S = 10.0, 5.0
MOST = 1 << 20
"""Bytes of an answer."""
REDIRECTS = 3


class FetchError(FastGateError):
    """An issuer cannot be asked, or its answer cannot be used. `status`: that of its answer; 0:
    there was none, or it is not the reason."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """A document."""

    url: str
    """Where it was, after redirects."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


Context = Callable[[], ssl.SSLContext]
"""Makes the context for https, on use. Raises ValueError."""


async def get(issuer: Issuer, url: str, context: Context) -> Answer:
    """Ask for a document. Raises FetchError."""
    if not issuer.reachable(url):
        raise FetchError(f"{url}: only https is asked, and http on this machine")
    try:
        async with (
            asyncio.timeout(TIME_S),
            httpx.AsyncClient(
                verify=context() if url.startswith("https:") else False,
                trust_env=False,
                proxy=issuer.proxy,
                follow_redirects=False,
                timeout=httpx.Timeout(TIME_S, connect=CONNECT_S),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "FastGate",
                },
            ) as client,
        ):
            return await _follow(client, url)
    except TimeoutError:
        raise FetchError(f"{url}: no answer within {TIME_S:g} s") from None
    except httpx.TimeoutException:
        raise FetchError(f"{url}: no connection within {CONNECT_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise FetchError(f"{url}: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What is wrong, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split()) or type(error).__name__


async def _follow(client: httpx.AsyncClient, url: str) -> Answer:
    at = url
    for _ in range(REDIRECTS + 1):
        async with client.stream("GET", at) as response:
            if response.has_redirect_location:
                at = _redirected(at, response.headers["location"])
                continue
            if response.status_code != 200:
                raise FetchError(f"{at}: it answered {response.status_code}", response.status_code)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchError(f"{at}: its answer is compressed, which was not asked for")
            return Answer(at, dict(response.headers), await _body(response, at))
    raise FetchError(f"{url}: more than {REDIRECTS} redirects")


def _redirected(at: str, location: str) -> str:
    """Where a redirect leads. Raises FetchError."""
    to = urljoin(at, location)
    try:
        same = origin_of(to) == origin_of(at)
    except ValueError:
        same = False
    if not same:
        raise FetchError(
            f"{at}: it redirects to another server, {to[:200]}, which is not followed; if it is "
            "right, configure that address"
        )
    return to


async def _body(response: httpx.Response, at: str) -> bytes:
    parts = bytearray()
    async for part in response.aiter_raw():
        parts += part
        if len(parts) > MOST:
            raise FetchError(f"{at}: its answer has more than {MOST >> 20} MiB")
    return bytes(parts)
