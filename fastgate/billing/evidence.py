"""Evidence: what a diagnosis looks at, as facts and one protocol.

The parts of the gateway know credentials, accounts, subscriptions and money each in their own way;
a diagnosis sees them only through `Evidence`, so it can be made anywhere these facts are at hand,
and tested without any of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

import msgspec

from fastgate.billing.refused_payments import RefusedPayment
from fastgate.model.billing import Billing
from fastgate.model.gateway import Gateway
from fastgate.pricesteps import price_steps


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
    refused: str | None = None
    """Reason code with which all of its requests are refused; None: they are not."""


class SubscriptionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An account's claim to a plan."""

    id: str
    plan: str
    service: str | None
    """None: every service of the plan."""
    state: str
    refused: str | None
    """Reason code of the refusal that the state leads to now; None: it gives access."""
    until: datetime | None = None
    """When the access that there is ends by itself."""


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
    error: str = ""
    retry_at: datetime | None = None


class LimitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one rate limit, quota or concurrency limit has left for the caller."""

    limit: str
    kind: str  # rate | quota | concurrency
    amount: int
    used: int
    remaining: int
    resets_at: int  # Unix seconds
    route: str | None = None


class SpendingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A spending limit and what is spent of it in its period. Micro-units."""

    of: Literal["key", "consumer", "account"]
    limit: int
    used: int
    resets_at: int = 0  # Unix seconds; 0: never


class BalanceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A wallet. Micro-units."""

    currency: str
    available: int
    """What a request can be charged now."""
    settled: int
    """What it will be when all that requests hold is given back."""


class RouteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a route asks of its callers."""

    name: str
    service: str | None = None
    needs_key: bool = False
    """A request without a credential is refused."""
    plans: tuple[str, ...] = ()
    """Plans that include the service; empty: any caller may use it."""
    price: int = 0
    """The most that one request costs, micro-units."""
    currency: str = ""
    by_payment: bool = False
    """It is paid for by request, with a proof of payment."""


class Evidence(Protocol):
    """Where the facts come from. What is not there (no billing, no providers) is empty or None.

    Coroutines may raise StoreError: the checks that need them are then skipped, and say why.
    """

    def key(self, digest: bytes) -> KeyFacts | None:
        """A credential by its SHA-256."""

    def consumer(self, ident: str) -> ConsumerFacts | None:
        """By id or name."""

    def consumer_by_hash(self, identity: int) -> ConsumerFacts | None:
        """By the hash of the id, as tokens and shared memory have it."""

    def plans(self) -> frozenset[str]:
        """Names of the plans that there are."""

    def route(self, name: str, plan: str | None) -> RouteFacts | None:
        """A route, with the price it has for callers on that plan."""

    def limits(self, consumer: str, plan: str | None) -> list[LimitFacts]: ...

    def spending(self, key: str | None, consumer: ConsumerFacts) -> list[SpendingFacts]:
        """`key`: the credential's id, where it is known."""

    def balances(self, account: str) -> list[BalanceFacts]: ...

    def providers(self) -> list[ProviderFacts]: ...

    def refused_payment(self, request: str) -> RefusedPayment | None:
        """What is noted of a payment that was refused with a request."""

    async def account(self, ident: str) -> AccountFacts | None: ...

    async def subscriptions(self, account: str) -> list[SubscriptionFacts]: ...

    async def invoices(self, account: str) -> list[InvoiceFacts]:
        """The open ones."""


def route_facts(gateway: Gateway, name: str, plan: str | None) -> RouteFacts | None:
    """A route of a configuration, as callers on that plan meet it."""
    route = next((route for route in gateway.routes if route.name == name), None)
    if route is None:
        return None
    key = route.auth.api_key
    service = next((each for each in gateway.services if each.name == route.service), None)
    plans: set[str] = set()
    if service is not None:
        plans = {each.name for each in gateway.plans if service.name in each.services}
        plans.update(service.plans)
    price, currency = 0, ""
    if route.price is not None:
        price, currency = route.price.micros, route.price.currency
    mine = next((each for each in gateway.plans if each.name == plan), None)
    if mine is not None and mine.price is not None and (steps := price_steps(mine.price)):
        price = max(step.micros for step in steps)
        currency = _currency(mine.price.currencies, gateway.billing)
    return RouteFacts(
        name=name,
        service=route.service,
        needs_key=key is not None and not key.optional,
        plans=tuple(sorted(plans)),
        price=price,
        currency=currency,
        by_payment=route.x402 is not None,
    )


def _currency(named: list[str], billing: Billing) -> str:
    return named[0] if named else billing.currency
