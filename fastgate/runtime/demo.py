"""The demonstration: a gateway that works with no configuration, and its echo upstream.

`fastgate demo` serves this: an upstream in a separate small process that echoes every request, an
open route, a route with a key (created at each start: there is no default credential) and a route
with a low rate limit.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11

MAX_BODY = 1 << 20


def listen_loopback() -> socket.socket:
    """A listening socket on a free port of 127.0.0.1."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.setblocking(False)
    return sock


def document(upstream_port: int, key_digest: str, bind: str, control: str) -> dict[str, Any]:
    """The demonstration's configuration.

    key_digest: `sha256:<hex>` of the key of the consumer `demo`.
    """
    return {
        "version": 1,
        "listeners": [{"name": "public", "bind": bind}],
        "upstreams": [{"name": "echo", "targets": [f"http://127.0.0.1:{upstream_port}"]}],
        "services": [{"name": "echo", "upstream": "echo"}],
        "routes": [
            {"name": "open", "path": "/open/{rest*}", "service": "echo"},
            {
                "name": "keyed",
                "path": "/keyed/{rest*}",
                "service": "echo",
                "auth": {"api_key": {"header": "X-Api-Key", "bearer": True}},
            },
            {
                "name": "limited",
                "path": "/limited",
                "service": "echo",
                "limits": [{"by": "address", "rate": "2/min", "burst": 2}],
            },
        ],
        "consumers": [{"name": "demo", "keys": [key_digest]}],
        "control": {"bind": control},
        "workers": 2,
    }


def run_upstream(sock: socket.socket) -> int:
    """Serve the echo upstream until killed; the main function of a child process."""
    asyncio.run(_serve(sock))
    return 0


async def _serve(sock: socket.socket) -> None:
    server = await asyncio.start_server(_converse, sock=sock)
    async with server:
        await server.serve_forever()


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        while await _answer_one(connection, reader, writer):
            connection.start_next_cycle()
    except (h11.ProtocolError, ConnectionError, TimeoutError):
        pass  # an invalid request, or the peer has left: the connection ends
    finally:
        writer.close()


async def _answer_one(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Read a request and answer it; False if the connection is over."""
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                writer.write(connection.send(go_on) or b"")
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            if len(body) + len(event.data) > MAX_BODY:
                return False
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        else:  # ConnectionClosed
            return False
    assert request is not None
    answer = json.dumps(
        {
            "method": request.method.decode(),
            "target": request.target.decode("latin-1"),
            "headers": {
                name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers
            },
            "body": body.decode("utf-8", "replace"),
        },
        indent=2,
    ).encode()
    answer += b"\n"
    response = h11.Response(
        status_code=200,
        reason="OK",
        headers=[("Content-Type", "application/json"), ("Content-Length", str(len(answer)))],
    )
    writer.write(connection.send(response) or b"")
    if request.method != b"HEAD":
        writer.write(connection.send(h11.Data(data=answer)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE
