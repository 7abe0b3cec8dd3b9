"""Imports of a process that has threads: one at a time.

Some packages import each other in circles (SQLAlchemy and Litestar do). When two threads import
such packages at once, each may wait for a module that the other is in the middle of. Python ends
that deadlock by giving one of them the module half-made, and it fails with "partially initialized
module". So everything that is imported after a process has started goes through here, and a test
looks for imports that do not.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")

_lock = threading.RLock()


@contextmanager
def importing() -> Iterator[None]:
    """Keep other threads from importing meanwhile. Waits for an import that is under way, so on
    an event loop it is for modules that are most likely there already."""
    with _lock:
        yield


@contextmanager
def _without_collecting() -> Iterator[None]:
    """What is made here stays: the collector would look through it again and again, which takes
    a tenth of an import's time and a third of the time that composing the API takes."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns. It runs in a thread and may import, or build what stays for good."""

    def run() -> T:
        with _lock, _without_collecting():
            return work()

    return await asyncio.to_thread(run)


async def import_late(name: str, *others: str) -> ModuleType:
    """Import modules in a thread, one after the other; returns the first. Raises ImportError."""

    def work() -> ModuleType:
        first, *_ = [importlib.import_module(each) for each in (name, *others)]
        return first

    return await in_thread(work)
