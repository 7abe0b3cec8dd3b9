"""The interface to payment providers: one protocol, a few records, exact amounts.

```
PaymentProvider
├── money in     create_top_up → Checkout           a page where a person pays
│                charge_saved  → ChargeResult       without the customer: recharge, dunning
│                find_charge   → ChargeResult|None  looks it up after an unknown outcome
├── money out    refund        → RefundResult
├── methods      list_methods, create_method_link
├── plans        subscriptions → ProviderSubscription…
├── audit        turnover      → Turnover…          its own books, compared with ours
│                statement     → Statement          its balance, and all movements in it
└── events       verify_webhook → Notification      local, cheap: checks the signature
                 reconcile      → Notification…     lists events, to find missed ones
                 resolve        → ProviderEvent…    fetches the current state
```

A provider is a package's entry point in the group `fastgate.payment_providers`: a function from
`Wanted` to the provider. The built-in ones have no privileges. A provider subclasses
`PaymentProvider`, lists in `capabilities` what it can do, and overrides those methods; the others
raise Unsupported.

**An event is handled in two steps**, because a webhook is a hint, not a fact: it may arrive late,
twice, or out of order. Its content is never used. `resolve` fetches the object in its current
state, and `ProviderEvent.key` makes the consequences idempotent (one payment has one key, in all of
its events). Events that repeat, or arrive in any order, lead to the same books.

**A failed call is not a failed payment.** `ProviderUnavailable.sent` says whether the request may
have reached the provider. Another provider may be tried only if it certainly did not.

Requests never wait for any of this: enforcement is local and needs no provider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from fastgate.errors import ConfigurationError, FastGateError
from fastgate.imports import importing
from fastgate.model.units import Money

if TYPE_CHECKING:
    from fastgate.model.billing import Billing
    from fastgate.store.engine import Store

GROUP = "fastgate.payment_providers"

Clock = Callable[[], datetime]
"""The time now: aware, UTC. Injected everywhere, so that tests and simulations control it."""


# ---- errors -----------------------------------------------------------------------------


class PaymentError(FastGateError):
    """A payment provider could not carry out a call, or refused it."""


class ProviderUnavailable(PaymentError):
    """The provider did not answer, or is temporarily unable to. Try again later.

    `sent`: the request may have reached it, so its outcome is unknown. Repeat it only with the same
    idempotency key, at the same provider.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class ProviderRefused(PaymentError):
    """The provider says that the request itself is wrong: key, parameters, unknown reference."""


class WebhookRejected(PaymentError):
    """A webhook's signature, age or form is not valid. Answer 400; nothing was done."""


class AmountError(PaymentError, ValueError):
    """An amount that is not exact in the provider's smallest unit, or not an amount."""


class Unsupported(PaymentError):
    """The provider has no such capability."""


# ---- money ------------------------------------------------------------------------------

_NO_COINS = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF")
) | frozenset(("UGX", "VND", "VUV", "XAF", "XOF", "XPF"))
_THOUSANDTHS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))


def exponent(currency: str) -> int:
    """How many decimals the smallest coin of a currency has (ISO 4217): 0, 2 or 3."""
    if currency in _NO_COINS:
        return 0
    return 3 if currency in _THOUSANDTHS else 2


def _unit(places: int) -> int:
    """Micro-units in a coin worth 10^-places."""
    return int("1".ljust(7 - places, "0"))


def to_minor(money: Money, decimals: int | None = None) -> int:
    """An amount in its currency's smallest coin (cents), exactly.

    Raises AmountError if the amount is finer than that, or the currency is not a national one.
    `decimals`: the number of decimals of the provider, if it differs from ISO 4217.
    """
    if len(money.currency) != 3:
        raise AmountError(f"{money.currency} is not a national currency.")
    places = exponent(money.currency) if decimals is None else decimals
    coins, rest = divmod(money.micros, _unit(places))
    if rest:
        raise AmountError(
            f"{money} is finer than the smallest coin of {money.currency}; "
            f"round it to {places} decimals before it is charged."
        )
    return coins


def from_minor(coins: int, currency: str, decimals: int | None = None) -> Money:
    """An amount from the smallest coins; `currency` in any case. Inverse of `to_minor`."""
    code = currency.upper()
    places = exponent(code) if decimals is None else decimals
    return Money(coins * _unit(places), code)


# ---- records ----------------------------------------------------------------------------


class Capability(StrEnum):
    """What a provider can do."""

    TOP_UP = "top_up"
    SAVED_METHODS = "saved_methods"  # charge_saved, list_methods, create_method_link
    REFUNDS = "refunds"
    SUBSCRIPTIONS = "subscriptions"
    WEBHOOKS = "webhooks"
    RECONCILE = "reconcile"
    USAGE = "usage"  # report_usage
    TURNOVER = "turnover"  # turnover: for the audit
    BALANCE = "balance"  # statement: likewise


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the provider where a person pays or saves a payment method."""

    url: str
    reference: str
    """The provider's id for it."""
    expires_at: datetime | None = None


class ChargeStatus(StrEnum):
    SUCCEEDED = "succeeded"
    PENDING = "pending"  # an event will follow; do not charge again
    FAILED = "failed"
    ACTION_REQUIRED = "action_required"  # the customer has to confirm: see `action_url`


class Decline(StrEnum):
    """What would help after a declined charge; decides the retry schedule."""

    LATER = "later"  # the same method may work on another day
    NEW_METHOD = "new_method"  # only with another payment method
    NEVER = "never"  # not for this customer; a person has to decide


class ChargeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an attempt to charge a saved method."""

    status: ChargeStatus
    provider: str
    amount: Money
    reference: str = ""
    """The provider's id of the payment; empty while it is unknown."""
    decline: Decline | None = None
    """Set when failed; None otherwise."""
    code: str = ""
    """The provider's own word for the failure, e.g. "insufficient_funds"."""
    message: str = ""
    """For the customer: one sentence."""
    action_url: str = ""


class RefundResult(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a refund. A pending one is followed by an event."""

    status: ChargeStatus
    provider: str
    amount: Money
    reference: str
    """The provider's id of the refund."""
    message: str = ""


class PaymentMethod(msgspec.Struct, frozen=True, kw_only=True):
    """A saved payment method, with the details that may be shown."""

    reference: str
    kind: str
    """"card", "sepa_debit", …"""
    label: str
    """"Visa •••• 4242"."""
    expires: str = ""
    """"2027-03" for a card; its last valid month."""
    default: bool = False


class SubscriptionState(StrEnum):
    """Those of our subscription states that a provider can report."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    GRACE = "grace"
    PAUSED = "paused"
    CANCELED = "canceled"
    EXPIRED = "expired"
    INCOMPLETE = "incomplete"


class ProviderSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as the provider has it now."""

    reference: str
    account: str
    state: SubscriptionState
    status: str
    """The provider's own word, e.g. "unpaid"."""
    reason: str = ""
    """Reason code of the 402 in this state, at once or after grace; "": requests are served."""
    grace: bool = False
    """Access continues for the plan's grace before `reason` applies."""
    plan: str = ""
    service: str = ""
    paid_through: datetime | None = None
    """End of the period that has been paid for; honoured also when canceled."""
    trial_ends: datetime | None = None
    cancel_at: datetime | None = None


class Purpose(StrEnum):
    """What a payment is for. The provider stores it as metadata and returns it."""

    TOP_UP = "top_up"  # credits the wallet
    INVOICE = "invoice"  # settles one of our invoices; `subject` is its id


class EventKind(StrEnum):
    PAYMENT_SUCCEEDED = "payment_succeeded"
    PAYMENT_PENDING = "payment_pending"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_ACTION_REQUIRED = "payment_action_required"
    CHECKOUT_EXPIRED = "checkout_expired"
    REFUND = "refund"
    REFUND_FAILED = "refund_failed"
    DISPUTE_OPENED = "dispute_opened"  # the amount was withdrawn from us
    DISPUTE_WON = "dispute_won"  # and returned to us
    DISPUTE_LOST = "dispute_lost"
    SUBSCRIPTION_CHANGED = "subscription_changed"
    SUBSCRIPTION_TRIAL_ENDING = "subscription_trial_ending"
    INVOICE_UPCOMING = "invoice_upcoming"
    INVOICE_PAID = "invoice_paid"
    INVOICE_FAILED = "invoice_failed"
    INVOICE_ACTION_REQUIRED = "invoice_action_required"
    INVOICE_CLOSED = "invoice_closed"  # unpaid, and will not be charged again: see `code`
    METHOD_ATTACHED = "method_attached"
    METHOD_UPDATED = "method_updated"
    METHOD_DETACHED = "method_detached"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened to an object at the provider. `resolve` finds out what."""

    provider: str
    id: str
    """The provider's id of the event: unique, the same in every delivery."""
    type: str
    """The provider's own word."""
    object: str
    """The id of what it is about; `resolve` fetches that."""
    created: datetime
    hint: str = ""
    """Facts that the object no longer contains, such as the owner of a detached card."""


class ProviderEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact, fetched from the provider, in our terms."""

    kind: EventKind
    provider: str
    key: str
    """The same each time the same fact is reported, so it takes effect once."""
    at: datetime
    account: str = ""
    """Our account; empty if the provider's customer has no account here."""
    amount: Money | None = None
    reference: str = ""
    """The provider's id of the payment, refund, dispute, invoice, subscription or method."""
    payment: str = ""
    """For refunds and disputes: the reference of the payment they are about."""
    purpose: Purpose | None = None
    """None: a payment that was not made through us; it credits nothing."""
    subject: str = ""
    attempt: str = ""
    """The idempotency key of the `charge_saved` that made the payment."""
    decline: Decline | None = None
    code: str = ""
    message: str = ""
    url: str = ""
    """The page where the customer can act, or read the receipt."""
    subscription: ProviderSubscription | None = None
    method: PaymentMethod | None = None
    cost: Money | None = None
    """The provider's fee for a payment, if it reports one; in the currency of the payment."""


class Turnover(msgspec.Struct, frozen=True, kw_only=True):
    """A payment that was made through us, as recorded in the provider's books."""

    reference: str
    amount: Money
    refunded: int = 0
    """Micro-units that were refunded to the customer."""


class LineKind(StrEnum):
    """The kind of a line in a provider's statement."""

    PAYMENT = "payment"
    REFUND = "refund"  # or its failure, which returns the money to us
    DISPUTE = "dispute"  # or its end in our favour, which also returns it
    PAYOUT = "payout"  # to our bank account, or its failure
    FEE = "fee"  # fees that do not belong to a payment
    OTHER = "other"


class BalanceLine(msgspec.Struct, frozen=True, kw_only=True):
    """A movement in a provider's own books, in micro-units; negative: it holds less for us."""

    reference: str
    """The provider's id of the movement."""
    kind: LineKind
    subject: str = ""
    """The reference of the payment, refund, dispute or payout."""
    payment: str = ""
    """For payments, refunds and disputes: the reference of the payment."""
    currency: str
    amount: int
    """Before `fee`."""
    fee: int = 0
    """The provider's fee."""
    converted: Money | None = None
    """The amount that the customer paid or got back, unsigned, if it was in another currency."""
    marked: bool = True
    """For payments: whether it was made through us; the provider's account may have others."""


class Statement(msgspec.Struct, frozen=True):
    """The money that a provider holds for us, by currency in micro-units, and every movement that
    ever changed it: the amounts less the fees add up to the balances."""

    balances: dict[str, int]
    lines: list[BalanceLine]


class Health(msgspec.Struct, frozen=True):
    """Whether the provider answers, and the error if it does not."""

    ok: bool
    message: str = ""


class Customers(Protocol):
    """Maps customers of a provider to our accounts; kept in the store."""

    async def customer_of(self, provider: str, account: str) -> str | None:
        """The provider's id for our account; None if there is none yet."""

    async def account_of(self, provider: str, customer: str) -> str | None:
        """Our account; None if the customer has no account here."""

    async def link(self, provider: str, account: str, customer: str) -> str:
        """Store the pair. Returns the id in force: another process may have been faster."""


# ---- the protocol -----------------------------------------------------------------------


class PaymentProvider(Protocol):
    """A payment provider. Subclass it and override the methods of its `capabilities`.

    Every method may raise ProviderUnavailable, ProviderRefused or AmountError. `account` is our
    account's id. Amounts are positive.
    """

    name: str
    """Short, unique in one gateway: "stripe"."""
    capabilities: frozenset[Capability] = frozenset()

    def _cannot(self, what: str) -> Unsupported:
        return Unsupported(f"The payment provider {self.name!r} cannot {what}.")

    async def create_top_up(self, account: str, amount: Money, return_url: str) -> Checkout:
        """A page on which the account's owner pays the amount into the wallet."""
        raise self._cannot("take top-ups")

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        """Charge the account's default payment method without its owner being present.

        The same key charges once. A decline is a result, not an error. If the account has no saved
        method, the result is FAILED with `decline` NEW_METHOD and code "no_payment_method".
        """
        raise self._cannot("charge saved payment methods")

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        """The charge made with this key at or after `since`; None if there is no such charge."""
        raise self._cannot("look up charges")

    async def refund(
        self, payment: str, amount: Money | None, idempotency_key: str
    ) -> RefundResult:
        """Refund a payment (its reference), in full if `amount` is None."""
        raise self._cannot("refund")

    async def list_methods(self, account: str) -> list[PaymentMethod]:
        """The account's saved payment methods."""
        raise self._cannot("save payment methods")

    async def create_method_link(self, account: str, return_url: str) -> Checkout:
        """A page on which the account's owner saves a payment method."""
        raise self._cannot("save payment methods")

    async def subscriptions(self, account: str) -> list[ProviderSubscription]:
        """The account's subscriptions in their current state, including ended ones."""
        raise self._cannot("keep subscriptions")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification:
        """Check that a webhook is from the provider, by the raw body. Uses no network.

        Header names in lower case. Raises WebhookRejected.
        """
        raise self._cannot("send webhooks")

    async def resolve(self, notification: Notification) -> list[ProviderEvent]:
        """Fetch the object of the notification and return the facts. Empty: nothing to do."""
        raise self._cannot("send webhooks")

    async def reconcile(self, since: datetime) -> list[Notification]:
        """Everything that happened at or after `since`, oldest first."""
        raise self._cannot("list what happened")

    async def report_usage(
        self, account: str, event: str, units: int, at: datetime, identifier: str
    ) -> None:
        """Report units that an account has used; `event` is the provider's name for them. A second
        report with the same identifier changes nothing. Does nothing for an account that is not a
        customer of the provider."""
        raise self._cannot("take usage")

    async def turnover(self, since: datetime) -> list[Turnover]:
        """Every payment that was made through us at or after `since`, for the audit."""
        raise self._cannot("list its payments")

    async def statement(self) -> Statement:
        """The provider's balance now and every movement in it, for the audit."""
        raise self._cannot("report its balance")

    async def health(self) -> Health:
        """Whether the provider answers. Does not raise."""
        return Health(True)

    async def close(self) -> None:
        """Close connections."""
        return


class Wanted(NamedTuple):
    """The arguments of a provider's factory."""

    billing: Billing
    """The configuration in force."""
    store: Store
    customers: Customers
    clock: Clock


Factory = Callable[[Wanted], PaymentProvider]
"""The type of the group's entry points. Raises ConfigurationError."""


def make_providers(wanted: Wanted) -> list[PaymentProvider]:
    """The providers that the configuration names, in its order.

    Only their packages are imported. Raises ConfigurationError for a name that is not installed.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    made: list[PaymentProvider] = []
    for name in wanted.billing.provider_names:
        if name not in points:
            known = ", ".join(sorted(points)) or "none"
            raise ConfigurationError(
                f"there is no payment provider {name!r}; installed: {known}",
                path="billing.providers",
            )
        try:
            with importing():
                factory: Factory = points[name].load()
        except ImportError as error:
            raise ConfigurationError(
                f"the payment provider {name!r} needs a package that is not installed: {error}",
                path="billing.providers",
                hint=f"pip install 'fastgate[{name}]'.",
            ) from error
        made.append(factory(wanted))
    return made
