"""An https upstream with switches: what a gateway meets when it calls servers over TLS.

    with TlsServer(tls_material.leaf()) as server:
        …                                  # a gateway that calls server.url
    server.requests, server.handshakes, server.resumed, server.ended

Each connection has a thread, so a test's own loop stays free; `respond` is called there. Switches
are attributes and may be changed at any time; they count from the next connection or answer on.

| wanted | how |
| --- | --- |
| expired, of another name, … | `TlsServer(material.expired())`; later `server.use(identity)` |
| TLS 1.2 only | `versions=("1.2", "1.2")` |
| a client certificate is required | `clients=material.root`; `request.client` is what came, DER |
| ends without close_notify | `server.close_notify = False` |
| cut in the middle of a record | `server.cut = 40`: so many octets of an answer; -1: all but one |
| records split at will | `server.wire`, `server.record`, as in `tlskit` |
| never answers a ClientHello | `server.stall = True` |
| no tickets, so nothing to resume | `server.context.num_tickets = 0` (1.3), OP_NO_TICKET (1.2) |
| a connection for each answer | an answer with `Connection: close`, as after such a request |

`handshakes` counts all that were completed, `resumed` those of them that resumed a session,
`failures` are the errors of those that failed, in ssl's words. `ended` says of each connection how
the client ended it: "close_notify", "cut" (a bare FIN), "reset", or "here": it was ended here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
from certkit import Authority, Identity
from tlskit import (
    BOTH,
    PATIENCE,
    WHOLE,
    Cut,
    Tunnel,
    Wire,
    send_pieces,
    server_context,
    shake_hands,
    together,
)


@dataclass(frozen=True)
class Request:
    """One that came, and over what."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    name: str | None  # the server's, by SNI
    version: str | None
    resumed: bool
    client: bytes | None  # its certificate, DER
    connection: int  # 0 is the first


def echo(request: Request) -> bytes:
    """An answer with method and target."""
    body = f"{request.method} {request.target}".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@dataclass
class TlsServer:
    """On a port of 127.0.0.1 from `__enter__` to `__exit__`."""

    identity: Identity
    clients: Authority | None = None
    versions: tuple[str, str] = BOTH
    alpn: Sequence[str] = ()
    respond: Callable[[Request], bytes] = echo

    close_notify: bool = True
    cut: int | None = None
    stall: bool = False
    wire: Wire = together
    record: int = WHOLE

    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    handshakes: int = 0
    resumed: int = 0
    failures: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.use(self.identity)
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def use(self, identity: Identity) -> None:
        """Another certificate, from the next connection on. Sessions do not survive it."""
        self.context = server_context(
            identity, clients=self.clients, versions=self.versions, alpn=self.alpn
        )
        self.context.sni_callback = _named

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> TlsServer:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.disconnect()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def disconnect(self) -> None:
        """End every connection there is, without close_notify."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _run(self, what: Callable[..., None], *given: Any) -> None:
        thread = threading.Thread(target=what, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                accepted, _ = self._listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.settimeout(PATIENCE)
                with self._lock:
                    self._open.add(accepted)
                self._run(self._connection, accepted, self.connections)
                self.connections += 1

    def _connection(self, accepted: socket.socket, number: int) -> None:
        served = _Served(self, accepted, number)
        try:
            how = served.serve()
        except Cut:
            how = "cut"
        except (ConnectionError, TimeoutError):
            how = "reset"
        except (ssl.SSLError, h11.RemoteProtocolError) as e:
            self.failures.append(str(e))
            with contextlib.suppress(OSError):
                served.send(served.tunnel.records())  # the alert
            how = "here"
        with self._lock:
            self._open.discard(accepted)
        accepted.close()
        self.ended.append(how)


def _named(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
    connection.name_asked_for = name


class _Served:
    """One connection."""

    def __init__(self, server: TlsServer, accepted: socket.socket, number: int) -> None:
        self.server, self.socket, self.number = server, accepted, number
        self.tunnel = Tunnel(server.context, server=True)

    def send(self, records: list[bytes]) -> None:
        send_pieces(self.socket, self.server.wire(records))

    def serve(self) -> str:
        """Until the connection ends; how it did. Raises Cut, OSError, ssl.SSLError."""
        server = self.server
        while server.stall:
            if not self.socket.recv(65536):
                raise Cut("it waited for an answer to its ClientHello")
        try:
            shake_hands(self.tunnel, self.socket, self.send)
        except ssl.SSLError as e:
            server.failures.append(str(e))
            return "here"
        server.handshakes += 1
        server.resumed += bool(self.tunnel.ssl.session_reused)
        rest = b""
        while (read := self._request(rest)) is not None:
            request, rest = read
            server.requests.append(request)
            last = request.headers.get("connection", "").lower() == "close"
            if self._answer(server.respond(request), last):
                return "here"
        return "close_notify"

    def _request(self, rest: bytes) -> tuple[Request, bytes] | None:
        """The next one and what came after it; None after close_notify."""
        parser = h11.Connection(h11.SERVER)
        if rest:
            parser.receive_data(rest)
        head: h11.Request | None = None
        body = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = self._receive()
                if data is None:
                    return None
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
        assert head is not None
        return self._seen(head, body), parser.trailing_data[0]

    def _receive(self) -> bytes | None:
        while (data := self.tunnel.open()) == b"":
            self.tunnel.feed(self.socket.recv(65536))
        return data

    def _seen(self, head: h11.Request, body: bytes) -> Request:
        over = self.tunnel.ssl
        return Request(
            head.method.decode(), head.target.decode(),
            {name.decode(): value.decode("latin-1") for name, value in head.headers}, body,
            getattr(over, "name_asked_for", None), over.version(), bool(over.session_reused),
            over.getpeercert(True), self.number,
        )  # fmt: skip

    def _answer(self, answer: bytes, last: bool) -> bool:
        """Send it; whether the connection is over."""
        server = self.server
        records = self.tunnel.seal(answer, server.record)
        if server.cut is not None:
            self.send([b"".join(records)[: server.cut]])
            return True
        last = last or b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower()
        if last and server.close_notify:
            records += self.tunnel.notify()
        self.send(records)
        return last
