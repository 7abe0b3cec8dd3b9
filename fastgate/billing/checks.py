"""Checks: one rule for each thing that may stand in a request's way, over the facts of a case.

A rule looks at the facts that a `Case` holds and gives one `Step`. It never guesses: what has no
subject, or no source just now, is skipped and says so. `diagnosis` gathers the facts, calls the
rules in the order of `CHECKS` and draws the conclusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from fastgate._core.refusal import money_text
from fastgate.billing.evidence import (
    AccountFacts,
    ConsumerFacts,
    Evidence,
    InvoiceFacts,
    KeyFacts,
    LimitFacts,
    RouteFacts,
    SubscriptionFacts,
)
from fastgate.billing.facilitator_words import words_of
from fastgate.billing.refused_payments import PaymentField, RefusedPayment
from fastgate.errors import REASON_BY_CODE
from fastgate.remedies import REMEDIES

Numbers = dict[str, str | int]
Result = Literal["passed", "failed", "skipped"]
Check = Literal[
    "credential", "key", "account", "consumer", "subscription", "invoice", "provider",
    "limits", "quota", "spending", "balance", "holds", "payment",
]  # fmt: skip

CHECKS: dict[Check, str] = {
    "credential": "The request shows a credential that is known",
    "key": "The key is valid",
    "account": "The account may make requests",
    "consumer": "The consumer may call this service",
    "subscription": "The subscription gives access",
    "invoice": "Nothing is left unpaid",
    "provider": "The payment providers answer",
    "limits": "No rate or concurrency limit is reached",
    "quota": "The quota is not used up",
    "spending": "No spending limit is reached",
    "balance": "The wallet covers the price",
    "holds": "Requests in progress leave enough of it",
    "payment": "The payment that was sent is the one that was asked for",
}
"""The checks in their order, each with what it is about."""

CHECK_OF: dict[str, Check] = {
    "credential_missing": "credential",
    "credential_unknown": "credential",
    "token_invalid": "credential",
    "credential_expired": "key",
    "credential_revoked": "key",
    "consumer_suspended": "consumer",
    "not_subscribed": "consumer",
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
"""Which check a reason belongs to. Reasons that are not here have nothing to do with who calls
and pays: their own text is the diagnosis."""


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """What mends a failed check."""

    action: str
    """A remedy of `remedies.Action`, or: `use_key`, `new_key`, `ask`, `pay`."""
    text: str
    """One sentence, to whoever calls."""
    page: str = ""
    """Below `/_fastgate/account/`, where it can be done; empty: not on a page."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One check."""

    check: Check
    title: str
    result: Result
    """Of a recorded request: then."""
    text: str
    reason: str | None = None
    """The reason code it refuses with."""
    numbers: Numbers = {}
    """What was compared; amounts as decimal texts."""
    fix: Fix | None = None
    now: Result | None = None
    """Where a recorded request failed here: how it stands now."""


class Case:
    """The facts of one question, and the making of steps."""

    def __init__(self, evidence: Evidence, now: datetime) -> None:
        self.evidence = evidence
        self.now = now
        self.asked_key = False
        """A credential is asked about, known or not."""
        self.asked_consumer: str | None = None
        self.is_record = False
        """A recorded request is asked about; `recorded` is its reason, if it was refused."""
        self.recorded: str | None = None
        self.payment: tuple[PaymentField, ...] | None = None
        self.refused_payment: RefusedPayment | None = None
        """What is noted of the payment that was refused with the recorded request."""
        self.key: KeyFacts | None = None
        self.consumer: ConsumerFacts | None = None
        self.account: AccountFacts | None = None
        self.subscriptions: list[SubscriptionFacts] = []
        self.invoices: list[InvoiceFacts] = []
        self.no_store: str | None = None
        """What the store said when it could not be asked."""
        self.route: RouteFacts | None = None

    def covering(self) -> SubscriptionFacts | None:
        """The subscription that decides for the route: its service's own before one for all."""
        service = self.route.service if self.route is not None else None
        mine = [each for each in self.subscriptions if each.service in (None, service)]
        # One that gives access before one that does not, as an ended one stays on the books.
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
        """For checks whose facts are in the store, or of which there is no subject."""
        if self.no_store is not None:
            return self.skipped(check, f"The store cannot be reached just now: {self.no_store}")
        if self.consumer is None:
            return self.skipped(check, "It is not known who calls.")
        return self.skipped(check, "The consumer belongs to no account.")


# ---- fixes ------------------------------------------------------------------------------

_ASK = "Ask whoever runs the API."
_FIXES: dict[str, Fix] = {
    "credential_missing": Fix(action="use_key", text="Send your key as WWW-Authenticate says."),
    "credential_unknown": Fix(
        action="use_key",
        text="Check that the key is complete and of this gateway; if it is, ask for a new one.",
    ),
    "token_invalid": Fix(action="new_key", text="Get a new token."),
    "credential_expired": Fix(action="new_key", text="Ask for a new key."),
    "credential_revoked": Fix(
        action="new_key", text="Use the key that replaced it, or ask for a new one."
    ),
    "consumer_suspended": Fix(action="ask", text=_ASK),
    "forbidden": Fix(action="ask", text=_ASK),
    "payment_required": Fix(
        action="pay", text="Pay in one of the ways that the PAYMENT-REQUIRED field offers."
    ),
    "payment_invalid": Fix(
        action="pay", text="Make a new payment from the offer in this answer; none was taken."
    ),
    "settlement_unknown": Fix(
        action="wait", text="Do not pay again; send the same request with the same payment."
    ),
}


def fix_of(code: str) -> Fix | None:
    """What mends a refusal of this reason; None where its text says all there is."""
    if code in _FIXES:
        return _FIXES[code]
    for remedy in REMEDIES.get(code, ())[:1]:
        return Fix(action=remedy.action, text=f"{remedy.title}.", page=remedy.page)
    return None


# ---- the rules, one a check ----------------------------------------------------------------


def _money(micros: int, currency: str) -> str:
    return f"{money_text(micros)} {currency}".strip()


def _when(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _credential(case: Case) -> Step:
    if case.asked_key:
        if case.key is None:
            return case.failed(
                "credential", "credential_unknown", "No key like this is known here."
            )
        return case.passed("credential", "The key is one of ours.", {"key": case.key.id})
    if case.consumer is not None:
        return case.passed("credential", f"The request was made by {case.consumer.name}.")
    if case.recorded in ("credential_unknown", "token_invalid"):
        return case.failed("credential", case.recorded, REASON_BY_CODE[case.recorded].text)
    if case.asked_consumer is not None:
        return case.failed(
            "credential",
            "credential_unknown",
            f"No consumer {case.asked_consumer!r} is known here any more.",
        )
    if case.route is not None and case.route.needs_key:
        return case.failed(
            "credential", "credential_missing", "The route needs a key and none was shown."
        )
    return case.skipped("credential", "No credential was shown, and none is needed.")


def _key(case: Case) -> Step:
    key = case.key
    if key is None and case.is_record and case.consumer is not None:
        return case.passed("key", "It was valid when the request came.")
    if key is None:
        return case.skipped("key", "There is no key to look at.")
    if key.revoked_at:
        at = _when(key.revoked_at)
        return case.failed(
            "key", "credential_revoked", f"The key was revoked at {at}.", {"revoked_at": at}
        )
    if key.expires_at and key.expires_at <= case.now.timestamp():
        at = _when(key.expires_at)
        return case.failed(
            "key", "credential_expired", f"The key expired at {at}.", {"expires_at": at}
        )
    if key.expires_at:
        at = _when(key.expires_at)
        return case.passed("key", f"The key is valid until {at}.", {"expires_at": at})
    return case.passed("key", "The key is valid and does not expire.")


def _account(case: Case) -> Step:
    if case.account is None:
        return case.away("account")
    if (code := case.account.refused) is not None:
        return case.failed(
            "account",
            code,
            f"All requests of the account {case.account.name} are refused: "
            f"{REASON_BY_CODE[code].title.lower()}.",
        )
    return case.passed("account", f"The account {case.account.name} may make requests.")


def _consumer(case: Case) -> Step:
    consumer = case.consumer
    if consumer is None:
        return case.skipped("consumer", "It is not known who calls.")
    if consumer.suspended:
        return case.failed(
            "consumer", "consumer_suspended", f"The consumer {consumer.name} is suspended."
        )
    if consumer.plan is not None and consumer.plan not in case.evidence.plans():
        return case.failed(
            "consumer",
            "consumer_suspended",
            f"The consumer is on the plan {consumer.plan!r}, which is not configured any more.",
            {"plan": consumer.plan},
            Fix(action="ask", text=_ASK),
        )
    covering = case.covering()
    plan = covering.plan if covering is not None else consumer.plan
    if case.route is not None and case.route.plans and plan not in case.route.plans:
        return case.failed(
            "consumer",
            "not_subscribed",
            f"The plan {plan!r} does not include the service {case.route.service!r}."
            if plan
            else f"Without a plan, the service {case.route.service!r} cannot be used.",
            {"plan": plan or "", "plans": ", ".join(case.route.plans)},
        )
    return case.passed("consumer", f"The consumer {consumer.name} may call.", {"plan": plan or ""})


def _subscription(case: Case) -> Step:
    if case.account is None:
        return case.away("subscription")
    found = case.covering()
    if found is None:
        return case.skipped("subscription", "The account has no subscription for this.")
    numbers: dict[str, str | int] = {"plan": found.plan, "state": found.state}
    if found.until is not None:
        numbers["until"] = _when(int(found.until.timestamp()))
    if found.refused is not None:
        return case.failed(
            "subscription",
            found.refused,
            f"The subscription to {found.plan!r} is {found.state.replace('_', ' ')}.",
            numbers,
        )
    return case.passed(
        "subscription",
        f"The subscription to {found.plan!r} is {found.state.replace('_', ' ')} and gives access.",
        numbers,
    )


def _invoice(case: Case) -> Step:
    if case.account is None:
        return case.away("invoice")
    found = case.covering()
    refused = found is not None and found.refused is not None
    mine = [
        each
        for each in case.invoices
        if found is not None and each.subscription in (None, found.id)
    ]
    if not mine:
        return case.passed("invoice", "No invoice is open.")
    first = mine[0]
    numbers: dict[str, str | int] = {
        "invoice": first.number,
        "amount": _money(first.micros, first.currency),
        "due": _when(int(first.due.timestamp())),
        "open": len(mine),
    }
    text = f"The invoice {first.number} over {numbers['amount']} is open."
    if refused and found is not None and found.refused is not None:
        fix = Fix(action="pay_now", text="Pay the open invoice.", page="pay")
        return case.failed("invoice", found.refused, text, numbers, fix)
    return case.passed("invoice", f"{text} Access goes on meanwhile.", numbers)


def _provider(case: Case) -> Step:
    providers = case.evidence.providers()
    if not providers:
        return case.skipped("provider", "No payment provider is set up.")
    down = [each for each in providers if not each.up]
    if not down:
        names = ", ".join(each.name for each in providers)
        return case.passed("provider", f"{names}: reachable.")
    text = "; ".join(f"{each.name}: {each.error or 'does not answer'}" for each in down)
    numbers: dict[str, str | int] = {"down": len(down), "providers": len(providers)}
    if len(down) < len(providers):
        return case.passed("provider", f"{text}. The others are used meanwhile.", numbers)
    if case.route is not None and case.route.by_payment:
        return case.failed("provider", "payment_provider_unavailable", f"{text}.", numbers)
    return case.passed(
        "provider", f"{text}. Requests do not wait for it: they are charged here.", numbers
    )


def _limited(case: Case, check: Check, kinds: Mapping[str, str]) -> Step:
    if case.consumer is None:
        return case.skipped(check, "It is not known who calls.")
    name = case.route.name if case.route is not None else None
    found = [
        each
        for each in case.evidence.limits(case.consumer.id, case.consumer.plan)
        if each.kind in kinds and (each.route is None or name is None or each.route == name)
    ]
    if not found:
        return case.skipped(check, "None applies.")
    tightest = min(found, key=lambda each: each.remaining)
    numbers = _numbers(tightest)
    if tightest.remaining > 0:
        return case.passed(
            check,
            f"{tightest.remaining} of {tightest.amount} left of {tightest.limit!r}.",
            numbers,
        )
    code = kinds[tightest.kind]
    if case.recorded is not None and CHECK_OF.get(case.recorded) == check:
        code = case.recorded  # an exhausted quota may offer an upgrade or not; the refusal said
    text = f"The limit {tightest.limit!r} of {tightest.amount} is reached"
    if tightest.kind == "concurrency":
        return case.failed(check, code, f"{text} by requests in progress.", numbers)
    return case.failed(check, code, f"{text} until {_when(tightest.resets_at)}.", numbers)


def _numbers(limit: LimitFacts) -> dict[str, str | int]:
    return {
        "limit": limit.limit,
        "amount": limit.amount,
        "used": limit.used,
        "remaining": limit.remaining,
        "resets_at": _when(limit.resets_at),
    }


def _limits(case: Case) -> Step:
    return _limited(case, "limits", {"rate": "rate_limited", "concurrency": "concurrency_limited"})


def _quota(case: Case) -> Step:
    return _limited(case, "quota", {"quota": "quota_exhausted"})


def _spending(case: Case) -> Step:
    if case.consumer is None:
        return case.skipped("spending", "It is not known who calls.")
    found = case.evidence.spending(case.key.id if case.key is not None else None, case.consumer)
    if not found:
        return case.skipped("spending", "No spending limit is set.")
    price, currency = _price(case)
    for each in found:
        numbers: dict[str, str | int] = {
            "of": each.of,
            "limit": _money(each.limit, currency),
            "spent": _money(each.used, currency),
        }
        if each.resets_at:
            numbers["resets_at"] = _when(each.resets_at)
        if each.used + price > each.limit or each.used >= each.limit:
            return case.failed(
                "spending",
                "spending_limit_reached",
                f"The {each.of} has spent {numbers['spent']} of {numbers['limit']}"
                + (f", and the request may cost {_money(price, currency)}." if price else "."),
                numbers,
            )
    left = min(each.limit - each.used for each in found)
    return case.passed("spending", f"{_money(left, currency)} may still be spent.")


def _price(case: Case) -> tuple[int, str]:
    return (case.route.price, case.route.currency) if case.route is not None else (0, "")


def _wallet(case: Case, check: Check) -> Step | tuple[int, int, int, str]:
    """(price, available, settled, currency); or why there is nothing to compare."""
    price, currency = _price(case)
    if case.route is None:
        return case.skipped(check, "No route was named, so no price is known.")
    if price == 0:
        return case.skipped(check, f"The route {case.route.name!r} costs this caller nothing.")
    if case.consumer is None:
        return case.skipped(check, "It is not known who pays.")
    if case.consumer.account is None:
        return price, 0, 0, currency
    wallets = case.evidence.balances(case.consumer.account)
    mine = next((each for each in wallets if each.currency == currency), None)
    if mine is None:
        return price, 0, 0, currency
    return price, mine.available, mine.settled, currency


def _balance(case: Case) -> Step:
    found = _wallet(case, "balance")
    if isinstance(found, Step):
        return found
    price, available, settled, currency = found
    has = max(available, settled)
    numbers: dict[str, str | int] = {
        "balance": _money(has, currency),
        "required": _money(price, currency),
    }
    if has >= price:
        return case.passed(
            "balance",
            f"The wallet has {numbers['balance']}; the request costs {numbers['required']}.",
            numbers,
        )
    numbers["shortfall"] = _money(price - has, currency)
    if case.consumer is not None and case.consumer.account is None:
        return case.failed(
            "balance",
            "insufficient_balance",
            f"The request costs {numbers['required']}, and the consumer belongs to no account "
            "that could pay.",
            numbers,
            Fix(action="ask", text=_ASK),
        )
    return case.failed(
        "balance",
        "insufficient_balance",
        f"The wallet has {numbers['balance']} and the request needs {numbers['required']}.",
        numbers,
        Fix(
            action="top_up",
            text=f"Top up the wallet by {numbers['shortfall']} at least.",
            page="top-up",
        ),
    )


def _holds(case: Case) -> Step:
    found = _wallet(case, "holds")
    if isinstance(found, Step):
        return found
    price, available, settled, currency = found
    held = max(settled - available, 0)
    numbers: dict[str, str | int] = {
        "available": _money(available, currency),
        "held": _money(held, currency),
    }
    if max(available, settled) < price:
        return case.skipped("holds", "The wallet does not cover the price, held or not.")
    if available < price <= settled:
        return case.failed(
            "holds",
            "hold_in_flight",
            f"Requests in progress hold {numbers['held']}, which leaves {numbers['available']}.",
            numbers,
        )
    return case.passed("holds", f"Requests in progress hold {numbers['held']}.", numbers)


def _payment(case: Case) -> Step:
    fields = case.payment
    if fields is None:
        if case.route is not None and case.route.by_payment and not case.is_record:
            return case.failed(
                "payment", "payment_required", "Each request to this route is paid for by itself."
            )
        return case.skipped("payment", "No payment came with the request.")
    for field in fields:
        if field.wanted != field.sent:
            return case.failed(
                "payment",
                "payment_invalid",
                f"{field.name} is {field.sent!r}, and {field.wanted!r} was asked for.",
                {"field": field.name, "wanted": field.wanted, "sent": field.sent},
            )
    if case.refused_payment is not None:
        return _refused_payment(case, case.refused_payment)
    return case.passed("payment", f"All {len(fields)} fields are as they were asked for.")


def _refused_payment(case: Case, note: RefusedPayment) -> Step:
    """Its fields were as they were asked for, and it was not taken all the same."""
    said = {"facilitator": note.facilitator, "message": note.message, "payer": note.payer}
    numbers: Numbers = {name: value for name, value in said.items() if value}
    numbers |= {"network": note.network, "asset": note.asset}
    words = words_of(note.facilitator) if note.facilitator else None
    if words is None:
        text = f"{note.detail[:1].upper()}{note.detail[1:]}."
        if note.facilitator:
            text = f"The facilitator refused it: {note.facilitator}."
        return case.failed("payment", note.reason, text, numbers)
    text = f"{words.text} ({note.facilitator})"
    return case.failed("payment", note.reason, text, numbers, Fix(action="pay", text=words.fix))


RULES: dict[Check, Callable[[Case], Step]] = {
    "credential": _credential,
    "key": _key,
    "account": _account,
    "consumer": _consumer,
    "subscription": _subscription,
    "invoice": _invoice,
    "provider": _provider,
    "limits": _limits,
    "quota": _quota,
    "spending": _spending,
    "balance": _balance,
    "holds": _holds,
    "payment": _payment,
}
