"""A fuzzer of connections: clients and upstreams that do anything, in any order, at one engine.

    PYTHONPATH=tests python tests/fuzz/fuzz_connections.py [--connections N] [--seconds N]

Everything runs in one thread, and the engine is polled between two steps only as often as chance
has it: so it finds several events at once, in every order. What a step is:

- a client connects, sends a piece, reads a little, half-closes, closes, resets, or does nothing
- an upstream does the same with what the engine sent there
- the engine is polled, handlers run, the configuration is loaded once more

Wild clients send damaged requests, several at a time, and wild upstreams damaged answers. Beside
them tame clients ask a tame upstream for what is known beforehand, in pieces too, and check every
octet of the answers: whatever the wild ones do must not touch them. Between two epochs everybody
leaves, and then the engine must have nothing left: no connection, exchange, call or buffer.

Best run on a sanitizer build: make fuzz.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter

from enginekit import Plane
from fuzz_http1 import mutate

from fastgate._core.handler_errors import ClientDisconnected, UpstreamError

EPOCH = 400
"""Connections until everybody leaves and the engine is looked at."""
ACTORS = 24
HANDLERS = ("echo", "stream", "ask", "relay")
HOST = b"Host: a\r\n"
WILD = [
    b"GET /wild HTTP/1.1\r\n%b\r\n",
    b"HEAD /wild HTTP/1.1\r\n%b\r\n",
    b"GET /wild HTTP/1.0\r\n%bConnection: keep-alive\r\n\r\n",
    b"POST /wild HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhello",
    b"PUT /wild HTTP/1.1\r\n%bContent-Length: 40000\r\n\r\n" + b"x" * 40000,
    b"POST /wild HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /wild HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /wild HTTP/1.1\r\n%bContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST /wild HTTP/1.1\r\n%bContent-Length: 99999999999\r\n\r\n",
    b"GET /wild HTTP/1.1\r\n%bConnection: close\r\n\r\n",
    b"GET /chat HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /wild HTTP/1.1\r\nHost : a\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"GET /ok HTTP/1.1\r\n%b\r\n",
    b"GET /refused HTTP/1.1\r\n%b\r\n",
    b"GET /keyed HTTP/1.1\r\n%b\r\n",
    b"POST /echo HTTP/1.1\r\n%bContent-Length: 6\r\n\r\nbodies",
    b"POST /echo HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /stream HTTP/1.1\r\n%b\r\n",
    b"GET /ask HTTP/1.1\r\n%b\r\n",
    b"GET /relay HTTP/1.1\r\n%b\r\n",
    b"GET /wild HTTP/1.1\r\n%b" + b"X-Large: " + b"y" * 7000 + b"\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"z" * 90000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloZZ\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 18,
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9000 + b"\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx and more",
    b"nothing like HTTP\r\n\r\n",
]


def config(wild: str, tame: str, timeout: str) -> dict[str, object]:
    every = dict.fromkeys(("connect", "write", "first_byte", "idle"), timeout)
    handled = [{"name": x, "path": f"/{x}", "handler": f"fuzz:{x}"} for x in HANDLERS]
    return {
        "upstreams": [
            {"name": "wild", "targets": [wild], "timeouts": every},
            {"name": "tame", "targets": [tame]},
        ],
        "services": [{"name": "wild", "upstream": "wild"}, {"name": "tame", "upstream": "tame"}],
        "routes": [
            {"name": "ok", "path": "/ok", "respond": {"status": 200, "body": "fine"}},
            {"name": "wild", "path": "/wild", "service": "wild", "max_body": "1GiB"},
            {"name": "chat", "path": "/chat", "service": "wild", "websocket": True},
            {"name": "keyed", "path": "/keyed", "service": "wild", "auth": "api_key"},
            {"name": "tame", "path": "/tame/{rest*}", "service": "tame"},
            *handled,
        ],
        "timeouts": dict.fromkeys(("head", "body", "idle", "write"), timeout),
    }


# ---- handlers ---------------------------------------------------------------------------------


async def echo(x) -> None:
    await x.respond(200, None, x.body)


async def stream(x) -> None:
    await x.start(200)
    for _ in range(8):
        await x.write(b"s" * 30000)


async def ask(x) -> None:
    with contextlib.suppress(UpstreamError):
        response = await x.forward("wild", path="/asked")
        size = 0
        async for chunk in response:
            size += len(chunk)
        await x.respond(200, None, str(size))
        return
    await x.respond(502)


async def relay(x) -> None:
    try:
        x.relay(await x.forward("wild", path="/asked"))
    except UpstreamError:
        await x.respond(502)


def quiet(handler):
    async def run(x) -> None:
        with contextlib.suppress(UpstreamError, ClientDisconnected):
            await handler(x)

    return run


# ---- who takes part ---------------------------------------------------------------------------


class End:
    """One end of a connection that the fuzzer holds."""

    def __init__(self, own: socket.socket) -> None:
        own.setblocking(False)
        self.socket = own
        self.out = b""
        self.got = 0
        self.over = False

    def send(self, rng: random.Random) -> None:
        if not self.out:
            return
        size = rng.choice((1, 2, 7, 100, 1000, 16344, 70000, len(self.out)))
        try:
            self.out = self.out[self.socket.send(self.out[:size]) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def receive(self, size: int) -> bytes:
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return b""
        except OSError:
            self.close()
            return b""
        if not data:
            self.ended()
        self.got += len(data)
        return data

    def ended(self) -> None:
        self.close()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.over = True
        self.socket.close()


class WildClient(End):
    def __init__(self, own: socket.socket, rng: random.Random) -> None:
        super().__init__(own)
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            request = rng.choice(WILD)
            request = request.replace(b"%b", HOST)
            if rng.random() < 0.4:
                request = mutate(rng, request, rng.choice(WILD))
            self.out += request

    def step(self, rng: random.Random) -> None:
        kind = rng.randrange(16)
        if kind < 8:
            self.send(rng)
        elif kind < 12:
            self.receive(rng.choice((1, 100, 100_000)))
        elif kind == 12 and rng.random() < 0.3:
            self.half_close()
        elif kind == 13 and rng.random() < 0.4:
            self.reset()
        elif kind == 14 and not self.out:
            if rng.random() < 0.5:
                self.close()
            else:
                self.out += rng.choice((b"x", b"\r\n", b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"))


class WildPeer(End):
    def step(self, rng: random.Random) -> None:
        kind = rng.randrange(16)
        if kind < 6:
            self.send(rng)
        elif kind < 11:
            if self.receive(rng.choice((10, 1000, 100_000))) and not self.out:
                answer = rng.choice(ANSWERS)
                if rng.random() < 0.3:
                    answer = mutate(rng, answer, rng.choice(ANSWERS))
                self.out += answer
        elif kind == 11 and rng.random() < 0.2:
            self.half_close()
        elif kind == 12 and rng.random() < 0.2:
            self.reset()
        elif kind == 13 and not self.out and rng.random() < 0.2:
            self.close()
        elif kind == 14 and rng.random() < 0.05:
            self.out += rng.choice(ANSWERS)  # unasked

    def ended(self) -> None:
        if not self.out:
            self.close()


def body_of(number: int) -> bytes:
    return b"%d," % number * (number % 3000)


class TameClient(End):
    """Asks for bodies that are known by their number; every octet of the answers is checked."""

    def __init__(self, own: socket.socket, rng: random.Random) -> None:
        super().__init__(own)
        self.numbers = [rng.randrange(100_000) for _ in range(rng.choice((1, 2, 4, 9)))]
        self.buffer = b""
        for number in self.numbers:
            body = b"b" * rng.choice((0, 0, 3, 3000, 40_000))
            if not body:
                self.out += b"GET /tame/%d HTTP/1.1\r\n%b\r\n" % (number, HOST)
            elif rng.random() < 0.5:
                self.out += b"POST /tame/%d HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
                    number, HOST, len(body), body,
                )  # fmt: skip
            else:
                self.out += (
                    b"POST /tame/%d HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n"
                    b"%x\r\n%b\r\n0\r\n\r\n" % (number, HOST, len(body), body)
                )

    def step(self, rng: random.Random) -> None:
        if rng.random() < 0.6:
            self.send(rng)
        else:
            self.buffer += self.receive(rng.choice((1, 100, 10_000, 100_000)))
            self.check()

    def ended(self) -> None:
        raise AssertionError(
            f"a tame client's connection ended; it waited for {self.numbers}, had {self.buffer!r}"
        )

    def close(self) -> None:
        if self.numbers:
            self.ended()
        super().close()

    def check(self) -> None:
        while self.numbers:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 200 OK\r\n"), (self.numbers, self.buffer)
            whole = unwrapped(head, rest)
            if whole is None:
                return
            body, self.buffer = whole
            assert body == body_of(self.numbers[0]), (self.numbers, body)
            del self.numbers[0]
        assert self.buffer == b""
        self.close()


def unwrapped(head: bytes, rest: bytes) -> tuple[bytes, bytes] | None:
    """A message's body and what follows; None: it is not whole yet."""
    head = head.lower()
    if b"transfer-encoding: chunked" in head:
        body = b""
        while True:
            line, found, after = rest.partition(b"\r\n")
            if not found:
                return None
            size = int(line, 16)
            if len(after) < size + 2:
                return None
            body += after[:size]
            assert after[size : size + 2] == b"\r\n", (line, after[: size + 2])
            rest = after[size + 2 :]
            if size == 0:
                return body, rest
    at = head.find(b"content-length: ")
    size = 0 if at < 0 else int(head[at + 16 :].split(b"\r\n")[0])
    return (rest[:size], rest[size:]) if len(rest) >= size else None


class TamePeer(End):
    def __init__(self, own: socket.socket) -> None:
        super().__init__(own)
        self.buffer = b""

    def step(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            self.send(rng)
            return
        self.buffer += self.receive(rng.choice((10, 1000, 100_000)))
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            whole = unwrapped(head, rest) if found else None
            if whole is None:
                return
            self.buffer = whole[1]
            self.answer(int(head.split(b" ")[1].rpartition(b"/")[2]), rng)

    def answer(self, number: int, rng: random.Random) -> None:
        body = body_of(number)
        if rng.random() < 0.5:
            self.out += b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            return
        self.out += b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while body:
            piece, body = body[:4000], body[4000:]
            self.out += b"%x\r\n%b\r\n" % (len(piece), piece)
        self.out += b"0\r\n\r\n"


# ---- the run ----------------------------------------------------------------------------------


class Run:
    def __init__(self, seed: int, folder: str) -> None:
        self.rng = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.ends: list[End] = []
        self.listening = {name: self.bound(f"{folder}/{name}") for name in ("wild", "tame", "web")}
        self.paths = {name: f"{folder}/{name}" for name in self.listening}

    @staticmethod
    def bound(path: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
        made.listen(512)
        made.setblocking(False)
        return made

    async def epoch(self, plane: Plane, connections: int) -> None:
        """So many connections, until the last has been closed."""
        rng, hasty = self.rng, self.rng.random() < 0.25
        self.config = config(
            f"unix:{self.paths['wild']}", f"unix:{self.paths['tame']}", "20ms" if hasty else "1h"
        )
        plane.install(self.config)
        left, steps = connections, 0
        while left or any(isinstance(x, TameClient) for x in self.ends):
            steps += 1
            assert steps < 4000 * (connections + 10), "somebody waits for ever"
            if left and len(self.ends) < ACTORS and rng.random() < 0.3:
                left -= 1
                self.connect(plane, hasty)
            elif self.ends:
                end = rng.choice(self.ends)
                end.step(rng)
                if end.over:
                    self.ends.remove(end)
            if rng.random() < 0.4:
                plane.engine.poll()
                self.accept()
            chance = rng.random()
            if chance < 0.03:
                await asyncio.sleep(0)
            elif chance < 0.032:
                plane.install(self.config)
                self.seen["reloads"] += 1
            elif chance < 0.0325 and hasty:
                await asyncio.sleep(0.03)
                self.seen["pauses"] += 1
            if not left and rng.random() < 0.05:
                self.leave(WildClient)
        self.leave(End)
        await self.settled(plane)

    def connect(self, plane: Plane, hasty: bool) -> None:
        kind = WildClient if hasty or self.rng.random() < 0.75 else TameClient
        if self.rng.random() < 0.05:
            own = socket.create_connection(("127.0.0.1", plane.port))
        else:
            own = socket.socket(socket.AF_UNIX)
            own.connect(self.paths["web"])
        self.ends.append(kind(own, self.rng))
        self.seen[kind.__name__] += 1

    def accept(self) -> None:
        for name, kind in (("wild", WildPeer), ("tame", TamePeer)):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.ends.append(kind(self.listening[name].accept()[0]))
                    self.seen[kind.__name__] += 1

    def leave(self, kind: type[End]) -> None:
        for end in [x for x in self.ends if isinstance(x, kind)]:
            end.close() if self.rng.random() < 0.5 else end.reset()
            self.ends.remove(end)

    async def settled(self, plane: Plane) -> None:
        until = time.monotonic() + 60
        while True:
            plane.engine.poll()
            self.accept()
            self.leave(End)
            await asyncio.sleep(0)
            stats = plane.engine.stats()
            stats.pop("accepting")
            if not any(stats.values()):
                return
            assert time.monotonic() < until, f"left behind: {stats}"


async def fuzz(connections: int, seconds: float, seed: int, report: bool = False) -> Counter[str]:
    """Until one of the bounds is met; how often what took part. AssertionError: a broken law."""
    until, start = time.monotonic() + seconds, time.monotonic()
    handlers = {f"fuzz:{name}": quiet(globals()[name]) for name in HANDLERS}
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        run = Run(seed, folder)
        first = config(f"unix:{run.paths['wild']}", f"unix:{run.paths['tame']}", "1h")
        async with Plane(first, handlers=handlers) as plane:
            # Polled by the steps alone.
            asyncio.get_running_loop().remove_reader(plane.engine.fileno())
            plane.engine.listen(run.listening["web"].fileno(), "web")
            done, told = 0, start
            while done < connections and time.monotonic() < until:
                size = min(EPOCH, connections - done)
                await run.epoch(plane, size)
                done += size
                if report and time.monotonic() - told > 60:
                    told = time.monotonic()
                    print(f"{done} connections, {done / (told - start):.0f}/s", flush=True)
            for each in run.listening.values():
                each.close()
    return run.seen


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the engine's connections.")
    parser.add_argument("--connections", type=int, default=1 << 62)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, printed")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    seen = asyncio.run(fuzz(options.connections, options.seconds, seed, report=True))
    print(f"{seen['WildClient'] + seen['TameClient']} connections")
    for what, count in seen.most_common():
        print(f"{count:10}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
