"""Imports in a process with threads: one at a time.

Some packages have circular imports (SQLAlchemy and Litestar do). If two threads import such
packages at once, each may wait for a module that the other is importing. Python resolves that
deadlock by giving one of them an incomplete module, which fails with "partially initialized
module". So all imports after the start of a process go through here, and a test looks for imports
that do not.
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
    """Keep other threads from importing at the same time. Waits for an import in progress, so on an
    event loop use it only for modules that are most likely imported already."""
    with _lock:
        yield


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Pause the collector for objects that stay: visiting them again and again takes a tenth of an
    import's time, and a third of the time to compose the API."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread and return its result. It may import, or build permanent objects."""

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
