"""Resolves names to addresses, outside the hot path.

Control resolves the host names of upstream targets before it compiles; workers only get addresses.
The last good answer is kept while the name server fails, so an outage of DNS changes nothing. A
different answer is passed to `on_change`, and control publishes a new generation with it.

    name ──getaddrinfo──▶ answer ──▶ cache ──▶ compile
             │ fails                   ▲
             └── keep the last good ───┘    repeated every `interval`; after a failure,
                                            with back-off from 1 s
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastgate.tasks import keep_running

log = logging.getLogger("fastgate.control")

Address = tuple[int, tuple[Any, ...]]  # family, address for connect()
Lookup = Callable[[str, int], Awaitable[list[Address]]]


async def system_lookup(host: str, port: int) -> list[Address]:
    """Ask the system's resolver. Raises OSError if it has no answer."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


class ResolvedName:
    """A name in use, with its last good answer."""

    __slots__ = ("addresses", "due", "error", "failures")

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.error = ""
        self.failures = 0
        self.due = 0.0  # when to ask again, on the loop's clock


class Resolver:
    """The names that the served configuration uses.

    interval: seconds between two queries for a name that resolves.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        *,
        interval: float = 30.0,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._on_change = on_change
        self._interval = interval
        self._lookup = lookup
        self._names: dict[tuple[str, int], ResolvedName] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def addresses(self) -> Mapping[str, list[Address]]:
        """`host:port` → addresses, for names that have resolved at least once."""
        return {
            f"{host}:{port}": name.addresses
            for (host, port), name in self._names.items()
            if name.addresses
        }

    def unresolved(self) -> dict[str, str]:
        """`host:port` → the error, for names that have never resolved."""
        return {
            f"{host}:{port}": name.error
            for (host, port), name in self._names.items()
            if not name.addresses
        }

    async def add(self, wanted: Iterable[tuple[str, int]], patience: float) -> None:
        """Resolve new names, all at once, waiting at most `patience` seconds."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._names]
        for key in new:
            self._names[key] = ResolvedName()
        if not new:
            return
        tasks = [asyncio.ensure_future(self._ask(key)) for key in new]
        _, late = await asyncio.wait(tasks, timeout=patience)
        for task, key in zip(tasks, new, strict=True):
            if task in late:
                # The query continues; if an answer arrives later, `on_change` is called.
                self._names[key].error = f"no answer after {patience:g} s"
                self._names[key].due = self._now() + self._interval
                task.add_done_callback(self._on_late)
        self._wake.set()

    def keep_only(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Drop names that targets no longer use."""
        kept = set(wanted)
        for key in self._names.keys() - kept:
            del self._names[key]

    def start(self) -> None:
        self._task = asyncio.ensure_future(keep_running("resolving names", self._run, log))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self, keys: Iterable[tuple[str, int]] | None = None) -> bool:
        """Resolve all (or these) names again; True if an answer has changed."""
        asked = list(self._names if keys is None else keys)
        changed = await asyncio.gather(*(self._ask(key) for key in asked))
        return any(changed)

    async def _ask(self, key: tuple[str, int]) -> bool:
        try:
            found = await self._lookup(*key)
        except (OSError, UnicodeError) as error:  # an invalid name raises UnicodeError
            name = self._names.get(key)
            if name is None:
                return False
            if not name.failures:
                kept = "its last addresses are kept" if name.addresses else "it has no address"
                log.warning("%s:%d cannot be resolved (%s); %s", *key, error, kept)
            name.failures += 1
            name.error = str(error)
            name.due = self._now() + min(self._interval, 0.5 * 2 ** min(name.failures, 10))
            return False
        name = self._names.get(key)
        if name is None:
            return False
        name.failures, name.error = 0, ""
        name.due = self._now() + self._interval
        # The order of answers varies: only a different *set* is a change.
        unique = list(dict.fromkeys(found))
        if set(unique) == set(name.addresses):
            return False
        name.addresses = sorted(unique)
        return True

    def _on_late(self, task: asyncio.Future[bool]) -> None:
        if not task.cancelled() and task.result():
            self._on_change()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            dues = [name.due for name in self._names.values()]
            pause = max(0.0, min(dues) - self._now()) if dues else None
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                continue  # the set of names changed
            except TimeoutError:
                pass
            now = self._now()
            if await self.refresh([key for key, name in self._names.items() if name.due <= now]):
                self._on_change()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
