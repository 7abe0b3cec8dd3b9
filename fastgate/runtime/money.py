"""The money side of the control process: its composition, and the tasks that keep it going.

::

    before the first publish   caches ─▶ cells seeded ─▶ requests can be charged, store or not
    after it                   pipeline: rings ─▶ ledger           every 50 ms
                               subscriptions, dunning, notices …   by the clock
    the store comes (back)     spool replayed, cells compared, rows written anew
    a worker died              its holds are settled, before anything else of its is read

Nothing of it is imported where nothing costs money. What a request needs of it lies in shared
memory; when this process is killed, requests are charged all the same, and its successor goes on
from the rings.

`desk` is what the API speaks to. It is composed anew when the configuration's `billing` section
changes; wallets and pipeline stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastgate._core.money import Money
from fastgate._core.shm import Segment
from fastgate._core.wallet import Accounts
from fastgate.billing.ledger import Ledger
from fastgate.billing.names import Names
from fastgate.billing.pipeline import Pipeline
from fastgate.billing.spool import Spool
from fastgate.billing.wallets import Wallets
from fastgate.errors import FastGateError, StoreError
from fastgate.identity import Identity
from fastgate.runtime.persist import StateDirectory
from fastgate.runtime.publisher import Publisher
from fastgate.runtime.rows import Rows

if TYPE_CHECKING:
    from fastgate.store.engine import Store

log = logging.getLogger("fastgate.billing")

LOOK_S = 0.25  # between two looks for accounts that have no row yet, and unsaved rows
LAST_S = 3.0  # for what is left in the rings, at the end


def now_utc() -> datetime:
    """The clock of everything that has to do with money here."""
    return datetime.now(UTC)


class MoneySide:
    """Everything of control that has to do with money, once a configuration has prices."""

    def __init__(
        self,
        segment: Segment,
        money: Money,
        state: StateDirectory,
        identity: Identity,
        publisher: Publisher,
    ) -> None:
        self._segment = segment
        self._state = state
        self._identity = identity
        self._publisher = publisher
        self.money = money
        self.cells = Accounts(segment, money)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seen = 0

    # ---- life ---------------------------------------------------------------------------

    async def begin(self, store: Store) -> None:
        """Before the first publish: requests can be charged when this returns, as far as the
        caches know their accounts. Raises OSError."""
        path = self._state.path
        self.ledger = Ledger(store, now_utc)
        self.spool = Spool(path / "usage.spool")
        self.wallets = Wallets(self.cells, self.ledger, now_utc, cache=path / "accounts.cache")
        self.names = self._names()
        self.pipeline = Pipeline(self.money, self.wallets, self.names, self.spool)
        self.rows = Rows(
            self.cells, self.wallets.accounts, lambda: self._publisher.slots, self._state
        )
        self.rows.load()
        await self.pipeline.begin()
        self._identity.directory.pay_from(self.wallets.accounts())
        self._seen = len(self.wallets.accounts())
        self._publisher.on_served.append(self._on_served)

    def _names(self) -> Names:
        directory, publisher = self._identity.directory, self._publisher
        return Names(
            consumers=lambda: directory.parties,
            credentials=lambda: (key.id for key in directory.keys.values()),
            routes=lambda: publisher.slots.routes,
            services=lambda: publisher.slots.services,
            plans=lambda: publisher.slots.plans,
        )

    async def run(self) -> None:
        """Until cancelled. Dead workers' holds come first: nobody else asks for them again."""
        for worker in range(self._segment.workers):
            await self.worker_died(worker)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pipeline.run(), name="pipeline")
            group.create_task(self._look(), name="account rows")

    async def end(self) -> None:
        """At the end, when no worker is left: take over what the rings still have."""
        try:
            async with asyncio.timeout(LAST_S):
                await self.pipeline.close()
        except TimeoutError:
            log.warning("The last usage stays in shared memory; the next start takes it over.")
        except (OSError, StoreError) as error:
            log.error("The last usage stays in shared memory: %s", error)
        self.rows.save()

    async def worker_died(self, worker: int) -> None:
        """Settle what a worker had under way when it died."""
        try:
            await self.pipeline.worker_died(worker)
        except (OSError, StoreError) as error:
            log.error("The holds of worker %d are settled; their usage waits: %s", worker, error)

    # ---- accounts -----------------------------------------------------------------------

    async def open_account(self, account: str) -> None:
        """Give an account its row in shared memory, and tell its consumers. Raises StoreError."""
        await self.wallets.ensure(account)
        self._pay()

    def _pay(self) -> None:
        self._seen = len(self.wallets.accounts())
        self._identity.directory.pay_from(self.wallets.accounts())
        self.rows.rewrite()

    async def _look(self) -> None:
        """Accounts that came by another way than the API: the store's, another gateway's."""
        while True:
            await asyncio.sleep(LOOK_S)
            if len(self.wallets.accounts()) != self._seen:
                self._pay()
            for account in self._identity.directory.without_slot():
                with contextlib.suppress(FastGateError):
                    await self.open_account(account)
            await asyncio.to_thread(self.rows.save)

    def _on_served(self) -> None:
        """Another configuration: slots stand for other names."""
        self.names.changed()
        self.rows.rewrite()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
