"""Sources: the evidence of a diagnosis, from the gateway's own parts.

Reads the directory of callers, the configuration that is served and the data plane's decision; and
from the store, accounts, subscriptions and invoices. If billing is off (`money` is None), those are
empty and their checks are skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from fastgate._core.exchange.dry_run import Outcome
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.diagnosis.evidence import (
    AccountFacts,
    ConsumerFacts,
    DryRunQuery,
    InvoiceFacts,
    KeyFacts,
    ProviderFacts,
    RouteFacts,
    SubscriptionFacts,
    route_facts,
)
from fastgate.billing.invoices.invoices import Invoices
from fastgate.billing.payments.base import Capability, Clock
from fastgate.billing.payments.breaker import State
from fastgate.billing.payments.chain import Chain
from fastgate.billing.subscriptions.lifecycle import ACCESS, settled
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.billing.x402.refused_payments import RefusedPayment, RefusedPayments
from fastgate.errors import NotFoundError
from fastgate.identity.directory import Directory
from fastgate.model.gateway import Gateway
from fastgate.store.cache import ConsumerRecord


class Named(Protocol):
    """An account in the store."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class MoneySources:
    """The control process's interface to billing."""

    subscriptions: Subscriptions
    invoices: Invoices
    providers: Chain
    account: Callable[[str], Awaitable[Named]]
    """By id; raises NotFoundError, StoreError."""
    clock: Clock


class Sources:
    """`Evidence` from the parts of a running gateway. Used on the control process's event loop."""

    def __init__(
        self,
        directory: Directory,
        gateway: Callable[[], Gateway],
        decide: Callable[[DryRunQuery], Outcome | None],
        money: MoneySources | None = None,
        refused: RefusedPayments | None = None,
    ) -> None:
        """`decide`: the data plane's decision. `refused`: notes about payments that workers
        refused."""
        self._directory = directory
        self._gateway = gateway
        self._decide = decide
        self._money = money
        self._refused = refused

    # ---- callers ------------------------------------------------------------------------

    def key(self, digest: bytes) -> KeyFacts | None:
        found = self._directory.keys.get(digest)
        if found is None:
            return None
        return KeyFacts(
            id=found.id,
            consumer=found.consumer,
            expires_at=found.expires_at,
            revoked_at=found.revoked_at,
        )

    def consumer(self, ident: str) -> ConsumerFacts | None:
        parties = self._directory.parties
        party = parties.get(ident)
        if party is None:
            party = next((one for one in parties.values() if one.record.name == ident), None)
        return None if party is None else _consumer(party.record)

    def consumer_by_hash(self, identity: int) -> ConsumerFacts | None:
        for ident, party in self._directory.parties.items():
            if stable_hash(ident) == identity:
                return _consumer(party.record)
        return None

    # ---- configuration and shared memory ------------------------------------------------

    def plans(self) -> frozenset[str]:
        return frozenset(plan.name for plan in self._gateway().plans)

    def currency(self) -> str:
        return self._gateway().billing.currency

    def route(self, name: str, service: str | None = None) -> RouteFacts | None:
        return route_facts(self._gateway(), name, service)

    def decide(self, asked: DryRunQuery) -> Outcome | None:
        return self._decide(asked)

    def providers(self) -> list[ProviderFacts]:
        if self._money is None:
            return []
        return [
            ProviderFacts(
                name=state.name,
                up=state.state is State.CLOSED,
                charges=Capability.SAVED_METHODS
                in self._money.providers.provider(state.name).capabilities,
                error=state.error,
                retry_at=state.retry_at,
            )
            for state in self._money.providers.states()
        ]

    def refused_payment(self, request: str) -> RefusedPayment | None:
        return None if self._refused is None else self._refused.get(request)

    # ---- the store ----------------------------------------------------------------------

    async def account(self, ident: str) -> AccountFacts | None:
        if self._money is None:
            return None
        try:
            found = await self._money.account(ident)
        except NotFoundError:
            return None
        return AccountFacts(id=found.id, name=found.name)

    async def subscriptions(self, account: str) -> list[SubscriptionFacts]:
        if self._money is None:
            return []
        now = self._money.clock()
        found = []
        entries = await self._money.subscriptions.entries(account)
        reasons = {entry.subscription: entry.reason for entry in entries}
        for one in await self._money.subscriptions.of_account(account):
            current, refused = settled(one, now), reasons.get(one.id)
            until = ACCESS[current.state].until
            found.append(
                SubscriptionFacts(
                    id=one.id,
                    plan=one.plan,
                    service=one.service,
                    state=current.state.value,
                    refused=refused.code if refused is not None else None,
                    until=getattr(current, until) if until is not None else None,
                )
            )
        return found

    async def invoices(self, account: str) -> list[InvoiceFacts]:
        if self._money is None:
            return []
        found = []
        for subscription in await self._money.subscriptions.of_account(account):
            for one in await self._money.invoices.open_of(subscription.id):
                found.append(
                    InvoiceFacts(
                        number=one.number,
                        subscription=one.subscription,
                        micros=one.total,
                        currency=one.currency,
                        due=one.due,
                    )
                )
        return found


def _consumer(record: ConsumerRecord) -> ConsumerFacts:
    return ConsumerFacts(
        id=record.id,
        name=record.name,
        account=record.account,
        plan=record.plan,
        suspended=record.suspended,
    )
