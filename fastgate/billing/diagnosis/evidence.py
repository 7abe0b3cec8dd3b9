"""Evidence: the facts of a diagnosis, and one protocol for reading them.

Each part of the gateway has its own form of credentials, accounts, subscriptions and money. A
diagnosis sees them only through `Evidence`, so it works wherever these facts are available, and
can be tested without the parts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

import msgspec

from fastgate._core.exchange.dry_run import Outcome
from fastgate.billing.x402.refused_payments import RefusedPayment
from fastgate.model.gateway import Gateway


class KeyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A credential. Times in Unix seconds, 0: never."""

    id: str
    consumer: str
    expires_at: int = 0
    revoked_at: int = 0


class ConsumerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls."""

    id: str
    name: str
    account: str | None = None
    plan: str | None = None
    suspended: bool = False


class AccountFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays."""

    id: str
    name: str


class SubscriptionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An account's subscription to a plan."""

    id: str
    plan: str
    service: str | None
    """None: all services of the plan."""
    state: str
    refused: str | None
    """Reason code with which requests are refused in this state; None: it gives access."""
    until: datetime | None = None
    """When the current access ends unless something changes."""


class InvoiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An open invoice."""

    number: str
    subscription: str | None
    micros: int
    currency: str
    due: datetime


class ProviderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A payment provider."""

    name: str
    up: bool
    charges: bool = True
    """It can charge saved payment methods; otherwise an operator has to enter payments by hand."""
    error: str = ""
    retry_at: datetime | None = None


class SpendingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A spending limit and the amount spent in its period. Micro-units."""

    of: Literal["key", "consumer", "account"]
    limit: int
    used: int
    resets_at: int = 0  # Unix seconds; 0: never


class BalanceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A wallet. Micro-units."""

    currency: str
    available: int
    """The amount that requests can be charged now."""
    settled: int
    """The balance if everything that requests hold were released."""


class RouteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a route requires from its callers."""

    name: str
    service: str | None = None
    plans: tuple[str, ...] = ()
    """Plans that include the service; empty: any caller may use it."""
    by_payment: bool = False
    """Each request is paid for separately, with a proof of payment."""


class DryRunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request in question: with a key, by a consumer with any key, or with neither."""

    digest: bytes | None = None
    """SHA-256 of the key."""
    consumer: str | None = None
    """A consumer's id."""
    route: str | None = None
    address: str | None = None
    """The client's address; None: not known."""
    service: str | None = None
    """Of a route with a split: the service that got it; None: not known."""


class Evidence(Protocol):
    """The source of the facts. Facts of a part that is not used (no billing, no providers) are
    empty or None.

    Coroutines may raise StoreError: the checks that need them are then skipped, with the reason.
    """

    def key(self, digest: bytes) -> KeyFacts | None:
        """A credential by its SHA-256."""

    def consumer(self, ident: str) -> ConsumerFacts | None:
        """By id or name."""

    def consumer_by_hash(self, identity: int) -> ConsumerFacts | None:
        """By the hash of the id, as in tokens and shared memory."""

    def plans(self) -> frozenset[str]:
        """The names of all plans."""

    def currency(self) -> str:
        """The default currency of wallets."""

    def route(self, name: str, service: str | None = None) -> RouteFacts | None:
        """service: the one that gets the request, if it is not the route's own."""

    def decide(self, asked: DryRunQuery) -> Outcome | None:
        """The data plane's decision about the request now; None: no configuration is served yet."""

    def providers(self) -> list[ProviderFacts]: ...

    def refused_payment(self, request: str) -> RefusedPayment | None:
        """The note about the payment that was refused with a request."""

    async def account(self, ident: str) -> AccountFacts | None: ...

    async def subscriptions(self, account: str) -> list[SubscriptionFacts]: ...

    async def invoices(self, account: str) -> list[InvoiceFacts]:
        """The open ones."""


def route_facts(gateway: Gateway, name: str, service_name: str | None = None) -> RouteFacts | None:
    """A route of a configuration, with its own service or the given one."""
    route = next((route for route in gateway.routes if route.name == name), None)
    if route is None:
        return None
    wanted = service_name or route.service
    service = next((each for each in gateway.services if each.name == wanted), None)
    plans: set[str] = set()
    if service is not None:
        plans = {each.name for each in gateway.plans if service.name in each.services}
        plans.update(service.plans)
    return RouteFacts(
        name=name,
        service=wanted,
        plans=tuple(sorted(plans)),
        by_payment=route.x402 is not None,
    )
