"""TLS worked by hand: clients that decide how octets and records go out, and an https upstream.

Certificates are `certkit`'s (fixture `tls_material`); the upstream is `tlsserverkit.TlsServer`. All
of it is Python's ssl over memory BIOs, so whoever sends decides about every octet.

**Clients.** Three, over one `Tunnel` (TLS without a socket):

    context = client_context(material.root)          # or client_context(): verifies nothing
    with TlsClient(("127.0.0.1", port), context, name="test.example") as client:   # blocking
        client.send(b"GET / HTTP/1.1\\r\\n…")
        client.until(b"\\r\\n\\r\\n")

    reader, writer = await open_connection("127.0.0.1", port, ssl=context, wire=octets)

The second is asyncio's `open_connection` in all that a test needs, for tests whose engine lives in
their own loop (where a blocking client would wait for itself); `enginekit.Client` takes the pair.

| wanted | how |
| --- | --- |
| each record cut at every octet | `wire=cut(n)` for each n; `wire=octets`: an octet a send |
| a record per octet; small records | `send(data, record=1)`; `open_connection(…, record=1)` |
| requests in one record, or one over many | one `send` of them all; `record=n` |
| no close_notify at the end | `client.close(notify=False)`, `writer.notify = False` |
| close_notify, and reading on | `client.notify()`, `writer.write_eof()` |
| a reset | `client.reset()`, `writer.transport.abort()` |
| half a ClientHello | `client_hello(context)[:n]`, sent on a plain socket |
| a record that is damaged or cut | `client.tunnel.seal(data)`, changed, `client.send_records(…)` |
| octets that are no TLS | `client.send_records([b"…"])`, or a plain socket |
| a session carried over | `TlsClient(…, session=other.session)`; then `.resumed`. Same context |

Between two pieces a wire waits until the peer has read the last one (asked of the kernel), so what
is cut arrives cut. A peer that does not read is given a second, then the next piece goes out.

**The end.** `recv` and `reader` give the end of the stream only after close_notify. A connection
that ends without raises `Cut`; a reset raises ConnectionResetError.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from certkit import Authority, Identity

WHOLE = 16384  # octets of plaintext in a record, at most
PATIENCE = 20.0  # seconds that anything may take
UNREAD = 1.0  # seconds that a peer has to read a piece
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
BOTH = ("1.2", "1.3")

Wire = Callable[[list[bytes]], list[bytes]]
"""How records go out: from the records of one send to the pieces that are sent one by one."""


class Cut(ConnectionError):
    """The peer has closed without close_notify."""


# ---- wires -----------------------------------------------------------------------------------


def together(records: list[bytes]) -> list[bytes]:
    """All of them in one piece."""
    return [b"".join(records)]


def one_by_one(records: list[bytes]) -> list[bytes]:
    """A record a piece."""
    return records


def octets(records: list[bytes]) -> list[bytes]:
    """An octet a piece."""
    return [bytes([octet]) for record in records for octet in record]


def cut(after: int) -> Wire:
    """Every record in two pieces, the first with so many octets."""
    return lambda records: [
        piece for record in records for piece in (record[:after], record[after:]) if piece
    ]


# ---- contexts --------------------------------------------------------------------------------


def client_context(
    trust: Authority | None = None,
    *,
    identity: Identity | None = None,
    versions: tuple[str, str] = BOTH,
    alpn: Sequence[str] = (),
    ciphers: str = "",
) -> ssl.SSLContext:
    """For clients. Without `trust` nothing is verified; `versions` are the least and the greatest;
    `ciphers` are those of TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(trust.ca)
    _set(context, identity, versions, alpn)
    if ciphers:
        context.set_ciphers(ciphers)
    return context


def server_context(
    identity: Identity,
    *,
    clients: Authority | None = None,
    versions: tuple[str, str] = BOTH,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """For servers. With `clients`, a certificate by that authority is required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if clients is not None:
        context.load_verify_locations(clients.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    _set(context, identity, versions, alpn)
    return context


def _set(
    context: ssl.SSLContext,
    identity: Identity | None,
    versions: tuple[str, str],
    alpn: Sequence[str],
) -> None:
    least, greatest = (VERSIONS[version] for version in versions)
    context.minimum_version, context.maximum_version = least, greatest
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Debian's Python sets it
    if identity is not None:
        context.load_cert_chain(identity.cert, identity.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))


# ---- TLS without a socket --------------------------------------------------------------------


class Tunnel:
    """One side of a connection: octets of the wire on one side, plaintext on the other."""

    def __init__(self, context: ssl.SSLContext, *, server: bool = False, **more: Any) -> None:
        """more: `server_hostname` and `session`, as for `SSLContext.wrap_bio`."""
        self.context = context
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._in, self._out, server_side=server, **more)

    def records(self) -> list[bytes]:
        """What is to be sent now, record by record."""
        data, found = self._out.read(), []
        while data:
            size = 5 + int.from_bytes(data[3:5])
            found.append(data[:size])
            data = data[size:]
        return found

    def feed(self, data: bytes) -> None:
        """What has come; b"": the end of it."""
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def handshake(self) -> bool:
        """Whether it is complete. Raises ssl.SSLError, and Cut at an early end; send the records in
        each case: there may be an alert."""
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLEOFError as e:
            raise Cut("in the handshake") from e
        return True

    def seal(self, data: bytes, record: int = WHOLE) -> list[bytes]:
        """Records with `data`, each of at most so many octets of it."""
        for at in range(0, len(data), record):
            self.ssl.write(data[at : at + record])
        return self.records()

    def open(self) -> bytes | None:
        """Plaintext that has come, b"" if there is no more now, None after close_notify. Raises
        Cut."""
        try:
            return self.ssl.read(65536) or None
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:  # Python returns b"" only if this side has not sent its own
            return None
        except ssl.SSLEOFError as e:
            raise Cut("no close_notify") from e

    def notify(self) -> list[bytes]:
        """The record that ends this side: close_notify."""
        with contextlib.suppress(ssl.SSLError):  # it also looks for the peer's
            self.ssl.unwrap()
        return self.records()


def client_hello(context: ssl.SSLContext, name: str | None = "test.example") -> bytes:
    """The first record of a client."""
    tunnel = Tunnel(context, server_hostname=name)
    tunnel.handshake()
    return b"".join(tunnel.records())


# ---- blocking --------------------------------------------------------------------------------


class TlsClient:
    """A connection on a blocking socket. Leaving the block closes it, with close_notify."""

    def __init__(
        self,
        to: tuple[str, int] | socket.socket,
        context: ssl.SSLContext,
        *,
        name: str | None = "test.example",
        wire: Wire = together,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """Connects, unless `to` is connected, and shakes hands.

        Raises ssl.SSLError, Cut, OSError.
        """
        self.socket = to if isinstance(to, socket.socket) else socket.create_connection(to)
        self.socket.settimeout(PATIENCE)
        _no_delay(self.socket)
        self.wire = wire
        self.tunnel = Tunnel(context, server_hostname=name, session=session)
        try:
            shake_hands(self.tunnel, self.socket, self.send_records)
        except BaseException:
            self.socket.close()
            raise

    @property
    def version(self) -> str | None:
        """ "TLSv1.2" or "TLSv1.3"."""
        return self.tunnel.ssl.version()

    @property
    def resumed(self) -> bool:
        return bool(self.tunnel.ssl.session_reused)

    @property
    def session(self) -> ssl.SSLSession | None:
        """To resume. With TLS 1.3 only after something was received."""
        return self.tunnel.ssl.session

    @property
    def peer(self) -> bytes | None:
        """The server's certificate, DER."""
        return self.tunnel.ssl.getpeercert(True)

    def send(self, data: bytes, record: int = WHOLE) -> None:
        self.send_records(self.tunnel.seal(data, record))

    def send_records(self, records: list[bytes]) -> None:
        """Octets as they are, by the wire."""
        send_pieces(self.socket, self.wire(records))

    def recv(self) -> bytes:
        """What comes next; b"" after close_notify. Raises Cut, OSError."""
        while (data := self.tunnel.open()) == b"":
            self.tunnel.feed(self.socket.recv(65536))
        return data or b""

    def until(self, mark: bytes) -> bytes:
        """All that comes up to the piece with this mark. Raises EOFError."""
        received = b""
        while mark not in received:
            if not (more := self.recv()):
                raise EOFError(received)
            received += more
        return received

    def rest(self) -> bytes:
        """All that comes until close_notify."""
        return b"".join(iter(self.recv, b""))

    def notify(self) -> None:
        """Send close_notify; the other direction stays open."""
        self.send_records(self.tunnel.notify())

    def close(self, *, notify: bool = True) -> None:
        with contextlib.suppress(OSError):
            if notify:
                self.notify()
            end(self.socket)
        self.socket.close()

    def reset(self) -> None:
        _linger_zero(self.socket)
        self.socket.close()

    def __enter__(self) -> TlsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def end(connected: socket.socket) -> None:
    """A FIN, and no reset: a socket that is closed with something unread sends one."""
    connected.shutdown(socket.SHUT_WR)
    connected.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while connected.recv(65536):
            pass


def shake_hands(
    tunnel: Tunnel, connected: socket.socket, send: Callable[[list[bytes]], None]
) -> None:
    """To the end of the handshake. Raises ssl.SSLError, Cut, OSError; an alert has been sent."""
    try:
        while not tunnel.handshake():
            send(tunnel.records())
            tunnel.feed(connected.recv(65536))
    except ssl.SSLError:
        with contextlib.suppress(OSError):
            send(tunnel.records())
        raise
    send(tunnel.records())


def send_pieces(connected: socket.socket, pieces: list[bytes]) -> None:
    """One after the other, each when the last has been read."""
    for i, piece in enumerate(pieces):
        if i:
            for _ in until_read(connected):
                time.sleep(0.0002)
        if piece:
            connected.sendall(piece)


# ---- asyncio ---------------------------------------------------------------------------------


async def open_connection(
    host: str,
    port: int,
    *,
    ssl: ssl.SSLContext,
    server_hostname: str | None = "test.example",
    wire: Wire = together,
    record: int = WHOLE,
    session: ssl.SSLSession | None = None,
    limit: int = 65536,
) -> tuple[asyncio.StreamReader, TlsWriter]:
    """As asyncio's, after the handshake. Raises ssl.SSLError, Cut, OSError."""
    loop = asyncio.get_running_loop()
    connected = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    connected.setblocking(False)
    tunnel = Tunnel(ssl, server_hostname=server_hostname, session=session)
    try:
        await loop.sock_connect(connected, (host, port))
        _no_delay(connected)
        await _shake_hands(tunnel, connected, wire)
    except BaseException:
        connected.close()
        raise
    reader = asyncio.StreamReader(limit)
    return reader, TlsWriter(tunnel, connected, reader, wire, record)


async def _shake_hands(tunnel: Tunnel, connected: socket.socket, wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    try:
        while not tunnel.handshake():
            await _send_pieces(connected, wire(tunnel.records()))
            tunnel.feed(await asyncio.wait_for(loop.sock_recv(connected, 65536), PATIENCE))
    finally:
        await _send_pieces(connected, wire(tunnel.records()))


async def _send_pieces(connected: socket.socket, pieces: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    for i, piece in enumerate(pieces):
        if i:
            await asyncio.sleep(0)
            for _ in until_read(connected):
                await asyncio.sleep(0.0002)
        await loop.sock_sendall(connected, piece)


class TlsWriter:
    """What asyncio's StreamWriter and its transport do, as far as tests need it.

    Two tasks: one sends what was written, in order, by the wire; one receives into the reader, and
    stops, as a transport does, while the reader holds more than it wants.
    """

    notify = True
    """Whether `close` sends close_notify."""

    def __init__(
        self,
        tunnel: Tunnel,
        connected: socket.socket,
        reader: asyncio.StreamReader,
        wire: Wire,
        record: int,
    ) -> None:
        self.tunnel, self.socket, self.wire, self.record = tunnel, connected, wire, record
        self.transport = self
        self._reader = reader
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._queue: asyncio.Queue[list[bytes] | None] = asyncio.Queue()
        self._closing = False
        reader.set_transport(self)  # type: ignore[arg-type]
        self._receiving = asyncio.create_task(self._receive())
        self._sending = asyncio.create_task(self._send())

    def write(self, data: bytes) -> None:
        self.write_records(self.tunnel.seal(bytes(data), self.record))

    def write_records(self, records: list[bytes]) -> None:
        """Octets as they are, by the wire."""
        if not self._closing:
            self._queue.put_nowait(records)

    def write_eof(self) -> None:
        self.write_records(self.tunnel.notify())

    async def drain(self) -> None:
        """Until all has been sent. Raises what sending did."""
        await self._or_sent(self._queue.join())

    def close(self) -> None:
        """Once all has been sent, at the latest after PATIENCE."""
        if not self._closing:
            if self.notify:
                self.write_eof()
            self._closing = True
            self._queue.put_nowait(None)

    def abort(self) -> None:
        """Close at once, with no more sent: with a reset if anything is unread, or SO_LINGER says
        so."""
        self._closing = True
        self._sending.cancel()
        self._receiving.cancel()
        self.socket.close()

    async def wait_closed(self) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(self._sending), PATIENCE)
        self.abort()
        await asyncio.gather(self._receiving, self._sending, return_exceptions=True)

    def is_closing(self) -> bool:
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"socket": self.socket, "ssl_object": self.tunnel.ssl}
        return known.get(name, default)

    def pause_reading(self) -> None:
        self._wanted.clear()

    def resume_reading(self) -> None:
        self._wanted.set()

    async def _or_sent(self, waiting: Awaitable[Any]) -> None:
        """Wait for this, or until sending has ended early."""
        task = asyncio.ensure_future(waiting)
        await asyncio.wait({task, self._sending}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            self._sending.result()

    async def _send(self) -> None:
        try:
            while (records := await self._queue.get()) is not None:
                await _send_pieces(self.socket, self.wire(records))
                self._queue.task_done()
        finally:
            if self._closing:
                self._receiving.cancel()
                with contextlib.suppress(OSError):
                    end(self.socket)
                self.socket.close()

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                while data := self.tunnel.open():
                    self._reader.feed_data(data)
                if data is None:
                    break
                await self._wanted.wait()
                self.tunnel.feed(await loop.sock_recv(self.socket, 65536))
        except (OSError, ssl.SSLError) as e:
            self._reader.set_exception(e)
        else:
            self._reader.feed_eof()


# ---- what the kernel knows -------------------------------------------------------------------

_SOCK_DIAG, _DIAG_BY_FAMILY, _ERROR = 4, 20, 2


def until_read(connected: socket.socket) -> Iterator[None]:
    """Something to loop over until the peer, on this machine, has read all that was sent to it. It
    ends after UNREAD in any case."""
    end = time.monotonic() + UNREAD
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asking:
        while unread(connected, asking) and time.monotonic() < end:
            yield


def unread(connected: socket.socket, asking: socket.socket) -> int:
    """Octets that have come to the peer of a TCP connection over IPv4 loopback and that it has not
    read. 0 when it is gone. Raises OSError where the kernel does not tell (no sock_diag)."""
    (host, port), (peer, peer_port) = connected.getsockname(), connected.getpeername()
    identity = struct.pack(">HH", peer_port, port)
    identity += socket.inet_aton(peer).ljust(16, b"\0") + socket.inet_aton(host).ljust(16, b"\0")
    identity += struct.pack("=I", 0) + b"\xff" * 8  # any interface, any cookie
    every_state = 0xFFFFFFFF
    ask = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, every_state) + identity
    asking.send(struct.pack("=IHHII", 16 + len(ask), _DIAG_BY_FAMILY, 1, 1, 0) + ask)
    answer = asking.recv(65536)
    kind = struct.unpack_from("=IH", answer)[1]
    if kind == _ERROR:
        number = -struct.unpack_from("=i", answer, 16)[0]
        if number in (2, 111):  # no such socket
            return 0
        raise OSError(number, "the kernel does not tell what a socket has unread (sock_diag)")
    return int(struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0])


def _no_delay(connected: socket.socket) -> None:
    if connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _linger_zero(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
