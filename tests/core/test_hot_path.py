"""The proxied path allocates no Python object and does without the GIL.

The engine is driven by hand: the client and the upstream are a process of their own, so that
everything that is allocated between two polls is the engine's doing.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import socket
import sys
import threading
import tracemalloc

import pytest

from fastgate._core.engine import Engine
from fastgate._core.shared.credentials import CredentialIndex, key_digest
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.model.codec import decode

REQUESTS = 3000


def outside(port: int, upstream: socket.socket, done: socket.socket) -> None:
    """A client that makes REQUESTS requests on 8 connections, and the upstream they reach."""
    served = threading.Thread(target=serve, args=(upstream,), daemon=True)
    served.start()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    request = b"GET /a/b HTTP/1.1\r\nHost: a\r\nX-Api-Key: the-key\r\nAccept: */*\r\n\r\n"
    failed = 0
    for _ in range(REQUESTS // len(connections)):
        for each in connections:
            each.sendall(request)
        for each in connections:
            reply = b""
            while not reply.endswith(b"hello"):
                piece = each.recv(65536)
                if not piece:
                    break
                reply += piece
            failed += not reply.startswith(b"HTTP/1.1 200 OK")
    done.sendall(b"%d" % failed)


def serve(listener: socket.socket) -> None:
    connections = []
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connections.append(connection)
                poller.register(connection, select.EPOLLIN)
            else:
                data = os.read(fd, 65536)
                if not data:
                    poller.unregister(fd)
                    continue
                os.write(
                    fd,
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" * data.count(b"\r\n\r\n"),
                )


@pytest.fixture(params=[None, "/b/{b}?b={b}"])
def driven(request):
    """The engine and the descriptor that says that all is over. The parameter: `rewrite.path`."""
    upstream = socket.create_server(("127.0.0.1", 0))
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    config = {
        "version": 1,
        "upstreams": [{"name": "u", "targets": [f"http://127.0.0.1:{upstream.getsockname()[1]}"]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [
            {
                "name": "r",
                "path": "/a/{b}",
                "service": "s",
                "auth": {"api_key": {"header": "X-Api-Key"}},
                "limits": [
                    {"by": "consumer", "rate": "1000000/s"},
                    {"by": "address", "rate": "1000000/s"},
                ],
                "quotas": [{"by": "consumer", "period": "month", "requests": 1000000}],
                "concurrency": 100,
                **({"rewrite": {"path": request.param}} if request.param else {}),
            }
        ],
    }
    segment = Segment.create(1, log_records=4096)
    engine = Engine(segment, 0)
    image = compile_gateway(decode(config), generation=1, slots=SlotBook(), addresses={})
    snapshot = Snapshot(image.fd)
    os.close(image.fd)
    index = CredentialIndex.create(64)
    index.put(key_digest("the-key"), index.set_consumer("c", identity=1), identity=2)
    engine.set_credentials(index)
    engine.listen(listener.fileno(), "test")
    engine.install(snapshot, [])
    ours, theirs = socket.socketpair()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=outside, args=(listener.getsockname()[1], upstream, theirs))
    process.start()
    theirs.close()
    yield engine, ours
    process.kill()
    process.join()
    engine.close()
    for each in (ours, listener, upstream):
        each.close()


def test_nothing_is_allocated_on_the_proxied_path(driven):
    engine, done = driven
    poller = select.epoll()
    poller.register(engine.fileno(), select.EPOLLIN)
    poller.register(done, select.EPOLLIN)
    poll, wait, done_fd = engine.poll, poller.poll, done.fileno()

    for _ in range(50):  # pools, slabs and the interpreter's own caches are filled
        if wait(5):
            poll()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    polls = 0
    peak = 0
    blocks = sys.getallocatedblocks()
    finished = False
    while not finished:
        events = wait(5)
        assert events
        finished = any(fd == done_fd for fd, _ in events)
        del events
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        poll()
        peak = max(peak, tracemalloc.get_traced_memory()[1] - before)
        polls += 1
    blocks = sys.getallocatedblocks() - blocks
    tracemalloc.stop()
    gc.enable()
    assert done.recv(16) == b"0"
    # Not one object a request, nor one a poll: what the measuring itself leaves behind is all.
    assert blocks < 50, blocks
    assert peak < 600, peak  # get_traced_memory()'s own result


def test_other_threads_run_while_the_engine_works(driven):
    """poll() gives the GIL away: a thread of Python goes on in the middle of its rounds."""
    engine, done = driven
    count = 0
    stop = False

    def spin() -> None:
        nonlocal count
        while not stop:
            count += 1

    poller = select.epoll()
    poller.register(engine.fileno(), select.EPOLLIN)
    poller.register(done, select.EPOLLIN)
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        while True:
            events = poller.poll(5)
            engine.poll()
            if any(fd == done.fileno() for fd, _ in events):
                break
    finally:
        stop = True
        thread.join()
    assert done.recv(16) == b"0"
    assert count > REQUESTS
