"""Self-service: what the owner of an account may do without an operator, from a refusal's links.

Top up, add a payment method, pay open invoices, renew, change the plan. Anyone with the key of a
consumer, or the signed link of one of its refusals, acts for its account. With the key they can
spend its money anyway, and nothing here pays money out or reduces a debt.

Plans without a price are never offered: only an operator assigns those.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from fastgate.billing.amounts import show
from fastgate.billing.diagnosis.evidence import BalanceFacts
from fastgate.billing.dunning.dunning import Dunning
from fastgate.billing.invoices.invoices import Invoice, Invoices
from fastgate.billing.ledger.wallets import Wallets
from fastgate.billing.payments.base import Capability
from fastgate.billing.payments.chain import Chain
from fastgate.billing.subscriptions.access import refusal_of
from fastgate.billing.subscriptions.lifecycle import Event, State, Subscription, access_of, settled
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.errors import ConflictError, NotFoundError, Reason
from fastgate.model.gateway import Gateway
from fastgate.model.party import Plan
from fastgate.model.units import Money


class PlanOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that the account can choose."""

    plan: str
    terms: str
    """Its price as text."""
    current: bool
    """The account is on it, whether or not it has paid."""


class SubscriptionOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription as its owner sees it."""

    plan: str
    service: str | None
    state: str
    reason: str | None
    """Reason code with which requests are refused now; None: it gives access."""
    ends: datetime
    ending: bool
    """It was canceled and ends at the end of the period; otherwise it renews."""


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """An open invoice."""

    number: str
    amount: str
    due: datetime


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """An account as its owner sees it."""

    account: str
    balances: list[BalanceFacts]
    subscriptions: list[SubscriptionOverview]
    open: list[Bill]
    top_up: bool
    """A provider takes top-ups here."""
    methods: bool
    """A provider saves payment methods here."""
    contact: str
    """The contact for questions about money; empty: none."""


@dataclass(frozen=True)
class SelfService:
    """Self-service, using the parts of billing. Methods may raise StoreError and PaymentError."""

    wallets: Wallets
    subscriptions: Subscriptions
    invoices: Invoices
    dunning: Dunning
    providers: Chain
    gateway: Callable[[], Gateway]
    open_account: Callable[[str], Awaitable[None]]
    clock: Callable[[], datetime]

    # ---- reading ------------------------------------------------------------------------

    async def overview(self, account: str, name: str) -> Overview:
        """Balances, subscriptions and open invoices of an account."""
        now = self.clock()
        mine = await self._mine(account)
        return Overview(
            account=name,
            balances=[
                BalanceFacts(currency=one.currency, available=one.available, settled=one.settled)
                for one in self.wallets.balances(account)
            ],
            subscriptions=[
                _standing(one, now, await refusal_of(self.subscriptions.store, one, now))
                for one in mine
            ],
            open=[
                Bill(number=one.number, amount=show(one.total, one.currency), due=one.due)
                for one in await self._open(mine)
            ],
            top_up=bool(self.providers.able(Capability.TOP_UP)),
            methods=bool(self.providers.able(Capability.SAVED_METHODS)),
            contact=self.gateway().billing.seller.email,
        )

    async def offers(self, account: str) -> list[PlanOffer]:
        """The plans with a price, as configured; for an account on a paid plan, only those in the
        same currency."""
        current = [one.plan for one in await self._living(account)][:1]
        plans = [plan for plan in self.gateway().plans if plan.price is not None]
        paid_in = {
            currency
            for plan in plans
            if plan.name in current and plan.price is not None and plan.price.flat is not None
            for currency in plan.price.currencies
        }
        return [
            PlanOffer(plan=plan.name, terms=terms_of(plan), current=plan.name in current)
            for plan in plans
            if plan.price is not None
            and (not paid_in or not plan.price.currencies or paid_in & {*plan.price.currencies})
        ]

    async def _mine(self, account: str) -> list[Subscription]:
        """Active ones first, then the newest."""
        found = await self.subscriptions.of_account(account)
        now = self.clock()
        found.sort(key=lambda one: one.created, reverse=True)
        return sorted(found, key=lambda one: settled(one, now).state is State.EXPIRED)

    async def _living(self, account: str) -> list[Subscription]:
        """Those that have not ended; a change of plan replaces the first."""
        now, over = self.clock(), (State.EXPIRED, State.CANCELED)
        return [one for one in await self._mine(account) if settled(one, now).state not in over]

    async def _open(self, mine: list[Subscription]) -> list[Invoice]:
        return [bill for one in mine for bill in await self.invoices.open_of(one.id)]

    # ---- acting -------------------------------------------------------------------------

    async def top_up(self, account: str, amount: Money, return_url: str) -> str:
        """The provider's page on which the amount is paid into the wallet."""
        await self.open_account(account)
        await self.wallets.open(account, amount.currency)  # must exist before a payment arrives
        return (await self.providers.create_top_up(account, amount, return_url)).url

    async def method(self, account: str, return_url: str) -> str:
        """The provider's page for saving a payment method."""
        return (await self.providers.create_method_link(account, return_url)).url

    async def pay(self, account: str) -> bool:
        """Charge open invoices to the saved payment method now. Whether all are paid afterwards."""
        await self.dunning.method_attached(account)
        await self.dunning.run()
        return not await self._open(await self._mine(account))

    async def renew(self, account: str) -> None:
        """Undo a cancellation, or subscribe again to a plan that has ended.

        Raises NotFoundError if there never was a subscription, or its plan no longer exists.
        """
        mine = await self._mine(account)
        if not mine:
            raise NotFoundError("There is no subscription to renew. Choose a plan instead.")
        newest, now = mine[0], self.clock()
        state = settled(newest, now).state
        if state is State.EXPIRED or (state is State.CANCELED and access_of(newest, now)):
            self._priced(newest.plan)
            await self.subscriptions.create(account, newest.plan, newest.service, trial=False)
        elif newest.cancel_at_period_end or state is State.CANCELED:
            await self.subscriptions.apply(newest.id, Event.KEEP, "taken back by its owner")
        else:
            raise ConflictError("The subscription renews automatically; there is nothing to renew.")

    async def take(self, account: str, name: str) -> None:
        """Change to another plan, at once.

        Raises NotFoundError for a plan that is not offered, ConflictError for the current one.
        """
        self._priced(name)
        currency = self.subscriptions.fee_currency(name)
        if currency is not None:  # the wallet must exist before the fee is paid
            await self.open_account(account)
            await self.wallets.open(account, currency)
        living = await self._living(account)
        if not living:
            await self.subscriptions.create(account, name, trial=False)
        elif living[0].plan == name:
            raise ConflictError(f"The account is already on the plan {name!r}.")
        else:
            await self.subscriptions.change_plan(living[0].id, name)

    def _priced(self, name: str) -> Plan:
        for plan in self.gateway().plans:
            if plan.name == name and plan.price is not None:
                return plan
        raise NotFoundError(f"The plan {name!r} is not offered here.")


def _standing(one: Subscription, now: datetime, reason: Reason | None) -> SubscriptionOverview:
    current = settled(one, now)
    return SubscriptionOverview(
        plan=one.plan,
        service=one.service,
        state=current.state.value,
        reason=reason.code if reason is not None else None,
        ends=current.ends,
        ending=current.cancel_at_period_end or current.state is State.CANCELED,
    )


def terms_of(plan: Plan) -> str:
    """What a plan costs, in one line."""
    price = plan.price
    if price is None:
        return "no price of its own"
    parts = []
    if price.flat is not None:
        parts.append(f"{price.flat} a {price.period}")
    if price.included:
        parts.append(f"{price.included} requests a {price.period} included")
    each = price.per_request or price.overage
    if each is not None:
        parts.append(f"{each} for each {'further ' if price.included else ''}request")
    for tier in price.tiers:
        upto = f"up to {tier.up_to} requests" if tier.up_to is not None else "beyond"
        parts.append(f"{upto}: {tier.price} each")
    for unit in price.per_unit:
        parts.append(f"{unit.price} for {unit.per} {unit.meter}")
    return ", ".join(parts) or "no price of its own"
