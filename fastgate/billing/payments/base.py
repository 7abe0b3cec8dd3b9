"""What a payment provider is to FastGate: one protocol, a handful of records, exact money.

```
PaymentProvider
├── money in     create_top_up → Checkout           a page where a person pays
│                charge_saved  → ChargeResult       nobody there: auto-recharge, dunning
│                find_charge   → ChargeResult|None  "did it arrive?", after a doubtful call
├── money out    refund        → RefundResult
├── methods      list_methods, create_method_link
├── plans        subscriptions → ProviderSubscription…
├── audit        turnover      → Turnover…          its own books, compared with ours
│                statement     → Statement          its balance, and what made it so
└── events       verify_webhook → Notification      local, cheap: is it theirs, what is it about
                 reconcile      → Notification…     the same, asked for: what was missed
                 resolve        → ProviderEvent…    asks the provider how things stand now
```

A provider is a package's entry point in the group `fastgate.payment_providers`, a function from
`Wanted` to the provider; the built-in ones have no privileges. It subclasses `PaymentProvider` and
overrides what it can do, which it says in `capabilities`; the rest raises Unsupported.

**An event is handled in two steps** because a webhook is a hint, not a fact: it may come late,
twice, or out of order. Its content is never used; `resolve` fetches the object as it is now, and
what follows is made idempotent by `ProviderEvent.key` (one payment, one key, however many events
speak of it). Telling the same thing twice, or in any order, leaves the same books.

**A call that failed is not a payment that failed.** `ProviderUnavailable.sent` says whether the
request may have reached the provider. Only when it surely did not may another provider be tried.

Nothing here is in the way of a request: enforcement is local and waits for no provider.
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
"""The time now: aware, UTC. Injected everywhere, so that tests and simulations own it."""


# ---- errors -----------------------------------------------------------------------------


class PaymentError(FastGateError):
    """A payment provider could not do what was asked, or may not."""


class ProviderUnavailable(PaymentError):
    """The provider did not answer, or said that it cannot just now. Try again later.

    `sent`: the request may have reached it, so its outcome is not known: repeat it only with the
    same idempotency key, at the same provider.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class ProviderRefused(PaymentError):
    """The provider says that the request itself is wrong: key, parameters, unknown reference."""


class WebhookRejected(PaymentError):
    """A webhook's signature, age or form does not hold. Answer 400; nothing was done."""


class AmountError(PaymentError, ValueError):
    """An amount that cannot be said exactly in the provider's smallest unit, or no amount."""


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

    Raises AmountError where that does not divide, and for what is no national currency.
    `decimals`: how many the provider counts in, where it differs from ISO 4217.
    """
    if len(money.currency) != 3:
        raise AmountError(f"{money.currency} is not a currency that a bank knows.")
    places = exponent(money.currency) if decimals is None else decimals
    coins, rest = divmod(money.micros, _unit(places))
    if rest:
        raise AmountError(
            f"{money} is finer than the smallest coin of {money.currency}; "
            f"round it to {places} decimals before it is charged."
        )
    return coins


def from_minor(coins: int, currency: str, decimals: int | None = None) -> Money:
    """An amount from smallest coins; `currency` in any case. The inverse of `to_minor`."""
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
    """A page of the provider where a person pays or leaves a payment method."""

    url: str
    reference: str
    """The provider's id for it."""
    expires_at: datetime | None = None


class ChargeStatus(StrEnum):
    SUCCEEDED = "succeeded"
    PENDING = (
        "pending"  # an event will follow, or `find_charge` finds it; never charge again meanwhile
    )
    FAILED = "failed"
    ACTION_REQUIRED = "action_required"  # its owner has to confirm: see `action_url`


class Decline(StrEnum):
    """What would help after a declined charge; decides the retry schedule."""

    LATER = "later"  # the same method may work another day
    NEW_METHOD = "new_method"  # only with another payment method
    NEVER = "never"  # not for this customer; ask a person


class ChargeResult(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt to charge a saved method stands."""

    status: ChargeStatus
    provider: str
    amount: Money
    reference: str = ""
    """The provider's id of the payment; empty while it is not known."""
    decline: Decline | None = None
    """Set when failed; None otherwise."""
    code: str = ""
    """The provider's own word for the failure, e.g. "insufficient_funds"."""
    message: str = ""
    """For the customer: one sentence."""
    action_url: str = ""


class RefundResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a refund stands. A pending one is followed by an event."""

    status: ChargeStatus
    provider: str
    amount: Money
    reference: str
    """The provider's id of the refund."""
    message: str = ""


class PaymentMethod(msgspec.Struct, frozen=True, kw_only=True):
    """A saved way to pay; what may be shown of it."""

    reference: str
    kind: str
    """"card", "sepa_debit", …"""
    label: str
    """"Visa •••• 4242"."""
    expires: str = ""
    """"2027-03" for a card; its last valid month."""
    default: bool = False


class SubscriptionState(StrEnum):
    """Our states of a subscription, as far as a provider can bring one about."""

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
    """Reason code of the 402 that this state leads to, at once or when grace is over; "": none."""
    grace: bool = False
    """Access continues for the plan's grace before `reason` holds."""
    plan: str = ""
    service: str = ""
    paid_through: datetime | None = None
    """End of the period that has been paid for; honoured also when canceled."""
    trial_ends: datetime | None = None
    cancel_at: datetime | None = None


class Purpose(StrEnum):
    """What a payment is for; travels through the provider as metadata and comes back."""

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
    DISPUTE_OPENED = "dispute_opened"  # the amount has been taken back
    DISPUTE_WON = "dispute_won"  # and given back
    DISPUTE_LOST = "dispute_lost"
    SUBSCRIPTION_CHANGED = "subscription_changed"
    SUBSCRIPTION_TRIAL_ENDING = "subscription_trial_ending"
    INVOICE_UPCOMING = "invoice_upcoming"
    INVOICE_PAID = "invoice_paid"
    INVOICE_FAILED = "invoice_failed"
    INVOICE_ACTION_REQUIRED = "invoice_action_required"
    INVOICE_CLOSED = "invoice_closed"  # unpaid, and it will not be charged again: see `code`
    METHOD_ATTACHED = "method_attached"
    METHOD_UPDATED = "method_updated"
    METHOD_DETACHED = "method_detached"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """That something happened at the provider, and to which object. Not yet what."""

    provider: str
    id: str
    """The provider's id of the event: unique, the same in every delivery."""
    type: str
    """The provider's own word."""
    object: str
    """The id of what it is about; `resolve` fetches that."""
    created: datetime
    hint: str = ""
    """What `resolve` can no longer learn from the object, such as the owner of a detached card."""


class ProviderEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact, fetched from the provider, in our words."""

    kind: EventKind
    provider: str
    key: str
    """The same whenever the same fact is reported: it takes effect once."""
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
    """Where the customer can act, or read the receipt."""
    subscription: ProviderSubscription | None = None
    method: PaymentMethod | None = None
    cost: Money | None = None
    """What the provider keeps of a payment for itself, where it says so; in the payment's own
    currency."""


class Turnover(msgspec.Struct, frozen=True, kw_only=True):
    """A payment that was made through us, as the provider has it in its own books."""

    reference: str
    amount: Money
    refunded: int = 0
    """Micro-units that have gone back to the customer by refunds."""


class LineKind(StrEnum):
    """What a line of a provider's statement is about."""

    PAYMENT = "payment"
    REFUND = "refund"  # or its failure, which brings the money back
    DISPUTE = "dispute"  # or its end in our favour, likewise
    PAYOUT = "payout"  # to our bank account, or its failure
    FEE = "fee"  # what the provider takes apart from payments
    OTHER = "other"


class BalanceLine(msgspec.Struct, frozen=True, kw_only=True):
    """A movement in a provider's own books. Amounts are micro-units; below zero: it has less."""

    reference: str
    """The provider's id of the movement."""
    kind: LineKind
    subject: str = ""
    """The reference of what moved: the payment, refund, dispute or payout."""
    payment: str = ""
    """For payments, refunds and disputes: the reference of the payment."""
    currency: str
    amount: int
    """Before `fee`."""
    fee: int = 0
    """What the provider keeps of it."""
    converted: Money | None = None
    """What the customer paid or got back, without a sign, where that was another currency."""
    marked: bool = True
    """For payments: whether it was made through us; the account may have others."""


class Statement(msgspec.Struct, frozen=True):
    """What a provider has of ours, by currency in micro-units, and every movement that ever
    changed that: the amounts less the fees add up to the balances."""

    balances: dict[str, int]
    lines: list[BalanceLine]


class Health(msgspec.Struct, frozen=True):
    """Whether the provider answers, and if not, what it said."""

    ok: bool
    message: str = ""


class Customers(Protocol):
    """Which customer of a provider is which of our accounts; kept in the store."""

    async def customer_of(self, provider: str, account: str) -> str | None:
        """The provider's id for our account; None before there is one."""

    async def account_of(self, provider: str, customer: str) -> str | None:
        """Our account; None if the customer has no account here."""

    async def link(self, provider: str, account: str, customer: str) -> str:
        """Remember the pair; returns the one that counts if another process was faster."""


# ---- the protocol -----------------------------------------------------------------------


class PaymentProvider(Protocol):
    """A payment provider. Subclass it; override what `capabilities` names.

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

        The same key charges once. A decline is a result, not an error; where there is no method
        at all, the result is FAILED with `decline` NEW_METHOD and code "no_payment_method".
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
        """A page on which the account's owner leaves a payment method."""
        raise self._cannot("save payment methods")

    async def subscriptions(self, account: str) -> list[ProviderSubscription]:
        """The account's subscriptions as they stand now, ended ones included."""
        raise self._cannot("keep subscriptions")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification:
        """Check that a webhook is the provider's, by the raw body. Touches no network.

        Header names in lower case. Raises WebhookRejected.
        """
        raise self._cannot("send webhooks")

    async def resolve(self, notification: Notification) -> list[ProviderEvent]:
        """Fetch what the notification is about, and say what is the case. Empty: nothing to do."""
        raise self._cannot("send webhooks")

    async def reconcile(self, since: datetime) -> list[Notification]:
        """Everything that happened at or after `since`, oldest first."""
        raise self._cannot("list what happened")

    async def report_usage(
        self, account: str, event: str, units: int, at: datetime, identifier: str
    ) -> None:
        """Tell of units that an account has used, `event` being what the provider calls them.
        A second report with the identifier changes nothing. Does nothing for an account that is
        no customer of the provider's."""
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
        """Let go of connections."""
        return


class Wanted(NamedTuple):
    """What a provider's factory gets, to make the provider from."""

    billing: Billing
    """The configuration in force."""
    store: Store
    customers: Customers
    clock: Clock


Factory = Callable[[Wanted], PaymentProvider]
"""What an entry point of the group names. Raises ConfigurationError."""


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
