"""Peers that are slow on purpose: raw sockets, with small buffers, on both sides of a `Plane`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from enginekit import Plane

SMALL = 4096  # bytes of a receive buffer: what a peer does not read stays with its sender
STEP = 0.05  # seconds between two steps of a peer that makes progress
DEADLINE = "500ms"  # what the tests configure
STEPS = 30  # three times that
FOREVER = 20.0  # seconds, for what is to come at once or after a deadline


STALL = 0.15  # seconds: two of these and a step are less than the deadline
TRIES = 8


class Stalls:
    """How long this process was kept from running, at the longest: peers that make progress and
    the gateway are both in it."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, loop.time() - before - 0.01)


Test = Callable[..., Awaitable[None]]


def unstalled(test: Test) -> Test:
    """A test whose peers make progress within a real deadline. When the machine has stopped them
    for a good part of it, a failure says nothing about the gateway: once more then."""
    return unstalled_for(STALL)(test)


def unstalled_for(stall: float) -> Callable[[Test], Test]:
    """The same for a test that a shorter stall spoils."""
    return functools.partial(_repeated, stall)


def _repeated(stall: float, test: Test) -> Test:
    @functools.wraps(test)
    async def repeated(*args: Any, **more: Any) -> None:
        for left in reversed(range(TRIES)):
            stalls = Stalls()
            watching = asyncio.ensure_future(stalls.watch())
            try:
                await test(*args, **more)
            except (AssertionError, OSError):
                if stalls.longest < stall or not left:
                    raise
            else:
                return
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    return repeated


class EndedError(ConnectionError):
    """The other side closed before all that was awaited had come."""


class Peer:
    """One end of a connection. `rest` says how it ended, which streams of asyncio do not."""

    def __init__(self, sock: socket.socket, patience: float | None = FOREVER) -> None:
        self.sock = sock
        self.patience = patience
        self.sock.setblocking(False)
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def recv(self, most: int = 65536) -> bytes:
        return await asyncio.wait_for(self.loop.sock_recv(self.sock, most), self.patience)

    async def until(self, end: bytes) -> bytes:
        data = b""
        while end not in data:
            piece = await self.recv(1)
            if not piece:
                raise EndedError(f"after {data!r}")
            data += piece
        return data

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = await self.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EndedError(f"after {len(data)} of {size} bytes")
            data += piece
        return bytes(data)

    async def patient(self, size: int) -> bytes:
        """Like `exactly`, however long it takes."""
        data = b""
        while len(data) < size:
            piece = await self.loop.sock_recv(self.sock, size - len(data))
            if not piece:
                raise EndedError(f"after {len(data)} of {size} bytes")
            data += piece
        return data

    async def rest(self) -> tuple[bytes, str]:
        """All that still comes, and whether it ended in order ("end") or not ("reset")."""
        data = bytearray()
        while True:
            try:
                piece = await self.recv(1 << 20)
            except ConnectionResetError:
                return bytes(data), "reset"
            if not piece:
                return bytes(data), "end"
            data += piece

    async def trickle(self, piece: bytes, steps: int = STEPS) -> None:
        """Progress in small steps."""
        for _ in range(steps):
            await self.send(piece)
            await asyncio.sleep(STEP)

    def finish(self) -> None:
        """Send no more; go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Be gone, as a client that has crashed or does not care."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@contextlib.asynccontextmanager
async def caller(plane: Plane | int) -> AsyncIterator[Peer]:
    """A client of the plane, or of whatever has that port, with a small receive buffer."""
    port = plane if isinstance(plane, int) else plane.port
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        yield Peer(sock)
    finally:
        sock.close()


@contextlib.asynccontextmanager
async def target(serve: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """An upstream's target that runs `serve` for each connection; its URL."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[Any]] = set()

    async def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            await serve(Peer(sock, None))

    async def accept(listener: socket.socket) -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            tasks.add(asyncio.ensure_future(one(sock)))

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        tasks.add(asyncio.ensure_future(accept(listener)))
        results: list[Any] = []
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for task in tasks:
                task.cancel()
            results += await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


def answer(body: bytes, *fields: str) -> bytes:
    lines = "".join(f"{each}\r\n" for each in fields)
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def request(method: str, *fields: str, path: str = "/", minor: int = 1) -> bytes:
    lines = "".join(f"{each}\r\n" for each in ("Host: a", *fields))
    return f"{method} {path} HTTP/1.{minor}\r\n{lines}\r\n".encode()
