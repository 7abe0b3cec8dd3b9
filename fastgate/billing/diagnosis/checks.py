"""Checks: one rule for each cause of a refusal, over the facts of one question.

A rule does not decide whether its check fails: the data plane's own functions do
(`_core/exchange/dry_run.pyx`), and their `Outcome` is one of the facts. A rule explains it as one
`Step`, as text with the numbers and with facts from the store. It never guesses: a check without a
subject, or without its source at the moment, is skipped, and its step says so. `diagnosis` gathers
the facts, calls the rules in the order of `CHECKS` and draws the conclusion.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from fastgate._core.exchange.dry_run import Outcome
from fastgate.billing.amounts import show
from fastgate.billing.diagnosis.evidence import (
    AccountFacts,
    ConsumerFacts,
    Evidence,
    InvoiceFacts,
    KeyFacts,
    RouteFacts,
    SubscriptionFacts,
)
from fastgate.billing.diagnosis.fixes import ASK, Fix, fix_of
from fastgate.billing.moments import moment_of
from fastgate.billing.x402.error_texts import words_of
from fastgate.billing.x402.refused_payments import PaymentField, RefusedPayment
from fastgate.errors import REASON_BY_CODE, reason_code

Numbers = dict[str, str | int]
Result = Literal["passed", "failed", "skipped"]
Check = Literal[
    "credential", "key", "consumer", "account", "subscription", "plan", "invoice", "provider",
    "limits", "quota", "spending", "balance", "holds", "payment",
]  # fmt: skip

CHECKS: dict[Check, str] = {
    "credential": "The request shows a credential that is known",
    "key": "The key is valid",
    "consumer": "The consumer is not suspended",
    "account": "The account may make requests",
    "subscription": "The subscription gives access",
    "plan": "The plan includes this service",
    "invoice": "No invoice is unpaid",
    "provider": "The payment providers answer",
    "limits": "No rate or concurrency limit is reached",
    "quota": "The quota is not used up",
    "spending": "No spending limit is reached",
    "balance": "The wallet covers the price",
    "holds": "Requests in progress leave enough of the balance",
    "payment": "The request is paid for",
}
"""The checks in order, each with its condition."""

CHECK_OF: dict[str, Check] = {
    "credential_missing": "credential",
    "credential_unknown": "credential",
    "token_invalid": "credential",
    "insufficient_scope": "credential",
    "subject_unknown": "credential",
    "credential_expired": "key",
    "credential_revoked": "key",
    "consumer_suspended": "consumer",
    "subscription_paused": "subscription",
    "not_subscribed": "plan",
    "forbidden": "consumer",
    "subscription_expired": "subscription",
    "subscription_past_due": "subscription",
    "payment_failed": "subscription",
    "payment_action_required": "subscription",
    "payment_method_missing": "subscription",
    "payment_provider_unavailable": "provider",
    "settlement_unknown": "provider",
    "rate_limited": "limits",
    "concurrency_limited": "limits",
    "quota_exhausted": "quota",
    "quota_exhausted_upgrade": "quota",
    "spending_limit_reached": "spending",
    "insufficient_balance": "balance",
    "hold_in_flight": "holds",
    "payment_required": "payment",
    "payment_invalid": "payment",
}
"""The check of each reason. The other reasons do not concern the caller or the payment: their own
text is the diagnosis."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One check."""

    check: Check
    title: str
    result: Result
    """For a recorded request: the status at that time."""
    text: str
    reason: str | None = None
    """The reason code of the refusal."""
    numbers: Numbers = {}
    """The values that were compared; amounts as decimal text."""
    fix: Fix | None = None
    now: Result | None = None
    """If a recorded request failed here: the current status."""


class CheckContext:
    """The facts of one question; creates steps."""

    def __init__(self, evidence: Evidence, now: datetime) -> None:
        self.evidence = evidence
        self.now = now
        self.asked_key = False
        """The question has a credential, known or not."""
        self.asked_consumer: str | None = None
        self.is_record = False
        """The question is about a recorded request; `recorded` is its reason, if it was refused."""
        self.recorded: str | None = None
        self.recorded_limit: str | None = None
        """The label of the limit that refused it."""
        self.payment: tuple[PaymentField, ...] | None = None
        self.refused_payment: RefusedPayment | None = None
        """The note about the payment that was refused with the recorded request."""
        self.key: KeyFacts | None = None
        self.consumer: ConsumerFacts | None = None
        self.account: AccountFacts | None = None
        self.subscriptions: list[SubscriptionFacts] = []
        self.invoices: list[InvoiceFacts] = []
        self.no_store: str | None = None
        """The store's error, if it could not be reached."""
        self.route: RouteFacts | None = None
        self.outcome: Outcome | None = None
        """The data plane's decision about the request; None: no configuration is served yet."""

    def covering(self) -> SubscriptionFacts | None:
        """The subscription for the route: one for its service before one for all services."""
        service = self.route.service if self.route is not None else None
        mine = [each for each in self.subscriptions if each.service in (None, service)]
        # One that gives access comes first, since ended subscriptions stay in the store.
        mine.sort(key=lambda each: (each.service is None, each.refused is not None))
        return mine[0] if mine else None

    def passed(self, check: Check, text: str, numbers: Numbers | None = None) -> Step:
        return Step(
            check=check, title=CHECKS[check], result="passed", text=text, numbers=numbers or {}
        )

    def skipped(self, check: Check, text: str) -> Step:
        return Step(check=check, title=CHECKS[check], result="skipped", text=text)

    def failed(
        self,
        check: Check,
        reason: str,
        text: str,
        numbers: Numbers | None = None,
        fix: Fix | None = None,
    ) -> Step:
        return Step(
            check=check,
            title=CHECKS[check],
            result="failed",
            text=text,
            reason=reason,
            numbers=numbers or {},
            fix=fix if fix is not None else fix_of(reason),
        )

    def away(self, check: Check) -> Step:
        """Skip a check whose facts are in an unavailable store, or which has no subject."""
        if self.no_store is not None:
            return self.skipped(check, f"The store cannot be reached right now: {self.no_store}")
        if self.consumer is None:
            return self.skipped(check, "The caller is unknown.")
        return self.skipped(check, "The consumer belongs to no account.")


# ---- words ------------------------------------------------------------------------------


def _number(code: str) -> int:
    return REASON_BY_CODE[code].number


_OF_TOKENS = ("credential_unknown", "token_invalid", "insufficient_scope", "subject_unknown")
_MISSING = _number("credential_missing")
_UNKNOWN = _number("credential_unknown")
_EXPIRED = _number("credential_expired")
_REVOKED = _number("credential_revoked")
_SUSPENDED = _number("consumer_suspended")
_UNPAID = _number("payment_required")
_TOO_LITTLE = _number("insufficient_balance")
_HELD = _number("hold_in_flight")

_STATES = {
    "incomplete": "is waiting for its first payment",
    "trialing": "is in its trial",
    "active": "is active",
    "past_due": "has a failed payment that is being tried again",
    "grace": "has a failed payment and is in its grace period",
    "paused": "is paused",
    "canceled": "is cancelled",
    "expired": "has ended",
}


def _when(unix: int) -> str:
    """A time, for programs."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- the rules, one a check ----------------------------------------------------------------


def _credential(context: CheckContext) -> Step:
    outcome = context.outcome
    if context.asked_key:
        if outcome is not None and not outcome.looks_at_keys:
            return context.skipped("credential", "This route does not ask for a key.")
        if context.key is None or (outcome is not None and outcome.key == _UNKNOWN):
            return context.failed(
                "credential", "credential_unknown", "This gateway has no such key."
            )
        return context.passed("credential", "The key is known.", {"key": context.key.id})
    if context.recorded in _OF_TOKENS:
        return context.failed("credential", context.recorded, REASON_BY_CODE[context.recorded].text)
    if context.consumer is not None:
        return context.passed("credential", f"The request is made by {context.consumer.name}.")
    if context.asked_consumer is not None:
        return context.failed(
            "credential",
            "credential_unknown",
            f"The consumer {context.asked_consumer!r} no longer exists.",
        )
    if outcome is not None and outcome.key == _MISSING:
        return context.failed(
            "credential", "credential_missing", "The route needs a key, and the request has none."
        )
    return context.skipped("credential", "No credential was sent, and the route needs no key.")


def _key(context: CheckContext) -> Step:
    key, outcome = context.key, context.outcome
    if key is None and context.is_record and context.consumer is not None:
        return context.passed("key", "It was valid when the request came.")
    if key is None or outcome is None or not outcome.looks_at_keys:
        return context.skipped("key", "There is no key to check.")
    if outcome.key == _REVOKED:
        at = _when(key.revoked_at)
        text = f"The key was revoked on {moment_of(key.revoked_at)}."
        return context.failed("key", "credential_revoked", text, {"revoked_at": at})
    if outcome.key == _EXPIRED:
        at = _when(key.expires_at)
        text = f"The key expired on {moment_of(key.expires_at)}."
        return context.failed("key", "credential_expired", text, {"expires_at": at})
    if key.expires_at:
        text = f"The key is valid until {moment_of(key.expires_at)}."
        return context.passed("key", text, {"expires_at": _when(key.expires_at)})
    return context.passed("key", "The key is valid and does not expire.")


def _consumer(context: CheckContext) -> Step:
    consumer, outcome = context.consumer, context.outcome
    if consumer is None:
        return context.skipped("consumer", "The caller is unknown.")
    if outcome is None or outcome.key != _SUSPENDED:
        return context.passed("consumer", f"The consumer {consumer.name} may call.")
    if not consumer.suspended and consumer.plan not in context.evidence.plans():
        return context.failed(
            "consumer",
            "consumer_suspended",
            f"The consumer is on the plan {consumer.plan!r}, which is no longer configured.",
            {"plan": consumer.plan or ""},
        )
    return context.failed(
        "consumer", "consumer_suspended", f"The consumer {consumer.name} is suspended."
    )


def _account(context: CheckContext) -> Step:
    outcome = context.outcome
    if outcome is not None and outcome.account:
        code = reason_code(outcome.account)
        name = f" {context.account.name}" if context.account is not None else ""
        return context.failed(
            "account",
            code,
            f"All requests of the account{name} are refused: {REASON_BY_CODE[code].title.lower()}.",
        )
    if context.account is None:
        return context.away("account")
    return context.passed("account", f"The account {context.account.name} may make requests.")


def _subscription(context: CheckContext) -> Step:
    code = reason_code(context.outcome.subscription) if context.outcome is not None else ""
    found = context.covering()
    if not code and (context.account is None or found is None):
        if context.account is None:
            return context.away("subscription")
        return context.skipped("subscription", "The account has no subscription for this.")
    numbers: Numbers = {}
    what = "The subscription"
    if found is not None:
        what = f"The subscription to {found.plan!r}"
        numbers = {"plan": found.plan, "state": found.state}
        if found.until is not None:
            numbers["until"] = _when(int(found.until.timestamp()))
    if code:
        state = _STATES.get(found.state, "gives no access") if found is not None else ""
        words = f"{what} {state}, and gives no access" if state else f"{what} gives no access"
        return context.failed(
            "subscription", code, f"{words}: {REASON_BY_CODE[code].title.lower()}.", numbers
        )
    assert found is not None
    state = _STATES.get(found.state, "is known")
    return context.passed("subscription", f"{what} {state} and gives access.", numbers)


def _plan(context: CheckContext) -> Step:
    consumer, outcome, route = context.consumer, context.outcome, context.route
    if consumer is None or outcome is None:
        return context.skipped("plan", "The caller is unknown.")
    plan = outcome.plan
    numbers: Numbers = {"plan": plan} if plan else {}
    if outcome.service and route is not None:
        numbers["plans"] = ", ".join(route.plans)
        return context.failed(
            "plan",
            reason_code(outcome.service),
            f"The plan {plan!r} does not include the service {route.service!r}."
            if plan
            else f"The service {route.service!r} is only for callers on a plan that includes it.",
            numbers,
        )
    if not plan:
        return context.skipped("plan", "The caller is on no plan, and needs none.")
    return context.passed("plan", f"The plan {plan!r} is in force.", numbers)


def _invoice(context: CheckContext) -> Step:
    if context.account is None:
        return context.away("invoice")
    found = context.covering()
    code = reason_code(context.outcome.subscription) if context.outcome is not None else ""
    mine = [
        each
        for each in context.invoices
        if found is not None and each.subscription in (None, found.id)
    ]
    if not mine:
        return context.passed("invoice", "No invoice is open.")
    first = mine[0]
    numbers: Numbers = {
        "invoice": first.number,
        "amount": show(first.micros, first.currency),
        "due": _when(int(first.due.timestamp())),
        "open": len(mine),
    }
    text = f"Invoice {first.number} for {numbers['amount']} is open."
    if code:
        fix = Fix(action="pay_now", text="Pay the open invoice.", page="pay")
        return context.failed("invoice", code, text, numbers, fix)
    return context.passed("invoice", f"{text} Access still continues.", numbers)


def _provider(context: CheckContext) -> Step:
    """Requests do not wait for a provider, except those that are paid for one by one. These use the
    facilitator of their route, whose state is unknown here."""
    if context.route is not None and context.route.by_payment:
        return context.skipped(
            "provider",
            "Payments for this route are checked by its facilitator, with each request.",
        )
    providers = [each for each in context.evidence.providers() if each.charges]
    if not providers:
        return context.skipped("provider", "No payment provider that can charge is configured.")
    down = [each for each in providers if not each.up]
    if not down:
        names = ", ".join(each.name for each in providers)
        return context.passed("provider", f"{names}: reachable.")
    text = "; ".join(f"{each.name}: {each.error or 'does not answer'}" for each in down)
    numbers: Numbers = {"down": len(down), "providers": len(providers)}
    if len(down) < len(providers):
        others = ", ".join(each.name for each in providers if each.up)
        return context.passed("provider", f"{text}. Charges now go through {others}.", numbers)
    return context.passed(
        "provider", f"{text}. Requests do not wait for it: they are charged here.", numbers
    )


def _limited(context: CheckContext, check: Check, kinds: tuple[str, ...]) -> Step:
    outcome = context.outcome
    if outcome is None:
        return context.skipped(check, "It is unknown which limits apply.")
    found = [each for each in outcome.limits if each.kind in kinds]
    refused = CHECK_OF.get(context.recorded or "") == check
    known = {None, *(each.name for each in outcome.limits)}
    if refused and context.recorded_limit not in known:
        return context.skipped(check, "The state of the limit for that caller is unknown now.")
    if not found:
        more = (
            " Limits that count by address, key or header are not checked."
            if outcome.unseen
            else ""
        )
        return context.skipped(check, f"No limit applies.{more}")
    refusing = [each for each in found if each.reason]
    # The limit that refused a recorded request, if it still does.
    first = next((each for each in refusing if reason_code(each.reason) == context.recorded), None)
    first = first or (refusing[0] if refusing else min(found, key=lambda each: each.remaining))
    numbers: Numbers = {
        "limit": first.name,
        "amount": first.amount,
        "used": first.used,
        "remaining": first.remaining,
        "resets_at": _when(first.resets_at),
    }
    if not first.reason:
        text = f"{first.remaining} of {first.words} left."
        return context.passed(check, text, numbers)
    text = f"The limit of {first.words} is reached"
    if first.kind == "concurrency":
        text = f"{text} by requests in progress."
    else:
        text = f"{text} until {moment_of(first.resets_at)}."
    return context.failed(check, reason_code(first.reason), text, numbers)


def _limits(context: CheckContext) -> Step:
    return _limited(context, "limits", ("rate", "concurrency"))


def _quota(context: CheckContext) -> Step:
    return _limited(context, "quota", ("quota",))


def _spending(context: CheckContext) -> Step:
    outcome = context.outcome
    if outcome is None or context.consumer is None:
        return context.skipped("spending", "The caller is unknown.")
    if not outcome.spending_reason and context.recorded == "spending_limit_reached":
        text = "The consumer's and the account's limits allow it; that of the key is not known."
        return context.skipped("spending", text)
    if not outcome.spending:
        return context.skipped("spending", "No spending limit is set.")
    currency = outcome.currency or context.evidence.currency()
    refusing = [one for one in outcome.spending if one.of == outcome.spender]
    refusing.sort(key=lambda one: one.limit - one.used)
    first = (refusing or sorted(outcome.spending, key=lambda one: one.limit - one.used))[0]
    numbers: Numbers = {
        "of": first.of,
        "limit": show(first.limit, currency),
        "spent": show(first.used, currency),
        "resets_at": _when(first.resets_at),
    }
    spent = f"{numbers['spent']} of {numbers['limit']} is spent of the {first.of}'s limit"
    if not outcome.spending_reason:
        return context.passed("spending", f"{spent}.", numbers)
    required = show(outcome.price, currency)
    numbers["required"] = required
    text = f"{spent}, and the request may cost {required}."
    fix = Fix(action="wait", text=f"Wait for the limit to reset on {moment_of(first.resets_at)}.")
    if outcome.price > first.limit:
        fix = Fix(action="ask", text="Ask the API's operator to raise the limit.")
    return context.failed("spending", reason_code(outcome.spending_reason), text, numbers, fix)


def _unpriced(context: CheckContext, check: Check) -> Step | None:
    """Why there is no price to compare with a wallet; None if there is one."""
    outcome = context.outcome
    if outcome is None:
        return context.skipped(check, "The caller is unknown.")
    if context.route is None:
        return context.skipped(check, "No route was named, so no price is known.")
    if not outcome.price and context.consumer is None:
        return context.skipped(check, "The caller is unknown.")
    if not outcome.price:
        return context.skipped(
            check, f"This request to {context.route.name!r} costs this caller nothing."
        )
    if outcome.charge == _UNPAID:
        return context.skipped(check, "The caller has no account with a wallet.")
    return None


def _balance(context: CheckContext) -> Step:
    if (why := _unpriced(context, "balance")) is not None:
        return why
    outcome = context.outcome
    assert outcome is not None
    has, currency = outcome.available, outcome.currency
    if outcome.charge == _HELD:
        has += outcome.held
    numbers: Numbers = {
        "balance": show(has, currency),
        "required": show(outcome.price, currency),
    }
    if outcome.charge != _TOO_LITTLE:
        return context.passed(
            "balance",
            f"The wallet has {numbers['balance']}; the request costs {numbers['required']}.",
            numbers,
        )
    missing = show(outcome.price - has, currency)
    numbers["shortfall"] = missing
    text = f"The wallet has {numbers['balance']} and the request needs {numbers['required']}."
    fix = Fix(action="top_up", text=f"Top up the wallet by at least {missing}.", page="top-up")
    return context.failed("balance", "insufficient_balance", text, numbers, fix)


def _holds(context: CheckContext) -> Step:
    if (why := _unpriced(context, "holds")) is not None:
        return why
    outcome = context.outcome
    assert outcome is not None
    if outcome.charge == _TOO_LITTLE:
        return context.skipped(
            "holds", "The balance does not cover the price, even without reservations."
        )
    numbers: Numbers = {
        "available": show(outcome.available, outcome.currency),
        "required": show(outcome.price, outcome.currency),
    }
    if outcome.charge != _HELD:
        return context.passed("holds", f"{numbers['available']} is not reserved.", numbers)
    numbers["held"] = show(outcome.held, outcome.currency)
    return context.failed(
        "holds",
        "hold_in_flight",
        f"Requests in progress have {numbers['held']} reserved, which leaves "
        f"{numbers['available']}.",
        numbers,
    )


def _payment(context: CheckContext) -> Step:
    fields, outcome = context.payment, context.outcome
    by_payment = context.route is not None and context.route.by_payment
    if outcome is not None and outcome.charge == _UNPAID:
        price = show(outcome.price, outcome.currency)
        text = f"The request costs {price}, and the caller has no account that could pay."
        return context.failed("payment", "payment_required", text, {"required": price}, ASK)
    if fields is None:
        if by_payment and not context.is_record:
            return context.failed(
                "payment", "payment_required", "Each request to this route has to be paid for."
            )
        return context.skipped("payment", "No payment came with the request.")
    for field in fields:
        if field.wanted != field.sent:
            return context.failed(
                "payment",
                "payment_invalid",
                f"{field.name} is {field.sent!r}, and {field.wanted!r} was asked for.",
                {"field": field.name, "wanted": field.wanted, "sent": field.sent},
            )
    if context.refused_payment is not None:
        return _refused_payment(context, context.refused_payment)
    return context.passed("payment", f"All {len(fields)} fields match the offer.")


def _refused_payment(context: CheckContext, note: RefusedPayment) -> Step:
    """The payment's fields matched the offer, but it was not accepted."""
    said = {"facilitator": note.facilitator, "message": note.message, "payer": note.payer}
    numbers: Numbers = {name: value for name, value in said.items() if value}
    numbers |= {"network": note.network, "asset": note.asset}
    words = words_of(note.facilitator) if note.facilitator else None
    if words is None:
        text = f"{note.detail[:1].upper()}{note.detail[1:]}."
        if note.facilitator:
            text = f"The facilitator refused it: {note.facilitator}."
        return context.failed("payment", note.reason, text, numbers)
    text = f"{words.text} ({note.facilitator})"
    return context.failed("payment", note.reason, text, numbers, Fix(action="pay", text=words.fix))


RULES: dict[Check, Callable[[CheckContext], Step]] = {
    "credential": _credential,
    "key": _key,
    "consumer": _consumer,
    "account": _account,
    "subscription": _subscription,
    "plan": _plan,
    "invoice": _invoice,
    "provider": _provider,
    "limits": _limits,
    "quota": _quota,
    "spending": _spending,
    "balance": _balance,
    "holds": _holds,
    "payment": _payment,
}
