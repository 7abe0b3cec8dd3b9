"""Maps Stripe's objects to our records: tables and pure functions.

Objects are plain dictionaries (the library's `to_dict()`). Nothing here does any I/O, so every row
can be tested alone. Sources: Stripe's API reference, "Decline codes",
"Supported currencies", "How subscriptions work"; and the observed answers of localstripe.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec.structs import replace

from fastgate.billing.payments.base import (
    AmountError,
    ChargeResult,
    ChargeStatus,
    Decline,
    PaymentMethod,
    ProviderSubscription,
    Purpose,
    SubscriptionState,
    exponent,
    from_minor,
    to_minor,
)
from fastgate.model.units import Money

NAME = "stripe"
Object = Mapping[str, Any]

# Metadata that we write to the objects that we create at Stripe, and read back.
ACCOUNT = "fastgate_account"
PURPOSE = "fastgate_purpose"
SUBJECT = "fastgate_subject"
KEY = "fastgate_key"
PLAN = "fastgate_plan"
SERVICE = "fastgate_service"

METADATA_MOST = 500
"""Characters of a metadata value that Stripe keeps."""


# ---- money ------------------------------------------------------------------------------

# Currencies that Stripe counts differently from ISO 4217: (decimals, required divisor of amounts).
# Krónur and shillings no longer have coins but keep two decimals for compatibility. Ariary have
# fifths, which Stripe does not support. In thousandths, the last digit must be zero.
_ODD: dict[str, tuple[int, int]] = {
    "ISK": (2, 100),
    "UGX": (2, 100),
    "MGA": (0, 1),
}


def _counting(currency: str) -> tuple[int, int]:
    if currency in _ODD:
        return _ODD[currency]
    decimals = exponent(currency)
    return decimals, 10 if decimals == 3 else 1


def coins_of(money: Money) -> int:
    """The amount in Stripe's units. Raises AmountError if that is not exact."""
    decimals, step = _counting(money.currency)
    coins = to_minor(money, decimals)
    if coins % step:
        raise AmountError(f"{money} has more decimals than Stripe accepts for {money.currency}.")
    if coins <= 0:
        raise AmountError(f"{money} cannot be charged.")
    return coins


def money_of(coins: int, currency: str) -> Money:
    """The amount from Stripe's number of coins and lower-case currency."""
    return from_minor(coins, currency, _counting(currency.upper())[0])


# ---- declines ---------------------------------------------------------------------------

_LATER = """
approve_with_id call_issuer card_declined card_velocity_exceeded do_not_honor generic_decline
insufficient_funds issuer_not_available lock_timeout no_action_taken not_permitted
processing_error reenter_transaction service_not_allowed try_again_later
withdrawal_count_limit_exceeded
"""

_NEW_METHOD = """
bank_account_unusable card_not_supported currency_not_supported debit_not_authorized
do_not_try_again expired_card incorrect_cvc incorrect_number incorrect_pin incorrect_zip
invalid_account invalid_amount invalid_cvc invalid_expiry_month invalid_expiry_year invalid_number
invalid_pin lost_card mandate_invalid new_account_information_available no_payment_method
offline_pin_required online_or_offline_pin_required payment_intent_authentication_failure
payment_method_not_available pickup_card pin_try_exceeded restricted_card
revocation_of_all_authorizations revocation_of_authorization stolen_card stop_payment_order
testmode_decline transaction_not_allowed
"""

_NEVER = """
fraudulent highest_risk_level merchant_blacklist previously_declined_do_not_retry
security_violation
"""

DECLINES: dict[str, Decline] = {
    code: what
    for codes, what in (
        (_LATER, Decline.LATER),
        (_NEW_METHOD, Decline.NEW_METHOD),
        (_NEVER, Decline.NEVER),
    )
    for code in codes.split()
}
"""What would help, by decline code. The default is `later`: a wrong `later` costs a few retries,
while the opposite mistake would lock out a customer who could have paid."""

ACTION = frozenset({"authentication_required", "payment_intent_action_required"})
"""Codes that ask for the customer's confirmation and are not declines."""


def decline_of(code: str) -> Decline:
    return DECLINES.get(code, Decline.LATER)


# ---- payments ---------------------------------------------------------------------------


def error_code(error: Object | None) -> str:
    """The most specific code of an error: the issuer's, otherwise Stripe's."""
    if not error:
        return ""
    return str(error.get("decline_code") or error.get("code") or "")


def purpose_of(metadata: Object | None) -> Purpose | None:
    """The purpose of a payment; None if it was not made through us."""
    try:
        return Purpose(str((metadata or {}).get(PURPOSE) or ""))
    except ValueError:
        return None


def action_url_of(intent: Object) -> str:
    """The page where the customer can confirm, if Stripe gives one."""
    action = intent.get("next_action") or {}
    return str((action.get("redirect_to_url") or {}).get("url") or "")


def charge_result(intent: Object) -> ChargeResult:
    """The state of a PaymentIntent, as the result of a charge."""
    status = str(intent.get("status"))
    error = intent.get("last_payment_error")
    code = error_code(error)
    found = ChargeResult(
        status=ChargeStatus.SUCCEEDED,
        provider=NAME,
        amount=money_of(int(intent["amount"]), str(intent["currency"])),
        reference=str(intent["id"]),
    )
    if status == "succeeded":
        return found
    if status in ("processing", "requires_capture"):
        return replace(found, status=ChargeStatus.PENDING)
    message = str((error or {}).get("message") or "")
    if status == "requires_action" or code in ACTION:
        return replace(
            found,
            status=ChargeStatus.ACTION_REQUIRED,
            code=code or "authentication_required",
            message=message or "The payment has to be confirmed by its owner.",
            action_url=action_url_of(intent),
        )
    return replace(
        found,
        status=ChargeStatus.FAILED,
        decline=decline_of(code),
        code=code or status,
        message=message or "The payment did not succeed.",
    )


def method_of(method: Object, default: str = "") -> PaymentMethod:
    """A saved payment method; for a card, only what may be printed on a receipt."""
    kind = str(method.get("type") or "")
    detail = method.get(kind) or {}
    last = str(detail.get("last4") or "")
    brand = str(detail.get("brand") or kind).replace("_", " ").title()
    year, month = detail.get("exp_year"), detail.get("exp_month")
    return PaymentMethod(
        reference=str(method["id"]),
        kind=kind,
        label=f"{brand} •••• {last}" if last else brand,
        expires=f"{int(year):04d}-{int(month):02d}" if year and month else "",
        default=method["id"] == default,
    )


# ---- subscriptions ----------------------------------------------------------------------


class MappedStatus(NamedTuple):
    """The meaning of a status: our state, the reason of refusals, whether grace comes first."""

    state: SubscriptionState
    reason: str = ""
    grace: bool = False


STATUSES: dict[str, MappedStatus] = {
    "trialing": MappedStatus(SubscriptionState.TRIALING),
    "active": MappedStatus(SubscriptionState.ACTIVE),
    "past_due": MappedStatus(SubscriptionState.PAST_DUE, "payment_failed", grace=True),
    "unpaid": MappedStatus(SubscriptionState.GRACE, "subscription_past_due"),
    "incomplete": MappedStatus(SubscriptionState.INCOMPLETE, "payment_action_required"),
    "incomplete_expired": MappedStatus(SubscriptionState.EXPIRED, "subscription_expired"),
    "canceled": MappedStatus(SubscriptionState.CANCELED, "subscription_expired"),
    "paused": MappedStatus(SubscriptionState.PAUSED, "payment_method_missing"),
}
"""Stripe's status → ours. A canceled subscription keeps access until `paid_through`. Stripe has
given up on an unpaid one, so its grace is over at once."""


def time_of(seconds: Any) -> datetime | None:
    """A time from Stripe, in seconds since 1970; None if there is none."""
    return None if seconds in (None, "") else datetime.fromtimestamp(int(seconds), UTC)


def _first_item(subscription: Object) -> Object:
    data = (subscription.get("items") or {}).get("data") or []
    return data[0] if data else {}


def plan_of(subscription: Object) -> str:
    """Our plan: from the metadata of the subscription or the price; otherwise the lookup key of the
    price; otherwise the id of an old-style plan."""
    item = _first_item(subscription)
    price = item.get("price") or {}
    plan = item.get("plan") or subscription.get("plan") or {}
    return str(
        (subscription.get("metadata") or {}).get(PLAN)
        or (price.get("metadata") or {}).get(PLAN)
        or price.get("lookup_key")
        or plan.get("id")
        or ""
    )


def subscription_of(
    subscription: Object, account: str, invoice: Object | None
) -> ProviderSubscription:
    """Our record of a subscription. `invoice`: the latest, which shows what has been paid for.

    Stripe starts the next period whether or not it was paid. So access lasts until the end of the
    period only with a paid invoice (or a trial); otherwise only until its beginning.
    """
    status = str(subscription["status"])
    standing = STATUSES.get(status)
    if standing is None:  # a status newer than this table: treated as the strictest one
        standing = MappedStatus(SubscriptionState.GRACE, "subscription_past_due")
    item = _first_item(subscription)
    begin = time_of(item.get("current_period_start") or subscription.get("current_period_start"))
    end = time_of(item.get("current_period_end") or subscription.get("current_period_end"))
    trial = time_of(subscription.get("trial_end"))
    paid = invoice is not None and invoice.get("status") == "paid"
    if standing.state is SubscriptionState.TRIALING:
        through = trial or end
    else:
        through = end if paid else begin
    cancel_at = time_of(subscription.get("cancel_at"))
    if cancel_at is None and subscription.get("cancel_at_period_end"):
        cancel_at = end
    return ProviderSubscription(
        reference=str(subscription["id"]),
        account=account,
        state=standing.state,
        status=status,
        reason=standing.reason,
        grace=standing.grace,
        plan=plan_of(subscription),
        service=str((subscription.get("metadata") or {}).get(SERVICE) or ""),
        paid_through=through,
        trial_ends=trial,
        cancel_at=cancel_at,
    )
