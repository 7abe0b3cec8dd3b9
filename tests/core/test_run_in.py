"""The engine in the place of uvloop: whatever the loop has to do is done in time."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import threading
import time

import pytest
import uvloop
from enginekit import Plane
from handlerkit import plane

from fastgate._core.engine import Engine
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.segment import Segment

FINE = {"routes": [{"name": "r", "path": "/a", "respond": {"status": 200, "body": "fine"}}]}


def polls(plane: Plane) -> int:
    return counters_snapshot(plane.segment).workers[0]["polls"]


async def test_a_timer_of_the_loop_is_due_while_nothing_comes():
    async with Plane(FINE) as plane:
        assert plane.waits
        before = polls(plane)
        start = time.monotonic()
        await asyncio.sleep(0.3)
        assert time.monotonic() - start >= 0.3
        # It waited, and did not look again and again.
        assert polls(plane) - before < 20


async def test_timers_are_due_in_their_order_while_requests_come():
    async with Plane(FINE) as plane:
        fired = []
        loop = asyncio.get_running_loop()
        for delay in (0.05, 0.01, 0.03, 0.02):
            loop.call_later(delay, fired.append, delay)
        cancelled = loop.call_later(0.015, fired.append, "cancelled")
        loop.call_later(0.005, cancelled.cancel)
        client = await plane.client()
        while len(fired) < 4:
            assert (await client.request("GET", "/a")).status == 200
        assert fired == [0.01, 0.02, 0.03, 0.05]


async def test_another_thread_wakes_the_loop():
    async with Plane(FINE):
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(called.set))
        await asyncio.sleep(0.02)
        thread.start()
        await asyncio.wait_for(called.wait(), 20)
        thread.join()
        assert await asyncio.wait_for(loop.run_in_executor(None, os.getpid), 20) == os.getpid()


async def test_a_signal_is_handled_while_nothing_comes():
    async with Plane(FINE):
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, called.set)
        try:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            await asyncio.wait_for(called.wait(), 20)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)


async def test_what_a_callback_begins_to_watch_is_watched():
    """The loop tells the kernel of it in its next poll: the engine must not wait before that."""
    async with Plane(FINE) as plane:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            heard = loop.create_future()
            # From a callback of a descriptor, of a timer, and of a task in turn.
            loop.call_later(0.001, loop.add_reader, ours, heard.set_result, None)
            loop.call_later(0.002, theirs.send, b"x")
            await asyncio.wait_for(heard, 20)
            loop.remove_reader(ours)
            assert (await plane.get("/a")).status == 200
            reader = loop.create_task(loop.sock_recv(ours, 9))
            assert await asyncio.wait_for(reader, 20) == b"x"
            ours.close()
            theirs.close()


async def test_a_handler_uses_the_loop():
    async def handler(x):
        await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.sockets[0].getsockname()[1]
        )
        said = await reader.read()
        writer.close()
        await x.respond(200, None, said)

    async def greet(_, writer):
        await asyncio.sleep(0.01)
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, plane(handler) as p:
        replies = await asyncio.gather(*(p.get("/h/1") for _ in range(20)))
    assert [reply.body for reply in replies] == [b"hello"] * 20


async def test_traffic_does_not_keep_the_loop_from_its_turn():
    """Many requests in flight all the time: a task of the loop goes on beside them."""
    async with Plane(FINE) as plane:
        turns = 0
        stop = threading.Event()

        def traffic() -> None:
            request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 50
            with socket.create_connection(("127.0.0.1", plane.port)) as client:
                while not stop.is_set():
                    client.sendall(request)
                    client.recv(1 << 20)

        thread = threading.Thread(target=traffic)
        thread.start()
        try:
            while turns < 200:
                await asyncio.wait_for(asyncio.sleep(0.001 if turns % 2 else 0), 20)
                turns += 1
        finally:
            stop.set()
            await asyncio.get_running_loop().run_in_executor(None, thread.join)


async def test_two_engines_in_one_loop():
    async with Plane(FINE) as first, Plane(FINE) as second:
        assert first.waits
        assert not second.waits
        for _ in range(3):
            assert (await second.get("/a")).status == 200
            assert (await first.get("/a")).status == 200


def test_a_loop_runs_again_and_is_closed():
    loop = uvloop.new_event_loop()
    problems = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    plane = Plane(FINE)
    loop.run_until_complete(plane.__aenter__())
    for _ in range(3):
        assert loop.run_until_complete(plane.get("/a")).status == 200
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.run_until_complete(plane.__aexit__())
    loop.run_until_complete(asyncio.sleep(0.01))  # it waits by itself again
    loop.close()
    assert problems == []


def test_an_engine_that_is_forgotten_leaves_its_loop():
    loop = uvloop.new_event_loop()
    engine = Engine(Segment.create(1, log_records=64), 0)
    engine.run_in(loop)
    loop.run_until_complete(asyncio.sleep(0))
    del engine
    gc.collect()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


def test_a_loop_that_watches_the_engine_goes_on_without_waiting_in_it():
    """The kernel refuses two epoll sets that contain each other."""
    engine = Engine(Segment.create(1, log_records=64), 0)
    loop = uvloop.new_event_loop()
    loop.add_reader(engine.fileno(), engine.poll)
    loop.run_until_complete(asyncio.sleep(0.01))
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        engine.run_in(loop)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.remove_reader(engine.fileno())
    engine.close()
    loop.close()


def test_what_it_cannot_wait_in_is_an_error():
    engine = Engine(Segment.create(1, log_records=64), 0)
    other = asyncio.SelectorEventLoop()
    loop = uvloop.new_event_loop()
    try:
        with pytest.raises(TypeError, match="a _UnixSelectorEventLoop is not a uvloop event loop"):
            engine.run_in(other)
        engine.run_in(loop)
        with pytest.raises(RuntimeError, match="has an event loop"):
            engine.run_in(loop)
        engine.close()
        with pytest.raises(RuntimeError, match="is closed"):
            engine.run_in(loop)
    finally:
        engine.close()
        loop.close()
        other.close()
