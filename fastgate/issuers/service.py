"""The keys of issuers that are asked for them: fetched, refreshed, kept.

    new, or due ─┐
    a worker's question about a key ─┼─▶ one fetch at a time ─┬─ keys ──▶ disk, workers; due again
    an operator's wish ─┘                                     └─ error ─▶ the last good keys stay;
                                                                          again after a back-off

- Keys are the last good ones, however old: an issuer that is down must not lock its users out.
- **A question** (a token with a key that nobody knows) is a reason to fetch, but not more than once
  in `ASKED_S` for each issuer: otherwise whoever invents keys could make us ask without end. Many
  questions share one fetch; one that comes too early is answered with no, logged and counted.
- Times are those of the wall clock, since they survive a restart.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from fastgate.config.issuer_ids import id_of
from fastgate.errors import NotFoundError
from fastgate.issuers.discovery import Found
from fastgate.issuers.fetching import FetchError
from fastgate.issuers.freshness import MOST_S, backoff_s, spread
from fastgate.issuers.jwks import IssuerKey
from fastgate.issuers.storage import Storage, Stored
from fastgate.model.gateway import Issuer

log = logging.getLogger("fastgate.issuers")

ASKED_S = 30.0
"""Seconds between two fetches for questions of workers, for each issuer."""
LOOK_S = 60.0
"""Seconds after which the schedule is looked at in any case: clocks may be set."""
RESULTS = ("ok", "failed", "held_back")
"""Of fetches; `held_back`: a question that came too soon after the last one."""

Ask = Callable[[Issuer, float], Awaitable[Found]]
"""Asks an issuer, at this time. Raises FetchError."""


class Known(NamedTuple):
    """What is known of an issuer."""

    keys: tuple[IssuerKey, ...] = ()
    introspection: str = ""
    """The endpoint that discovery named; empty: none."""


class Failure(NamedTuple):
    """The keys of an issuer could not be fetched."""

    name: str
    error: str
    since: float
    """Unix seconds: the first failure in a row."""
    at: float
    keys: int
    """How many keys are known and stay in use."""


class Row(NamedTuple):
    """An issuer, for reports. Times in Unix seconds; 0: never."""

    issuer: Issuer
    keys: tuple[IssuerKey, ...]
    since: tuple[float, ...]
    jwks_uri: str
    introspection: str
    fetched: float
    due: float
    failures: int
    error: str
    notes: tuple[str, ...]


class _State:
    """One issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.keys: tuple[IssuerKey, ...] = ()
        self.since: tuple[float, ...] = ()
        self.jwks_uri = ""
        self.introspection = ""
        self.fetched = self.due = 0.0
        self.failures = 0
        self.failing_since = 0.0
        self.error = ""
        self.asked = -math.inf  # the last fetch for a question
        self.held_back = 0  # questions since then
        self.task: asyncio.Task[None] | None = None
        self.notes: tuple[str, ...] = ()  # about keys that are not used
        self.counts = dict.fromkeys(RESULTS, 0)

    def use(self, stored: Stored) -> None:
        """Take over what was known before."""
        self.keys, self.since = stored.keys, stored.since
        self.jwks_uri, self.introspection = stored.jwks_uri, stored.introspection
        self.fetched, self.due = stored.fetched, stored.due

    def has(self, kid: str) -> bool:
        """Whether it has a key with this id. Tokens without one ("") may need any key."""
        return bool(kid) and any(key.kid == kid for key in self.keys)


class IssuerService:
    """The issuers of the served configuration whose keys are fetched. Used on one event loop;
    `restore` in a thread."""

    def __init__(self, storage: Storage, ask: Ask, clock: Callable[[], float] = time.time) -> None:
        self.on_keys: Callable[[], Awaitable[None]] = _nothing
        """Called when keys are others; returns when workers have them."""
        self.on_failed: Callable[[Failure], None] = lambda failure: None
        """Called with each failed fetch."""
        self._storage = storage
        self._ask = ask
        self._clock = clock
        self._states: dict[str, _State] = {}  # by name, as served
        self._ids: dict[int, _State] = {}
        self._new: dict[str, _State] = {}  # of a configuration that may be served
        self._wake = asyncio.Event()

    # ---- configurations ------------------------------------------------------------------

    def restore(self, issuers: Iterable[Issuer]) -> None:
        """Read from disk what is known of issuers that are new. Called in a thread."""
        self._new = {}
        for issuer in issuers:
            if not issuer.fetches or _same(self._states.get(issuer.name), issuer):
                continue
            state = self._new[issuer.name] = _State(issuer)
            stored = self._storage.read(issuer)
            if stored is not None:
                state.use(stored)

    def known(self, issuer: Issuer) -> Known:
        """What is known of an issuer that is served, or was restored."""
        for states in (self._new, self._states):
            state = states.get(issuer.name)
            if _same(state, issuer):
                assert state is not None
                return Known(state.keys, state.introspection)
        return Known()

    def serve(self, issuers: Iterable[Issuer]) -> None:
        """These are the issuers of the served configuration, from now on."""
        before, self._states = self._states, {}
        for issuer in issuers:
            if not issuer.fetches:
                continue
            state = before.get(issuer.name)
            if not _same(state, issuer):
                state = self._new.get(issuer.name)
            if state is None or not _same(state, issuer):
                state = _State(issuer)
            if state.issuer != issuer:
                state.issuer, state.due = issuer, 0.0  # asked in another way
            self._states[issuer.name] = state
        self._new = {}
        self._ids = {id_of(state.issuer): state for state in self._states.values()}
        for name, state in before.items():
            if self._states.get(name) is not state and state.task is not None:
                state.task.cancel()
        self._wake.set()

    # ---- the schedule --------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._wake.clear()
                wait = self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
        finally:
            await self.stop()

    def look(self) -> float:
        """Begin the fetches that are due. Returns the seconds until the next one."""
        now, wait = self._clock(), LOOK_S
        for state in self._states.values():
            if state.task is not None:
                continue
            if state.due - now > MOST_S:
                state.due = now  # the clock was set back
            if state.due <= now:
                self._fetch(state)
            else:
                wait = min(wait, state.due - now)
        return wait

    async def stop(self) -> None:
        """End what is running."""
        tasks = [state.task for state in self._states.values() if state.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fetch(self, state: _State) -> asyncio.Task[None]:
        """The fetch that is running, or a new one."""

        def done(task: asyncio.Task[None]) -> None:
            state.task = None
            self._wake.set()

        if state.task is None:
            state.task = asyncio.ensure_future(self._run_fetch(state))
            state.task.add_done_callback(done)
        return state.task

    async def _run_fetch(self, state: _State) -> None:
        try:
            await self._succeeded(state, await self._ask(state.issuer, self._clock()))
        except FetchError as error:
            self._failed(state, str(error))
        except Exception as error:  # a fault of ours must not be repeated without end
            log.exception("%s: its keys could not be fetched", state.issuer.name)
            self._failed(state, repr(error))

    async def _succeeded(self, state: _State, found: Found) -> None:
        now, name = self._clock(), state.issuer.name
        before = dict(zip(state.keys, state.since, strict=True))
        changed = (found.keys.keys, found.introspection) != (state.keys, state.introspection)
        state.counts["ok"] += 1
        if state.failures:
            log.info("%s: its keys could be fetched again", name)
        state.failures, state.error = 0, ""
        state.keys = found.keys.keys
        state.since = tuple(before.get(key, now) for key in state.keys)
        state.jwks_uri, state.introspection = found.jwks_uri, found.introspection
        state.fetched, state.due = now, now + spread(found.fresh_s)
        self._say_notes(state, found)
        if changed:
            _say_changed(name, before.keys(), state.keys)
        await asyncio.to_thread(self._storage.write, name, _stored(state))
        if changed:
            await self.on_keys()

    def _failed(self, state: _State, error: str) -> None:
        now = self._clock()
        state.counts["failed"] += 1
        state.failures += 1
        state.error = error
        if state.failures == 1:
            state.failing_since = now
        state.due = now + spread(backoff_s(state.failures))
        if not state.failures & (state.failures - 1):  # 1, 2, 4, 8 …
            log.warning(
                "%s: its keys could not be fetched (%s); %s",
                *(state.issuer.name, error),
                f"the {len(state.keys)} known ones stay in use"
                if state.keys
                else "none are known, so its tokens are refused",
            )
        self.on_failed(Failure(state.issuer.name, error, state.failing_since, now, len(state.keys)))

    def _say_notes(self, state: _State, found: Found) -> None:
        """Log, once, which keys are not used."""
        keys, name = found.keys, state.issuer.name
        notes = (*keys.refused, *keys.left_out, *((found.doubt,) if found.doubt else ()))
        for note in notes:
            if note not in state.notes:
                level = logging.ERROR if note in keys.refused else logging.WARNING
                log.log(level, "%s: %s", name, note)
        state.notes = notes

    # ---- questions and wishes ------------------------------------------------------------

    async def question(self, issuer: int, kid: str) -> bool:
        """A worker has a token with this key id and does not know the key; "": the token has none,
        and no key has verified it. Returns whether it is worth another look now. `issuer`: its id
        in the keyring."""
        state = self._ids.get(issuer)
        if state is None:
            return False
        before = state.keys
        if state.task is None and not state.has(kid):
            now = self._clock()
            if 0 <= now - state.asked < ASKED_S:
                self._hold_back(state, kid)
                return False
            state.asked, state.held_back = now, 0
            log.info("%s: a token has the unknown key %r; fetching the keys", *_shown(state, kid))
            self._fetch(state)
        if state.task is not None:
            await asyncio.wait({state.task})  # it goes on if the caller is cancelled
        return state.has(kid) or (not kid and state.keys != before)

    def _hold_back(self, state: _State, kid: str) -> None:
        state.counts["held_back"] += 1
        state.held_back += 1
        if state.held_back == 1:
            log.warning(
                "%s: a token has the unknown key %r; the keys were fetched for another one less "
                "than %d s ago and are not fetched again yet",
                *(*_shown(state, kid), int(ASKED_S)),
            )

    async def refresh(self, name: str) -> None:
        """Fetch the keys of an issuer now. Raises NotFoundError; FetchError if that fails."""
        state = self._states.get(name)
        if state is None:
            raise NotFoundError(f"There is no issuer {name!r} whose keys are fetched.")
        await asyncio.wait({self._fetch(state)})
        if state.error:
            raise FetchError(state.error)

    # ---- reports -------------------------------------------------------------------------

    def rows(self) -> dict[str, Row]:
        """All issuers whose keys are fetched, by name."""
        return {
            name: Row(
                state.issuer, state.keys, state.since, state.jwks_uri, state.introspection,
                state.fetched, state.due, state.failures, state.error, state.notes,
            )
            for name, state in self._states.items()
        }  # fmt: skip

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Fetches since the start, by issuer and result."""
        return {name: state.counts for name, state in self._states.items()}

    def ages(self) -> dict[str, float]:
        """Seconds since the last good fetch, by issuer; not of those without one."""
        now = self._clock()
        return {
            name: max(0.0, now - state.fetched)
            for name, state in self._states.items()
            if state.fetched
        }


async def _nothing() -> None:
    return None


def _same(state: _State | None, issuer: Issuer) -> bool:
    """Whether the keys of a state are those of an issuer of the document."""
    return state is not None and (state.issuer.issuer, state.issuer.jwks_uri) == (
        issuer.issuer,
        issuer.jwks_uri,
    )


def _stored(state: _State) -> Stored:
    return Stored(
        issuer=state.issuer.issuer,
        configured=state.issuer.jwks_uri or "",
        fetched=state.fetched,
        due=state.due,
        jwks_uri=state.jwks_uri,
        introspection=state.introspection,
        keys=state.keys,
        since=state.since,
    )


def _shown(state: _State, kid: str) -> tuple[str, str]:
    return state.issuer.name, kid[:80]


def _say_changed(name: str, before: Iterable[IssuerKey], now: Iterable[IssuerKey]) -> None:
    """Log which keys are new, and which are gone."""
    old, new = set(before), set(now)
    parts = [
        f"{word} {', '.join(sorted(_key_text(key) for key in keys))}"
        for word, keys in (("new", new - old), ("gone", old - new))
        if keys
    ]
    if parts:
        log.info("%s: its keys have changed: %s", name, "; ".join(parts))


def _key_text(key: IssuerKey) -> str:
    return f"{key.kid or 'without an id'} ({key.kind})"
