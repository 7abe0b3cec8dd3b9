"""Diagnosis: each thing that can stand in the way is found, named, and mended by its fix."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from factkit import KEY, SERVED, Facts
from factkit import refused as refused_outcome

from fastgate._core.exchange.dry_run import LimitLook, Outcome, SpendingLook
from fastgate.billing.diagnosis.checks import CHECK_OF, CHECKS
from fastgate.billing.diagnosis.diagnosis import (
    Diagnosis,
    PaymentField,
    Question,
    Step,
    diagnose,
    for_strangers,
)
from fastgate.billing.diagnosis.evidence import (
    ConsumerFacts,
    InvoiceFacts,
    KeyFacts,
    ProviderFacts,
    RouteFacts,
    SubscriptionFacts,
    route_facts,
)
from fastgate.billing.diagnosis.fixes import fix_of
from fastgate.billing.x402.error_texts import words_of
from fastgate.billing.x402.refused_payments import SLOTS, RefusedPayment, RefusedPayments
from fastgate.errors import REASON_BY_CODE, REASONS
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.keys import key_digest
from fastgate.refusal.remedies import REMEDIES

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
UNIX = int(NOW.timestamp())
ASKED = Question(digest=key_digest(KEY), route="paid")


async def ask(facts: Facts, question: Question = ASKED) -> Diagnosis:
    return await diagnose(question, facts, now=NOW)


def step(found: Diagnosis, check: str) -> Step:
    return next(one for one in found.steps if one.check == check)


def limit(kind: str, code: str = "", **more: Any) -> LimitLook:
    """One that refuses with a reason, or lets pass."""
    facts = {"name": "burst", "words": "10 requests a day", "amount": 10, "used": 10}
    found = {
        **facts,
        "remaining": 0 if code else 5,
        "resets_at": UNIX + 60,
        "of_plan": True,
        **more,
    }
    return LimitLook(kind=kind, reason=REASON_BY_CODE[code].number if code else 0, **found)


def limited(kind: str, code: str) -> Outcome:
    return SERVED._replace(reason=REASON_BY_CODE[code].number, limits=(limit(kind, code),))


def refused_subscription(state: str, reason: str, **more: Any) -> SubscriptionFacts:
    facts = {"id": "sub-1", "plan": "pro", "service": None, "state": state, "refused": reason}
    return SubscriptionFacts(**{**facts, **more})


# ---- would it be served? -----------------------------------------------------------------


async def test_where_all_is_well_nothing_stands_in_the_way() -> None:
    found = await ask(Facts())
    assert found.served
    assert found.cause is found.reason is None
    assert [one.check for one in found.steps] == list(CHECKS)
    assert not [one for one in found.steps if one.result == "failed"]
    assert step(found, "balance").numbers == {"balance": "1.00 USD", "required": "0.01 USD"}
    assert found.consumer == "acme app"
    assert found.account == "Acme"


Break = Callable[[Facts], None]


def set_(**values: Any) -> Break:
    def change(facts: Facts) -> None:
        for name, value in values.items():
            setattr(facts, name, value)

    return change


def key_facts(**values: Any) -> Break:
    found = KeyFacts(id="key-1", consumer="con-1", **values)
    return set_(keys={key_digest(KEY): found})


def consumer_facts(**values: Any) -> Break:
    kept = {"id": "con-1", "name": "acme app", "account": "acc-1", "plan": "pro"}
    return set_(consumers=[ConsumerFacts(**{**kept, **values})])


def outcome(check: str, code: str, **more: Any) -> Break:
    return set_(the_outcome=refused_outcome(check, code, **more))


def spent(of: str) -> SpendingLook:
    return SpendingLook(of=of, limit=50_000, used=40_001, resets_at=UNIX)


def key_refused(code: str, **values: Any) -> Break:
    def change(facts: Facts) -> None:
        key_facts(**values)(facts)
        outcome("key", code)(facts)

    return change


def suspended(facts: Facts) -> None:
    consumer_facts(suspended=True)(facts)
    outcome("key", "consumer_suspended")(facts)


def planless(facts: Facts) -> None:
    facts.the_plans = frozenset()
    outcome("key", "consumer_suspended")(facts)


def unsubscribed(state: str, reason: str) -> Break:
    def change(facts: Facts) -> None:
        facts.the_subscriptions = [refused_subscription(state, reason)]
        outcome("subscription", reason)(facts)

    return change


BROKEN: list[tuple[str, str, Break, str]] = [
    ("credential", "credential_unknown", outcome("key", "credential_unknown"), "use_key"),
    ("key", "credential_revoked", key_refused("credential_revoked", revoked_at=UNIX), "new_key"),
    ("key", "credential_expired", key_refused("credential_expired", expires_at=UNIX), "new_key"),
    ("account", "subscription_past_due", outcome("account", "subscription_past_due"), "pay_now"),
    ("consumer", "consumer_suspended", suspended, "ask"),
    ("consumer", "consumer_suspended", planless, "ask"),
    ("plan", "not_subscribed", outcome("service", "not_subscribed", plan="basic"), "upgrade"),
    *(
        ("subscription", reason, unsubscribed(state, reason), action)
        for state, reason, action in (
            ("expired", "subscription_expired", "renew"),
            ("grace", "subscription_past_due", "pay_now"),
            ("past_due", "payment_failed", "update_payment_method"),
            ("incomplete", "payment_action_required", "pay_now"),
            ("paused", "payment_method_missing", "update_payment_method"),
            ("paused", "subscription_paused", "ask"),
        )
    ),
    *(
        (check, reason, set_(the_outcome=limited(kind, reason)), action)
        for check, kind, reason, action in (
            ("limits", "rate", "rate_limited", "wait"),
            ("limits", "concurrency", "concurrency_limited", "wait"),
            ("quota", "quota", "quota_exhausted", "wait"),
            ("quota", "quota", "quota_exhausted_upgrade", "upgrade"),
        )
    ),
    *(
        (
            "spending",
            "spending_limit_reached",
            outcome("spending_reason", "spending_limit_reached", spending=(spent(of),), spender=of),
            "wait",
        )
        for of in ("key", "consumer", "account")
    ),
    (
        "balance",
        "insufficient_balance",
        outcome("charge", "insufficient_balance", available=9_999),
        "top_up",
    ),
    ("payment", "payment_required", outcome("charge", "payment_required", available=0), "ask"),
    ("holds", "hold_in_flight", outcome("charge", "hold_in_flight", available=0, held=1), "wait"),
]


@pytest.mark.parametrize(("check", "reason", "break_", "action"), BROKEN)
async def test_what_stands_in_the_way_is_named(
    check: str, reason: str, break_: Break, action: str
) -> None:
    facts = Facts()
    break_(facts)
    found = await ask(facts)
    assert not found.served
    assert (found.cause, found.reason) == (check, reason)
    failed = step(found, check)
    assert failed.fix is not None
    assert failed.fix.action == action
    assert failed.fix.text in found.summary
    assert found.retry is not None


async def test_the_decision_names_the_cause_and_the_others_are_shown_too() -> None:
    facts = Facts()
    key_facts(expires_at=UNIX - 1)(facts)
    expired, limited, little = (
        REASON_BY_CODE[code].number
        for code in ("credential_expired", "rate_limited", "insufficient_balance")
    )
    facts.the_outcome = SERVED._replace(
        reason=expired, key=expired, limits=(limit("rate", "rate_limited"),), charge=little
    )
    found = await ask(facts)
    assert found.cause == "key"
    assert {one.check for one in found.steps if one.result == "failed"} == {
        "key",
        "limits",
        "balance",
    }
    # A limit that counts by address alone is looked at before the key.
    facts.the_outcome = facts.the_outcome._replace(reason=limited)
    assert (await ask(facts)).cause == "limits"


async def test_the_shortfall_is_exact() -> None:
    facts = Facts(the_outcome=refused_outcome("charge", "insufficient_balance", available=-250))
    failed = step(await ask(facts), "balance")
    assert failed.numbers["shortfall"] == "0.01025 USD"
    assert failed.fix is not None
    assert "0.01025 USD" in failed.fix.text
    assert failed.fix.page == "top-up"


@pytest.mark.parametrize("of", ["key", "consumer", "account"])
async def test_whose_spending_limit_refuses_is_said(of: str) -> None:
    others = tuple(
        SpendingLook(of=one, limit=10**9, used=0, resets_at=UNIX)
        for one in ("key", "consumer", "account")
        if one != of
    )
    spending = (*others, spent(of))
    facts = Facts(
        the_outcome=refused_outcome(
            "spending_reason", "spending_limit_reached", spending=spending, spender=of
        )
    )
    failed = step(await ask(facts), "spending")
    assert f"of the {of}'s limit" in failed.text
    assert failed.numbers["of"] == of
    assert "20 November 2026, 12:00 UTC" in (failed.fix.text if failed.fix else "")
    # More than the whole limit is allowed at no time: waiting does not help.
    facts.the_outcome = facts.the_outcome._replace(price=60_000)
    fix = step(await ask(facts), "spending").fix
    assert fix is not None
    assert fix.action == "ask"


async def test_the_words_are_of_the_subscription_that_decides() -> None:
    """Its service's own before one for all."""
    facts = Facts(
        the_subscriptions=[
            SubscriptionFacts(id="all", plan="pro", service=None, state="active", refused=None),
            refused_subscription("expired", "subscription_expired", service="maps", plan="mapped"),
        ]
    )
    outcome("subscription", "subscription_expired")(facts)
    assert "'mapped' has ended" in step(await ask(facts), "subscription").text


async def test_an_open_invoice_alone_refuses_nothing() -> None:
    bill = InvoiceFacts(
        number="INV-1", subscription="sub-1", micros=5_000_000, currency="USD", due=NOW
    )
    found = await ask(Facts(the_invoices=[bill]))
    assert found.served
    assert "INV-1" in step(found, "invoice").text
    late = refused_subscription("grace", "subscription_past_due")
    facts = Facts(the_invoices=[bill], the_subscriptions=[late])
    outcome("subscription", "subscription_past_due")(facts)
    found = await ask(facts)
    assert "is in its grace period" in step(found, "subscription").text
    failed = step(found, "invoice")
    assert failed.result == "failed"
    assert failed.numbers["amount"] == "5.00 USD"
    assert failed.fix is not None
    assert failed.fix.page == "pay"


async def test_providers_that_are_down_refuse_nothing() -> None:
    down = [ProviderFacts(name="stripe", up=False, error="timed out")]
    found = await ask(Facts(the_providers=down))
    assert found.served
    assert "timed out" in step(found, "provider").text
    some = [*down, ProviderFacts(name="other", up=True)]
    assert "now go through other" in step(await ask(Facts(the_providers=some)), "provider").text


async def test_a_provider_that_cannot_charge_is_no_fallback() -> None:
    """What is credited by hand is not charged to a saved method."""
    facts = Facts(
        the_providers=[
            ProviderFacts(name="stripe", up=False, error="timed out"),
            ProviderFacts(name="manual", up=True, charges=False),
        ]
    )
    found = step(await ask(facts), "provider")
    assert "manual" not in found.text
    assert "meanwhile" not in found.text


@pytest.mark.parametrize("reason", ["settlement_unknown", "payment_provider_unavailable"])
async def test_doubt_about_a_payment_is_never_called_resolved(reason: str) -> None:
    """Only the facilitator of the route can say, and it is asked when the payment comes again."""
    up = [ProviderFacts(name="stripe", up=True)]
    found = await ask(Facts(the_providers=up), record(reason, None, route="by-request"))
    assert (found.cause, found.reason) == ("provider", reason)
    assert not found.resolved
    assert step(found, "provider").now == "skipped"


async def test_payments_are_compared_field_by_field() -> None:
    same = PaymentField("amount", "1000", "1000")
    for fields, result in (
        ((same,), "passed"),
        ((same, PaymentField("payTo", "0xaa", "0xbb")), "failed"),
    ):
        question = msgspec.structs.replace(ASKED, payment=fields)
        assert step(await ask(Facts(), question), "payment").result == result
    found = step(await ask(Facts(), question), "payment")
    assert found.numbers == {"field": "payTo", "wanted": "0xaa", "sent": "0xbb"}
    asked = await ask(Facts(), msgspec.structs.replace(ASKED, route="by-request"))
    assert (asked.cause, asked.reason) == ("payment", "payment_required")


REQUEST = f"{7:032x}"


def refused(**more: Any) -> RefusedPayment:
    given: dict[str, Any] = {
        "request": REQUEST,
        "route": "paid",
        "reason": "payment_invalid",
        "detail": "insufficient_funds",
        "payer": "0xaa",
        "network": "eip155:1",
        "asset": "0xbb",
        "facilitator": "insufficient_funds",
        **more,
    }
    return RefusedPayment(**given)


async def diagnosed(note: RefusedPayment) -> Step:
    record = {"id": note.request, "route": "paid", "reason": "payment_invalid", "status": 402}
    facts = Facts(notes={note.request: note})
    found = await diagnose(Question.of_request(record), facts, now=NOW)
    assert (found.cause, found.reason, found.served) == ("payment", "payment_invalid", False)
    return step(found, "payment")


async def test_why_the_facilitator_refused_a_payment_is_explained() -> None:
    agreed = [PaymentField("to", "0xcc", "0xcc"), PaymentField("value", "5", "5")]
    found = await diagnosed(refused(fields=agreed, message="have 3"))
    assert found.text.startswith("The payer does not have enough")
    assert found.fix is not None
    assert "Fund the payer's address" in found.fix.text
    assert found.numbers == {
        "facilitator": "insufficient_funds",
        "message": "have 3",
        "payer": "0xaa",
        "network": "eip155:1",
        "asset": "0xbb",
    }
    other = await diagnosed(refused(facilitator="made_up"))
    assert other.text == "The facilitator refused it: made_up."
    assert other.fix is not None


async def test_what_the_gateway_itself_refused_of_a_payment_is_shown() -> None:
    wrong = [PaymentField("accepted.amount", "1000", "900")]
    found = await diagnosed(refused(facilitator="", detail="accepted.amount: x", fields=wrong))
    assert found.text == "accepted.amount is '900', and '1000' was asked for."
    found = await diagnosed(refused(facilitator="", detail="payload.signature: no hexadecimal"))
    assert found.text == "Payload.signature: no hexadecimal."


def test_notes_of_refused_payments_are_bounded_and_their_own(tmp_path: Path) -> None:
    notes = RefusedPayments(tmp_path / "x402")
    one, same_slot = f"{1:032x}", f"{1 + SLOTS:032x}"
    assert notes.get(one) is None
    notes.put(refused(request=one))
    assert notes.get(one) == refused(request=one)
    assert notes.get(same_slot) is None
    notes.put(refused(request=same_slot, message="x" * 50))
    assert notes.get(one) is None
    assert notes.get(same_slot) is not None
    (slot,) = (tmp_path / "x402" / "refused").iterdir()
    slot.write_bytes(slot.read_bytes()[:-3])
    assert notes.get(same_slot) is None
    assert notes.get("no id") is None
    notes.put(refused(request=one, detail="x" * 5000))
    assert notes.get(one) is None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("invalid_exact_evm_payload_signature", "signature"),
        ("invalid_exact_evm_payload_authorization_valid_before", "expired"),
        ("invalid_exact_evm_payload_authorization_value_mismatch", "amount"),
        ("invalid_exact_evm_payload_recipient_mismatch", "another address"),
        ("invalid_exact_evm_nonce_already_used", "used before"),
        ("unsupported_scheme", "scheme"),
        ("invalid_network", "network"),
        ("invalid_exact_evm_insufficient_balance", "does not have enough"),
        ("invalid_exact_evm_token_name_mismatch", "name differs"),
    ],
)
def test_codes_of_facilitators_are_known(code: str, says: str) -> None:
    found = words_of(code)
    assert found is not None
    assert says in found.text


async def test_while_the_store_is_away_its_checks_are_skipped_and_say_so() -> None:
    found = await ask(Facts(store_down=True))
    for check in ("account", "subscription", "invoice"):
        assert step(found, check).result == "skipped"
        assert "connection refused" in step(found, check).text
    assert step(found, "balance").result == "passed"
    assert found.served


async def test_without_a_route_no_price_is_compared() -> None:
    found = await ask(Facts(), Question(digest=key_digest(KEY)))
    assert found.served
    assert step(found, "balance").result == "skipped"


async def test_nobody() -> None:
    found = await ask(Facts(), Question(route="paid"))
    assert (found.cause, found.reason) == ("credential", "credential_missing")
    found = await ask(Facts(), Question(route="none"))
    assert found.served
    found = await ask(Facts(), Question(consumer="gone"))
    assert found.reason == "credential_unknown"


# ---- why was it refused? -------------------------------------------------------------------


def record(reason: str | None, consumer: str | None = "acme app", **more: Any) -> Question:
    status = REASON_BY_CODE[reason].status if reason else 200
    facts = {"id": "ab" * 16, "status": status, "reason": reason, "consumer": consumer}
    return Question.of_request({**facts, "route": "paid", "time": "2026-11-20T11:59:00Z", **more})


@pytest.mark.parametrize(("check", "reason", "break_", "action"), BROKEN[3:])
async def test_a_refusal_names_its_cause_and_is_resolved_when_that_is(
    check: str, reason: str, break_: Break, action: str
) -> None:
    broken = Facts()
    break_(broken)
    found = await ask(broken, record(reason))
    cause = CHECK_OF[reason]
    assert found.reason == reason
    if check == cause:
        assert step(found, cause).now == "failed"
        assert not found.resolved
    fine = SERVED._replace(limits=(limit("rate"), limit("quota")))
    found = await ask(Facts(the_outcome=fine), record(reason))
    failed = step(found, cause)
    assert (found.cause, failed.result, failed.reason) == (cause, "failed", reason)
    assert failed.now in ("passed", "skipped")
    assert found.resolved == (failed.now == "passed")
    assert not found.served


@pytest.mark.parametrize("reason", [one for one in REASONS if one.status], ids=lambda r: r.code)
async def test_every_reason_has_a_diagnosis(reason: Any) -> None:
    found = await ask(Facts(), record(reason.code, None if reason.status == 401 else "acme app"))
    assert found.reason == reason.code
    assert reason.title in found.summary or reason.text in found.summary
    assert found.status == reason.status
    of_the_connection = ("address_denied", "certificate_required")
    if reason.status in (401, 402, 403, 429) and reason.code not in of_the_connection:
        assert found.cause == CHECK_OF[reason.code]


async def test_what_was_served() -> None:
    found = await ask(Facts(), record(None))
    assert found.served
    assert "200" in found.summary


async def test_a_limit_of_which_nothing_is_known_now_is_not_called_resolved() -> None:
    """One that counts by key: the record does not say with which key a request was made."""
    fine = Facts(the_outcome=SERVED._replace(limits=(limit("rate"),), unseen=1))
    assert (await ask(fine, record("rate_limited", limit="burst"))).resolved
    found = await ask(fine, record("rate_limited", limit="credential-rate"))
    assert not found.resolved
    assert step(found, "limits").now == "skipped"


async def test_the_limit_that_refused_is_named() -> None:
    found = await ask(Facts(), record("rate_limited", limit="burst"))
    assert "'burst'" in step(found, "limits").text


def test_reasons_of_402_have_a_check_and_a_fix() -> None:
    for one in REASONS:
        if one.status == 402:
            assert one.code in CHECK_OF
            assert fix_of(one.code) is not None
    assert set(REMEDIES) <= set(CHECK_OF)


# ---- to strangers --------------------------------------------------------------------------


async def test_strangers_hear_the_reason_and_nothing_of_the_account() -> None:
    facts = Facts(the_outcome=SERVED._replace(available=123_456))
    for reason in ("insufficient_balance", "subscription_expired", "rate_limited"):
        found = for_strangers(await ask(facts, record(reason, limit="burst")))
        said = msgspec.json.encode(found).decode()
        for secret in ("0.123456", "acme", "Acme", "con-1", "acc-1", "key-1", "stripe", "burst"):
            assert secret not in said, secret
        assert found.reason == reason
        assert found.summary
        cause = step(found, CHECK_OF[reason])
        assert (cause.result, cause.text) == ("failed", REASON_BY_CODE[reason].text)


async def test_strangers_hear_what_was_wrong_with_their_credential() -> None:
    found = for_strangers(await ask(Facts(), record("credential_unknown", None)))
    assert step(found, "credential").fix == fix_of("credential_unknown")


# ---- from the configuration -----------------------------------------------------------------


def test_what_a_route_asks_for() -> None:
    gateway: Gateway = decode(
        {
            "version": 1,
            "upstreams": [{"name": "u", "targets": ["http://10.0.0.1:1"]}],
            "services": [{"name": "maps", "upstream": "u", "plans": ["pro"]}],
            "plans": [
                {"name": "pro", "services": ["maps"], "price": {"per_request": "0.5 EUR"}},
                {"name": "team", "services": ["maps"]},
            ],
            "routes": [
                {
                    "name": "paid",
                    "path": "/m",
                    "service": "maps",
                    "auth": "api_key",
                    "price": "0.01 USD",
                }
            ],
        }
    )
    found = route_facts(gateway, "paid")
    assert found == RouteFacts(name="paid", service="maps", plans=("pro", "team"))
    assert route_facts(gateway, "none") is None
