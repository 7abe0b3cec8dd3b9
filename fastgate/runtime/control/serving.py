"""Serves an ASGI application of control on a socket that the supervisor has bound."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from fastgate.errors import ProcessError

GRACE_S = 2  # for requests in progress, when serving ends


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_until(
    ended: asyncio.Event, app: Any, sock: socket.socket, context: ssl.SSLContext | None = None
) -> None:
    """Serve on a duplicate of the socket until the event is set, or until cancelled; with a
    context, over TLS. Raises ProcessError if the server ends unexpectedly."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",  # our applications have none
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    config.load()
    config.ssl = context  # uvicorn itself makes contexts from files alone
    server = Server(config)
    # A duplicate: uvicorn closes what it was given.
    serving = asyncio.ensure_future(server.serve(sockets=[sock.dup()]))
    over = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait([serving, over], return_when=asyncio.FIRST_COMPLETED)
        if not ended.is_set():
            await serving
            raise ProcessError("the HTTP server ended unexpectedly")
    finally:
        over.cancel()
        server.should_exit = True
        await asyncio.shield(serving)
