"""Every event in every state of a connection, and every two events in one round of the engine.

What is sent between two awaits is seen in one round, so the second event finds a connection that
the first one has just changed. Whatever comes: nothing crashes, nothing stays behind, and the next
request is served. In a checked build what is free is unusable, so use of it is found here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from enginekit import Plane, RawPeer, RawUpstream

from fastgate._core.handlers.errors import ClientDisconnected, UpstreamError

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
LARGE = 8 << 20


class Stage:
    """A plane whose routes lead to an upstream worked by hand and to handlers that wait."""

    def __init__(self, timeout: str) -> None:
        self.timeout = timeout
        self.asking = 0.1 if timeout == "100ms" else 60.0
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.sockets: list[socket.socket] = []
        self.client = socket.socket()
        self.peer: RawPeer | None = None

    async def __aenter__(self) -> Stage:
        self.stack = contextlib.AsyncExitStack()
        self.upstream = await self.stack.enter_async_context(RawUpstream())
        every = dict.fromkeys(("connect", "write", "first_byte", "idle"), self.timeout)
        config = {
            "upstreams": [
                {"name": "u", "targets": [self.upstream.url], "timeouts": every},
                {"name": "full", "targets": [self.full_backlog()], "timeouts": every},
            ],
            "services": [{"name": "s", "upstream": "u"}, {"name": "f", "upstream": "full"}],
            "routes": [
                {"name": "ok", "path": "/ok", "respond": 204},
                {"name": "p", "path": "/p", "service": "s", "max_body": "1GiB"},
                {"name": "w", "path": "/w", "service": "s", "websocket": True},
                {"name": "f", "path": "/f", "service": "f"},
                *(
                    {"name": name, "path": f"/{name}", "handler": f"t:{name}", "max_body": "1MiB"}
                    for name in ("wait", "stream", "ask", "relay")
                ),
            ],
            "timeouts": dict.fromkeys(("head", "body", "idle", "write"), self.timeout),
        }
        names = ("wait", "stream", "ask", "relay")
        handlers = {f"t:{name}": self.ended(getattr(self, name)) for name in names}
        self.plane = await self.stack.enter_async_context(Plane(config, handlers=handlers))
        return self

    async def __aexit__(self, *error: object) -> None:
        self.gate.set()
        for each in (self.client, *self.sockets):
            each.close()
        for peer in self.upstream.peers:
            peer.socket.close()
        await self.stack.aclose()

    def full_backlog(self) -> str:
        """A target that neither accepts nor refuses."""
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        self.sockets.append(listening)
        for _ in range(2):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
            self.sockets.append(waiting)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    # ---- handlers

    @staticmethod
    def ended(handler: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def run(x: object) -> None:
            with contextlib.suppress(UpstreamError, ClientDisconnected):
                await handler(x)

        return run

    async def wait(self, x) -> None:
        self.entered.set()
        await self.gate.wait()
        await x.respond(200, None, b"body")

    async def stream(self, x) -> None:
        await x.start(200)
        while not self.gate.is_set():
            self.entered.set()
            await x.write(b"x" * 65536)

    async def ask(self, x) -> None:
        self.entered.set()
        async with contextlib.AsyncExitStack() as stack:
            response = await x.forward("u", path="/p", timeout=self.asking)
            stack.callback(response.close)
            await x.respond(response.status, None, await response.read())

    async def relay(self, x) -> None:
        x.relay(await x.forward("u", path="/p", timeout=self.asking))

    # ---- bringing a connection into a state

    async def begin(self, data: bytes = b"") -> None:
        self.gate.clear()
        self.entered.clear()
        self.peer = None
        self.client.close()
        self.client = socket.create_connection(("127.0.0.1", self.plane.port))
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.setblocking(False)
        self.client.send(data)
        await self.plane.settled(connections=1)

    async def asked(self, data: bytes) -> None:
        """A request that has reached the upstream."""
        await self.begin(data)
        self.peer = await self.upstream.accept()
        await self.peer.head()

    async def received(self, mark: bytes) -> None:
        loop, got = asyncio.get_running_loop(), b""
        while mark not in got:
            part = await asyncio.wait_for(loop.sock_recv(self.client, 65536), 20)
            assert part, got
            got += part

    async def stuck(self, sender: socket.socket) -> None:
        """Send until nothing is taken any more."""
        idle = 0
        while idle < 3:
            try:
                sender.send(b"x" * 65536)
                idle = 0
            except BlockingIOError:
                idle += 1
            await asyncio.sleep(0.001)

    async def idle(self) -> None:
        await self.begin()

    async def kept(self) -> None:
        await self.begin(get("/ok"))
        await self.received(b"\r\n\r\n")

    async def head(self) -> None:
        await self.begin(b"GET /p HTTP/1.1\r\nHos")
        await self.plane.settled(exchanges=1)

    async def connecting(self) -> None:
        await self.begin(get("/f"))
        await self.plane.settled(upstreams=1)

    async def waiting(self) -> None:
        await self.asked(get("/p"))

    async def uploading(self) -> None:
        await self.asked(post("/p", b"Content-Length: 1000") + b"begun")

    async def uploading_chunks(self) -> None:
        await self.asked(post("/p", b"Transfer-Encoding: chunked") + b"5\r\nbegun")

    async def uploading_stuck(self) -> None:
        await self.asked(post("/p", b"Content-Length: %d" % (1 << 30)))
        await self.stuck(self.client)

    async def answering(self) -> None:
        await self.asked(get("/p"))
        self.peer.send(ANSWER[:-2])
        await self.received(b"bo")

    async def answering_chunks(self) -> None:
        await self.asked(get("/p"))
        self.peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo")
        await self.received(b"bo")

    async def answering_stuck(self) -> None:
        await self.asked(get("/p"))
        self.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        await self.stuck(self.peer.socket)

    async def answered_early(self) -> None:
        await self.asked(post("/p", b"Content-Length: 1000") + b"begun")
        self.peer.send(ANSWER)
        await self.received(b"body")

    async def lingering(self) -> None:
        await self.begin(post("/nothing", b"Content-Length: 100000"))
        await self.received(b"HTTP/1.1 404")

    async def tunnel(self) -> None:
        await self.asked(UPGRADE)
        self.peer.send(SWITCHED)
        await self.received(b"\r\n\r\n")

    async def tunnel_stuck_down(self) -> None:
        await self.tunnel()
        await self.stuck(self.peer.socket)

    async def tunnel_stuck_up(self) -> None:
        await self.tunnel()
        await self.stuck(self.client)

    async def handler_waits(self) -> None:
        await self.begin(get("/wait"))
        await asyncio.wait_for(self.entered.wait(), 20)

    async def handler_collects(self) -> None:
        await self.begin(post("/wait", b"Content-Length: 1000") + b"begun")
        await self.plane.settled(upcalls=1)

    async def handler_writes(self) -> None:
        await self.begin(get("/stream"))
        await asyncio.wait_for(self.entered.wait(), 20)
        await asyncio.sleep(0.02)

    async def handler_asks(self) -> None:
        await self.asked(get("/ask"))

    async def handler_reads(self) -> None:
        await self.asked(get("/ask"))
        self.peer.send(ANSWER[:-2])
        await asyncio.sleep(0.005)

    async def handler_relays(self) -> None:
        await self.asked(get("/relay"))
        self.peer.send(ANSWER[:-2])
        await self.received(b"bo")

    async def handler_relays_chunks(self) -> None:
        await self.asked(get("/relay"))
        self.peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo")
        await self.received(b"bo")

    # ---- events

    def data(self) -> None:
        self.client.send(b"x")

    def request(self) -> None:
        self.client.send(get("/p") + get("/ok"))

    def bad_request(self) -> None:
        self.client.send(b"\r\n0\r\n\r\nGET /p HTTP/1.1\r\nHost : a\r\n\r\n")

    def reads(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.client.recv(1 << 20):
                pass

    def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        if self.client.fileno() < 0:
            return
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def peer_answers(self) -> None:
        if self.peer is not None:
            self.peer.socket.send(ANSWER)

    def peer_interim(self) -> None:
        if self.peer is not None:
            self.peer.socket.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")

    def peer_reads(self) -> None:
        if self.peer is not None:
            with contextlib.suppress(BlockingIOError):
                while self.peer.socket.recv(1 << 20):
                    pass

    def peer_half_closes(self) -> None:
        if self.peer is not None:
            self.peer.socket.shutdown(socket.SHUT_WR)

    def peer_resets(self) -> None:
        if self.peer is not None:
            self.peer.reset()

    def handler_goes_on(self) -> None:
        self.gate.set()

    def reload(self) -> None:
        self.plane.install(self.plane.config)

    async def over(self) -> None:
        """Everybody leaves: nothing may stay behind."""
        self.gate.set()
        self.reset()  # a client that only closes may still read
        for peer in self.upstream.peers:
            peer.socket.close()
        self.upstream.peers.clear()
        for turn in range(2000):
            self.upstream.reject()
            stats = self.plane.engine.stats()
            stats.pop("accepting")
            if not any(stats.values()):
                return
            await asyncio.sleep(0.005 if turn > 5 else 0)
        raise AssertionError(f"left behind: {stats}")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(path: str, framing: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % (path.encode(), framing)


UPGRADE = get("/w")[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
STATES = [
    Stage.idle, Stage.kept, Stage.head, Stage.connecting, Stage.waiting, Stage.uploading,
    Stage.uploading_chunks, Stage.uploading_stuck, Stage.answering, Stage.answering_chunks,
    Stage.answering_stuck, Stage.answered_early, Stage.lingering, Stage.tunnel,
    Stage.tunnel_stuck_down, Stage.tunnel_stuck_up, Stage.handler_waits, Stage.handler_collects,
    Stage.handler_writes, Stage.handler_asks, Stage.handler_reads, Stage.handler_relays,
    Stage.handler_relays_chunks,
]  # fmt: skip
EVENTS = [
    Stage.data, Stage.request, Stage.bad_request, Stage.reads, Stage.half_close, Stage.reset,
    Stage.peer_answers, Stage.peer_interim, Stage.peer_reads, Stage.peer_half_closes,
    Stage.peer_resets, Stage.handler_goes_on, Stage.reload,
]  # fmt: skip
STUCK = [state for state in STATES if "stuck" in state.__name__ or state is Stage.handler_writes]


def by_name(state: Callable[..., object]) -> str:
    return state.__name__


@pytest.mark.parametrize("state", STATES, ids=by_name)
async def test_two_events_in_one_round(state):
    pairs = list(itertools.permutations(EVENTS, 2))
    # All of them take a minute or two; each state has others of them. To get stuck takes its time.
    step = 1 if "FASTGATE_EVERY_PAIR" in os.environ else 12 if state in STUCK else 4
    start = STATES.index(state) % step
    async with Stage("1h") as stage:
        for first, second in pairs[start::step]:
            await state(stage)
            for event in (first, second):
                with contextlib.suppress(OSError):  # what the one before has closed
                    event(stage)
            await asyncio.sleep(0)
            await stage.over()
        assert (await stage.plane.get("/ok")).status == 204


@pytest.mark.parametrize("state", STATES, ids=by_name)
async def test_one_event_after_another(state):
    async with Stage("1h") as stage:
        for event in EVENTS:
            await state(stage)
            for each in (event, Stage.data, event, Stage.half_close):
                with contextlib.suppress(OSError):
                    each(stage)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await stage.over()
        assert (await stage.plane.get("/ok")).status == 204


@pytest.mark.parametrize("state", STATES, ids=by_name)
async def test_a_deadline(state):
    """Nobody does anything any more. Handlers have no deadline of their own."""
    async with Stage("100ms") as stage:
        with contextlib.suppress(EOFError, OSError, AssertionError):  # it came before the state did
            await state(stage)
        stage.gate.set()
        if "tunnel" not in state.__name__:
            await stage.plane.settled(connections=0, exchanges=0)
        await stage.over()


@pytest.mark.parametrize("state", STATES, ids=by_name)
async def test_the_engine_ends(state):
    async with Stage("1h") as stage:
        await state(stage)
        stage.plane.engine.drain()
        await asyncio.sleep(0)
        stage.plane.engine.close()
        stage.gate.set()
        await stage.plane.settled(
            connections=0, exchanges=0, upstreams=0, upcalls=0, calls=0, buffers=0,
            retired_snapshots=0,
        )  # fmt: skip
