"""What integration tests are made with: a real gateway, an upstream that misbehaves on demand,
a client, and patience with a bound."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from messagekit import dechunk, parse_head, render

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Keyring

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds; bounds every wait, is reached by none that is well
T = TypeVar("T")


def eventually(probe: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true value of `probe`, asked again and again; fails after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
        time.sleep(0.005)


# ---- the gateway -------------------------------------------------------------------------


@functools.cache
def _empty_store() -> bytes:
    """An SQLite store with its tables and nothing in them, as a first start makes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fastgate.db"
        subprocess.run(
            [sys.executable, "-m", "fastgate.store.migrate"],
            input=f"sqlite:///{path}\n",
            text=True,
            check=True,
            cwd=PROJECT,
        )
        return path.read_bytes()


def put_store(state: Path) -> None:
    """Give a state directory that has no store an empty one: to make it takes half of a start."""
    path = state / "fastgate.db"
    with contextlib.suppress(OSError):  # there can be none: the gateway says so
        if not path.exists():
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(_empty_store())


class Gateway:
    """A `fastgate run` in its own processes."""

    def __init__(
        self,
        config: dict[str, Any] | str | None,
        folder: Path,
        *,
        workers: int = 2,
        state: Path | None = None,
        environ: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """config: None starts the demonstration. state: kept over gateways if given."""
        self.folder = folder
        self.state = state or folder / "state"
        self.config = folder / "fastgate.yaml"
        self.log = folder / "gateway.log"
        self.workers = workers
        command = [sys.executable, "-m", "fastgate", "demo" if config is None else "run"]
        if config is not None:
            self.write(config)
            command.append(str(self.config))
        command += ["--state-dir", str(self.state), "--log-format", "json", *arguments]
        if "--workers" not in arguments:
            command += ["--workers", str(workers)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), **(environ or {})}
        for name in ("FASTGATE_CONFIG", "NOTIFY_SOCKET", "LISTEN_FDS"):
            if name not in (environ or {}):
                environment.pop(name, None)
        with self.log.open("ab") as log, (folder / "stdout").open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=log, stdin=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
        self.pid = self.process.pid

    # ---- configuration ---------------------------------------------------------------

    def write(self, config: dict[str, Any] | str) -> None:
        """Write the configuration file. A dict needs no version, listener or control address:
        free ports are taken, and kept over reloads."""
        if isinstance(config, dict):
            full = {
                "version": 1,
                "listeners": [{"name": "public", "bind": "127.0.0.1:0"}],
                "control": {"bind": "127.0.0.1:0"},
                **config,
            }
            config = json.dumps(full, indent=1)
        self.config.write_text(config)

    def reload(self, config: dict[str, Any] | str | None = None) -> None:
        """Write the file, ask for a reload by signal; does not wait."""
        if config is not None:
            self.write(config)
        self.process.send_signal(signal.SIGHUP)

    def reload_and_wait(self, config: dict[str, Any] | str | None = None) -> int:
        """Reload and wait until a new generation is served; returns its number."""
        before = self.generation
        self.reload(config)
        eventually(lambda: self.generation > before, "a new generation")
        return self.generation

    # ---- how it is -------------------------------------------------------------------

    @property
    def running(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / "running.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if found.get("pid") == self.pid else {}

    @property
    def generation(self) -> int:
        return int(self.running.get("generation", 0))

    def wait_serving(self) -> Gateway:
        """Wait until it serves; shows its log when it ends instead."""

        def probe() -> bool:
            assert self.process.poll() is None, self.log_text()
            return self.said("serving generation")

        eventually(probe, "the gateway serves")
        return self

    def address(self, name: str = "public") -> tuple[str, int]:
        """Where a TCP listener is, as bound."""
        host, _, port = self.running["listeners"][name].rpartition(":")
        return host.strip("[]"), int(port)

    def url(self, path: str = "/", name: str = "public") -> str:
        host, port = self.address(name)
        return f"http://{host}:{port}{path}"

    @property
    def control(self) -> str:
        """The control API's base URL; waits until it listens."""
        url = f"http://{self.running['control']}"

        def probe() -> bool:
            with contextlib.suppress(OSError):
                host, _, port = self.running["control"].rpartition(":")
                return fetch((host, int(port)), "/healthz").status == 200
            return False

        eventually(probe, "the control API listens")
        return url

    @property
    def token(self) -> str:
        path = self.state / "admin-token"
        return eventually(
            lambda: (path.exists() and path.read_text().strip()) or "", "the admin token is there"
        )

    def api(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """Ask the control API, as admin. `patience`: seconds for one answer."""
        parts = urllib.parse.urlsplit(self.control)
        assert parts.hostname is not None
        assert parts.port is not None
        headers = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        data = b""
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        address = (parts.hostname, parts.port)

        def probe() -> Answer | None:
            answer = fetch(
                address, path, method=method, headers=headers, body=data, patience=patience
            )
            # The store comes up after all the rest; nothing was done.
            return None if b"store_unavailable" in answer.body else answer

        found = eventually(probe, "the store is there")
        assert found is not None
        return found

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self, text: str) -> bool:
        return text in self.log_text()

    def children(self) -> dict[str, int]:
        """Names and pids of its processes: fg-worker-0, fg-control …"""
        found = {}
        gone = (FileNotFoundError, ProcessLookupError)  # before, or while, it is read
        with contextlib.suppress(*gone):
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            for pid in text.split():
                with contextlib.suppress(*gone):
                    found[Path(f"/proc/{pid}/comm").read_text().strip()] = int(pid)
        return found

    def worker(self, index: int) -> int:
        """The pid of a worker; waits for one to be there."""
        return eventually(lambda: self.children().get(f"fg-worker-{index}", 0), "the worker")

    def keyring(self) -> Keyring:
        """The keyring that the supervisor keeps for processes to come."""
        folder = f"/proc/{self.pid}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # it was replaced
                if "fastgate-keyring" in os.readlink(f"{folder}/{name}"):
                    fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        return keyring.read(fd)
                    finally:
                        os.close(fd)
        raise AssertionError("the supervisor has no keyring")

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Kill a child by its name and wait for another in its place; returns the new pid."""
        before = eventually(lambda: self.children().get(name, 0), name)
        os.kill(before, number)
        return eventually(
            lambda: (pid := self.children().get(name, 0)) != before and pid, f"another {name}"
        )

    # ---- the end ---------------------------------------------------------------------

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(patience)

    def stop(self, number: int = signal.SIGTERM, patience: float = PATIENCE) -> int:
        """End it, and all that belongs to it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                return self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()  # its children die with it
        return self.process.wait(patience)


# ---- clients -----------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def fetch(
    address: tuple[str, int] | str,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    patience: float = PATIENCE,
) -> Answer:
    """One request on a connection of its own, TCP or Unix. Raises OSError."""
    with _connect(address) as sock:
        sock.settimeout(patience)
        sock.sendall(render(method, path, {"Connection": "close", **(headers or {})}, body))
        received = bytearray()
        while chunk := sock.recv(65536):
            received += chunk
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    if not head:
        raise ConnectionResetError("closed without an answer")
    status, fields = parse_head(head)
    if fields.get("transfer-encoding") == "chunked":
        rest = dechunk(rest)
    elif method != "HEAD" and len(rest) < int(fields.get("content-length", "0")):
        raise ConnectionResetError("the answer is cut short")
    return Answer(status, fields, rest)


def _connect(address: tuple[str, int] | str) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=PATIENCE)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(address)
    return sock


class Client:
    """A keep-alive connection on asyncio; opens another when the gateway closed the last."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.tls: dict[str, Any] = {}  # as `asyncio.open_connection` takes it
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.connections = 0

    async def request(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Raises OSError or EOFError when the connection fails in the middle of it."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(*self._address, **self.tls)
            self.connections += 1
        reader, writer = self.streams
        try:
            writer.write(render(method, path, headers or {}, body))
            head = await reader.readuntil(b"\r\n\r\n")
            status, fields = parse_head(head[:-4])
            if fields.get("transfer-encoding") == "chunked":
                content = bytearray()
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    content += (await reader.readexactly(size + 2))[:-2]
                await reader.readexactly(2)
                received = bytes(content)
            else:
                received = await reader.readexactly(int(fields.get("content-length", "0")))
        except BaseException:
            self.close()
            raise
        if fields.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, fields, received)

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


# ---- the upstream ------------------------------------------------------------------------


class Upstream:
    """A server in a thread of its own that does what the path says.

    ::

        /echo…               200, JSON of what came: method, target, headers, body, connection
        /slow/SECONDS        the same after a while
        /hold                200 when the test calls `release`
        /status/CODE         that status, a short body
        /size/BYTES          so many bytes, with Content-Length
        /chunked/COUNT/BYTES so many chunks of so many bytes
        /events/COUNT/SECONDS  server-sent events, one every so often
        /close               200 with Connection: close
        /reset               the connection is reset instead of an answer
        /truncated           announces more than it sends, then closes
        /garbage             something that is not HTTP
        /silent              no answer, ever

    Anything else is like /echo. `healthy` decides what /healthz answers. `seen` holds the
    targets of all requests, `connections` how many connections were accepted.
    """

    def __init__(self, unix: str | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._where = host, port
        self.healthy = True
        self.seen: list[str] = []
        self.connections = 0
        self._ready = threading.Event()
        self._unix = unix
        self.address: tuple[str, int] = ("", 0)
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    @property
    def url(self) -> str:
        return f"unix:{self._unix}" if self._unix else "http://{}:{}".format(*self.address)

    def release(self) -> None:
        """Let all requests for /hold be answered."""
        self._loop.call_soon_threadsafe(self._released.set)

    def stop(self) -> None:
        """Close everything; nobody listens at its address afterwards."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._released = asyncio.Event()
        if self._unix:
            server = await asyncio.start_unix_server(self._accepted, self._unix, backlog=1024)
        else:
            server = await asyncio.start_server(self._accepted, *self._where, backlog=1024)
            self.address = server.sockets[0].getsockname()
        self._peers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ready.set()
        await self._stop.wait()
        server.close()
        peers = dict(self._peers)
        for task in peers:
            task.cancel()
        await asyncio.gather(*peers, return_exceptions=True)
        for writer in peers.values():
            writer.close()  # a task that was cancelled before it began has not done it

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peers[asyncio.create_task(self._converse(reader, writer))] = writer

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        number = self.connections
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._peers.pop(task, None)
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        """Answer one request; False when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head[:-4].partition(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ", 2)
        _, headers = parse_head(b"HTTP/1.1 200 x\r\n" + rest)
        body = await self._body(reader, headers)
        self.seen.append(target)
        path = urllib.parse.urlsplit(target).path
        kind, *arguments = path.strip("/").split("/")
        special = getattr(self, f"_do_{kind}", None)
        if special is not None:
            return bool(await special(writer, *arguments))
        content = json.dumps(
            {
                "method": method,
                "target": target,
                "headers": headers,
                "body": body.decode("latin-1"),
                "connection": number,
            }
        ).encode()
        return await self._send(writer, 200, content, head_only=method == "HEAD")

    @staticmethod
    async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            content = bytearray()
            while size := int(await reader.readuntil(b"\r\n"), 16):
                content += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
            return bytes(content)
        return await reader.readexactly(int(headers.get("content-length", "0")))

    @staticmethod
    async def _send(
        writer: asyncio.StreamWriter,
        status: int,
        content: bytes,
        *,
        extra: str = "",
        head_only: bool = False,
    ) -> bool:
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {len(content)}\r\n{extra}\r\n"
        writer.write(head.encode() + (b"" if head_only else content))
        await writer.drain()
        return True

    async def _do_healthz(self, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200 if self.healthy else 503, b"health")

    async def _do_slow(self, writer: asyncio.StreamWriter, seconds: str) -> bool:
        await asyncio.sleep(float(seconds))
        return await self._send(writer, 200, b"slow")

    async def _do_hold(self, writer: asyncio.StreamWriter) -> bool:
        await self._released.wait()
        return await self._send(writer, 200, b"held")

    async def _do_status(self, writer: asyncio.StreamWriter, code: str) -> bool:
        return await self._send(writer, int(code), b"status")

    async def _do_size(self, writer: asyncio.StreamWriter, size: str) -> bool:
        return await self._send(writer, 200, b"x" * int(size))

    async def _do_chunked(self, writer: asyncio.StreamWriter, count: str, size: str) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(int(count)):
            writer.write(f"{int(size):x}\r\n".encode() + b"x" * int(size) + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _do_events(self, writer: asyncio.StreamWriter, count: str, pause: str) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for i in range(int(count)):
            event = f"data: {i}\n\n".encode()
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            await asyncio.sleep(float(pause))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _do_close(self, writer: asyncio.StreamWriter) -> bool:
        await self._send(writer, 200, b"bye", extra="Connection: close\r\n")
        return False

    async def _do_reset(self, writer: asyncio.StreamWriter) -> bool:
        sock = writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # Linger for no time: closing sends RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        return False

    async def _do_truncated(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        await writer.drain()
        return False

    async def _do_garbage(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
        await writer.drain()
        return False

    async def _do_silent(self, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600)
        return False


def proxying(upstream: Upstream, *routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration with one service on this upstream and these routes; by default one open
    route for everything."""
    return {
        "upstreams": [{"name": "app", "targets": [upstream.url]}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [
            {"service": "app", **route}
            for route in routes or ({"name": "all", "path": "/{rest*}"},)
        ],
        **more,
    }


@contextlib.asynccontextmanager
async def clients(address: tuple[str, int], count: int) -> AsyncIterator[list[Client]]:
    """So many keep-alive clients."""
    found = [Client(address) for _ in range(count)]
    try:
        yield found
    finally:
        for client in found:
            client.close()
