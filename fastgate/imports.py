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
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_lock = threading.RLock()


@contextmanager
def importing() -> Iterator[None]:
    """Keep other threads from importing meanwhile. Waits for an import that is under way, so on
    an event loop it is for modules that are most likely there already."""
    with _lock:
        yield


@contextmanager
def _without_collecting() -> Iterator[None]:
    """What is imported stays: looking through it again and again takes a tenth of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


async def import_late(name: str, *others: str) -> ModuleType:
    """Import modules in a thread, one after the other; returns the first. Raises ImportError."""

    def run() -> ModuleType:
        with _lock, _without_collecting():
            first, *_ = [importlib.import_module(each) for each in (name, *others)]
            return first

    return await asyncio.to_thread(run)
