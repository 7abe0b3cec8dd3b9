"""Exports usage to payment providers that bill for it: each unit once. No request waits for it.

Enforcement and charging are local; this is for a provider that keeps its own books of usage
(Stripe's meters). Usage is exported by account and UTC day, as the increase since the last export:

    daily totals ── more than exported? ──▶ row: sending n, number k ──▶ provider
                                                                            └──▶ row: n exported

The row is committed before anything is sent. `k` is part of the identifier by which the provider
detects a copy, so after a kill in between the same report is sent again. Providers remember
identifiers for a day. A report whose outcome is unknown for longer than `IN_DOUBT` counts as
exported, so nothing is ever billed twice. If the first report was refused, or never sent, its
outcome is known: the units are new again.

Only accounts that are customers of the provider are exported, from the day on which the export was
set up. A day is exported for as long as providers accept it (`FARTHEST`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import msgspec

from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.payments.base import (
    Capability,
    Clock,
    ProviderRefused,
    ProviderUnavailable,
)
from fastgate.billing.payments.chain import Chain
from fastgate.store import usage_exports
from fastgate.store.engine import Store
from fastgate.store.usage_exports import REQUESTS, Export

log = logging.getLogger("fastgate.billing")

EVERY = timedelta(minutes=10)
FARTHEST = timedelta(days=34)
IN_DOUBT = timedelta(hours=20)


class UsageExport:
    """`events`: by provider, its name for each meter (`requests`: the requests themselves)."""

    def __init__(
        self, store: Store, chain: Chain, clock: Clock, events: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._store = store
        self._chain = chain
        self._clock = clock
        self._events = events
        self._last: datetime | None = None

    async def step(self) -> None:
        """`run`, if the last one is long enough ago. Raises StoreError."""
        now = self._clock()
        if self._last is None or now - self._last >= EVERY:
            self._last = now
            await self.run()

    async def run(self) -> int:
        """Report new usage. Returns how many reports were accepted. Raises StoreError."""
        taken = 0
        for provider in self._chain.able(Capability.USAGE):
            for meter, event in self._events.get(provider.name, {}).items():
                try:
                    taken += await self._meter(provider.name, meter, event)
                except ProviderUnavailable as error:
                    log.info("Usage waits for %s: %s", provider.name, error)
                    break
        return taken

    async def _meter(self, provider: str, meter: str, event: str) -> int:
        now = self._clock()
        first = Export(
            provider=provider, event=event, account="", day=now.astimezone(UTC).date(), since=now
        )
        async with self._store.write() as connection:
            begun = await usage_exports.begun(connection, first)
        since = max(begun, (now - FARTHEST).date())
        async with self._store.read() as connection:
            kept = "" if meter == "requests" else meter
            used = await usage_exports.used(connection, provider, kept or REQUESTS, since)
            told = await usage_exports.exports(connection, provider, event, since)
        taken, refused = 0, list[ProviderRefused]()
        for account, day, units in used:
            nothing = msgspec.structs.replace(first, account=account, day=day)
            try:
                taken += await self._day(told.get((account, day), nothing), units)
            except ProviderRefused as error:
                refused.append(error)
        if refused:
            what = (provider, len(refused), meter, refused[-1])
            log.warning("%s refused %d reports of %s; the last error: %s", *what)
        return taken

    async def _day(self, row: Export, units: int) -> int:
        """Report the new usage of one account and day. Returns how many reports were accepted."""
        taken = 0
        if row.sending:
            row, taken = await self._again(row), 1
        if units > row.told:
            now = self._clock()
            row = msgspec.structs.replace(
                row, sending=units - row.told, number=row.number + 1, since=now
            )
            await self._put(row)
            try:
                await self._send(row)
            except (ProviderRefused, ProviderUnavailable) as error:
                if isinstance(error, ProviderRefused) or not error.sent:
                    await self._put(msgspec.structs.replace(row, sending=0))
                raise
            taken += 1
        return taken

    async def _again(self, row: Export) -> Export:
        """Handle a report that was in progress at a kill, or had no answer."""
        if self._clock() - row.since < IN_DOUBT:
            return await self._send(row)
        log.warning(
            "Whether %s knows of %d units of %s (%s, %s) is unknown; they are not reported again.",
            row.provider, row.sending, row.event, row.account, row.day,
        )  # fmt: skip
        return await self._exported(row)

    async def _send(self, row: Export) -> Export:
        event = f"{stable_hash(row.event):016x}"
        identifier = f"fg-{row.account}-{row.day:%Y%m%d}-{row.number}-{event}"
        at = min(self._clock(), end_of(row.day))
        await self._chain.call(
            row.provider,
            lambda it: it.report_usage(row.account, row.event, row.sending, at, identifier),
        )
        return await self._exported(row)

    async def _exported(self, row: Export) -> Export:
        done = msgspec.structs.replace(row, told=row.told + row.sending, sending=0)
        await self._put(done)
        return done

    async def _put(self, row: Export) -> None:
        async with self._store.write() as connection:
            await usage_exports.put(connection, row)


def end_of(day: date) -> datetime:
    """The last second of a UTC day, so that usage falls into the right period."""
    return datetime.combine(day, time(23, 59, 59), UTC)
