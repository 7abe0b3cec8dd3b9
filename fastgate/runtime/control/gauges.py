"""Gauges of money: what Prometheus sees of holds, usage, the ledger and payment providers.

Shared memory and the pipeline are read for each request. Values that need the store (whether cells
and ledger agree, how long providers' events wait) are read periodically, and the last value is
shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime

from fastgate._core.money.money_map import MoneyMap
from fastgate.api.billing_api import BillingApi
from fastgate.billing.ledger.pipeline import Pipeline
from fastgate.billing.payments.breaker import State
from fastgate.billing.payments.webhooks_in import lag
from fastgate.errors import StoreError
from fastgate.observability.families import Family, Sample
from fastgate.observability.metrics import escape
from fastgate.store.payment_events import Backlog
from fastgate.ticks import next_tick

log = logging.getLogger("fastgate.billing")

LOOK_S = 30.0
ATTEMPTS = 5  # of wallets that change, or seem to differ

HOLDS = Family("fastgate_holds_open", "gauge", "Requests that hold money now.")
REFUSED = Family(
    "fastgate_holds_refused_total", "counter", "Holds refused because a worker's table was full."
)
PUBLISHED = Family("fastgate_usage_records_total", "counter", "Usage records that workers wrote.")
WAITING = Family(
    "fastgate_usage_waiting", "gauge", "Usage records in shared memory that are not processed yet."
)
DROPPED = Family(
    "fastgate_usage_dropped_total",
    "counter",
    "Records of requests that cost nothing, left out because a ring was full.",
)
SPOOLED = Family(
    "fastgate_usage_spool_records", "gauge", "Usage records that wait on disk for the store."
)
STUCK = Family("fastgate_usage_stuck", "gauge", "1 while usage cannot be written at all.")
RECOVERED = Family(
    "fastgate_holds_recovered_total", "counter", "Holds settled for workers that died."
)
DRIFT = Family(
    "fastgate_ledger_drift_micros",
    "gauge",
    "Micro-units by which wallets in shared memory and the ledger differ; 0 if they agree.",
)
WALLETS = Family("fastgate_wallets", "gauge", "Wallets in shared memory.")
UP = Family("fastgate_payment_provider_up", "gauge", "1 while a payment provider answers, else 0.")
NEWS = Family(
    "fastgate_payment_events_waiting", "gauge", "Events of payment providers not applied yet."
)
LAG = Family(
    "fastgate_payment_events_lag_seconds", "gauge", "How long the oldest of them has been waiting."
)
OUTBOX = Family("fastgate_notices", "gauge", "Notices in the outbox, by state.")

MONEY_FAMILIES = (
    HOLDS,
    REFUSED,
    PUBLISHED,
    WAITING,
    DROPPED,
    SPOOLED,
    STUCK,
    RECOVERED,
    DRIFT,
    WALLETS,
    UP,
    NEWS,
    LAG,
    OUTBOX,
)


class Gauges:
    """Samples of one gateway's billing."""

    def __init__(
        self,
        money_map: MoneyMap,
        pipeline: Pipeline,
        billing: Callable[[], BillingApi | None],
        clock: Callable[[], datetime],
    ) -> None:
        self._money_map = money_map
        self._pipeline = pipeline
        self._billing = billing
        self._clock = clock
        self._drift: int | None = None
        self._backlog: dict[str, Backlog] = {}
        self._notices: dict[str, int] = {}

    async def run(self) -> None:
        """Read the values that need the store, until cancelled."""
        while True:
            await next_tick(LOOK_S)
            try:
                await self.look()
            except StoreError as error:
                log.debug("Gauges wait for the store: %s", error)

    async def look(self) -> None:
        """Read them once. Raises StoreError."""
        billing = self._billing()
        if billing is None or not billing.ledger.store.ready:
            return
        self._backlog = await billing.inbox.backlog()
        self._notices = await billing.outbox.counts()
        before, self._drift = self._drift, await self.drift()
        if self._drift and not before:
            log.error(
                "Wallets and ledger differ by %d micro-units; see `fastgate ledger audit`.",
                self._drift,
            )

    async def drift(self) -> int:
        """Micro-units by which cells and ledger differ. It looks several times: a difference that
        is due to a change between two reads disappears."""
        pipeline, drift = self._pipeline, 0
        async with pipeline.lock, pipeline.wallets.lock:
            for _ in range(ATTEMPTS):
                live, drift = pipeline.live(), 0
                for wallet in await pipeline.wallets.ledger.all_wallets():
                    key = (wallet.account, wallet.currency)
                    if key in live.cells and key not in live.moving:
                        under_way = live.waiting.get(key, 0) + live.held.get(key, 0)
                        drift += abs(live.cells[key] - wallet.spendable + under_way)
                if not drift:
                    break
        return drift

    def samples(self) -> Iterator[Sample]:
        """The current samples."""
        workers = range(self._money_map.workers)
        states = [self._money_map.state(worker) for worker in workers]
        for worker in workers:
            held = sum(1 for hold in self._money_map.open_holds(worker) if hold.taken)
            yield Sample(HOLDS, f'worker="{worker}"', held)
        for family, numbers in (
            (REFUSED, [state.refused for state in states]),
            (PUBLISHED, [state.published for state in states]),
            (WAITING, [state.published - state.committed for state in states]),
            (DROPPED, [state.dropped for state in states]),
        ):
            for worker, number in enumerate(numbers):
                yield Sample(family, f'worker="{worker}"', number)
        yield Sample(SPOOLED, "", self._pipeline.spool.records)
        yield Sample(STUCK, "", int(self._pipeline.problem is not None))
        yield Sample(RECOVERED, "", self._pipeline.counts.recovered)
        if self._drift is not None:
            yield Sample(DRIFT, "", self._drift)
        yield Sample(WALLETS, "", len(self._pipeline.wallets.cell_balances()))
        yield from self._of_providers()
        for state, count in sorted(self._notices.items()):
            yield Sample(OUTBOX, f'state="{escape(state)}"', count)

    def _of_providers(self) -> Iterator[Sample]:
        billing = self._billing()
        states = billing.providers.states() if billing is not None else []
        for state in states:
            up = int(state.state is not State.OPEN)
            yield Sample(UP, f'provider="{escape(state.name)}"', up)
        now = self._clock()
        for name, backlog in sorted(self._backlog.items()):
            yield Sample(NEWS, f'provider="{escape(name)}"', backlog.waiting)
        for name, backlog in sorted(self._backlog.items()):
            seconds = int(lag(backlog, now).total_seconds())
            yield Sample(LAG, f'provider="{escape(name)}"', seconds)
