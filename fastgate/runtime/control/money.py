"""Billing in the control process: its composition and its background tasks.

::

    before the first publish   caches ─▶ cells seeded, rows set  ─▶ requests can be charged, with
                               all their rules, even without the store
    after it                   pipeline: rings ─▶ ledger           every 50 ms, under load 500
                               subscriptions, dunning, notices …   by the clock
    the store is (back) up     spool replayed, cells compared, rows rewritten
    a worker died              its holds are settled before its records are read

None of this is imported if nothing costs money. The data that requests need is in shared memory: if
this process is killed, requests are still charged, and the next control process continues from the
rings.

`billing` is the API's interface. It belongs to the billing services, which are composed again when
the configuration's `billing` section changes; wallets and pipeline stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.wallet import Accounts, Bill
from fastgate._core.reason import Reason
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.meters import AMOUNT
from fastgate.api.ports import LimitUse
from fastgate.billing.ledger.ledger import Ledger
from fastgate.billing.ledger.names import Names
from fastgate.billing.ledger.pipeline import Pipeline
from fastgate.billing.ledger.spool import Spool
from fastgate.billing.ledger.wallets import Wallets
from fastgate.billing.x402.books import X402Books
from fastgate.billing.x402.claims import FOLDER as CLAIMS
from fastgate.billing.x402.claims import Claims
from fastgate.errors import ConfigurationError, FastGateError, StoreError
from fastgate.identity.identity import Identity
from fastgate.imports import import_late
from fastgate.runtime.control import account_rows
from fastgate.runtime.control.account_rows import AccountRow, AccountRows, RowSubscription
from fastgate.runtime.control.billing_deps import BillingDeps, LimitSources
from fastgate.runtime.control.caps import Caps
from fastgate.runtime.control.publisher import Publisher
from fastgate.runtime.persist import StateDirectory
from fastgate.tasks import keep_running
from fastgate.ticks import next_tick

if TYPE_CHECKING:
    from fastgate.api.billing_api import BillingApi, LimitSubject
    from fastgate.billing.subscriptions.subscriptions import Subscriptions
    from fastgate.model.billing import Billing
    from fastgate.model.gateway import Gateway
    from fastgate.observability.families import Sample
    from fastgate.runtime.control.billing_services import BillingServices
    from fastgate.runtime.control.gauges import Gauges
    from fastgate.store.engine import Store

log = logging.getLogger("fastgate.billing")

LOOK_S = 0.25  # between two checks for accounts without a row, and unsaved rows
PAGE = 500  # subscriptions that are read at once
AGAIN_S = 5.0  # after an unexpected error
LAST_S = 3.0  # for the rest in the rings, at the end


def now_utc() -> datetime:
    """The clock of billing."""
    return datetime.now(UTC)


class MoneySide:
    """Billing in the control process, if a configuration has prices."""

    def __init__(
        self,
        segment: Segment,
        money_map: MoneyMap,
        state: StateDirectory,
        identity: Identity,
        publisher: Publisher,
        limits_of_consumer: Callable[[str, str | None], list[LimitUse]],
    ) -> None:
        self._segment = segment
        self._state = state
        self._identity = identity
        self._publisher = publisher
        self._limits_of_consumer = limits_of_consumer
        self.money_map = money_map
        self.cells = Accounts(segment, money_map)
        self._services: BillingServices | None = None
        self._module: Any = None
        self._monitor_module: Any = None
        self._broken = False  # the services ended with an error
        self._gauges: Gauges | None = None
        self._served = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stale = asyncio.Event()
        self._seen = 0
        self._meters: set[str] = set()
        self._updating = asyncio.Lock()
        self._updated: set[str] = set()  # accounts, since the last refresh began

    # ---- life ---------------------------------------------------------------------------

    async def begin(self, store: Store, gateway: Gateway) -> None:
        """Called before the first publish. On return, requests can be charged if the caches have
        their accounts. `gateway`: the configuration that will be published. Raises OSError."""
        self._learn_meters(gateway)
        path = self._state.path
        self.ledger = Ledger(store, now_utc)
        self.spool = Spool(path / "usage.spool")
        self.x402 = X402Books(Claims(path / CLAIMS, time.time), store, now_utc)
        self.wallets = Wallets(
            self.cells,
            self.ledger,
            now_utc,
            cache=path / "accounts.cache",
            unknown=int(Reason.ACCOUNT_NOT_LOADED),
        )
        self.names = self._names()
        self.pipeline = Pipeline(self.money_map, self.wallets, self.names, self.spool)
        self.rows = AccountRows(
            self.cells,
            self.wallets.accounts,
            lambda: self._publisher.slots,
            path / account_rows.FILE,
            lambda: self.caps.known,
        )
        self.rows.load()
        self.caps = Caps(self._segment, store, self._state, now_utc, self._cap_changed)
        self.caps.load_file()
        self.caps.configure(gateway.billing.spending)
        self._identity.directory.cap = self.caps.cap
        await self.pipeline.begin()
        store.on_ready.append(self._store_is_back)
        self._identity.directory.pay_from(self.wallets.accounts())
        self._seen = len(self.wallets.accounts())
        self._publisher.checks.append(self._check)
        self._publisher.before_served.append(self._before_served)
        self._publisher.on_served.append(self._on_served)

    @property
    def billing(self) -> BillingApi | None:
        """The API's interface to billing; None before the first configuration is served."""
        return self._services.api if self._services is not None else None

    def _names(self) -> Names:
        directory, publisher = self._identity.directory, self._publisher
        return Names(
            consumers=lambda: directory.parties,
            credentials=lambda: (key.id for key in directory.keys.values()),
            routes=lambda: publisher.slots.ever("routes"),
            services=lambda: publisher.slots.ever("services"),
            plans=lambda: publisher.slots.ever("plans"),
            meters=lambda: self._meters | {AMOUNT},
        )

    def _learn_meters(self, gateway: Gateway) -> None:
        """Add the names of its meters; those of earlier ones stay, for records in the rings."""
        for plan in gateway.plans:
            if plan.price is not None:
                self._meters.update(unit.meter for unit in plan.price.per_unit)

    def start(self) -> None:
        """Called after the first publish: start all background tasks."""
        for what, work in (
            ("the usage pipeline", self._pipe),
            ("account rows", self._look),
            ("subscriptions in account rows", self._refresh),
            ("billing", self._keep_services),
            ("gauges of money", self._gauge),
            ("payments with x402", self.x402.run),
        ):
            self._tasks.append(asyncio.ensure_future(keep_running(what, work, log)))

    async def _gauge(self) -> None:
        module: Any = await import_late("fastgate.runtime.control.gauges")
        self._gauges = module.Gauges(self.money_map, self.pipeline, lambda: self.billing, now_utc)
        await self._gauges.run()

    def samples(self) -> Iterable[Sample]:
        """The metrics of billing."""
        return self._gauges.samples() if self._gauges is not None else ()

    async def _pipe(self) -> None:
        # Dead workers' holds come first, because this is not repeated for them.
        for worker in range(self._segment.workers):
            await self.worker_died(worker)
        await self.pipeline.run()

    async def end(self) -> None:
        """Called at the end, when all workers have ended: process the rest in the rings."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_S):
                await self.pipeline.close()
        except TimeoutError:
            log.warning("The last usage stays in shared memory; the next start will process it.")
        except (OSError, StoreError) as error:
            log.error("The last usage stays in shared memory: %s", error)
        self.rows.close()

    async def worker_died(self, worker: int) -> None:
        """Settle the requests that were in progress when a worker died."""
        try:
            await self.pipeline.worker_died(worker)
        except (OSError, StoreError) as error:
            log.error("The holds of worker %d are settled; their usage waits: %s", worker, error)

    # ---- accounts -----------------------------------------------------------------------

    async def open_account(self, account: str) -> None:
        """Give an account its row in shared memory, and update the row and its consumers. Raises
        StoreError."""
        fresh = self.wallets.slot(account) is None
        await self.wallets.ensure(account)
        if not fresh and account in self.rows:
            return
        self._pay()
        if self._services is not None and self.caps.known:
            await self._update_row(self._services.subscriptions, account)
        else:
            self._stale.set()

    def _pay(self) -> None:
        self._seen = len(self.wallets.accounts())
        self._identity.directory.pay_from(self.wallets.accounts())
        self.rows.rewrite()

    async def _look(self) -> None:
        """Add accounts that were not created through this API, but by another gateway."""
        while True:
            await next_tick(LOOK_S)
            if len(self.wallets.accounts()) != self._seen:
                self._pay()
                if any(account not in self.rows for account in self.wallets.accounts()):
                    self._stale.set()
            for account in self._identity.directory.without_slot():
                with contextlib.suppress(FastGateError):
                    await self.open_account(account)

    async def _store_is_back(self) -> None:
        self._stale.set()

    def _before_served(self) -> None:
        """A new configuration: slots may have other names, and limits may have changed."""
        self._learn_meters(self._gateway())
        self.names.changed()
        if self.caps.configure(self._gateway().billing.spending):
            self._identity.directory.recap()
        self.rows.relimit(self._limits_of_account)

    def _on_served(self) -> None:
        """A new configuration is served: the rules of billing may have changed."""
        self._served.set()
        self._stale.set()

    # ---- billing services -----------------------------------------------------------------

    def _gateway(self) -> Gateway:
        gateway = self._publisher.gateway
        assert gateway is not None, "money comes after the first publish"
        return gateway

    def _deps(self) -> BillingDeps:
        return BillingDeps(
            money_map=self.money_map,
            store=self.ledger.store,
            ledger=self.ledger,
            wallets=self.wallets,
            pipeline=self.pipeline,
            clock=now_utc,
            gateway=self._gateway,
            open_account=self.open_account,
            entries_changed=self._update_row,
            caps=self.caps,
        )

    def _check(self, gateway: Gateway) -> None:
        """Refuse a reload if its payment providers cannot be created. (A start does not wait for
        their packages: errors are then logged.)"""
        if self._services is not None and self._services.billing != gateway.billing:
            self._module.providers_of(self._deps(), gateway.billing)

    async def _keep_services(self) -> None:
        """Compose the services after each publish that changes billing, and keep them running."""
        self._module, self._monitor_module = (
            await import_late("fastgate.runtime.control.billing_services"),
            await import_late("fastgate.runtime.control.balance_monitor"),
        )
        working: asyncio.Task[None] | None = None
        self._served.set()
        try:
            while True:
                await self._served.wait()
                self._served.clear()
                billing = self._gateway().billing
                if self._services is None or self._services.billing != billing or self._broken:
                    self._broken = False
                    if working is not None:
                        working.cancel()
                        await asyncio.gather(working, return_exceptions=True)
                    self._services = self._make_services(billing)
                    working = asyncio.ensure_future(self._work(self._services))
                self._stale.set()
        finally:
            if working is not None:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

    def _make_services(self, billing: Billing) -> BillingServices:
        deps = self._deps()
        try:
            providers = self._module.providers_of(deps, billing)
        except ConfigurationError as error:
            log.error("%s; payments through it are disabled until this is fixed", error)
            manual = msgspec.structs.replace(billing, providers=["manual"])
            providers = self._module.providers_of(deps, manual)
        services: BillingServices = self._module.BillingServices(deps, billing, providers)
        return services

    async def _work(self, services: BillingServices) -> None:
        """Run until cancelled. After an error, new services are composed; requests are still
        charged."""
        monitor = self._monitor_module.BalanceMonitor(
            services, self._segment, self._limit_sources()
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(services.run())
                group.create_task(monitor.run())
        except Exception:
            log.exception("Billing ended by an error; it starts again in %.0f s.", AGAIN_S)
            await asyncio.sleep(AGAIN_S)
            self._broken = True
            self._served.set()

    def _limit_sources(self) -> LimitSources:
        directory = self._identity.directory
        return LimitSources(
            consumers=lambda: [party.record for party in directory.parties.values()],
            of=self._limits_of_consumer,
            rows=self.rows,
        )

    # ---- subscriptions --------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Update the rows of all accounts from the store, whenever they may have changed."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._refresh_all()
            except StoreError as error:  # the event is set again when the store is back
                log.info("Account rows wait for the store: %s", error)

    async def _refresh_all(self) -> None:
        if self._services is None or not self.ledger.store.ready:
            return
        self._updated.clear()
        await self.caps.load()
        self.names.changed()
        subscriptions = self._services.subscriptions
        subscribed: set[str] = set()
        cursor: str | None = None
        while True:
            page = await subscriptions.page(cursor=cursor, limit=PAGE)
            subscribed.update(one.account for one in page.items)
            cursor = page.next
            if cursor is None:
                break
        for account in subscribed:
            await self._update_row(subscriptions, account)
        for account in self.wallets.accounts().keys() - subscribed:
            if account not in self._updated:  # otherwise it has subscribed in between
                self.rows.put(account, AccountRow(limits=self._limits_of_account(account)))

    async def _update_row(self, subscriptions: Subscriptions, account: str) -> None:
        """Read an account's subscriptions and write its row. One at a time, so that an older read
        never overwrites a newer one."""
        async with self._updating:
            entries = await subscriptions.entries(account)
            held = [
                RowSubscription(
                    entry.service or "",
                    entry.plan,
                    entry.reason.number if entry.reason else 0,
                    int(entry.ended.timestamp()) if entry.ended is not None else 0,
                )
                for entry in entries
            ]
            bill = None
            for refused in (entry for entry in entries if entry.reason is not None):
                for one in (await subscriptions.invoices.open_of(refused.subscription))[:1]:
                    due = int(one.due.timestamp())
                    bill = bill or Bill(one.number, one.total, one.currency, due)
            self._updated.add(account)
            limits = self._limits_of_account(account)
            self.rows.put(account, AccountRow(subscriptions=held, limits=limits, bill=bill))

    def _limits_of_account(self, account: str) -> list[tuple[int, str]]:
        limit = self.caps.of("account", account)
        return [] if limit is None else [limit]

    def _cap_changed(self, kind: LimitSubject, subject: str) -> None:
        """A spending limit has changed: apply it from the next request on."""
        if kind == "account":
            if subject in self.rows:
                row = self.rows.get(subject)
                limits = self._limits_of_account(subject)
                self.rows.put(subject, msgspec.structs.replace(row, limits=limits))
        elif kind == "consumer":
            self._identity.directory.recap(consumer=subject)
        else:
            self._identity.directory.recap(credential=subject)
