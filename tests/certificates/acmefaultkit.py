"""Stands between a client and pebble, and does to requests what networks and authorities do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, NoReturn

import httpx
import uvicorn
from pebblekit import Pebble

from fastgate.runtime.control.serving import Server


class Reply(NamedTuple):
    """A response; `endless`: 64 MiB of spaces come first."""

    status: int = 200
    body: bytes = b""
    fields: dict[str, str] = {}  # noqa: RUF012  never changed
    endless: bool = False


Fault = Callable[[str, str, Reply], Reply | None]
"""From method, path and pebble's reply to the reply to send; None: break the connection."""


class Between:
    """The proxy. A fault sees the replies of matching requests, as often as it is there."""

    def __init__(self, pebble: Pebble) -> None:
        self.asked: list[str] = []
        """Method and path of each request."""
        self.faults: list[tuple[str, Fault]] = []
        """Part of the path, and what happens; each is used once, in order."""
        self.before: Callable[[str], Reply | None] | None = None
        """Answers instead of pebble, if it answers."""
        self._pebble = pebble
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.directory = f"https://127.0.0.1:{self._socket.getsockname()[1]}/dir"

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[Between]:
        folder = self._pebble.folder
        server = Server(
            uvicorn.Config(
                self,
                loop="none",
                http="h11",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                ssl_certfile=folder / "pebble.pem",
                ssl_keyfile=folder / "pebble.key",
            )
        )
        trusted = ssl.create_default_context(cadata=self._pebble.ca.decode())
        url = f"https://127.0.0.1:{self._pebble.port}"
        async with httpx.AsyncClient(verify=trusted, trust_env=False, base_url=url) as self._on:
            serving = asyncio.create_task(server.serve(sockets=[self._socket]))
            try:
                yield self
            finally:
                server.should_exit = True
                await serving

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        self.asked.append(f"{method} {path}")
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        reply = None if self.before is None else self.before(f"{method} {path}")
        if reply is None:
            reply = await self._ask(scope, body)
        for index, (part, fault) in enumerate(self.faults):
            if part in path:
                del self.faults[index]
                changed = fault(method, path, reply)
                if changed is None:
                    await self._break(send)
                reply = changed
                break
        await self._send(reply, send)

    async def _break(self, send: Any) -> NoReturn:
        """Begin a response; the server closes the connection when the application fails."""
        fields = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionAbortedError

    async def _ask(self, scope: Any, body: bytes) -> Reply:
        fields = {name.decode(): value.decode() for name, value in scope["headers"]}
        for name in ("content-length", "connection", "accept-encoding"):
            fields.pop(name, None)
        got = await self._on.request(scope["method"], scope["path"], content=body, headers=fields)
        kept = {
            name: value
            for name, value in got.headers.items()
            if name not in ("content-length", "transfer-encoding", "connection", "date")
        }
        return Reply(got.status_code, got.content, kept)

    async def _send(self, reply: Reply, send: Any) -> None:
        fields = [(name.encode(), value.encode()) for name, value in reply.fields.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": fields})
        for _ in range(1024 if reply.endless else 0):
            await send({"type": "http.response.body", "body": b" " * 65536, "more_body": True})
            await asyncio.sleep(0)  # the client hangs up
        await send({"type": "http.response.body", "body": reply.body})


def problem(code: str, detail: str, status: int = 403, **fields: str) -> Reply:
    """A problem document of an authority."""
    text = f'{{"type": "urn:ietf:params:acme:error:{code}", "detail": "{detail}"}}'
    return Reply(status, text.encode(), {"content-type": "application/problem+json", **fields})
