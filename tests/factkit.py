"""Evidence as plain values, for diagnoses and pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastgate._core.snapshot import stable_hash
from fastgate.billing.evidence import (
    AccountFacts,
    BalanceFacts,
    ConsumerFacts,
    InvoiceFacts,
    KeyFacts,
    LimitFacts,
    ProviderFacts,
    RouteFacts,
    SpendingFacts,
    SubscriptionFacts,
)
from fastgate.billing.refused_payments import RefusedPayment
from fastgate.errors import StoreError
from fastgate.keys import key_digest

KEY = "fg_live_a-key-for-tests"


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
    the_limits: list[LimitFacts] = field(default_factory=list)
    the_spending: list[SpendingFacts] = field(default_factory=list)
    wallets: list[BalanceFacts] = field(
        default_factory=lambda: [
            BalanceFacts(currency="USD", available=1_000_000, settled=1_000_000)
        ]
    )
    the_plans: frozenset[str] = frozenset({"pro", "basic"})
    routes: list[RouteFacts] = field(
        default_factory=lambda: [
            RouteFacts(
                name="paid",
                service="maps",
                needs_key=True,
                plans=("pro",),
                price=10_000,
                currency="USD",
            )
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

    def route(self, name: str, plan: str | None) -> RouteFacts | None:
        return next((one for one in self.routes if one.name == name), None)

    def limits(self, consumer: str, plan: str | None) -> list[LimitFacts]:
        return self.the_limits

    def spending(self, key: str | None, consumer: ConsumerFacts) -> list[SpendingFacts]:
        return self.the_spending

    def balances(self, account: str) -> list[BalanceFacts]:
        return self.wallets

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
