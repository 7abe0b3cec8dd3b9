"""The audit of clearing against a provider's own balance, as one number for each currency."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from moneykit import World
from stripekit import StripeKit
from test_payments_stripe_books import START, StripeSetup

from fastgate.billing.audit.provider_balance import audit_balances
from fastgate.billing.audit.report import Check
from fastgate.billing.ledger.ledger import Movement
from fastgate.billing.payments.base import EventKind, ProviderEvent, Purpose
from fastgate.billing.payments.manual import ManualProvider
from fastgate.billing.payments.webhooks_in import Applier
from fastgate.model.units import Money
from fastgate.store.ledger import Book
from fastgate.store.payments import PaymentTable

CENT = 10_000


class Audited(StripeSetup):
    """A gateway whose Stripe account is looked at."""

    async def paid_in(self, text: str = "10 EUR", *, delivered: bool = True) -> str:
        """A top-up is paid; the payment's reference. delivered: the gateway has its webhook."""
        page = await self.chain.create_top_up("acc_a", Money.parse(text), "https://b")
        self.kit.pay(page.reference)
        if delivered:
            await self.deliver_events()
        return str(self.kit.objects[page.reference]["payment_intent"])

    async def deliver_events(self) -> None:
        await self.reconciler.run("stripe", START)
        while await self.inbox.work():
            pass

    async def audit(self) -> Check:
        (check,) = await audit_balances(self.world.store, self.chain.providers)
        return check


@pytest.fixture
async def setup(store_url: str, tmp_path: Path) -> AsyncIterator[Audited]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    async with StripeKit(int(START.timestamp())).serving() as kit:
        found = Audited(kit, world, 0)
        yield found
        await found.provider.close()
    await world.close()


async def test_clearing_is_balance_and_payouts_and_fees(setup: Audited) -> None:
    kit = setup.kit
    kit.fee = 30
    await setup.paid_in()  # with a fee that is booked
    kit.fee = None
    payment = await setup.paid_in("20 EUR")
    kit.moved("fee", kit.new("fee", currency="eur"), -7)  # one that is not
    kit.refund(payment, 500)
    await setup.deliver_events()
    kit.pay_out(1100, "eur")
    check = await setup.audit()
    assert check.passed, check
    assert check.name == "balance stripe"
    assert check.numbers == {
        "EUR.clearing": (1000 - 30 + 2000 - 500) * CENT,
        "EUR.balance": (1000 - 30 + 2000 - 7 - 500 - 1100) * CENT,
        "EUR.payouts": 1100 * CENT,
        "EUR.fees": 7 * CENT,
        "EUR.difference": 0,
        "wrong": 0,
    }


async def test_a_payout_that_fails_is_in_the_balance_again(setup: Audited) -> None:
    await setup.paid_in()
    payout = setup.kit.pay_out(400, "eur")
    setup.kit.moved("payout_reversal", setup.kit.objects[payout["source"]], 400)
    check = await setup.audit()
    assert check.passed, check
    assert "EUR.payouts" not in check.numbers


async def test_a_payment_that_was_not_booked_is_named(setup: Audited) -> None:
    await setup.paid_in()
    payment = await setup.paid_in("3 EUR", delivered=False)
    check = await setup.audit()
    assert check.findings == [f"payment {payment}: 3000000 micros of EUR there, not booked here"]
    assert check.numbers["EUR.difference"] == -300 * CENT
    await setup.deliver_events()
    assert (await setup.audit()).passed


async def test_a_refund_that_was_not_booked_is_named(setup: Audited) -> None:
    refund = setup.kit.refund(await setup.paid_in(), 250)
    check = await setup.audit()
    assert check.findings == [
        f"refund {refund['id']}: -2500000 micros of EUR there, not booked here"
    ]
    assert check.numbers["EUR.difference"] == 250 * CENT
    await setup.deliver_events()
    assert (await setup.audit()).passed


async def test_what_is_booked_and_unknown_there_is_named(setup: Audited) -> None:
    payment = await setup.paid_in()
    for ident, one in list(setup.kit.objects.items()):
        if one["object"] == "balance_transaction":
            del setup.kit.objects[ident]
    check = await setup.audit()
    assert check.findings == [f"payment {payment}: 10000000 micros of EUR here, unknown there"]
    assert check.numbers["EUR.difference"] == 1000 * CENT


async def test_an_entry_of_no_payment_is_named(setup: Audited) -> None:
    await setup.paid_in()
    stray = Movement("pay:stripe:pi_invented", "acc_a", "EUR", 5 * CENT)
    await setup.world.wallets.credit(stray)
    check = await setup.audit()
    assert check.findings == [
        "entry pay:stripe:pi_invented: 50000 micros of EUR booked here, for no payment"
    ]
    assert check.numbers["EUR.difference"] == 5 * CENT


async def test_a_balance_that_its_movements_do_not_explain(setup: Audited) -> None:
    await setup.paid_in()
    transaction = setup.kit.only("balance_transaction")
    transaction["net"] -= 100  # its amount and fee do not say so
    check = await setup.audit()
    assert check.findings == [
        "EUR: the balance there is 9000000 micros, but its movements add up to 10000000"
    ]
    assert check.numbers["EUR.difference"] == 100 * CENT


async def test_a_dispute_is_contested_until_it_is_decided(setup: Audited) -> None:
    kit = setup.kit
    kit.dispute_fee = 15
    kept, lost = await setup.paid_in(), await setup.paid_in("4 EUR")
    disputes = [kit.dispute(one)["data"]["object"]["id"] for one in (kept, lost)]
    await setup.deliver_events()
    check = await setup.audit()
    assert check.passed, check
    assert check.numbers["EUR.clearing"] == 1400 * CENT
    assert check.numbers["EUR.balance"] == -30 * CENT
    assert (check.numbers["EUR.contested"], check.numbers["EUR.fees"]) == (1400 * CENT, 30 * CENT)
    kit.end_dispute(disputes[0], "won")
    kit.end_dispute(disputes[1], "lost")
    await setup.deliver_events()
    check = await setup.audit()
    assert check.passed, check
    assert "EUR.contested" not in check.numbers
    assert check.numbers["EUR.clearing"] == 1000 * CENT


async def test_settled_in_another_currency(setup: Audited) -> None:
    kit = setup.kit
    kit.settles, kit.rate, kit.fee = "usd", 1.2, 40
    payment = await setup.paid_in()
    kit.refund(payment, 100)
    await setup.deliver_events()
    check = await setup.audit()
    assert check.passed, check
    assert check.numbers == {
        "EUR.clearing": 900 * CENT,
        "EUR.balance": 0,
        "EUR.converted": 900 * CENT,
        "EUR.difference": 0,
        "USD.clearing": 0,
        "USD.balance": (1080 - 40) * CENT,
        "USD.fees": 40 * CENT,
        "USD.converted": -1080 * CENT,
        "USD.difference": 0,
        "wrong": 0,
    }
    kit.refund(payment, 50)  # and no webhook of it
    assert not (await setup.audit()).passed


async def test_other_sales_of_the_account_are_no_business_of_ours(setup: Audited) -> None:
    await setup.paid_in()
    setup.kit.sell(700, "eur")
    check = await setup.audit()
    assert check.passed, check
    assert check.numbers["EUR.other"] == 700 * CENT


async def test_what_arrives_while_the_audit_reads_is_no_difference(setup: Audited) -> None:
    await setup.paid_in()
    statement = setup.provider.statement
    arrived = False

    async def late() -> object:
        nonlocal arrived
        found = await statement()
        if not arrived:
            arrived = True
            await setup.paid_in("3 EUR")
        return found

    setup.provider.statement = late  # type: ignore[method-assign, assignment]
    assert (await setup.audit()).passed


async def test_more_transactions_than_a_page_has(setup: Audited) -> None:
    await setup.paid_in()
    for _ in range(205):
        setup.kit.pay_out(1, "eur")
    check = await setup.audit()
    assert check.passed, check
    assert check.numbers["EUR.payouts"] == 205 * CENT


async def test_a_provider_that_cannot_be_asked_is_a_finding(setup: Audited) -> None:
    await setup.paid_in()
    setup.kit.faults = ["500"]
    check = await setup.audit()
    assert check.findings == ["it did not answer: Stripe failed with status 500."]


async def test_a_correction_of_clearing_does_not_pass_for_a_providers(setup: Audited) -> None:
    """It says of no provider that it is about it: it is in the books, and in no balance."""
    await setup.paid_in()
    movement = Movement("corr", "acc_a", "EUR", 100)
    await setup.world.wallets.correct(movement, {Book.CLEARING: -100, Book.REVENUE: 100})
    assert (await setup.audit()).passed


async def test_the_manual_provider_has_no_balance_and_says_so(setup: Audited) -> None:
    payments = PaymentTable(setup.world.store)
    manual = ManualProvider(payments, setup.clock)
    applier = Applier(setup.chain, setup.world.wallets, payments, setup.clock)
    event = manual.received("acc_a", Money.parse("7 EUR"), "transfer 1")
    assert isinstance(event, ProviderEvent)
    assert (event.kind, event.purpose) == (EventKind.PAYMENT_SUCCEEDED, Purpose.TOP_UP)
    await applier.apply(event)
    (check,) = await audit_balances(setup.world.store, [manual])
    assert check.passed
    assert check.numbers == {"EUR.clearing": 700 * CENT, "wrong": 0}
    assert check.notes == ["This provider does not report a balance: compare by hand."]
