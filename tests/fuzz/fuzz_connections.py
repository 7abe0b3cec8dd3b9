"""A fuzzer of connections: clients and upstreams that do anything, in any order, at one engine.

    PYTHONPATH=tests python tests/fuzz/fuzz_connections.py
        [--connections N] [--seconds N] [--processes N] [--seed N] [--epoch N]

The ends of the connections are worked by `fuzz_ends.c`, which is compiled here; the engine runs in
the same thread and is polled between two rounds of steps. So it finds several events at once, in
every order. What a step is:

- a client connects, sends a piece, reads a little, half-closes, closes, resets, or pauses
- an upstream does the same with what the engine sent there

Between rounds handlers run, and another configuration is loaded. Up to several hundred ends take
part at a time, so that nobody's pause holds the others up.

Wild clients send damaged requests, several at a time, and wild upstreams damaged answers. Beside
them tame clients ask a tame upstream, a handler or a tunnel for what is known beforehand, in pieces
too, and every octet of requests and answers is checked: whatever the wild ones do must not touch
them. In a quarter of the epochs all timeouts are short; there no one is tame, and some of these
epochs end in silence: the engine has to end every connection by itself. After each epoch everybody
leaves, and then the engine must have nothing left: no connection, exchange, call, buffer, and no
place taken by a bound on requests in progress.

What fails is reported with the seed, the epoch, the connection's number and all that was sent;
`--seed S --epoch N` runs that epoch again. Best run on a sanitizer build: make fuzz.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import itertools
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from enginekit import Plane
from fuzz_http1 import WORDS

from fastgate._core.engine import Engine
from fastgate._core.handlers.errors import ClientDisconnected, UpstreamError
from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.config.compiler import compile_gateway
from fastgate.model.codec import decode

EPOCH = 3000
"""Connections until everybody leaves and the engine is looked at."""
ACTORS = (8, 24, 100, 400)
"""How many ends take part at a time: one of these in each epoch."""
SETTLES_S = 60.0
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
    b"POST /wild HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nlonger\r\n0\r\n\r\n",
    b"POST /wild HTTP/1.1\r\n%bContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST /wild HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhello, and more than declared",
    b"POST /wild HTTP/1.1\r\n%bContent-Length: 99999999999\r\n\r\n",
    b"GET /wild HTTP/1.1\r\n%bConnection: close\r\n\r\n",
    b"GET /flaky HTTP/1.1\r\n%b\r\n",
    b"PUT /flaky HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhello",
    b"GET /few HTTP/1.1\r\n%b\r\n",
    b"POST /few HTTP/1.1\r\n%bContent-Length: 30\r\n\r\nshorter",
    b"GET /short HTTP/1.1\r\n%b\r\n",
    b"GET /shaped HTTP/1.1\r\n%bOrigin: http://a.example\r\nX-Gone: 1\r\n\r\n",
    b"GET /wild-chat HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
    b"GET /wild HTTP/1.1\r\nHost : a\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n%b\r\n",
    b"OPTIONS /wild HTTP/1.1\r\n%bMax-Forwards: 0\r\n\r\n",
    b"TRACE /wild HTTP/1.1\r\n%bMax-Forwards: 0\r\n\r\n",
    b"GET /moved/a%2fb//c?d HTTP/1.1\r\n%b\r\n",
    b"HEAD /moved HTTP/1.0\r\n%bConnection: keep-alive\r\n\r\n",
    b"POST /moved/x HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhello",
    b"GET /remade/&=/../x/;?y HTTP/1.1\r\n%b\r\n",
    b"GET /remade/x/" + b"@" * 4000 + b" HTTP/1.1\r\n%b\r\n",
    b"GET /ok HTTP/1.1\r\n%b\r\n",
    b"GET /refused HTTP/1.1\r\n%b\r\n",
    b"GET /keyed HTTP/1.1\r\n%b\r\n",
    b"GET /keyed HTTP/1.1\r\n%bX-Api-Key: good\r\n\r\n",
    b"POST /echo/1/6 HTTP/1.1\r\n%bContent-Length: 6\r\n\r\nbodies",
    b"POST /echo/1/3 HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
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


def config(places: dict[str, str], timeout: str, half_close: bool) -> dict[str, Any]:
    every = dict.fromkeys(("connect", "write", "first_byte", "idle"), timeout)
    waits = {"timeouts": every, "keepalive": {"idle": timeout}}
    handled = [
        {"name": x, "path": f"/{x}/{{rest*}}" if x == "echo" else f"/{x}", "handler": f"fuzz:{x}"}
        for x in HANDLERS
    ]
    shaped = {
        "headers": {"request": {"remove": ["X-Gone"]}, "response": {"set": {"X-Set": "1"}}},
        "cors": {"origins": ["http://a.example"]},
    }
    return {
        "half_close": half_close,
        "upstreams": [
            {
                "name": "wild",
                "targets": [places["wild"], places["tcp"]],
                "eject": {"after": 0},
                **waits,
            },
            # One that nobody listens at, and one that is ejected after failures.
            {"name": "flaky", "targets": [places["gone"], places["wild"]], **waits},
            {"name": "tame", "targets": [places["tame"]], **waits},
        ],
        "services": [
            {"name": "wild", "upstream": "wild"},
            {"name": "flaky", "upstream": "flaky", "retries": 3},
            {"name": "tame", "upstream": "tame"},
        ],
        "routes": [
            {"name": "ok", "path": "/ok", "respond": {"status": 200, "body": "fine"}},
            {"name": "wild", "path": "/wild", "service": "wild", "max_body": "1GiB"},
            {"name": "flaky", "path": "/flaky", "service": "flaky"},
            {
                "name": "few",
                "path": "/few",
                "service": "wild",
                "concurrency": [{"max": 3, "by": ["address"]}],
            },
            {"name": "short", "path": "/short", "service": "wild", "timeout": "10ms"},
            {"name": "shaped", "path": "/shaped", "service": "wild", **shaped},
            {"name": "wild-chat", "path": "/wild-chat", "service": "wild", "websocket": True},
            {
                "name": "moved",
                "path": "/moved/{rest*}",
                "redirect": "{scheme}://{host}/{rest}?r={rest}",
            },
            {
                "name": "remade",
                "path": "/remade/{id}/{rest*}",
                "service": "wild",
                "rewrite": {"path": "/{rest}?id={id}"},
            },
            {"name": "keyed", "path": "/keyed", "service": "wild", "auth": "api_key"},
            {"name": "tame", "path": "/tame/{rest*}", "service": "tame"},
            {"name": "tunnel", "path": "/tunnel/{rest*}", "service": "tame", "websocket": True},
            *handled,
        ],
        "timeouts": dict.fromkeys(("head", "body", "idle", "write"), timeout),
    }


# ---- handlers ---------------------------------------------------------------------------------


patience = 3600.0
"""Seconds that an upstream may take with its answer to a handler; set by each epoch."""


async def echo(x) -> None:
    await x.respond(200, None, x.body)


async def stream(x) -> None:
    await x.start(200)
    for _ in range(8):
        await x.write(b"s" * 30000)


async def ask(x) -> None:
    with contextlib.suppress(UpstreamError):
        response = await x.forward("wild", path="/asked", timeout=patience)
        size = 0
        async for chunk in response:
            size += len(chunk)
        await x.respond(200, None, str(size))
        return
    await x.respond(502)


async def relay(x) -> None:
    try:
        x.relay(await x.forward("wild", path="/asked", timeout=patience))
    except UpstreamError:
        await x.respond(502)


def quiet(handler):
    async def run(x) -> None:
        with contextlib.suppress(UpstreamError, ClientDisconnected):
            await handler(x)

    return run


# ---- fuzz_ends.c --------------------------------------------------------------------------------

TURN, RELOAD, SLEEP, DONE, FAILED = 1, 2, 4, 8, 16
COUNTED = ("wild clients", "tame clients", "wild peers", "tame peers", "unanswered")


class Setup(ctypes.Structure):
    """Descriptors that listen as upstreams, and where the engine listens."""

    _fields_ = (
        ("wild", ctypes.c_int),
        ("wild_tcp", ctypes.c_int),
        ("tame", ctypes.c_int),
        ("web", ctypes.c_char_p),
        ("web_port", ctypes.c_int),
    )


class Epoch(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("connections", ctypes.c_int),
        ("actors", ctypes.c_int),
        ("hasty", ctypes.c_int),
    )


def compiled(folder: str) -> ctypes.CDLL:
    """The library; it is not instrumented, since the engine is what is looked at."""
    library = f"{folder}/fuzz_ends.so"
    source = Path(__file__).with_name("fuzz_ends.c")
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library]
    subprocess.run([*command, str(source)], env=environment, check=True)
    ends = ctypes.CDLL(library)
    for which, corpus in enumerate(([x.replace(b"%b", HOST) for x in WILD], ANSWERS, WORDS)):
        texts = (ctypes.c_char_p * len(corpus))(*corpus)
        sizes = (ctypes.c_size_t * len(corpus))(*map(len, corpus))
        ends.fz_corpus(which, texts, sizes, len(corpus))
    return ends


def polled(engine: Engine) -> None:
    engine.poll()


# ---- the run ----------------------------------------------------------------------------------


class Polled(Plane):
    """A plane whose engine works when the rounds poll it, and at no other time before the end."""

    def join(self, loop: asyncio.AbstractEventLoop) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        super().join(asyncio.get_running_loop())
        await super().__aexit__(*error)


class Run:
    """One plane, and the ends of its connections. A broken law: AssertionError, after a report."""

    def __init__(self, seed: int, folder: str) -> None:
        self.seed = seed
        self.seen: Counter[str] = Counter()
        self.ends = compiled(folder)
        self.listening = {name: self.bound(f"{folder}/{name}") for name in ("wild", "tame", "web")}
        self.listening["tcp"] = self.bound("")
        self.web = f"{folder}/web".encode()
        self.places = {name: f"unix:{folder}/{name}" for name in ("wild", "tame", "gone")}
        self.places["tcp"] = f"http://127.0.0.1:{self.listening['tcp'].getsockname()[1]}"

    @staticmethod
    def bound(path: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        made.bind(path or ("127.0.0.1", 0))
        made.listen(512)
        made.setblocking(False)
        return made

    async def __aenter__(self) -> Run:
        handlers = {f"fuzz:{name}": quiet(globals()[name]) for name in HANDLERS}
        first = config(self.places, "1h", True)
        consumers = [{"name": "c"}]
        self.plane = Polled(
            {**first, "consumers": consumers}, handlers=handlers, keys={"good": "c"}
        )
        await self.plane.__aenter__()
        self.plane.engine.listen(self.listening["web"].fileno(), "web")
        self.concurrency = Concurrency(self.plane.segment, self.plane.worker)
        self.images = {
            (hasty, half_close): self.image(hasty, half_close)
            for hasty in (False, True)
            for half_close in (False, True)
        }
        listening = (self.listening[name].fileno() for name in ("wild", "tcp", "tame"))
        self.ends.fz_setup(ctypes.byref(Setup(*listening, self.web, self.plane.port)))
        self.ends.fz_watch(1)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.ends.fz_watch(0)
        self.ends.fz_leave()
        for image in self.images.values():
            os.close(image)
        try:
            if kind is None:
                await self.plane.__aexit__(kind, *rest)
            else:
                self.plane.engine.close()
                self.plane.socket.close()
        finally:
            for each in self.listening.values():
                each.close()

    def image(self, hasty: bool, half_close: bool) -> int:
        """A configuration, compiled: its descriptor. To load it is cheap then."""
        document = config(self.places, "20ms" if hasty else "1h", half_close)
        document = {"version": 1, **document, "consumers": [{"name": "c"}]}
        return compile_gateway(
            decode(document), generation=1, slots=self.plane.slots, addresses={}
        ).fd

    def load(self, hasty: bool, half_close: bool) -> None:
        snapshot = Snapshot(self.images[hasty, half_close])
        self.plane.engine.install(snapshot, [self.plane.handlers[x] for x in snapshot.handlers()])

    async def epoch(self, number: int, connections: int) -> None:
        """So many connections, until the last tame client has its answers; then nothing is left."""
        rng = random.Random(self.seed * 1_000_003 + number)
        hasty = rng.random() < 0.25
        given = Epoch(rng.getrandbits(64), connections, rng.choice(ACTORS), hasty)
        silence = hasty and rng.random() < 0.5
        global patience
        patience = 0.02 if hasty else 3600.0
        before = self.counts()
        try:
            self.load(hasty, True)
            self.ends.fz_begin(ctypes.byref(given))
            await self.rounds(rng, hasty)
            if silence:
                self.ends.fz_silence()
                self.seen["silences"] += 1
                await self.settled("it did not end by itself")
            self.ends.fz_leave()
            await self.settled("left behind")
        except BaseException as error:
            self.ends.fz_report()
            error.add_note(f"seed {self.seed}, epoch {number} of {connections} connections")
            error.add_note(f"the engine has {self.alive()}")
            raise
        self.seen["epochs"] += 1
        self.seen.update(self.counts() - before)

    async def rounds(self, rng: random.Random, hasty: bool) -> None:
        engine, do = self.plane.engine, self.ends.fz_round
        for number in itertools.count():
            todo = do()
            polled(engine)
            if number % 256 == 0:
                self.ends.fz_alive()
            if not todo:
                continue
            assert not todo & FAILED
            if todo & TURN:
                await asyncio.sleep(0)
            if todo & RELOAD:
                self.load(hasty, rng.random() < 0.7)
                self.seen["reloads"] += 1
            if todo & SLEEP:
                await asyncio.sleep(rng.random() * 0.02)
            if todo & DONE:
                return

    async def settled(self, otherwise: str) -> None:
        until = time.monotonic() + SETTLES_S
        while True:
            assert not self.ends.fz_round() & FAILED
            self.plane.engine.poll()
            self.ends.fz_alive()
            await asyncio.sleep(0)
            alive = self.alive()
            if not alive:
                return
            assert time.monotonic() < until, f"{otherwise}: {alive}"

    def alive(self) -> dict[str, int]:
        """What the engine has, and what bounds on requests in progress count."""
        stats = {**self.plane.engine.stats(), "concurrency": self.concurrency.rows}
        return {name: count for name, count in stats.items() if count and name != "accepting"}

    def counts(self) -> Counter[str]:
        values = (ctypes.c_uint64 * 10)()
        self.ends.fz_counts(values)
        names = (*COUNTED, *(f"answers {n}xx" for n in range(1, 6)))
        return Counter(dict(zip(names, values, strict=True)))


async def fuzz(
    connections: int, seconds: float, seed: int, *, first: int = 0, report: bool = False
) -> Counter[str]:
    """Until one of the bounds is met; how often what took part. AssertionError: a broken law.

    first: the number of the epoch to begin with.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        async with Run(seed, folder) as run:
            done, told, then = 0, start, 0
            for number in itertools.count(first):
                size = min(EPOCH, connections - done)
                if not size or time.monotonic() > start + seconds:
                    return run.seen
                await run.epoch(number, size)
                done += size
                if report and time.monotonic() - told > 60:
                    rate = (done - then) / (time.monotonic() - told)
                    told, then = time.monotonic(), done
                    print(f"seed {seed}: {done} connections, {rate:.0f}/s", flush=True)
    raise AssertionError


def spread(options: argparse.Namespace, seed: int) -> int:
    """Share the connections among processes; the first failure ends them all."""
    share = -(-options.connections // options.processes)
    command = [sys.executable, __file__, "--connections", str(share)]
    command += ["--seconds", str(options.seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = [
        subprocess.Popen([*command, "--seed", str(seed + i)], env=environment)
        for i in range(options.processes)
    ]
    try:
        while True:
            codes = [each.poll() for each in running]
            if any(codes) or None not in codes:
                return int(any(codes))
            time.sleep(0.2)
    finally:
        for each in running:
            each.terminate()
            each.wait()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the engine's connections.")
    parser.add_argument("--connections", type=int, default=1 << 62)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, printed")
    parser.add_argument("--epoch", type=int, default=None, help="only this one")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    if options.processes > 1:
        return spread(options, seed)
    if options.epoch is not None:
        options.connections = min(options.connections, EPOCH)
    print(f"seed {seed}", flush=True)
    start = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(
            fuzz(options.connections, options.seconds, seed, first=options.epoch or 0, report=True)
        )
    done = seen["wild clients"] + seen["tame clients"]
    print(f"{done} connections, {done / (time.monotonic() - start):.0f}/s")
    for what, count in seen.most_common():
        print(f"{count:10}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
