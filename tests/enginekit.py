"""A data plane in the test's own process: an Engine on the test's loop, and upstreams beside it.

    async with Plane({"routes": [...], ...}) as plane:
        reply = await plane.get("/x", headers={"X-Api-Key": "k"})

On leaving, everything the engine counts as alive must be zero.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import h11
import tlskit
import uvloop

from fastgate._core.engine import Engine
from fastgate._core.money.money_map import MoneyMap
from fastgate._core.shared.credentials import CredentialIndex, LimitOverride, key_digest
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.meters import TARIFF
from fastgate._core.snapshot.snapshot import Snapshot, stable_hash
from fastgate._core.testing.tls_peers import TlsPeer, encrypt
from fastgate._core.tls.keyring import Keyring
from fastgate.config.compiler import compile_gateway
from fastgate.config.public_route import PublicSide
from fastgate.config.slots import SlotBook
from fastgate.identity.overrides import encoded, rows
from fastgate.model.codec import decode
from fastgate.model.validation import VALIDATOR
from fastgate.runtime.worker.handlers import resolve

_WAITED_IN: set[asyncio.AbstractEventLoop] = set()
"""Loops in whose place an engine waits."""

HEAD_MOST = 1 << 20
"""Bytes of the largest head that a `Backend` reads."""


class Transport(Protocol):
    """What is between a plane and its peers, if it is not clear TCP."""

    def keyring(self, listener: str) -> Keyring:
        """For the plane."""

    def front(self, port: int) -> int:
        """Where clients of the plane connect, which has that port itself."""

    def behind(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with the addresses where the plane is to connect."""


TRANSPORT: Transport | None = None
"""Of planes without a keyring. Set by `lawkit` for the duration of a test."""

Responder = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Reply:
    """An answer as a client saw it, with h11's understanding of it."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.pairs = headers
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body


class Client:
    """One connection to the plane, parsing with h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h11 = h11.Connection(h11.CLIENT)
        self.informational: list[h11.InformationalResponse] = []

    async def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> Reply:
        await self.send(method, path, headers, body)
        return await self.reply()

    async def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> None:
        if self.h11.our_state is h11.DONE:
            self.h11.start_next_cycle()
        pairs = list(headers.items() if isinstance(headers, dict) else headers or [])
        names = {name.lower() for name, _ in pairs}
        if "host" not in names:
            pairs.insert(0, ("Host", "test.example"))
        if body and not names & {"content-length", "transfer-encoding"}:
            pairs.append(("Content-Length", str(len(body))))
        data = self.h11.send(h11.Request(method=method, target=path, headers=pairs)) or b""
        if body:
            data += self.h11.send(h11.Data(data=body)) or b""
        data += self.h11.send(h11.EndOfMessage()) or b""
        self.writer.write(data)
        await self.writer.drain()

    async def event(self) -> Any:
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.h11.receive_data(await self.reader.read(65536))

    async def reply(self) -> Reply:
        event = await self.event()
        while isinstance(event, h11.InformationalResponse):
            self.informational.append(event)
            event = await self.event()
        assert isinstance(event, h11.Response), event
        pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers.raw_items()]
        status, parts = event.status_code, []
        event = await self.event()
        while isinstance(event, h11.Data):
            parts.append(bytes(event.data))
            event = await self.event()
        assert isinstance(event, h11.EndOfMessage), event
        return Reply(status, pairs, b"".join(parts))

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reset(self) -> None:
        """Be gone at once. (A client that only closes its side still gets its answer.)"""
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other tasks bring about."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


def proxied(*urls: str, **route: object) -> dict[str, object]:
    """A configuration with one route, to these targets."""
    return {
        "upstreams": [{"name": "u", "targets": list(urls)}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [{"name": "r", "path": "/{rest*}", "service": "s", **route}],
    }


class Backend:
    """An upstream. `requests` is what it saw; `respond` decides what it says."""

    def __init__(
        self, respond: Callable[[Backend, Seen], Awaitable[bytes | None]] | bytes | None = None
    ) -> None:
        self.respond = respond
        self.requests: list[Seen] = []
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self, path: str | None = None) -> Backend:
        if path is None:
            self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_MOST)
            self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        else:
            self.server = await asyncio.start_unix_server(self._serve, path)
            self.url = f"unix:{path}"
        return self

    async def stop(self) -> None:
        self.server.close()
        for writer in list(self.writers):
            writer.close()
        await asyncio.sleep(0)
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                seen = Seen(head, reader, writer)
                await seen.read_body()
                self.requests.append(seen)
                answer: bytes | None
                if callable(self.respond):
                    answer = await self.respond(self, seen)
                elif self.respond is not None:
                    answer = self.respond
                else:
                    body = f"{seen.method} {seen.target}".encode()
                    answer = (
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                    )
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


class GatedBackend(Backend):
    """An upstream that answers 200 with a body, but not before its gate is open."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__(self._wait)
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()  # a request waits for it
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def _wait(self, _: Backend, seen: Seen) -> bytes:
        self.asked.set()
        await self.gate.wait()
        return self.answer


class RawUpstream:
    """An upstream whose connections the test works by hand, octet by octet."""

    async def __aenter__(self) -> RawUpstream:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.peers: list[RawPeer] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self.peers:
            each.socket.close()
        self.socket.close()

    async def accept(self) -> RawPeer:
        loop = asyncio.get_running_loop()
        accepted, _ = await asyncio.wait_for(loop.sock_accept(self.socket), 20)
        self.peers.append(RawPeer(accepted))
        return self.peers[-1]

    def reject(self) -> None:
        """Close what waits to be accepted."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.accept()[0].close()


class RawPeer:
    """One connection that the gateway made to a `RawUpstream`."""

    def __init__(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = accepted
        self.received = b""

    async def until(self, mark: bytes) -> bytes:
        """What came up to that mark, and with it."""
        loop = asyncio.get_running_loop()
        while mark not in self.received:
            part = await asyncio.wait_for(loop.sock_recv(self.socket, 65536), 20)
            if not part:
                raise EOFError(self.received)
            self.received += part
        found, _, self.received = self.received.partition(mark)
        return found + mark

    async def head(self) -> bytes:
        """The request line of the next head, once all of that is here."""
        return (await self.until(b"\r\n\r\n")).split(b"\r\n")[0]

    def send(self, data: bytes) -> None:
        """At once: no other task runs in between."""
        assert self.socket.send(data) == len(data)

    def reset(self) -> None:
        """Close so that the other side gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Seen:
    """A request as an upstream saw it."""

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.raw = head
        lines = head[:-4].decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ")
        self.pairs = [tuple(line.split(": ", 1)) for line in lines[1:]]
        self.headers = {name.lower(): value for name, value in self.pairs}
        self.reader = reader
        self.writer = writer
        self.body = b""

    async def read_body(self) -> None:
        if "content-length" in self.headers:
            self.body = await self.reader.readexactly(int(self.headers["content-length"]))
        elif self.headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                if size == 0:
                    assert await self.reader.readuntil(b"\r\n") == b"\r\n"
                    return
                self.body += (await self.reader.readexactly(size + 2))[:-2]


class Plane:
    """An engine, serving `config` on a free port of 127.0.0.1 until the block ends."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        handlers: dict[str, Any] | None = None,
        keys: dict[str | bytes, str] | None = None,
        segment: Segment | None = None,
        worker: int = 0,
        public: PublicSide | None = None,
        money: MoneyMap | None = None,
        accounts: dict[str, int] | None = None,
        keyring: Keyring | None = None,
        bind: str = "test",
        descriptions: dict[str, str] | None = None,
        addresses: dict[str, Any] | None = None,
    ) -> None:
        """keys: key, or the digest of another credential (bytes) → consumer. accounts: consumer →
        slot of the account that pays. bind: of the listener in `config` that this one is,
        wherever it really listens. keyring: with a listener of this key (default:
        `keyringkit.LISTENER`), the plane's listener has TLS. descriptions:
        compiled ones, by path; without them, the handler `validator` validates. addresses: what
        names stand for, as for the compiler."""
        self.config = {"version": 1, **config}
        self.public = public
        self.addresses = addresses or {}
        self.handlers = handlers or {}
        self.descriptions = descriptions or {}
        self.keys = keys or {}
        self.segment = segment or Segment.create(1, log_records=1024)
        self.worker = worker
        self.money = money
        self.accounts = accounts or {}
        self.bind = bind
        self.keyring = keyring
        self.tls = keyring is not None and bool(keyring.listeners)
        self.transport = TRANSPORT if keyring is None else None
        if self.transport is not None:
            self.keyring = self.transport.keyring(bind)
        self.peers: list[TlsPeer | None] = []
        self.slots = SlotBook()
        self.generation = 0
        self.clients: list[Client] = []

    async def __aenter__(self) -> Plane:
        loop = asyncio.get_running_loop()
        self.engine = Engine(self.segment, self.worker)
        self.join(loop)
        self.socket = socket.socket()
        try:
            self._serve()
        except BaseException:  # or the loop would wait for an engine that nobody ends
            self.leave(loop)
            self.engine.close()
            self.socket.close()
            raise
        return self

    def _serve(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(512)
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        if self.keyring is not None:
            self.engine.set_keyring(self.keyring)
        self.engine.listen(self.socket.fileno(), self.bind)
        if self.transport is not None:
            self.port = self.transport.front(self.port)
        self.install(self.config)
        self.index = CredentialIndex.create(1024)
        if self.money is not None:
            self.engine.set_money(self.money)
        for key, consumer in self.keys.items():
            plan = self.slots.plans.get(self.plan_of(consumer)) if self.plan_of(consumer) else None
            row = self.index.set_consumer(
                consumer,
                identity=stable_hash(consumer),
                name=consumer,
                plan_name=self.plan_of(consumer) or "",
                **({} if plan is None else {"plan": plan}),
                overrides=self.overrides_of(consumer),
                **self.payer_of(consumer),
            )
            digest = key_digest(key) if isinstance(key, str) else key
            self.index.put(digest, row, identity=hash(key) & (2**64 - 1))
        self.engine.set_credentials(self.index)

    def payer_of(self, consumer: str) -> dict[str, int]:
        if consumer not in self.accounts:
            return {}
        slot = self.accounts[consumer]
        return {"account": 100 + slot, "account_slot": slot}

    def overrides_of(self, consumer: str) -> list[LimitOverride]:
        for each in decode(self.config).consumers:
            if each.name == consumer:
                return rows(encoded(each.limits))
        return []

    def plan_of(self, consumer: str) -> str | None:
        for each in decode(self.config).consumers:
            if each.name == consumer:
                return each.plan
        return None

    def install(self, config: dict[str, Any]) -> None:
        self.generation += 1
        if self.transport is not None:
            config = self.transport.behind(config)
        image = compile_gateway(
            decode({"version": 1, **config}),
            generation=self.generation,
            slots=self.slots,
            addresses=self.addresses,
            public=self.public,
            descriptions=self.descriptions,
        )
        snapshot = Snapshot(image.fd)
        os.close(image.fd)
        self.engine.install(snapshot, [self.handler(name) for name in snapshot.handlers()])
        self.snapshot = snapshot

    def handler(self, name: str) -> Any:
        if name.startswith(VALIDATOR) and not self.descriptions:
            return self.handlers["validator"]
        return resolve(name) if name.startswith((TARIFF, VALIDATOR)) else self.handlers[name]

    async def connect(self, **more: Any) -> tuple[Any, Any]:
        """A reader and a writer, over TLS if the plane has it (`more`: see `tlskit`)."""
        if not self.tls:
            return await asyncio.open_connection("127.0.0.1", self.port)
        more.setdefault("ssl", tlskit.client_context())
        return await tlskit.open_connection("127.0.0.1", self.port, **more)

    async def client(self) -> Client:
        client = Client(*await self.connect())
        self.clients.append(client)
        return client

    async def encrypted(self, peer: TlsPeer | None = None) -> Client:
        """A connection that the engine takes for one over TLS. `peer`: what its handshake said
        about client certificates."""
        client = await self.client()
        port = client.writer.get_extra_info("sockname")[1]
        for _ in range(1000):
            if encrypt(self.engine, port, peer):
                self.peers.append(peer)
                return client
            await asyncio.sleep(0.005)
        raise AssertionError("the engine has not accepted the connection")

    async def get(self, path: str, **kw: Any) -> Reply:
        return await self.request("GET", path, **kw)

    async def request(self, method: str, path: str, **kw: Any) -> Reply:
        client = await self.client()
        try:
            return await client.request(method, path, **kw)
        finally:
            await client.close()

    async def raw(self, data: bytes) -> bytes:
        """Send bytes, return all that comes back until the end."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async def settled(self, **expected: int) -> None:
        """Wait until the engine counts this as alive (default: nothing but the connections)."""
        for _ in range(1000):
            stats = self.engine.stats()
            if all(stats[name] == value for name, value in expected.items()):
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"expected {expected}, the engine has {self.engine.stats()}")

    def join(self, loop: asyncio.AbstractEventLoop) -> None:
        """As in a worker, if it can wait in the loop's place: on uvloop, the first in its loop."""
        self.waits = isinstance(loop, uvloop.Loop) and loop not in _WAITED_IN
        if self.waits:
            _WAITED_IN.add(loop)
            self.engine.run_in(loop)
        else:
            loop.add_reader(self.engine.fileno(), self.engine.poll)

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.waits:
            _WAITED_IN.discard(loop)
        else:
            loop.remove_reader(self.engine.fileno())

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.close()
        try:
            await self.settled(connections=0, exchanges=0, upcalls=0, calls=0)
            assert self.engine.stats()["buffers"] == 0, self.engine.stats()
        finally:
            self.leave(asyncio.get_running_loop())
            self.engine.close()
            self.socket.close()
        stats = self.engine.stats()
        stats.pop("accepting")
        assert not any(stats.values()), stats
