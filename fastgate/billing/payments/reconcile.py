"""Reconciliation: fetches missed events from the provider's own list.

```
          OVERLAP
        ◀────────▶
────────┬────────┬──────────────────────▶ the provider's time
     asked from  read_to               now → the next read_to, once all that was found is stored
```

Webhooks can be lost: while the gateway or its store is down, or if its address is wrong. So the
list of events is read from where the last reading ended, with an overlap (lists are not in order of
arrival, and clocks differ). New events are handled like those of webhooks; known ones are dropped
by their id. The cursor moves only after all new events were stored.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import msgspec

from fastgate.billing.payments.base import Capability, Clock
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.webhooks_in import Inbox

log = logging.getLogger("fastgate.billing")

OVERLAP = timedelta(hours=1)
FARTHEST = timedelta(days=29)
"""Providers list their events for thirty days."""
FIRST = timedelta(days=3)
"""How far back the first reading of a list goes."""
EVERY = timedelta(minutes=10)


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """The result of reading a provider's list."""

    provider: str
    since: datetime
    found: int
    missed: int
    """Events for which no webhook had arrived."""


class Reconciler:
    """Reads providers' lists of events."""

    def __init__(self, chain: Chain, inbox: Inbox, clock: Clock) -> None:
        self._chain = chain
        self._inbox = inbox
        self._clock = clock

    async def run(self, provider: str, since: datetime | None = None) -> Reconciled:
        """Read the list of one provider, from `since` or from where the last reading ended.

        Raises what the provider raises, and StoreError; then the cursor stays.
        """
        events = self._inbox.events
        started = self._clock()
        if since is None:
            last = await events.read_to(provider)
            since = started - FIRST if last is None else last - OVERLAP
        since = max(since, started - FARTHEST)
        found = await self._chain.call(provider, lambda it: it.reconcile(since))
        fresh = await self._inbox.keep(found, "reconcile")
        await events.set_read_to(provider, started, started)
        if fresh:
            log.info("%s: found %d events for which no webhook had arrived.", provider, len(fresh))
        return Reconciled(provider=provider, since=since, found=len(found), missed=len(fresh))

    async def due(self, every: timedelta = EVERY) -> list[str]:
        """The providers whose list has not been read for this long."""
        now = self._clock()
        found = []
        for provider in self._chain.able(Capability.RECONCILE):
            last = await self._inbox.events.read_to(provider.name)
            if last is None or last <= now - every:
                found.append(provider.name)
        return found
