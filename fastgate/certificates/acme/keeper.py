"""Keeps one certificate: a loop that orders it, renews it, and tries again.

                ┌──────────── wait until the next step, or until something changes ◀────────┐
                ▼                                                                           │
    look at the disk ─▶ order ─▶ certificate on disk ─▶ `on_certificate`, schedule ─────────┤
                    └─▶ ask for renewal information ─▶ schedule ────────────────────────────┘

What it decides depends on the disk and the clock alone, so it can be cancelled at any await and
started again. The old certificate serves until the new one is stored.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from functools import partial
from typing import NamedTuple

from fastgate.certificates.acme import renewal_info
from fastgate.certificates.acme import schedule as plan
from fastgate.certificates.acme.client import Client
from fastgate.certificates.acme.common import Common
from fastgate.certificates.acme.events import Failure, Row, State
from fastgate.certificates.acme.keys import Facts, facts_of
from fastgate.certificates.acme.order import Attempt
from fastgate.certificates.acme.problems import AcmeError, Refused
from fastgate.certificates.acme.schedule import Schedule, Step
from fastgate.certificates.acme.settings import Wanted, basis_of
from fastgate.certificates.acme.storage import Metadata
from fastgate.certificates.pairs import Pair, read_pair
from fastgate.certificates.sources import Content

log = logging.getLogger("fastgate.acme")


class _Current(NamedTuple):
    """A certificate on disk that can be used."""

    pair: Pair
    facts: Facts
    metadata: Metadata


class Keeper:
    """Keeps one certificate while `run` runs."""

    def __init__(self, wanted: Wanted, client: Client, common: Common) -> None:
        """Reads what is on disk. Raises AcmeError if that cannot be read."""
        self.wanted = wanted
        self.authority = client.authority
        self._client = client
        self._common = common
        self._changed = asyncio.Event()
        self._callers: list[asyncio.Future[None]] = []  # they want a new certificate now
        self._ordering = False
        self._current: _Current | None = None
        self._read()
        self._schedule = common.storage.schedule(wanted.name)

    @property
    def name(self) -> str:
        """The certificate's name."""
        return self.wanted.name

    @property
    def pair(self) -> Pair | None:
        """The certificate on disk; None: there is none."""
        return None if self._current is None else self._current.pair

    @property
    def _facts(self) -> Facts | None:
        return None if self._current is None else self._current.facts

    # ---- the loop ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            self._look()
            now = self._common.clock.now()
            step = self._next_step(now)
            if step.at > now:
                await self._common.clock.wait(self._changed, step.at)
            elif step.what == "ask":
                await self._ask()
            else:
                await self._order()

    def _next_step(self, now: datetime) -> Step:
        if self._callers:
            return Step("order", now)
        return plan.next_step(self._schedule, self._facts, self._why(now), now)

    def _why(self, now: datetime) -> str:
        """Why a certificate has to be ordered now; empty: the one on disk can serve on."""
        if self._current is None:
            return "there is no certificate"
        if self._current.metadata.directory != self.authority.directory:
            return "it is from another authority"
        if set(self._current.metadata.hosts) != set(self.wanted.hosts):
            return "it is for other hosts"
        if self._current.facts.not_after <= now:
            return "it has expired"
        return ""

    def _look(self) -> None:
        """Read what is on disk, report a certificate that is new, and bring the plan up to date."""
        before = self._facts
        self._read()
        if self._facts is not None and self._facts != before:
            self._common.events.on_certificate(self.name)
        basis = basis_of(self.wanted, self.authority)
        now = self._common.clock.now()
        self._plan(plan.brought_up_to_date(self._schedule, basis, self._facts, now))

    def _read(self) -> None:
        storage, self._current = self._common.storage, None
        try:
            stored = storage.certificate(self.name)
            if stored is None:
                return
            pair = read_pair(Content("its file", stored.pem.encode()), None)
        except ValueError as error:
            log.error(
                "The certificate %s cannot be read from disk: %s. Its file is kept as %s, and "
                "another certificate is ordered.",
                self.name,
                error,
                storage.set_aside(self.name),
            )
            return
        self._current = _Current(pair, facts_of(pair), stored.metadata)
        order = storage.order(self.name)
        if order is not None and order.url == stored.metadata.order:
            storage.drop_order(self.name)  # the process ended between the two files

    def _plan(self, schedule: Schedule) -> None:
        if schedule == self._schedule:
            return
        self._schedule = schedule
        try:
            self._common.storage.write_schedule(self.name, schedule)
        except AcmeError as error:
            log.error("%s", error)

    # ---- ordering ---------------------------------------------------------------------------

    async def _order(self) -> None:
        error: AcmeError | None = None
        try:
            async with self._common.places:
                self._ordering = True
                await self._attempt()
        except AcmeError as caught:
            error = caught
        except Exception as caught:
            log.error("Ordering the certificate %s failed.", self.name, exc_info=caught)
            error = AcmeError(f"An error in the gateway: {type(caught).__name__}. See its log.")
        finally:
            self._ordering = False
        if error is None:
            self._common.orders["issued"] += 1
            self._plan(plan.succeeded(self._schedule))
            log.info("%s issued the certificate %s.", self.authority.name, self.name)
        else:
            self._common.orders[error.result] += 1
            self._note(error)
        self._tell(error)

    async def _attempt(self) -> None:
        common, replaces = self._common, None
        if self._current is not None and not self._why(common.clock.now()):
            replaces = self._current.facts.renewal_id
        await Attempt(self.wanted, self._client, common).run(replaces)
        self._look()
        if why := self._why(common.clock.now()):
            raise AcmeError(
                f"{self.authority.name} issued the certificate, but {why}. Check the clock of this "
                "machine."
            )

    def _note(self, error: AcmeError) -> None:
        """A failed attempt: plan the next one, and report it."""
        now, facts = self._common.clock.now(), self._facts
        self._plan(plan.failed(self._schedule, str(error), error.retry_after, now))
        retry_at = self._schedule.retry_at
        assert retry_at is not None
        log.warning(
            "The certificate %s could not be ordered. %s The next attempt is at %s.",
            self.name,
            error,
            retry_at.isoformat(timespec="seconds"),
        )
        expires = None if facts is None else facts.not_after
        self._common.events.on_failed(
            Failure(
                self.name,
                self.wanted.hosts,
                str(error),
                self._schedule.failures,
                retry_at,
                expires,
            )
        )

    # ---- callers ----------------------------------------------------------------------------

    def order_now(self) -> asyncio.Future[None]:
        """Order a new certificate now, or join the attempt in progress. The result is when it
        ends; AcmeError if it fails."""
        caller = asyncio.get_running_loop().create_future()
        caller.add_done_callback(_retrieved)
        self._callers.append(caller)
        self._changed.set()
        return caller

    def end(self) -> None:
        """`run` has been cancelled for good: tell those who wait for a certificate."""
        self._tell(AcmeError(f"The certificate {self.name} was changed, or the gateway stops."))

    def _tell(self, error: AcmeError | None) -> None:
        callers, self._callers = self._callers, []
        for caller in callers:
            if caller.done():
                continue
            if error is None:
                caller.set_result(None)
            else:
                caller.set_exception(error)

    # ---- renewal information ----------------------------------------------------------------

    async def _ask(self) -> None:
        facts, clock = self._facts, self._common.clock
        assert facts is not None
        assert facts.renewal_id is not None
        try:
            found = await self._client.call(
                partial(renewal_info.ask, self._client, facts.renewal_id)
            )
        except Refused as error:  # it will not be different in a minute
            log.info("%s", error)
            self._plan(plan.informed(self._schedule, facts, None, error.retry_after, clock.now()))
        except AcmeError as error:
            log.info("%s", error)
            self._plan(plan.not_informed(self._schedule, error.retry_after, clock.now()))
        else:
            if found.explanation and found.window != self._schedule.window:
                log.info("Why the certificate %s is renewed when: %s", self.name, found.explanation)
            self._plan(
                plan.informed(self._schedule, facts, found.window, found.retry_after, clock.now())
            )

    # ---- questions --------------------------------------------------------------------------

    def row(self) -> Row:
        """Its state."""
        facts, schedule, now = self._facts, self._schedule, self._common.clock.now()
        state: State = "missing"
        if facts is not None:
            state = "outdated" if self._why(now) else "valid"
            if facts.not_after <= now:
                state = "expired"
        return Row(
            name=self.name,
            hosts=list(self.wanted.hosts),
            authority=self.authority.name,
            challenge=self.authority.challenge,
            state=state,
            ordering=self._ordering,
            not_before=None if facts is None else facts.not_before,
            not_after=None if facts is None else facts.not_after,
            renews=schedule.renew_at if state == "valid" else None,
            next_attempt=schedule.retry_at,
            failures=schedule.failures,
            error=schedule.error,
            failed=schedule.failed_at,
        )


def _retrieved(caller: asyncio.Future[None]) -> None:
    """Perhaps nobody waits for it, and asyncio reports errors that are never retrieved."""
    if not caller.cancelled():
        caller.exception()
