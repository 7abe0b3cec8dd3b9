"""Reconciliation: what webhooks did not bring, fetched from the provider's own list.

```
          OVERLAP
        ◀────────▶
────────┬────────┬──────────────────────▶ the provider's time
     asked from  read_to               now → the next read_to, once all that was found is kept
```

Webhooks are lost: while the gateway was down, its store away, its address wrong. So the list of
events is read from where it was read to last time, with an overlap (lists are not in order of
arrival, and clocks differ), and what is not known yet goes the way of any webhook. What is known is
dropped by its id. The cursor moves only after everything found was kept.

`Keeper` is the regular round of the payment side: look at the providers, work on events, settle
open charges, read the lists, end grace. Each part by itself: one that fails does not stop the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from fastgate.billing.payments.base import Capability, Clock, PaymentError
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.grace import GraceLedger
from fastgate.billing.payments.usage_export import UsageExport
from fastgate.billing.payments.webhooks_in import Inbox
from fastgate.errors import ConflictError, FastGateError, NotFoundError, StoreError

log = logging.getLogger("fastgate.billing")

OVERLAP = timedelta(hours=1)
FARTHEST = timedelta(days=29)
"""Providers list their events for thirty days."""
FIRST = timedelta(days=3)
"""How far back a gateway looks that has never read the list."""
EVERY = timedelta(minutes=10)
BEAT_S = 10.0
PRUNE_EVERY = timedelta(hours=24)


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a reading of a provider's list came to."""

    provider: str
    since: datetime
    found: int
    missed: int
    """Those that no webhook had brought."""


class Reconciler:
    """Reads providers' lists of events."""

    def __init__(self, chain: Chain, inbox: Inbox, clock: Clock) -> None:
        self._chain = chain
        self._inbox = inbox
        self._clock = clock

    async def run(self, provider: str, since: datetime | None = None) -> Reconciled:
        """Read the list of one provider, from `since` or from where it was read to.

        Raises what the provider raises, and StoreError; then the cursor stays.
        """
        events = self._inbox.events
        started = self._clock()
        if since is None:
            last = await events.read_to(provider)
            since = started - FIRST if last is None else last - OVERLAP
        since = max(since, started - FARTHEST)
        news = await self._chain.call(provider, lambda it: it.reconcile(since))
        fresh = await self._inbox.keep(news, "reconcile")
        await events.set_read_to(provider, started, started)
        if fresh:
            log.info("%s: %d events that no webhook had brought.", provider, len(fresh))
        return Reconciled(provider=provider, since=since, found=len(news), missed=len(fresh))

    async def due(self, every: timedelta = EVERY) -> list[str]:
        """The providers whose list was not read for so long."""
        now = self._clock()
        found = []
        for provider in self._chain.able(Capability.RECONCILE):
            last = await self._inbox.events.read_to(provider.name)
            if last is None or last <= now - every:
                found.append(provider.name)
        return found


class Keeper:
    """The payment side's regular round."""

    def __init__(
        self,
        chain: Chain,
        inbox: Inbox,
        reconciler: Reconciler,
        grace: GraceLedger,
        clock: Clock,
        usage: UsageExport | None = None,
    ) -> None:
        self._chain = chain
        self._inbox = inbox
        self._reconciler = reconciler
        self._grace = grace
        self._clock = clock
        self._usage = usage
        self._pruned: datetime | None = None

    async def beat(self) -> None:
        """One round. Raises StoreError while the store is away, nothing else that is expected."""
        await self._part("Looking at the payment providers", self._chain.look)
        await self._part("Working on payment events", self._work)
        await self._part("Looking up open charges", self._chain.settle)
        await self._part("Reconciling", self._reconcile)
        await self._part("Working on payment events", self._work)
        await self._part("Ending grace", self._grace.sweep)
        if self._usage is not None:
            await self._part("Telling of usage", self._usage.beat)
        now = self._clock()
        if self._pruned is None or now - self._pruned >= PRUNE_EVERY:
            self._pruned = now
            await self._part("Pruning payment events", self._inbox.prune)
            await self._part("Matching credits", self._inbox.applier.match_credits)

    async def _work(self) -> None:
        self._inbox.arrived.clear()
        while await self._inbox.work():
            pass

    async def _reconcile(self) -> None:
        for provider in await self._reconciler.due():
            with suppress(PaymentError):  # it is down, which the breaker tells
                await self._reconciler.run(provider)

    async def _part(self, what: str, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except FastGateError as error:
            if isinstance(error, StoreError) and not isinstance(
                error, ConflictError | NotFoundError
            ):
                raise
            log.warning("%s failed: %s", what, error)

    async def run(self) -> None:
        """Rounds for ever: every ten seconds, and at once when a webhook has arrived."""
        while True:
            try:
                await self.beat()
            except StoreError as error:
                log.debug("The payment side waits for the store: %s", error)
            except Exception:
                log.exception("A round of the payment side failed.")
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._inbox.arrived.wait()
