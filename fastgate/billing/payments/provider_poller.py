"""The periodic work for payment providers.

A round checks the providers, handles their events, settles open charges, reads the lists of events
that are due, ends grace, and exports usage. A part that fails does not stop the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta

from fastgate.billing.payments.base import Clock, PaymentError
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.grace import GraceLedger
from fastgate.billing.payments.reconcile import Reconciler
from fastgate.billing.payments.usage_export import UsageExport
from fastgate.billing.payments.webhooks_in import Inbox
from fastgate.errors import ConflictError, FastGateError, NotFoundError, StoreError

log = logging.getLogger("fastgate.billing")

ROUND_S = 10.0
PRUNE_EVERY = timedelta(hours=24)


class ProviderPoller:
    """Runs the rounds."""

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

    async def poll(self) -> None:
        """One round. Raises StoreError while the store is unavailable."""
        await self._part("Checking the payment providers", self._chain.look)
        await self._part("Working on payment events", self._work)
        await self._part("Looking up open charges", self._chain.settle)
        await self._part("Reconciling", self._reconcile)
        await self._part("Working on payment events", self._work)
        await self._part("Ending grace", self._grace.sweep)
        if self._usage is not None:
            await self._part("Exporting usage", self._usage.step)
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
            with suppress(PaymentError):  # it is down, which the breaker has recorded
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
        """Rounds forever: every ten seconds, and at once when a webhook arrives."""
        while True:
            try:
                await self.poll()
            except StoreError as error:
                log.debug("Payment providers wait for the store: %s", error)
            except Exception:
                log.exception("A round of the payment providers failed.")
            with suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._inbox.arrived.wait()
