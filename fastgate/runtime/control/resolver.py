"""Resolves names to addresses, outside the hot path.

Control resolves the host names of upstream targets before it compiles; workers only get addresses.
The last good answer is kept while the name server fails or says that there is no such name, so an
outage of DNS changes nothing. A different answer is passed to `on_change`, and control publishes a
new generation with it.

    name ── lookup ──▶ answer ──▶ cache ──▶ compile
             │ fails                ▲
             └─ keep the last good ─┘    repeated after its TTL, within `dns.min_ttl` and `max_ttl`;
                                         after a failure, with back-off from 1 s
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from fastgate.config.rendering import Found
from fastgate.model.gateway import Dns
from fastgate.runtime.control.name_lookup import Answer, NotFound
from fastgate.tasks import keep_running

log = logging.getLogger("fastgate.control")

UNKNOWN_TTL_S = 30.0
"""For answers without a TTL: of /etc/hosts and of the operating system."""
FAILED_MOST_S = 30.0

Lookup = Callable[[str, int], Awaitable[Answer]]


class ResolvedName:
    """A name in use, with its last good answer."""

    __slots__ = ("addresses", "answered", "due", "error", "failures")

    def __init__(self, addresses: Iterable[Found] = ()) -> None:
        self.addresses: list[Found] = list(addresses)
        self.answered: float | None = None  # when, on the clock
        self.error = ""
        self.failures = 0
        self.due = 0.0  # when to ask again, on the clock


class Resolver:
    """The names that the served configuration uses: (host, port), or (name, 0) for SRV records."""

    def __init__(
        self,
        on_change: Callable[[], None],
        *,
        lookup: Lookup,
        on_configure: Callable[[Dns], None] = lambda _: None,
        clock: Callable[[], float] | None = None,
        known: Mapping[str, Iterable[Found]] | None = None,
    ) -> None:
        """on_configure: tells the lookup the settings. clock: default: the loop's. known:
        as from `addresses`, of an earlier process: used until there is an answer."""
        self._on_change = on_change
        self._lookup = lookup
        self._on_configure = on_configure
        self._clock = clock
        self._known = dict(known or {})
        self._dns = Dns()
        self._names: dict[tuple[str, int], ResolvedName] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self.counts = {"answered": 0, "not_found": 0, "failed": 0}

    def configure(self, dns: Dns) -> None:
        """Use these settings from now on. Other name servers are asked for all names at once."""
        if dns == self._dns:
            return
        others = dns.servers != self._dns.servers
        self._dns = dns
        self._on_configure(dns)
        now = self._now()
        for name in self._names.values():
            name.due = now if others else min(name.due, now + dns.max_ttl.seconds)
        self._wake.set()

    def addresses(self) -> dict[str, list[Found]]:
        """`host:port` → addresses, for names that have resolved at least once."""
        return {
            f"{host}:{port}": name.addresses
            for (host, port), name in self._names.items()
            if name.addresses
        }

    def unresolved(self) -> dict[str, str]:
        """`host:port` → the error, for names that have never resolved."""
        return {
            shown(host, port): name.error
            for (host, port), name in self._names.items()
            if not name.addresses
        }

    def ages(self) -> dict[str, float]:
        """`host:port` → seconds since its last answer, for names that had one."""
        now = self._now()
        return {
            shown(host, port): now - name.answered
            for (host, port), name in self._names.items()
            if name.answered is not None
        }

    def due(self, host: str, port: int) -> float:
        """Seconds until a name is asked for again."""
        return self._names[host, port].due - self._now()

    async def add(self, wanted: Iterable[tuple[str, int]], patience: float) -> None:
        """Resolve new names, all at once, waiting at most `patience` seconds."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._names]
        for key in new:
            self._names[key] = ResolvedName(self._known.get(f"{key[0]}:{key[1]}", ()))
        if not new:
            return
        tasks = [asyncio.ensure_future(self._ask(key)) for key in new]
        _, late = await asyncio.wait(tasks, timeout=patience)
        for task, key in zip(tasks, new, strict=True):
            if task in late:
                # The query continues; if an answer arrives later, `on_change` is called.
                self._names[key].error = f"no answer after {patience:g} s"
                self._names[key].due = self._now() + UNKNOWN_TTL_S
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
            answer = await self._lookup(*key)
        except (OSError, UnicodeError) as error:  # an invalid name raises UnicodeError
            self.counts["not_found" if isinstance(error, NotFound) else "failed"] += 1
            name = self._names.get(key)
            if name is None:
                return False
            if not name.failures:
                kept = "its last addresses are kept" if name.addresses else "it has no address"
                log.warning("%s cannot be resolved (%s); %s", shown(*key), error, kept)
            name.failures += 1
            name.error = str(error)
            name.due = self._now() + min(FAILED_MOST_S, 0.5 * 2 ** min(name.failures, 10))
            return False
        self.counts["answered"] += 1
        name = self._names.get(key)
        if name is None:
            return False
        if name.failures:
            log.info("%s can be resolved again", shown(*key))
        name.failures, name.error = 0, ""
        name.answered = self._now()
        name.due = name.answered + self._good_for(answer.ttl)
        # The order of answers varies: only a different *set* is a change.
        unique = list(dict.fromkeys(answer.found))
        if set(unique) == set(name.addresses):
            return False
        name.addresses = sorted(unique)
        return True

    def _good_for(self, ttl: float | None) -> float:
        least, most = self._dns.min_ttl.seconds, self._dns.max_ttl.seconds
        return min(most, max(least, UNKNOWN_TTL_S if ttl is None else ttl))

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

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()


def shown(host: str, port: int) -> str:
    """A name in messages and labels."""
    return f"{host}:{port}" if port else f"{host} (SRV)"
