"""The money side of a gateway for tests of the API: real cells, ledger, store and billing, without
processes. The payment provider is the manual one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastgate._core.exchange.dry_run import Outcome
from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.wallet import Accounts
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.billing.diagnosis.evidence import DryRunQuery
from fastgate.billing.diagnosis.sources import MoneySources, Sources
from fastgate.billing.ledger.ledger import Ledger
from fastgate.billing.ledger.names import Names
from fastgate.billing.ledger.pipeline import Pipeline
from fastgate.billing.ledger.spool import Spool
from fastgate.billing.ledger.wallets import Wallets
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.runtime.control.billing_deps import BillingDeps
from fastgate.runtime.control.billing_services import BillingServices, providers_of
from fastgate.runtime.control.caps import Caps
from fastgate.runtime.control.dry_runs import DryRuns
from fastgate.runtime.persist import StateDirectory


def now() -> datetime:
    return datetime.now(UTC)


class ComposedBilling:
    """A composition of the money side on a world of the API's tests."""

    def __init__(self, world: Any, state: Path) -> None:
        self.world = world
        self.segment = Segment.create(
            1, limiter_cells=64, quota_cells=64, targets=8, route_rows=4, accounts=64
        )
        self.money = MoneyMap.create(None, 1, holds=64, ring=64)
        self.money.bind(self.segment)
        self.money.begin(0)
        store = world.store
        ledger = Ledger(store, now)
        self.wallets = Wallets(Accounts(self.segment, self.money), ledger, now)
        directory = world.identity.directory
        names = Names(
            consumers=lambda: directory.parties,
            credentials=lambda: (key.id for key in directory.keys.values()),
            routes=lambda: {"read": 0},
            services=lambda: {"orders": 0},
            plans=lambda: {"free": 0, "gold": 1},
            meters=list,
        )
        self.pipeline = Pipeline(self.money, self.wallets, names, Spool(state / "usage.spool"))
        self.changed: list[str] = []
        self.capped: list[tuple[str, str]] = []
        caps = Caps(
            self.segment,
            store,
            StateDirectory(state),
            now,
            lambda kind, subject: self.capped.append((kind, subject)),
        )
        deps = BillingDeps(
            money_map=self.money,
            store=store,
            ledger=ledger,
            wallets=self.wallets,
            pipeline=self.pipeline,
            clock=now,
            gateway=lambda: world.control.gateway,
            open_account=self._open,
            entries_changed=self._entries_changed,
            caps=caps,
        )
        billing = world.control.gateway.billing
        self.services = BillingServices(deps, billing, providers_of(deps, billing))

    async def _open(self, account: str) -> None:
        await self.wallets.ensure(account)

    def decide(self, asked: DryRunQuery) -> Outcome | None:
        """What a worker would do with the configuration that is served."""
        slots = SlotBook()
        image = compile_gateway(self.world.control.gateway, generation=1, slots=slots, addresses={})
        snapshot = Snapshot(image.fd)
        os.close(image.fd)
        directory = self.world.identity.directory
        directory.set_slots(slots.plans)
        directory.pay_from(dict(self.wallets.accounts()))
        return DryRuns(self.segment, self.money, directory, lambda: snapshot).decide(asked)

    async def _entries_changed(self, subscriptions: Subscriptions, account: str) -> None:
        self.changed.append(account)

    def use(self, account: str, micros: int) -> None:
        """A request of the account's that cost so much."""
        slot = self.wallets.slot(account)
        assert slot is not None
        hold = self.money.hold(0, slot, micros, route=0)
        assert hold is not None
        hold.capture(micros, now_ns=int(now().timestamp()) * 1_000_000_000)

    async def settle(self) -> None:
        """Everything used is in the ledger."""
        while await self.pipeline.step():
            pass


@asynccontextmanager
async def with_billing(world: Any, state: Path) -> AsyncIterator[ComposedBilling]:
    """The world with money, as its control process would have it."""
    made = ComposedBilling(world, state)
    await made.pipeline.begin()
    await made.pipeline.step()
    billing = made.services.api
    control = world.control
    control.billing = billing
    control.evidence = lambda: Sources(
        world.identity.directory,
        lambda: control.gateway,
        made.decide,
        MoneySources(
            subscriptions=billing.subscriptions,
            invoices=billing.invoices,
            providers=billing.providers,
            account=world.identity.parties.account,
            clock=now,
        ),
    )
    yield made
    await made.pipeline.close()
    await made.services.chain.close()
