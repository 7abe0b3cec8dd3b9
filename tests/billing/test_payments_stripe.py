"""Stripe by its official library, against a server that answers HTTP as Stripe does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from stripekit import FixedSecrets, StripeKit

from fastgate.billing.payments.base import (
    ChargeStatus,
    Decline,
    EventKind,
    Notification,
    ProviderEvent,
    ProviderRefused,
    ProviderUnavailable,
    Purpose,
    SubscriptionState,
    WebhookRejected,
)
from fastgate.billing.payments.stripe import StripeProvider
from fastgate.billing.payments.stripe_objects import DECLINES, STATUSES, decline_of, subscription_of
from fastgate.errors import REASON_BY_CODE
from fastgate.model.units import Money
from fastgate.store.engine import Store
from fastgate.store.payments import CustomerTable

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
EUR = Money.parse("10 EUR")
RETURN = "https://shop.example/back?lang=de"


class Setup:
    def __init__(self, kit: StripeKit, store: Store, timeout: float) -> None:
        self.kit = kit
        self.now = NOW
        self.customers = CustomerTable(store, lambda: self.now)
        self.provider = StripeProvider(
            FixedSecrets(kit.key, (kit.secret,)),
            self.customers,
            lambda: self.now,
            api_base=kit.url,
            timeout=timeout,
        )

    async def customer(self, account: str = "acc_a") -> str:
        """A customer of Stripe's for the account."""
        made = self.kit.new("customer", invoice_settings={"default_payment_method": None})
        return await self.customers.link("stripe", account, made["id"])

    async def facts(self, event: dict[str, Any]) -> list[ProviderEvent]:
        """What a webhook of the event comes to."""
        return await self.provider.resolve(self.provider.verify_webhook(*self.kit.webhook(event)))


@contextlib.asynccontextmanager
async def serving(store: Store, patience: float) -> AsyncIterator[Setup]:
    async with StripeKit(int(NOW.timestamp())).serving() as kit:
        made = Setup(kit, store, patience)
        yield made
        await made.provider.close()


@pytest.fixture
async def setup(sqlite_store: Store) -> AsyncIterator[Setup]:
    """Patient: a machine under load is not a provider that hangs."""
    async with serving(sqlite_store, 30) as made:
        yield made


@pytest.fixture
async def impatient(sqlite_store: Store) -> AsyncIterator[Setup]:
    """For a provider that does not answer."""
    async with serving(sqlite_store, 2) as made:
        yield made


# ---- money in -----------------------------------------------------------------------------


async def test_a_top_up_is_paid_on_a_page(setup: Setup) -> None:
    checkout = await setup.provider.create_top_up("acc_a", Money.parse("12.50 EUR"), RETURN)
    assert checkout.url.startswith(setup.kit.url)
    assert checkout.expires_at == NOW + timedelta(days=1)
    session = setup.kit.objects[checkout.reference]
    assert session["success_url"] == "https://shop.example/back?lang=de&checkout=done"
    assert session["cancel_url"] == "https://shop.example/back?lang=de&checkout=canceled"
    succeeded, completed = setup.kit.pay(checkout.reference)
    facts = await setup.facts(completed)
    (fact,) = facts
    assert fact.kind is EventKind.PAYMENT_SUCCEEDED
    assert (fact.account, fact.amount) == ("acc_a", Money.parse("12.50 EUR"))
    assert fact.purpose is Purpose.TOP_UP
    assert await setup.facts(succeeded) == facts  # two events, one fact


async def test_an_account_is_one_customer(setup: Setup) -> None:
    for _ in range(2):
        await setup.provider.create_top_up("acc_a", EUR, RETURN)
    await setup.provider.create_method_link("acc_a", RETURN)
    assert setup.kit.count("customer") == 1
    assert setup.kit.only("customer")["metadata"] == {"fastgate_account": "acc_a"}


async def test_a_page_that_nobody_paid_on(setup: Setup) -> None:
    checkout = await setup.provider.create_top_up("acc_a", EUR, RETURN)
    (fact,) = await setup.facts(setup.kit.expire(checkout.reference))
    assert (fact.kind, fact.account) == (EventKind.CHECKOUT_EXPIRED, "acc_a")


async def test_a_left_method_becomes_the_one_that_is_charged(setup: Setup) -> None:
    checkout = await setup.provider.create_method_link("acc_a", RETURN)
    events = setup.kit.leave_method(checkout.reference)
    for event in events:
        (fact,) = await setup.facts(event)
        assert (fact.kind, fact.account) == (EventKind.METHOD_ATTACHED, "acc_a")
    (method,) = await setup.provider.list_methods("acc_a")
    assert (method.label, method.expires, method.default) == ("Visa •••• 4242", "2033-07", True)
    result = await setup.provider.charge_saved("acc_a", EUR, "k1")
    assert result.status is ChargeStatus.SUCCEEDED
    assert result.amount == EUR


async def test_a_detached_method_is_told_with_whose_it_was(setup: Setup) -> None:
    customer = await setup.customer()
    card = setup.kit.method(customer)
    (fact,) = await setup.facts(setup.kit.detach(card["id"]))
    assert (fact.kind, fact.account) == (EventKind.METHOD_DETACHED, "acc_a")
    assert await setup.provider.list_methods("acc_a") == []


async def test_a_charge_is_made_once_for_a_key(setup: Setup) -> None:
    setup.kit.method(await setup.customer())
    first = await setup.provider.charge_saved("acc_a", EUR, "k1")
    assert await setup.provider.charge_saved("acc_a", EUR, "k1") == first
    assert setup.kit.count("payment_intent") == 1
    with pytest.raises(ProviderRefused, match="same parameters"):
        await setup.provider.charge_saved("acc_a", Money.parse("11 EUR"), "k1")
    other = await setup.provider.charge_saved("acc_a", EUR, "k2")
    assert other.reference != first.reference


@pytest.mark.parametrize("account", ["acc_a", "acc_unknown"])
async def test_nothing_to_charge_asks_for_a_method(setup: Setup, account: str) -> None:
    await setup.customer()
    result = await setup.provider.charge_saved(account, EUR, "k1")
    assert (result.status, result.decline) == (ChargeStatus.FAILED, Decline.NEW_METHOD)
    assert result.code == "no_payment_method"


@pytest.mark.parametrize(
    ("code", "decline"),
    [
        ("insufficient_funds", Decline.LATER),
        ("do_not_honor", Decline.LATER),
        ("a_code_of_tomorrow", Decline.LATER),
        ("expired_card", Decline.NEW_METHOD),
        ("stolen_card", Decline.NEW_METHOD),
        ("do_not_try_again", Decline.NEW_METHOD),
        ("fraudulent", Decline.NEVER),
    ],
)
async def test_a_decline_says_what_would_help(setup: Setup, code: str, decline: Decline) -> None:
    setup.kit.method(await setup.customer(), behaves=code)
    result = await setup.provider.charge_saved("acc_a", EUR, "k1", subject="inv_1")
    assert (result.status, result.decline, result.code) == (ChargeStatus.FAILED, decline, code)
    assert code in result.message
    assert result.reference == setup.kit.only("payment_intent")["id"]
    # The same key tells the same decline, and tries no second time.
    assert await setup.provider.charge_saved("acc_a", EUR, "k1", subject="inv_1") == result
    (fact,) = await setup.facts(setup.kit.events[-1])
    assert (fact.kind, fact.decline) == (EventKind.PAYMENT_FAILED, decline)
    assert (fact.attempt, fact.subject) == ("k1", "inv_1")


async def test_a_charge_that_has_to_be_confirmed_names_the_page(setup: Setup) -> None:
    setup.kit.method(await setup.customer(), behaves="authentication_required")
    result = await setup.provider.charge_saved("acc_a", EUR, "k1")
    assert (result.status, result.decline) == (ChargeStatus.ACTION_REQUIRED, None)
    assert result.action_url == f"{setup.kit.url}/confirm/{result.reference}"
    (fact,) = await setup.facts(setup.kit.events[-1])
    assert (fact.kind, fact.url) == (EventKind.PAYMENT_ACTION_REQUIRED, result.action_url)


async def test_a_charge_on_its_way_is_pending_until_there_is_news(setup: Setup) -> None:
    setup.kit.method(await setup.customer(), behaves="processing")
    result = await setup.provider.charge_saved(
        "acc_a", EUR, "k1", purpose=Purpose.INVOICE, subject="inv_9"
    )
    assert result.status is ChargeStatus.PENDING
    (fact,) = await setup.facts(setup.kit.succeed(result.reference))
    assert (fact.kind, fact.purpose) == (EventKind.PAYMENT_SUCCEEDED, Purpose.INVOICE)
    assert (fact.subject, fact.attempt) == ("inv_9", "k1")


async def test_a_charge_is_found_by_its_key_over_pages(setup: Setup) -> None:
    setup.kit.method(await setup.customer())
    first = await setup.provider.charge_saved("acc_a", EUR, "k-first")
    for number in range(105):
        setup.kit.now += 1
        setup.kit.new(
            "payment_intent",
            amount=100,
            currency="eur",
            customer=setup.kit.only("customer")["id"],
            metadata={"fastgate_key": f"k{number}"},
            status="succeeded",
        )
    assert await setup.provider.find_charge("acc_a", "k-first", NOW) == first
    assert await setup.provider.find_charge("acc_a", "k-none", NOW) is None
    assert await setup.provider.find_charge("acc_b", "k-first", NOW) is None


# ---- what fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "sent"),
    [("500", True), ("429", False), ("garbage", True), ("drop", True)],
)
async def test_a_provider_that_fails_is_unavailable(setup: Setup, fault: str, sent: bool) -> None:
    setup.kit.method(await setup.customer())
    setup.kit.faults = ["", fault]  # the customer is read, then it is charged
    with pytest.raises(ProviderUnavailable) as caught:
        await setup.provider.charge_saved("acc_a", EUR, "k1")
    assert caught.value.sent is sent
    assert setup.kit.count("payment_intent") == 0


async def test_a_provider_that_hangs_is_unavailable(impatient: Setup) -> None:
    impatient.kit.method(await impatient.customer())
    impatient.kit.faults = ["", "hang"]
    with pytest.raises(ProviderUnavailable) as caught:
        await impatient.provider.charge_saved("acc_a", EUR, "k1")
    assert caught.value.sent
    assert impatient.kit.count("payment_intent") == 0


async def test_an_answer_that_was_lost_is_found_again(impatient: Setup) -> None:
    setup = impatient
    setup.kit.method(await setup.customer())
    setup.kit.faults = ["", "hang after"]
    with pytest.raises(ProviderUnavailable) as caught:
        await setup.provider.charge_saved("acc_a", EUR, "k1")
    assert caught.value.sent
    found = await setup.provider.find_charge("acc_a", "k1", NOW)
    assert found is not None
    assert found.status is ChargeStatus.SUCCEEDED
    assert await setup.provider.charge_saved("acc_a", EUR, "k1") == found
    assert setup.kit.count("payment_intent") == 1


async def test_where_nobody_listens_nothing_was_sent(sqlite_store: Store) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    customers = CustomerTable(sqlite_store, lambda: NOW)
    provider = StripeProvider(
        FixedSecrets("sk_test_one"), customers, lambda: NOW, api_base=f"http://127.0.0.1:{port}"
    )
    with pytest.raises(ProviderUnavailable, match="cannot be reached") as caught:
        await provider.create_top_up("acc_a", EUR, RETURN)
    assert not caught.value.sent
    health = await provider.health()
    assert not health.ok
    assert "cannot be reached" in health.message
    await provider.close()


async def test_a_wrong_key_is_refused_not_unavailable(setup: Setup) -> None:
    setup.kit.key = "sk_test_two"
    with pytest.raises(ProviderRefused, match="Invalid key"):
        await setup.provider.create_top_up("acc_a", EUR, RETURN)
    setup.kit.key = "sk_test_one"
    assert (await setup.provider.health()).ok


# ---- money out ----------------------------------------------------------------------------


async def test_a_refund_is_made_once_for_a_key(setup: Setup) -> None:
    setup.kit.method(await setup.customer())
    paid = await setup.provider.charge_saved("acc_a", EUR, "k1")
    part = Money.parse("4 EUR")
    first = await setup.provider.refund(paid.reference, part, "r1")
    assert (first.status, first.amount) == (ChargeStatus.SUCCEEDED, part)
    assert await setup.provider.refund(paid.reference, part, "r1") == first
    rest = await setup.provider.refund(paid.reference, None, "r2")
    assert rest.amount == Money.parse("6 EUR")
    with pytest.raises(ProviderRefused, match="greater than unrefunded"):
        await setup.provider.refund(paid.reference, None, "r3")
    with pytest.raises(ProviderRefused, match="No such payment_intent"):
        await setup.provider.refund("pi_none", None, "r4")


async def test_refunds_are_told_with_their_payment_and_key(setup: Setup) -> None:
    setup.kit.method(await setup.customer())
    paid = await setup.provider.charge_saved("acc_a", EUR, "k1")
    made = await setup.provider.refund(paid.reference, Money.parse("4 EUR"), "r1")
    charge_refunded, created = setup.kit.events[-2:]
    facts = await setup.facts(created)
    payment, refund = facts
    assert (payment.kind, payment.reference) == (EventKind.PAYMENT_SUCCEEDED, paid.reference)
    assert (refund.kind, refund.reference) == (EventKind.REFUND, made.reference)
    assert (refund.payment, refund.attempt) == (paid.reference, "r1")
    assert (refund.account, refund.amount) == ("acc_a", Money.parse("4 EUR"))
    assert await setup.facts(charge_refunded) == facts
    failed = await setup.facts(setup.kit.fail_refund(made.reference))
    assert [fact.kind for fact in failed] == [
        EventKind.PAYMENT_SUCCEEDED,
        EventKind.REFUND,
        EventKind.REFUND_FAILED,
    ]


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        ("needs_response", ["dispute_opened"]),
        ("won", ["dispute_opened", "dispute_won"]),
        ("lost", ["dispute_opened", "dispute_lost"]),
    ],
)
async def test_disputes_are_told_whole(setup: Setup, status: str, kinds: list[str]) -> None:
    setup.kit.method(await setup.customer())
    paid = await setup.provider.charge_saved("acc_a", EUR, "k1")
    event = setup.kit.dispute(paid.reference)
    setup.kit.objects[event["data"]["object"]["id"]]["status"] = status
    facts = await setup.facts(event)  # the event is old; the dispute has gone on
    assert [fact.kind.value for fact in facts] == ["payment_succeeded", *kinds]
    assert {fact.payment for fact in facts} == {paid.reference}
    assert {fact.amount for fact in facts} == {EUR}


async def test_an_inquiry_moves_no_money(setup: Setup) -> None:
    setup.kit.method(await setup.customer())
    paid = await setup.provider.charge_saved("acc_a", EUR, "k1")
    assert await setup.facts(setup.kit.dispute(paid.reference, status="warning_under_review")) == []


async def test_a_payment_that_was_not_made_through_us_has_no_purpose(setup: Setup) -> None:
    intent = setup.kit.new(
        "payment_intent", amount=500, currency="eur", customer="cus_other", metadata={}
    )
    (fact,) = await setup.facts(setup.kit.succeed(intent["id"]))
    assert (fact.purpose, fact.account) == (None, "")


# ---- subscriptions ------------------------------------------------------------------------


async def test_a_subscription_is_told_as_it_is_now(setup: Setup) -> None:
    subscription = setup.kit.subscribe(await setup.customer())
    old = setup.kit.tell("customer.subscription.created", subscription)
    month = NOW + timedelta(days=30)
    (fact,) = await setup.facts(old)
    assert fact.subscription is not None
    assert fact.subscription.state is SubscriptionState.ACTIVE
    assert (fact.subscription.account, fact.subscription.plan) == ("acc_a", "pro")
    assert fact.subscription.paid_through == month
    subscription["status"] = "past_due"
    setup.kit.objects[subscription["latest_invoice"]]["status"] = "open"
    (late,) = await setup.facts(old)  # an old event tells nothing old
    assert late.subscription is not None
    assert (late.subscription.state, late.subscription.grace) == (SubscriptionState.PAST_DUE, True)
    assert late.subscription.paid_through == NOW  # the period that began was not paid for
    assert late.key != fact.key
    (listed,) = await setup.provider.subscriptions("acc_a")
    assert listed == late.subscription
    assert await setup.provider.subscriptions("acc_b") == []


async def test_invoices_are_told_with_the_subscription_they_belong_to(setup: Setup) -> None:
    subscription = setup.kit.subscribe(await setup.customer(), status="past_due")
    invoice = setup.kit.objects[subscription["latest_invoice"]]
    adopted, failed = await setup.facts(setup.kit.tell("invoice.payment_failed", invoice))
    assert adopted.kind is EventKind.SUBSCRIPTION_CHANGED
    assert (failed.kind, failed.amount) == (EventKind.INVOICE_FAILED, Money.parse("19 EUR"))
    assert failed.url == f"{setup.kit.url}/invoice"
    needs = setup.kit.tell("invoice.payment_action_required", invoice)
    assert (await setup.facts(needs))[1].kind is EventKind.INVOICE_ACTION_REQUIRED
    for status, kind in (
        ("paid", EventKind.INVOICE_PAID),
        ("void", EventKind.INVOICE_CLOSED),
        ("uncollectible", EventKind.INVOICE_CLOSED),
    ):
        invoice["status"] = status
        assert (await setup.facts(needs))[1].kind is kind
    upcoming = {**invoice}
    del upcoming["id"]
    facts = await setup.facts(setup.kit.tell("invoice.upcoming", upcoming))
    assert facts[1].kind is EventKind.INVOICE_UPCOMING


async def test_the_end_of_a_trial_is_told_while_it_lasts(setup: Setup) -> None:
    ends = int((NOW + timedelta(days=3)).timestamp())
    subscription = setup.kit.subscribe(await setup.customer(), status="trialing", trial_end=ends)
    event = setup.kit.tell("customer.subscription.trial_will_end", subscription)
    changed, ending = await setup.facts(event)
    assert changed.subscription is not None
    assert changed.subscription.paid_through == NOW + timedelta(days=3)
    assert ending.kind is EventKind.SUBSCRIPTION_TRIAL_ENDING
    subscription["status"] = "canceled"
    assert [fact.kind for fact in await setup.facts(event)] == [EventKind.SUBSCRIPTION_CHANGED]


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_a_refused_status_has_a_reason_of_402(status: str) -> None:
    standing = STATUSES[status]
    allowed = standing.state in (SubscriptionState.ACTIVE, SubscriptionState.TRIALING)
    assert (standing.reason == "") is allowed
    if standing.reason:
        assert REASON_BY_CODE[standing.reason].status == 402


def test_a_status_of_tomorrow_is_as_strict_as_the_strictest() -> None:
    found = subscription_of({"id": "sub_1", "status": "hibernating"}, "acc_a", None)
    assert (found.reason, found.grace) == ("subscription_past_due", False)


def test_every_decline_is_in_one_class() -> None:
    assert all(decline_of(code) is what for code, what in DECLINES.items())
    assert {Decline.LATER, Decline.NEW_METHOD, Decline.NEVER} == set(DECLINES.values())


# ---- webhooks -----------------------------------------------------------------------------


def _news(setup: Setup) -> dict[str, Any]:
    return setup.kit.tell("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"})


async def test_signatures_of_the_official_library_are_accepted(setup: Setup) -> None:
    event = _news(setup)
    found = setup.provider.verify_webhook(*setup.kit.webhook(event))
    assert found == Notification(
        provider="stripe",
        id=event["id"],
        type="payment_intent.succeeded",
        object="pi_1",
        created=NOW,
    )


async def test_several_secrets_are_in_force_while_one_is_replaced(setup: Setup) -> None:
    event = _news(setup)
    setup.provider.secrets = FixedSecrets(setup.kit.key, ("whsec_second", setup.kit.secret))
    assert setup.provider.verify_webhook(*setup.kit.webhook(event)).id == event["id"]
    second = setup.kit.webhook(event, secret="whsec_second")
    assert setup.provider.verify_webhook(*second).id == event["id"]
    with pytest.raises(WebhookRejected, match="signature is not valid"):
        setup.provider.verify_webhook(*setup.kit.webhook(event, secret="whsec_third"))
    setup.provider.secrets = FixedSecrets(setup.kit.key)
    with pytest.raises(WebhookRejected, match="No secret"):
        setup.provider.verify_webhook(*second)


@pytest.mark.parametrize(("offset", "accepted"), [(-300, True), (-301, False), (301, False)])
async def test_a_signature_is_good_for_five_minutes(
    setup: Setup, offset: int, accepted: bool
) -> None:
    signed = setup.kit.webhook(_news(setup), at=int(NOW.timestamp()) + offset)
    if accepted:
        setup.provider.verify_webhook(*signed)
    else:
        with pytest.raises(WebhookRejected, match="300 s"):
            setup.provider.verify_webhook(*signed)


@pytest.mark.parametrize(
    "form", ["t={now},{old}", "{old},t={now}", "xt={now},{old}", "t={now}, {old}"]
)
async def test_a_second_time_does_not_make_an_old_signature_new(setup: Setup, form: str) -> None:
    now = int(NOW.timestamp())
    headers, body = setup.kit.webhook(_news(setup), at=now - 3600)
    forged = form.format(now=now, old=headers["stripe-signature"])
    with pytest.raises(WebhookRejected):
        setup.provider.verify_webhook({"stripe-signature": forged}, body)


async def test_a_changed_body_or_header_is_rejected(setup: Setup) -> None:
    headers, body = setup.kit.webhook(_news(setup))
    signature = headers["stripe-signature"]
    stamp = int(NOW.timestamp())
    for bad_headers, bad_body in (
        (headers, body.replace(b"pi_1", b"pi_2")),
        (headers, body + b" "),
        (headers, b"\xff" + body),
        ({}, body),
        ({"stripe-signature": ""}, body),
        ({"stripe-signature": "t=x,v1=y"}, body),
        ({"stripe-signature": signature.replace("v1=", "v0=")}, body),
        ({"stripe-signature": signature.replace(f"t={stamp}", f"t={stamp + 1}")}, body),
        ({"stripe-signature": signature.replace("v1=", "v1=\xe9")}, body),
        ({"stripe-signature": f"{signature},v1=\xe9"}, body),
        ({"stripe-signature": f"{signature},t={stamp}"}, body),
        ({"stripe-signature": f"t=,{signature}"}, body),
        ({"stripe-signature": f"t={'9' * 5000},v1=00"}, body),
    ):
        with pytest.raises(WebhookRejected):
            setup.provider.verify_webhook(bad_headers, bad_body)


def _event(**fields: Any) -> dict[str, Any]:
    good = {"id": "evt_1", "object": "event", "type": "x", "created": 1}
    return {**good, "data": {"object": {"id": "a"}}, **fields}


@pytest.mark.parametrize(
    "event",
    [
        {},
        _event(data={}),
        _event(id=5),
        _event(id=""),
        _event(type="x" * 201),
        _event(object="charge"),
        _event(created="yesterday"),
        _event(data={"object": {}}),
        _event(data={"object": []}),
    ],
)
async def test_what_is_signed_and_no_event_is_rejected(setup: Setup, event: dict[str, Any]) -> None:
    with pytest.raises(WebhookRejected, match="not an event"):
        setup.provider.verify_webhook(*setup.kit.webhook(event))


async def test_events_that_say_nothing_to_us_come_to_nothing(setup: Setup) -> None:
    event = setup.kit.tell("payout.paid", {"id": "po_1", "object": "payout"})
    assert await setup.facts(event) == []


async def test_the_list_of_events_is_read_whole_oldest_first(setup: Setup) -> None:
    before = _news(setup)
    setup.kit.now += 10
    wanted = []
    for _ in range(130):
        wanted.append(_news(setup)["id"])
        setup.kit.tell("payout.paid", {"id": "po_1", "object": "payout"})
        setup.kit.now += 1
    found = await setup.provider.reconcile(NOW + timedelta(seconds=10))
    assert [item.id for item in found] == wanted
    assert before["id"] not in wanted
