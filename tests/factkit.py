"""Evidence as plain values, for diagnoses and pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
)
from fastgate.billing.x402.refused_payments import RefusedPayment
from fastgate.errors import REASON_BY_CODE, StoreError
from fastgate.model.keys import key_digest

KEY = "fg_live_a-key-for-tests"

SERVED = Outcome(
    reason=0,
    looks_at_keys=True,
    key=0,
    account=0,
    subscription=0,
    service=0,
    plan="pro",
    limits=(),
    unseen=0,
    price=10_000,
    currency="USD",
    spending=(),
    spending_reason=0,
    spender="",
    charge=0,
    available=1_000_000,
    held=0,
)
"""A request that would be served, for a price."""
NOBODY = SERVED._replace(plan="", price=0, currency="", available=0)


def refused(check: str, code: str, **more: Any) -> Outcome:
    """The outcome of a request that is refused; `check`: the member that says so."""
    number = REASON_BY_CODE[code].number
    return SERVED._replace(reason=number, **{check: number}, **more)


@dataclass
class Facts:
    """Everything is as it should be: one consumer with a key, an account with money, a plan."""

    keys: dict[bytes, KeyFacts] = field(
        default_factory=lambda: {key_digest(KEY): KeyFacts(id="key-1", consumer="con-1")}
    )
    consumers: list[ConsumerFacts] = field(
        default_factory=lambda: [
            ConsumerFacts(id="con-1", name="acme app", account="acc-1", plan="pro")
        ]
    )
    the_account: AccountFacts | None = field(
        default_factory=lambda: AccountFacts(id="acc-1", name="Acme")
    )
    the_subscriptions: list[SubscriptionFacts] = field(
        default_factory=lambda: [
            SubscriptionFacts(id="sub-1", plan="pro", service=None, state="active", refused=None)
        ]
    )
    the_invoices: list[InvoiceFacts] = field(default_factory=list)
    the_providers: list[ProviderFacts] = field(
        default_factory=lambda: [ProviderFacts(name="stripe", up=True)]
    )
    the_outcome: Outcome = SERVED
    the_plans: frozenset[str] = frozenset({"pro", "basic"})
    routes: list[RouteFacts] = field(
        default_factory=lambda: [
            RouteFacts(name="paid", service="maps", plans=("pro",)),
            RouteFacts(name="by-request", by_payment=True),
        ]
    )
    store_down: bool = False
    notes: dict[str, RefusedPayment] = field(default_factory=dict)

    def key(self, digest: bytes) -> KeyFacts | None:
        return self.keys.get(digest)

    def consumer(self, ident: str) -> ConsumerFacts | None:
        return next((one for one in self.consumers if ident in (one.id, one.name)), None)

    def consumer_by_hash(self, identity: int) -> ConsumerFacts | None:
        return next((one for one in self.consumers if stable_hash(one.id) == identity), None)

    def plans(self) -> frozenset[str]:
        return self.the_plans

    def currency(self) -> str:
        return "USD"

    def route(self, name: str, service: str | None = None) -> RouteFacts | None:
        return next((one for one in self.routes if one.name == name), None)

    def decide(self, asked: DryRunQuery) -> Outcome | None:
        if asked.digest is None and asked.consumer is None:
            missing = REASON_BY_CODE["credential_missing"].number
            return NOBODY if asked.route is None else NOBODY._replace(reason=missing, key=missing)
        if asked.route is None:
            return self.the_outcome._replace(price=0, currency="", charge=0)
        if asked.route == "by-request":
            return self.the_outcome._replace(price=0, currency="")
        return self.the_outcome

    def providers(self) -> list[ProviderFacts]:
        return self.the_providers

    def refused_payment(self, request: str) -> RefusedPayment | None:
        return self.notes.get(request)

    def _ask(self) -> None:
        if self.store_down:
            raise StoreError("connection refused")

    async def account(self, ident: str) -> AccountFacts | None:
        self._ask()
        return self.the_account

    async def subscriptions(self, account: str) -> list[SubscriptionFacts]:
        self._ask()
        return self.the_subscriptions

    async def invoices(self, account: str) -> list[InvoiceFacts]:
        self._ask()
        return self.the_invoices
