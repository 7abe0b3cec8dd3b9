"""A relay between clear TCP and TLS: tests that speak clear TCP reach an engine that speaks TLS.

    with TlsRelay() as relay:
        relay.encrypt(to, client_context)   # a port: clear TCP comes in, TLS goes out to `to`
        relay.decrypt(to, server_context)   # a port: TLS comes in, clear TCP goes out to `to`

It has a thread of its own, so a test may block, and errors that Python's ssl leaves behind are not
in the engine's thread. It copies octets both ways, with little buffered in between, and how the
connection ends:

| clear | TLS |
| --- | --- |
| FIN, of either direction | close_notify and FIN |
| reset | FIN without close_notify, or a failed handshake; a reset from the clear side is a reset |

What it sends over TLS is cut as `Cuts` says.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass

from tlskit import Cut, Tunnel, Wire, together, unread

BUFFERS = 65536  # bytes: of each socket's buffers, and of one read
UNREAD_S = 0.2  # seconds that a peer has to read a piece; then the rest goes out in one
LOOK_S = 0.0001  # between two looks whether it has
Address = tuple[str, int]


@dataclass(frozen=True)
class Cuts:
    """How the first octets of each direction go out over TLS, once the handshake is done: in
    records of so many octets of data, by a wire of `tlskit`. What follows is not cut."""

    record: int = BUFFERS
    wire: Wire = together
    most: int = 0


class TlsRelay:
    def __init__(self, cuts: Cuts = Cuts(), *, fins: bool = False) -> None:
        """fins: a FIN without close_notify is one on the clear side, too."""
        self.cuts, self.fins = cuts, fins
        self.poller = select.epoll()
        self.asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)  # NETLINK_SOCK_DIAG
        self.doors: dict[int, Door] = {}
        self.links: dict[int, Link] = {}
        self.waiting: set[Link] = set()
        self.stopped = os.eventfd(0)
        self.poller.register(self.stopped, select.EPOLLIN)
        self.thread = threading.Thread(target=self.run, name="tls relay", daemon=True)

    def __enter__(self) -> TlsRelay:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self.stopped, 1)
        self.thread.join()
        for door in self.doors.values():
            door.socket.close()
        for link in set(self.links.values()):
            link.close()
        self.poller.close()
        self.asking.close()
        os.close(self.stopped)

    def encrypt(self, to: Address, context: ssl.SSLContext) -> int:
        return self.open(Door(to, context, server=False))

    def decrypt(self, to: Address, context: ssl.SSLContext) -> int:
        return self.open(Door(to, context, server=True))

    def open(self, door: Door) -> int:
        self.doors[door.socket.fileno()] = door
        self.poller.register(door.socket, select.EPOLLIN)
        return int(door.socket.getsockname()[1])

    # ---- in its thread

    def run(self) -> None:
        while True:
            found = dict(self.poller.poll(0 if self.waiting else None))
            if self.stopped in found:
                return
            for fd in found.keys() & self.links.keys():
                if fd in self.links:
                    self.links[fd].on(fd, found[fd])
            for fd in found.keys() & self.doors.keys():  # last: it gives numbers of closed sockets
                self.accept(self.doors[fd])
            if self.waiting:
                time.sleep(LOOK_S)
                for link in list(self.waiting):
                    link.pump()

    def accept(self, door: Door) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                link = Link(self, door, door.socket.accept()[0])
                self.links[link.clear.fileno()] = self.links[link.tls.fileno()] = link
                events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
                self.poller.register(link.near, events)
                link.connect(door.to)
                self.poller.register(link.far, events)


class Door:
    """Where the relay listens, and where it goes from there."""

    def __init__(self, to: Address, context: ssl.SSLContext, *, server: bool) -> None:
        self.to, self.context, self.server = to, context, server
        self.socket = _small(socket.socket())
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(512)
        self.socket.setblocking(False)


class Link:
    """One connection: `near` came in, `far` goes out; one of them is clear, and one is TLS."""

    def __init__(self, relay: TlsRelay, door: Door, near: socket.socket) -> None:
        self.relay, self.near, self.far = relay, _small(near), _small(socket.socket())
        self.clear, self.tls = (self.far, self.near) if door.server else (self.near, self.far)
        for each in (self.near, self.far):
            each.setblocking(False)
        name = None if door.server else "test.example"
        self.tunnel = Tunnel(door.context, server=door.server, server_hostname=name)
        self.connected = False
        self.greeted = False
        self.to_clear = b""
        self.to_tls: deque[bytes] = deque()
        self.cut = 0  # octets that were
        self.sent_at = 0.0  # when a piece was that is to be read before the next; 0: none was
        self.clear_ended = self.tls_ended = False  # nothing more comes from there
        self.clear_shut = self.tls_shut = False  # nothing more goes there
        self.closed = False

    def connect(self, to: Address) -> None:
        self.far.connect_ex(to)

    def on(self, fd: int, events: int) -> None:
        broken = events & select.EPOLLERR
        if fd == self.far.fileno() and not self.connected:
            if broken:
                self.reset()
                return
            self.connected = bool(events & select.EPOLLOUT)
        self.pump()
        # What the other side has not taken keeps the relay from reading on and finding the error.
        if broken and not self.closed and not (fd == self.tls.fileno() and self.to_clear):
            self.reset()

    def pump(self) -> None:
        """Whatever can be done now."""
        if not self.connected or self.closed:
            return
        try:
            while self.greet() and (self.to_clear_side() | self.to_tls_side()):
                pass
        except BlockingIOError:
            pass
        except OSError:  # of TLS, too
            self.alert()
            self.reset()
        if self.clear_shut and self.tls_shut and self.clear_ended and self.tls_ended:
            self.close()

    # ---- the handshake

    def greet(self) -> bool:
        while not self.greeted:
            self.greeted = self.tunnel.handshake()
            self.to_tls.extend(self.tunnel.records())
            self.send_pieces()
            if not self.greeted:
                if not (data := self.tls.recv(BUFFERS)):
                    raise Cut
                self.tunnel.feed(data)
        return True

    def alert(self) -> None:
        """What libssl has to say when it fails."""
        with contextlib.suppress(OSError, ssl.SSLError):
            self.tls.send(b"".join(self.tunnel.records()))

    # ---- from TLS to the clear side; each says whether it did anything

    def to_clear_side(self) -> bool:
        if self.to_clear:
            return self.send_clear()
        if self.tls_ended:
            return False
        parts: list[bytes] = []
        part: bytes | None
        try:
            while not (part := self.tunnel.open()) and part is not None:
                self.tunnel.feed(self.tls.recv(BUFFERS))
            while part:
                parts.append(part)
                part = self.tunnel.open()
        except BlockingIOError:
            return False
        except Cut:
            if not self.relay.fins:
                raise
            part = None
        finally:
            if parts:
                self.to_clear = b"".join(parts)
                self.send_clear()
        if part is None:
            self.tls_ended = True
            self.shut_clear()
        return True

    def send_clear(self) -> bool:
        try:
            sent = self.clear.send(self.to_clear)
        except BlockingIOError:
            return False
        self.to_clear = self.to_clear[sent:]
        self.shut_clear()
        return True

    def shut_clear(self) -> None:
        if self.tls_ended and not self.to_clear and not self.clear_shut:
            self.clear_shut = True
            self.clear.shutdown(socket.SHUT_WR)

    # ---- from the clear side to TLS

    def to_tls_side(self) -> bool:
        if self.to_tls:
            return self.send_pieces()
        if self.clear_ended:
            return False
        data = b""
        try:
            while len(data) < BUFFERS and not self.clear_ended:
                part = self.clear.recv(BUFFERS)
                self.clear_ended = not part
                data += part
        except BlockingIOError:
            if not data:
                return False
        self.seal(data)
        self.send_pieces()
        return True

    def seal(self, data: bytes) -> None:
        cuts = self.relay.cuts
        first = data[: max(0, cuts.most - self.cut)]
        self.cut += len(first)
        records = self.tunnel.seal(first, cuts.record)
        if first == data and self.clear_ended:
            records += self.tunnel.notify()
        self.to_tls.extend(cuts.wire(records) if cuts.most else records)
        if first != data:
            records = self.tunnel.seal(data[len(first) :])
            self.to_tls.append(
                b"".join(records + (self.tunnel.notify() if self.clear_ended else []))
            )

    def send_pieces(self) -> bool:
        """Send what waits; where it is cut, no piece before the last was read."""
        sent = False
        while self.to_tls and self.may_send():
            piece = self.to_tls.popleft()
            try:
                n = self.tls.send(piece)
            except BlockingIOError:
                n = 0
            if n < len(piece):
                self.to_tls.appendleft(piece[n:])
                return sent or n > 0
            sent = True
            if self.to_tls and self.greeted and self.relay.cuts.most:
                self.sent_at = time.monotonic()
                self.relay.waiting.add(self)
        if not self.to_tls and self.clear_ended and not self.tls_shut:
            self.tls_shut = True
            self.tls.shutdown(socket.SHUT_WR)
        return sent

    def may_send(self) -> bool:
        if not self.sent_at:
            return True
        if unread(self.tls, self.relay.asking):
            if time.monotonic() < self.sent_at + UNREAD_S:
                return False
            self.to_tls = deque([b"".join(self.to_tls)])
            self.cut = self.relay.cuts.most
        self.sent_at = 0.0
        self.relay.waiting.discard(self)
        return True

    # ---- ends

    def reset(self) -> None:
        for each in (self.near, self.far):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.relay.waiting.discard(self)
        for each in (self.near, self.far):
            self.relay.links.pop(each.fileno(), None)
            each.close()


def _small(each: socket.socket) -> socket.socket:
    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFERS)
    each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFERS)
    return each
