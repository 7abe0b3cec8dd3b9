"""What helps after each refusal: one table for bodies, pages, diagnosis and documentation.

A remedy is something that the caller can do. If the public pages are on, a remedy has a page under
`/_fastgate/`, which opens with the caller's key or with the signed link in the refusal (see
`_core/exchange/refusal.pyx`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "/_fastgate"
"""The path of the gateway's own pages, on every listener and host."""
PROBLEMS = f"{PREFIX}/problems/"
"""One page for each reason; the reason's code follows."""

Action = Literal["top_up", "upgrade", "update_payment_method", "renew", "pay_now", "reduce", "wait"]
Retry = Literal["never", "after_payment", "after_delay", "same_credential"]
"""When to send the same request again: after something has changed, after a payment, after a delay,
or repeatedly with the same proof of payment."""


class Remedy(NamedTuple):
    """One way to continue. In the texts of refusals, `when` is the section
    (`_core/snapshot/snapshot.pxd`) without which it would not help; empty: it always does."""

    action: Action
    title: str
    """What to do, as the text of a button."""
    page: str = ""
    """The page under `/_fastgate/account/`; empty: there is none."""
    when: str = ""


TOP_UP = Remedy("top_up", "Top up the wallet", "top-up")
UPGRADE = Remedy("upgrade", "Choose a larger plan", "plan")
OTHER_PLAN = Remedy("upgrade", "Choose another plan", "plan")
SERVICE_PLAN = Remedy("upgrade", "Choose a plan that includes this service", "plan")
METHOD = Remedy("update_payment_method", "Change the payment method", "payment-method")
ADD_METHOD = Remedy("update_payment_method", "Add a payment method", "payment-method")
RENEW = Remedy("renew", "Renew the subscription", "renew")
PAY = Remedy("pay_now", "Pay the open invoice", "pay")
CONFIRM = Remedy("pay_now", "Complete the payment", "pay")
PAY_REQUEST = Remedy("pay_now", "Pay for this request")
REDUCE = Remedy("reduce", "Ask for fewer units at a time", when="f")
WAIT = Remedy("wait", "Wait for the limit to reset")
WAIT_IF_ENOUGH = Remedy("wait", "Wait for the limit to reset", when="w")
WAIT_RUNNING = Remedy("wait", "Wait for one of the requests in progress to finish")
WAIT_HOLDS = Remedy("wait", "Wait for requests in progress to finish")
WAIT_SHORTLY = Remedy("wait", "Try again shortly")
WAIT_SAME = Remedy("wait", "Send the same request again shortly, with the same payment")

REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "insufficient_balance": (TOP_UP, REDUCE),
    "subscription_expired": (RENEW, OTHER_PLAN),
    "subscription_past_due": (PAY, METHOD),
    "spending_limit_reached": (WAIT_IF_ENOUGH, REDUCE),
    "quota_exhausted_upgrade": (UPGRADE, WAIT),
    "payment_failed": (METHOD, PAY),
    "payment_action_required": (CONFIRM, METHOD),
    "payment_invalid": (PAY_REQUEST,),
    "payment_method_missing": (ADD_METHOD,),
    "not_subscribed": (SERVICE_PLAN,),
    "rate_limited": (WAIT,),
    "quota_exhausted": (WAIT,),
    "concurrency_limited": (WAIT_RUNNING,),
    "hold_in_flight": (WAIT_HOLDS, TOP_UP),
    "payment_provider_unavailable": (WAIT_SHORTLY,),
    "settlement_unknown": (WAIT_SAME,),
}
"""What helps, best first. Reasons that are not here have only their text."""

_RETRY: dict[str, Retry] = {
    "settlement_unknown": "same_credential",
    "spending_limit_reached": "after_delay",
}

DIAGNOSED = frozenset({401, 402, 403, 429})
"""Statuses whose refusals link to a diagnosis, because the cause is the caller's credential, plan
or balance. The reasons in `REMEDIES` link to one too."""


def retry_of(code: str, status: int, retryable: bool) -> Retry:
    """When the same request may succeed."""
    if code in _RETRY:
        return _RETRY[code]
    if status == 402:
        return "after_payment"
    return "after_delay" if retryable else "never"
