"""What validation costs: a worker's processor time for a POST with 1 KiB of JSON, with and without.

    python -m benchmarks.validation [--requests N] [--rounds N]

One gateway with one worker has two routes to one upstream; one of them validates. Windows of
requests for one and for the other alternate, and the medians of all windows are printed. Only the
worker's time is counted (/proc/PID/schedstat), so client and upstream are simple.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import uvloop

from benchmarks.one_worker import one_worker

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ITEM = {
    "type": "object",
    "required": ["sku", "count"],
    "additionalProperties": False,
    "properties": {
        "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"},
        "count": {"type": "integer", "minimum": 1},
        "price": {"type": "number", "minimum": 0},
    },
}
ORDER = {
    "type": "object",
    "required": ["id", "items"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "items": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
    },
}
BODY = json.dumps(
    {
        "id": "123e4567-e89b-12d3-a456-426614174000",
        "items": [{"sku": f"ABC-{i}", "count": i + 1, "price": 1.25} for i in range(20)],
    }
).encode()


class Upstream(asyncio.Protocol):
    """Answers as soon as a request's body is complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: (\d+)", self.received[:end], re.I)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < whole:
                return
            self.received = self.received[whole:]
            self.transport.write(ANSWER)  # type: ignore[attr-defined]


def serve(listening: socket.socket) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Upstream, sock=listening)
        await server.serve_forever()

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(forever())


def spent(pid: int) -> int:
    """Nanoseconds of processor time."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def window(address: tuple[str, int], path: str, requests: int, worker: int) -> float:
    """Microseconds of the worker a request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    with socket.create_connection(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = 0
        for number in range(requests + requests // 10):
            if number == requests // 10:  # the first ones warm up
                began = spent(worker)
            client.sendall(request)
            answer = client.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"ok"):
                raise OSError(f"{path}: {answer[:500]!r}")
        return (spent(worker) - began) / 1000 / requests


def main(arguments: list[str]) -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.validation")
    parser.add_argument("--requests", type=int, default=3000, help="of a window")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args(arguments)
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listening,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        port = listening.getsockname()[1]
        Path(folder, "openapi.json").write_text(
            json.dumps(
                {
                    "openapi": "3.1.0",
                    "paths": {
                        "/checked": {
                            "post": {
                                "requestBody": {"content": {"application/json": {"schema": ORDER}}}
                            }
                        }
                    },
                    "components": {"schemas": {"Item": ITEM}},
                }
            )
        )
        document = {
            "version": 1,
            "listeners": ["127.0.0.1:0"],
            "control": "127.0.0.1:0",
            "upstreams": [{"name": "u", "targets": [f"http://127.0.0.1:{port}"]}],
            "services": [{"name": "s", "upstream": "u"}],
            "routes": [
                {"name": "plain", "path": "/plain", "service": "s"},
                {"name": "checked", "path": "/checked", "service": "s", "validate": "openapi.json"},
            ],
            "observability": {"access_log": {"to": "none"}},
        }
        found_us: dict[str, list[float]] = {"/plain": [], "/checked": []}
        with one_worker(folder, document) as gateway:
            for _ in range(given.rounds):
                for path, values in found_us.items():
                    values.append(window(gateway.address, path, given.requests, gateway.worker))
    plain, checked = (statistics.median(found_us[path]) for path in ("/plain", "/checked"))
    print(f"{len(BODY)} bytes: {plain:.1f} µs without validation, {checked:.1f} µs with it")
    print(f"validation costs {checked - plain:.1f} µs a request")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
