"""What tests of balancing are made with: a plane, targets on Unix sockets, clients that count."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from enginekit import Plane

from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash

POLICIES = ("round_robin", "least_connections", "p2c_ewma", "hash")
REQUESTS = int(os.environ.get("FASTGATE_BALANCING", "600"))
BATCH = 50
AFTER = 5
FOR_NS = 3_600_000_000_000  # longer than any test: what ends an ejection is `rested`


class Target(asyncio.Protocol):
    """An upstream's target. `answer`: what it says to everything; None: it never answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: int | None = 200
        self.delay = 0.0
        self.asked: list[bytes] = []  # the X-Key of each request
        self.held = asyncio.Event()
        self.server: asyncio.Server | None = None
        self.transports: set[asyncio.Transport] = set()
        self.empty = asyncio.Event()
        self.empty.set()

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self.server = await loop.create_unix_server(lambda: Connection(self), str(self.path))

    async def stop(self) -> None:
        """Refuse from now on, and break what is there."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for transport in list(self.transports):
            transport.abort()
        await self.empty.wait()

    def take(self) -> int:
        """How many requests came since it was last asked."""
        count = len(self.asked)
        self.asked.clear()
        return count


class Connection(asyncio.Protocol):
    def __init__(self, target: Target) -> None:
        self.target = target
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.target.transports.add(transport)
        self.target.empty.clear()

    def connection_lost(self, error: Exception | None) -> None:
        self.target.transports.discard(self.transport)
        if not self.target.transports:
            self.target.empty.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            self.target.asked.append(head.partition(b"X-Key: ")[2].partition(b"\r\n")[0])
            if self.target.answer is None:
                self.target.held.set()
            elif self.target.delay:
                asyncio.get_running_loop().call_later(self.target.delay, self.reply)
            else:
                self.reply()

    def reply(self) -> None:
        answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % self.target.answer
        if not self.transport.is_closing():
            self.transport.write(answer)


class Client:
    """One connection to the plane. Requests are numbered: X-Key is what hash balancing goes by."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.next = 0

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.plane.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def send(self, count: int) -> list[int]:
        """So many requests, one after the other; the statuses of their answers."""
        statuses: list[int] = []
        while len(statuses) < count:
            batch = range(min(BATCH, count - len(statuses)))
            for _ in batch:
                self.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Key: %d\r\n\r\n" % self.next)
                self.next += 1
            for _ in batch:
                head = await self.reader.readuntil(b"\r\n\r\n")
                statuses.append(int(head[9:12]))
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await self.reader.readexactly(int(length))
        return statuses


class Bench:
    def __init__(self, plane: Plane, targets: list[Target], client: Client) -> None:
        self.plane = plane
        self.targets = targets
        self.client = client

    def taken(self) -> list[int]:
        return [target.take() for target in self.targets]

    @property
    def counters(self) -> dict[str, int]:
        return counters_snapshot(self.plane.segment).workers[0]

    def row(self, index: int) -> Any:
        (slot,) = (
            slot for key, slot in self.plane.slots.targets.items()
            if str(self.targets[index].path) in key
        )  # fmt: skip
        return self.plane.segment.target_row(slot)

    def claimed(self, index: int) -> Any:
        """The row of a target, which has it now, as control sees to it."""
        (key,) = (
            key for key in self.plane.slots.targets if str(self.targets[index].path) in key
        )  # fmt: skip
        row = self.row(index)
        row.claim(stable_hash(f"target:{key}"))
        return row

    def rested(self, index: int) -> None:
        """The time of its ejection has passed."""
        assert self.row(index).ejected_until_ns > time.monotonic_ns()
        self.row(index).ejected_until_ns = 1


@asynccontextmanager
async def bench(
    folder: Path,
    balance: str,
    weights: tuple[int, ...] = (1, 1, 1),
    *,
    retries: object = 2,
    eject: dict[str, object] | None = None,
    **upstream: object,
) -> AsyncIterator[Bench]:
    """More: settings of the upstream."""
    targets = [Target(folder / str(i)) for i in range(len(weights))]
    for target in targets:
        await target.start()
    config = {
        "upstreams": [
            {
                "name": "u",
                "targets": [
                    {"url": target.url, "weight": weight}
                    for target, weight in zip(targets, weights, strict=True)
                ],
                "balance": balance,
                "eject": {"after": AFTER, "for": "1h", **(eject or {})},
                **({"hash_by": "header:X-Key"} if balance == "hash" else {}),
                **upstream,
            }
        ],
        "services": [{"name": "s", "upstream": "u", "retries": retries, "timeout": "20s"}],
        "routes": [{"name": "r", "path": "/{rest*}", "service": "s"}],
    }
    try:
        segment = Segment.create(2, log_records=1024)
        async with Plane(config, segment=segment) as plane, Client(plane) as client:
            yield Bench(plane, targets, client)
    finally:
        for target in targets:
            await target.stop()


def near(count: float, total: int, share: float, balance: str) -> bool:
    """Within 2 % of all requests; with hash, 4 standard deviations of the draw if that is more."""
    allowed = 0.02
    if balance == "hash":
        allowed = max(allowed, 4 * (share * (1 - share) / total) ** 0.5)
    return abs(count / total - share) <= allowed
