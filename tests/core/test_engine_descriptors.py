"""A gateway with few descriptors: a request that was accepted reaches its upstream."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest
from enginekit import Plane

LIMIT = 128


def gateway(config: dict[str, Any], pipe: Connection, taken: int) -> None:
    async def serve() -> None:
        async with Plane(config) as plane:
            pipe.send(plane.port)
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    # The tests before this one may have left more descriptors open than the gateway may have.
    pipe = Connection(os.dup2(pipe.fileno(), 3))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    os.closerange(4, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, most))
    for descriptor in range(LIMIT - taken, LIMIT):
        os.dup2(0, descriptor)
    asyncio.run(serve())


@contextmanager
def running(config: dict[str, Any], taken: int = 0) -> Iterator[int]:
    """The port of a gateway in a process of its own, which may have LIMIT descriptors.

    taken: how many of the highest of them are in use for something else.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=gateway, args=(config, theirs, taken)
    )
    process.start()
    try:
        assert ours.poll(30)
        yield ours.recv()
        ours.send("end")
        process.join(30)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that has many requests at once, for it takes its time."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


class Caller:
    """A client that keeps its connection, and makes another one if that was closed."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Caller:
        await self.connect()
        return self

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def get(self, path: str) -> int:
        for _ in range(2):
            self.writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            head = await self.reader.read(4096)
            if head:
                return int(head[9:12])
            self.writer.close()
            await self.connect()
        raise ConnectionError("closed twice")


@pytest.mark.parametrize(("waiting", "taken"), [(0, 0), (30, 0), (0, 40)])
def test_accepted_requests_reach_their_upstream(waiting, taken):
    """Three waves over two upstreams, each of them of more clients than there are descriptors.

    waiting: how many clients keep their connections meanwhile, and so do the pools.
    """
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(2)]
    names = ("a", "b")
    config = {
        "upstreams": [
            {"name": name, "targets": [f"http://127.0.0.1:{sock.getsockname()[1]}"]}
            for name, sock in zip(names, sockets, strict=True)
        ],
        "services": [{"name": name, "upstream": name} for name in names],
        "routes": [{"name": name, "path": f"/{name}/{{rest*}}", "service": name} for name in names],
    }

    async def scenario(port: int) -> None:
        async with AsyncExitStack() as stack:
            for sock in sockets:
                server = await asyncio.start_server(slow, sock=sock)
                stack.callback(server.close)
            kept = [await stack.enter_async_context(Caller(port)) for _ in range(waiting)]
            statuses = await asyncio.gather(*(each.get("/a/1") for each in kept))
            assert statuses == [200] * waiting
            for path in ("/b/1", "/a/2", "/b/2"):
                statuses = await asyncio.wait_for(wave(port, path), 60)
                assert statuses == [200] * LIMIT

    async def wave(port: int, path: str) -> list[int]:
        async def one() -> int:
            async with Caller(port) as caller:
                return await caller.get(path)

        return await asyncio.gather(*(one() for _ in range(LIMIT)))

    with running(config, taken) as port:
        asyncio.run(scenario(port))
