"""The traffic that a trained build is made for (`make trained`, docs/benchmarks.md).

    python -m benchmarks.training [REQUESTS] [--tls]

One engine, driven by hand in this process, so that its profile is written when the process ends; a
client and an upstream in a process of their own. It is what gateways see, not what a benchmark
sends: with and without a key, short and long answers, bodies with a length and in chunks, and what
is refused. The log is drained on the way, as control does it. With `--tls`, clients speak TLS, over
the same connections; the upstream does not.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
import ssl
import sys
import threading

from fastgate._core.engine import Engine
from fastgate._core.logs.drain import LogDrain, RecentRequests
from fastgate._core.shared.credentials import CredentialIndex, key_digest
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import CertificateEntry, Keyring, ListenerTls, TicketKey
from fastgate.certificates.pairs import read_pair
from fastgate.certificates.self_signed import self_signed
from fastgate.certificates.sources import Content
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway

CONNECTIONS = 32
KEY = "a-key-for-the-training"
LISTENER = "training"
END = b"--end--"  # the last bytes of every body, either way

_COMMON = "Host: api.example.com\r\nUser-Agent: training/1.0\r\nAccept: */*\r\n"
_KEYED = f"{_COMMON}X-Api-Key: {KEY}\r\nAccept-Encoding: gzip, deflate\r\n"
_BODY = "x" * 900 + END.decode()
_CHUNKED = f"{len(_BODY):x}\r\n{_BODY}\r\n0\r\n\r\n"

# What is asked, and the statuses that may come back. One of each in turn, on every connection.
REQUESTS = (
    (f"GET /keyed/orders/81?expand=lines HTTP/1.1\r\n{_KEYED}\r\n", (200,)),
    (f"GET /open/products/7 HTTP/1.1\r\n{_COMMON}\r\n", (200,)),
    (
        f"GET /keyed/orders HTTP/1.1\r\n{_KEYED}Cookie: a=b; c=d\r\nConnection: keep-alive\r\n\r\n",
        (200,),
    ),
    (f"GET /open/long/1 HTTP/1.1\r\n{_COMMON}Referer: https://example.com/a\r\n\r\n", (200,)),
    (f"GET /keyed/chunked/1 HTTP/1.1\r\n{_KEYED}\r\n", (200,)),
    (f"POST /keyed/orders HTTP/1.1\r\n{_KEYED}Content-Length: {len(_BODY)}\r\n\r\n{_BODY}", (200,)),
    (
        f"POST /open/orders HTTP/1.1\r\n{_COMMON}Transfer-Encoding: chunked\r\n\r\n{_CHUNKED}",
        (200,),
    ),
    (f"GET /keyed/orders HTTP/1.1\r\n{_COMMON}\r\n", (401,)),
    (f"GET /limited/orders HTTP/1.1\r\n{_KEYED}\r\n", (429, 200)),  # the first passes
    (f"GET /nowhere HTTP/1.1\r\n{_COMMON}\r\n", (404,)),
)


def _answer(body: bytes, *, chunked: bool = False) -> bytes:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = (
        b"HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: application/json\r\n"
        b"Cache-Control: no-store\r\n" + framing + b"\r\n\r\n"
    )
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


SHORT = _answer(b"x" * 200 + END)
LONG = _answer(b"x" * 50_000 + END)
CHUNKED = _answer(b"x" * 3_000 + END, chunked=True)


def serve(listener: socket.socket) -> None:
    """The upstream: answers each request by its path, for ever."""
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    waiting: dict[int, tuple[socket.socket, bytes]] = {}
    while True:
        for fd, _ in poller.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                waiting[connection.fileno()] = connection, b""
                poller.register(connection, select.EPOLLIN)
                continue
            connection, request = waiting[fd]
            piece = connection.recv(65_536)
            request += piece
            if not piece:
                poller.unregister(fd)
                del waiting[fd]
            elif END in request if request.startswith(b"POST") else b"\r\n\r\n" in request:
                line = request.partition(b"\r\n")[0]
                connection.sendall(
                    LONG if b"/long" in line else CHUNKED if b"/chunked" in line else SHORT
                )
                request = b""
            if piece:
                waiting[fd] = connection, request


def connect(port: int, *, tls: bool) -> socket.socket:
    """A client's connection."""
    plain = socket.create_connection(("127.0.0.1", port))
    if not tls:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname="api.example.com")


def ask(port: int, count: int, *, tls: bool) -> int:
    """Make `count` requests; returns how many were not answered as they should."""
    connections = [connect(port, tls=tls) for _ in range(CONNECTIONS)]
    wrong = 0
    for first in range(0, count, CONNECTIONS):
        asked = [REQUESTS[(first + i) // 3 % len(REQUESTS)] for i in range(CONNECTIONS)]
        for connection, (request, _) in zip(connections, asked, strict=True):
            connection.sendall(request.encode())
        for connection, (_, statuses) in zip(connections, asked, strict=True):
            reply = b""
            while not reply.endswith((END, END + b"\r\n0\r\n\r\n", b"}")):
                piece = connection.recv(65_536)
                if not piece:
                    break
                reply += piece
            wrong += not reply.startswith(tuple(b"HTTP/1.1 %d " % status for status in statuses))
    return wrong


def outside(port: int, upstream: socket.socket, count: int, done: socket.socket, tls: bool) -> None:
    threading.Thread(target=serve, args=(upstream,), daemon=True).start()
    done.sendall(b"%d" % ask(port, count, tls=tls))


def secrets() -> Keyring:
    """What TLS needs: one certificate for the listener."""
    made = self_signed(["api.example.com"])
    where = "the training's own"
    pair = read_pair(Content(where, made.certificate), Content(where, made.key))
    fd = keyring.write(
        Keyring(
            serial=1,
            certificates=[
                CertificateEntry(
                    name="training", hosts=["api.example.com"],
                    chain=[memoryview(der) for der in pair.chain], key=memoryview(pair.key),
                )
            ],
            listeners=[ListenerTls(key=LISTENER, certificates=[0])],
            tickets=[TicketKey(name=bytes(16), made=0, secret=memoryview(os.urandom(32)))],
        )
    )  # fmt: skip
    try:
        return keyring.read(fd)
    finally:
        os.close(fd)


def configuration(upstream: int) -> dict[str, object]:
    """Routes with and without policies, to one upstream."""
    keyed = {
        "auth": {"api_key": {"header": "X-Api-Key"}},
        "limits": [{"by": ["consumer"], "rate": "1000000/s"}],
        "quotas": [{"by": ["consumer"], "period": "day", "requests": 2**40}],
    }
    limited = {**keyed, "limits": [{"by": ["consumer"], "rate": "1/h", "burst": 1}]}
    routes = [
        {"name": name, "path": f"/{name}/{{rest*}}", "service": "s", **more}
        for name, more in (("open", {}), ("keyed", keyed), ("limited", limited))
    ]
    return {
        "version": 1,
        "upstreams": [{"name": "u", "targets": [f"http://127.0.0.1:{upstream}"]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": routes,
        "observability": {"recent": 1000},
    }


def train(count: int, *, tls: bool = False) -> tuple[int, int]:
    """Drive an engine through `count` requests: (records logged, requests answered wrongly)."""
    upstream = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.setblocking(False)
    segment = Segment.create(1, log_records=4096)
    engine = Engine(segment, 0)
    config: Gateway = decode(configuration(upstream.getsockname()[1]))
    image = compile_gateway(config, generation=1, slots=SlotBook(), addresses={})
    snapshot = Snapshot(image.fd)
    os.close(image.fd)
    index = CredentialIndex.create(64)
    index.put(key_digest(KEY), index.set_consumer("trainee", identity=1), identity=2)
    engine.set_credentials(index)
    if tls:
        engine.set_keyring(secrets())
    engine.listen(listener.fileno(), LISTENER)
    engine.install(snapshot, [])
    ours, theirs = socket.socketpair()
    process = multiprocessing.get_context("fork").Process(
        target=outside, args=(listener.getsockname()[1], upstream, count, theirs, tls)
    )
    process.start()
    theirs.close()
    drain = LogDrain(segment, recent=RecentRequests(1000), phases=False)
    poller = select.epoll()
    poller.register(engine.fileno(), select.EPOLLIN)
    poller.register(ours, select.EPOLLIN)
    with open(os.devnull, "wb") as nowhere:
        while all(fd != ours.fileno() for fd, _ in poller.poll(30)):
            engine.poll()
            if drain.pending() > 1000:
                drain.write(nowhere.fileno())
        drain.write(nowhere.fileno())
    wrong = int(ours.recv(16))
    process.kill()
    process.join()
    engine.close()
    poller.close()
    for each in (ours, listener, upstream):
        each.close()
    return drain.taken, wrong


def main(arguments: list[str]) -> int:
    """Run, say what was done, and fail when anything was answered wrongly."""
    tls = "--tls" in arguments
    counts = [each for each in arguments if each != "--tls"]
    taken, wrong = train(int(counts[0]) if counts else 200_000, tls=tls)
    print(f"{taken} requests, {wrong} answered wrongly")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
