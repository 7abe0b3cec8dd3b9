"""The names for Python handlers: `async def handler(exchange: Exchange) -> None`.

A route with `handler: package.module:function` is answered by such a function. See
docs/extending.md; examples/handlers has two examples.
"""

from fastgate._core.handlers.calling import UpstreamResponse
from fastgate._core.handlers.errors import (
    ClientDisconnected,
    PaymentRefused,
    TooManyStreams,
    UpstreamError,
)
from fastgate._core.handlers.headers import Headers
from fastgate._core.handlers.upcall import Exchange

__all__ = [
    "ClientDisconnected",
    "Exchange",
    "Headers",
    "PaymentRefused",
    "TooManyStreams",
    "UpstreamError",
    "UpstreamResponse",
]
