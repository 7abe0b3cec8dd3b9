"""Stripe's own books: the balance, and the balance transactions that made it.

Every movement of a Stripe account is a *balance transaction*: the gross `amount`, the `fee`, and
`net`, by which the balance changed. Payouts are included. Its kind is the `reporting_category`
(several values of `type` mean the same); `source` is the charge, refund, dispute or payout. The
balance is the sum of the available and the pending amount, by currency.

Payments continue while this reads. So both are read until the balance before equals the one after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgate.billing.payments import stripe_objects
from fastgate.billing.payments.base import BalanceLine, LineKind, Statement
from fastgate.billing.payments.stripe_api import StripeApi

ATTEMPTS = 3
"""The maximum number of readings while the balance changes."""

_KINDS = {
    "charge": LineKind.PAYMENT,
    "partial_capture_reversal": LineKind.PAYMENT,
    "refund": LineKind.REFUND,
    "refund_failure": LineKind.REFUND,
    "dispute": LineKind.DISPUTE,
    "dispute_reversal": LineKind.DISPUTE,
    "payout": LineKind.PAYOUT,
    "payout_reversal": LineKind.PAYOUT,
    "fee": LineKind.FEE,
    "tax": LineKind.FEE,
    "network_cost": LineKind.FEE,
}
"""By `reporting_category`; the others (reserves, transfers, top-ups) do not concern us."""


async def statement(stripe: StripeApi) -> Statement:
    """The balance and all of its transactions."""
    balances = await _balances(stripe)
    for _ in range(ATTEMPTS):
        listed = stripe.client.v1.balance_transactions.list_async(
            {"limit": 100, "expand": ["data.source"]}
        )
        lines = [line_of(item) async for item in stripe.all(listed) if _counts(item)]
        before, balances = balances, await _balances(stripe)
        if balances == before:
            break
    return Statement(balances, lines)


async def _balances(stripe: StripeApi) -> dict[str, int]:
    data = (await stripe.call(stripe.client.v1.balance.retrieve_async())).to_dict()
    found: dict[str, int] = {}
    for part in ("available", "pending"):
        for item in data.get(part) or []:
            amount = stripe_objects.money_of(int(item["amount"]), str(item["currency"]))
            found[amount.currency] = found.get(amount.currency, 0) + amount.micros
    return found


def _counts(item: Mapping[str, Any]) -> bool:
    """Whether it changes the balance of payments; issued cards have a separate balance."""
    return item.get("balance_type") in (None, "payments")


def line_of(item: Mapping[str, Any]) -> BalanceLine:
    """A balance transaction with its source expanded."""
    kind = _KINDS.get(str(item.get("reporting_category")), LineKind.OTHER)
    gross = stripe_objects.money_of(int(item["amount"]), str(item["currency"]))
    source = item.get("source")
    about: Mapping[str, Any] = source if isinstance(source, Mapping) else {"id": source or ""}
    intent = about.get("payment_intent") or ""
    payment = str(intent.get("id") if isinstance(intent, Mapping) else intent)
    converted = None
    original = about.get("currency")
    if kind in _PAID and original and str(original).upper() != gross.currency:
        converted = stripe_objects.money_of(int(about["amount"]), str(original))
    marked = stripe_objects.purpose_of(about.get("metadata") or {}) is not None
    return BalanceLine(
        reference=str(item["id"]),
        kind=kind,
        subject=payment if kind is LineKind.PAYMENT else str(about["id"]),
        payment=payment,
        currency=gross.currency,
        amount=gross.micros,
        fee=stripe_objects.money_of(int(item.get("fee") or 0), str(item["currency"])).micros,
        converted=converted,
        marked=marked or kind is not LineKind.PAYMENT,
    )


_PAID = (LineKind.PAYMENT, LineKind.REFUND, LineKind.DISPUTE)
