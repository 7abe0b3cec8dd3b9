"""Clients' connections: what happens when an event comes in a state that does not wait for it.

Everything is on one thread: what is sent between two awaits is seen by the engine in one round, in
the order in which it was sent.
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from enginekit import Plane, RawUpstream, proxied

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def connect(plane: Plane) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", plane.port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setblocking(False)
    return client


async def all_of(client: socket.socket) -> bytes:
    """What comes until the end."""
    loop, parts = asyncio.get_running_loop(), []
    while part := await asyncio.wait_for(loop.sock_recv(client, 65536), 20):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("following", "status"),
    [
        (b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (CHUNKED[:-2] + b"Content-Length: 1\r\n\r\n", 400),
        (b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_a_pipelined_request_is_refused_while_a_byte_comes(following, status):
    """The rest of the first request's buffer waits to be looked at when the byte is announced."""
    async with RawUpstream() as upstream, Plane(proxied(upstream.url)) as plane:
        client = connect(plane)
        client.send(GET + following)
        peer = await upstream.accept()
        assert await peer.head() == b"GET /a HTTP/1.1"
        peer.send(ANSWER)
        client.send(b"x")
        client.shutdown(socket.SHUT_WR)
        reply = await all_of(client)
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n\r\nokHTTP/1.1 %d " % status in reply
        client.close()


async def test_pipelined_requests_that_fill_a_buffer_survive_a_byte_that_follows():
    """No room is left to read the byte into; what is here has to be looked at first."""
    async with RawUpstream() as upstream, Plane(proxied(upstream.url)) as plane:
        client = connect(plane)
        last = b"GET /end HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"y" * 1015 + b"\r\n") * 16
        room = 16384 - 32 - 8
        client.send((GET + last)[:room])
        peer = await upstream.accept()
        assert await peer.head() == b"GET /a HTTP/1.1"
        peer.send(ANSWER)
        client.send((GET + last)[room:] + b"\r\n")
        assert await peer.head() == b"GET /end HTTP/1.1"
        peer.send(ANSWER)
        client.shutdown(socket.SHUT_WR)
        assert (await all_of(client)).count(b"HTTP/1.1 200 OK\r\n") == 2
        client.close()
