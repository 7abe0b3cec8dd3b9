"""A thread that makes blocking calls, one after another, for an event loop.

The calls of a cancelled caller are completed, so that what a call does (send a request, store the
answer) is done completely or not at all. A later call sees its effect, since calls never overlap.

It is a daemon thread: a process that ends does not wait for a peer that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

IDLE_S = 5.0
"""Seconds without a call after which the thread is idle."""

T = TypeVar("T")


class _Call(NamedTuple):
    work: Callable[[], Any]
    result: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class CallThread:
    """Makes calls in a thread, which starts with the first one."""

    def __init__(self, name: str, on_idle: Callable[[], None]) -> None:
        """`on_idle` is called in the thread when it is idle, and when it ends."""
        self._name = name
        self._on_idle = on_idle
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, work: Callable[[], T]) -> T:
        """Make a call, after those made earlier. Returns what it returns, raises what it raises."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(_Call(work, result, loop))
        return await result

    def close(self) -> None:
        """End the thread after the calls that are waiting."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _run(self) -> None:
        while (call := self._next()) is not None:
            if call.result.cancelled():
                continue
            value, error = None, None
            try:
                value = call.work()
            except BaseException as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed
                call.loop.call_soon_threadsafe(_settle, call.result, value, error)
        self._on_idle()

    def _next(self) -> _Call | None:
        try:
            return self._calls.get(timeout=IDLE_S)
        except queue.Empty:
            self._on_idle()
            return self._calls.get()


def _settle(result: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if result.cancelled():
        return
    if error is None:
        result.set_result(value)
    else:
        result.set_exception(error)
