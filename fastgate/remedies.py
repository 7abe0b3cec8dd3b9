"""What helps after each refusal: the one table behind bodies, pages, diagnosis and documents.

A remedy is something that somebody can do. Where the public pages are on, each has an address
below `/_fastgate/` at which it is done; the pages are opened with the caller's key, or with the
signed link that the refusal carries (see `_core/refusal.pyx`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "/_fastgate"
"""Where the gateway's own pages stand, on every listener and host."""
PROBLEMS = f"{PREFIX}/problems/"
"""One page for each reason; the reason's code follows."""

Action = Literal["top_up", "upgrade", "update_payment_method", "renew", "pay_now", "reduce", "wait"]
Retry = Literal["never", "after_payment", "after_delay", "same_credential"]
"""When to send the same request again: when something was changed, when it was paid, after a
while, or again and again with the same proof of payment."""


class Remedy(NamedTuple):
    """One way out."""

    action: Action
    title: str
    """What to do, as a button says it."""
    page: str = ""
    """Below `/_fastgate/account/`; empty: the problem's own page says how."""


TOP_UP = Remedy("top_up", "Top up the wallet", "top-up")
UPGRADE = Remedy("upgrade", "Move to a larger plan", "plan")
METHOD = Remedy("update_payment_method", "Change the payment method", "payment-method")
RENEW = Remedy("renew", "Renew the subscription", "renew")
PAY = Remedy("pay_now", "Pay the open invoice", "pay")
CONFIRM = Remedy("pay_now", "Confirm the payment", "pay")
PAY_REQUEST = Remedy("pay_now", "Pay for this request")
REDUCE = Remedy("reduce", "Ask for less at a time")
WAIT = Remedy("wait", "Wait until it starts anew")

REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "insufficient_balance": (TOP_UP, REDUCE),
    "subscription_expired": (RENEW, UPGRADE),
    "subscription_past_due": (PAY, METHOD),
    "spending_limit_reached": (WAIT, REDUCE),
    "quota_exhausted_upgrade": (UPGRADE, WAIT),
    "payment_failed": (METHOD, PAY),
    "payment_action_required": (CONFIRM, METHOD),
    "payment_required": (PAY_REQUEST, TOP_UP),
    "payment_invalid": (PAY_REQUEST,),
    "payment_method_missing": (METHOD,),
    "not_subscribed": (UPGRADE,),
    "rate_limited": (WAIT, REDUCE),
    "quota_exhausted": (WAIT,),
    "concurrency_limited": (WAIT, REDUCE),
    "hold_in_flight": (WAIT, TOP_UP),
    "payment_provider_unavailable": (WAIT,),
    "settlement_unknown": (WAIT,),
}
"""What helps, the best first. Reasons that are not here are explained by their text alone."""

_RETRY: dict[str, Retry] = {
    "settlement_unknown": "same_credential",
    "spending_limit_reached": "after_delay",
}

DIAGNOSED = frozenset({401, 402, 403, 429})
"""Statuses whose refusals link to a diagnosis: what stood in the way lies with the caller's
credential, plan or money. So do those of `REMEDIES`."""


def retry_of(code: str, status: int, retryable: bool) -> Retry:
    """When the same request may succeed."""
    if code in _RETRY:
        return _RETRY[code]
    if status == 402:
        return "after_payment"
    return "after_delay" if retryable else "never"
