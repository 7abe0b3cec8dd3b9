"""Fees are booked once, and what went back is not paid: no credit, refund or access for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from feekit import BASIC, BIG, USD, FeeWorld
from moneykit import World, move
from schedulekit import result_of
from storekit import down_to, up

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.audit.money import audit_providers
from fastgate.billing.invoices.invoices import Status
from fastgate.billing.payments.base import (
    ChargeStatus,
    EventKind,
    PaymentError,
    ProviderRefused,
    Turnover,
)
from fastgate.billing.subscriptions.fees import twice_key
from fastgate.billing.subscriptions.lifecycle import State
from fastgate.errors import ConflictError
from fastgate.model.codec import decode
from fastgate.model.party import Plan
from fastgate.model.units import Money
from fastgate.store.billing_tables import invoice_draws, invoices
from fastgate.store.ledger import Book, Wallet
from fastgate.store.money_tables import ledger_entries
from fastgate.store.payments import Payment


@pytest.fixture
async def fees(store_url: str, tmp_path: Path) -> AsyncIterator[FeeWorld]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    yield FeeWorld(world)
    await world.close()


async def test_a_fee_is_earned_and_the_provider_has_it(fees: FeeWorld) -> None:
    await fees.begin()
    assert await fees.books() == (0, 0, BASIC, BASIC)
    (payment,) = await fees.paid()
    for _ in range(2):
        await fees.deliver(payment)
    assert await fees.books() == (0, 0, BASIC, BASIC)
    await fees.audited()


async def test_a_downgrade_is_credited_out_of_what_was_earned(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    note = await fees.change(ident, "basic")
    assert note is not None
    assert await fees.books() == (note.total, 0, BIG - note.total, BIG)
    await fees.audited()


async def test_a_charge_back_is_a_payment_that_failed_for_good(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    (payment,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    assert await fees.books() == (0, BIG, 0, BIG)
    assert await fees.state(ident) == (State.GRACE, None)  # access goes on for the grace
    for _ in range(2):  # whatever is told again, of that payment or of the dispute
        await fees.deliver(payment)
        await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    assert (await fees.parts.invoices.get(payment.subject)).status is Status.OPEN
    await fees.audited()
    calls = list(fees.provider.sent)
    await fees.parts.until(fees.parts.clock() + timedelta(days=8))
    assert await fees.state(ident) == (State.GRACE, "subscription_past_due")
    assert fees.provider.sent == calls  # nobody charges it again by himself
    await fees.fact(EventKind.DISPUTE_LOST, payment, "dp_1")
    assert await fees.books() == (0, 0, 0, 0)
    await fees.audited()


async def test_what_was_charged_back_is_not_credited(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    (payment,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    document = await fees.change(ident, "basic")
    assert document is not None
    assert document.kind == "invoice"
    assert document.total > 0
    assert (await fees.books())[0] == 0


async def test_a_dispute_that_is_won_brings_everything_back(fees: FeeWorld) -> None:
    ident = await fees.begin()
    before = await fees.parts.subscriptions.get(ident)
    (payment,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    await fees.fact(EventKind.DISPUTE_WON, payment, "dp_1")
    assert await fees.state(ident) == (State.ACTIVE, None)
    assert (await fees.parts.subscriptions.get(ident)).paid_through == before.paid_through
    assert (await fees.parts.invoices.get(payment.subject)).status is Status.PAID
    await fees.deliver(payment)
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")  # an old telling
    assert await fees.state(ident) == (State.ACTIVE, None)
    assert await fees.books() == (0, 0, BASIC, BASIC)
    await fees.audited()


async def test_paid_again_while_contested_and_won_after_all(fees: FeeWorld) -> None:
    """What is then paid twice is the customer's, in the wallet."""
    ident = await fees.begin()
    (payment,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    await fees.parts.dunning.method_attached(fees.account)
    await fees.parts.settle()
    assert await fees.state(ident) == (State.ACTIVE, None)
    assert len(await fees.paid()) == 2
    await fees.fact(EventKind.DISPUTE_WON, payment, "dp_1")
    await fees.deliver(payment)
    await fees.parts.settle()
    assert await fees.books() == (BASIC, 0, BASIC, 2 * BASIC)
    await fees.parts.invoices.by_key(twice_key("one", payment.reference))
    await fees.audited()


async def test_a_fee_that_is_refunded_ends_what_it_was_for(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    (payment,) = await fees.paid()
    result = await fees.refunds.refund("one", payment.reference, None, "r1")
    assert result.amount.micros == BIG
    assert await fees.books() == (0, 0, 0, 0)
    assert await fees.state(ident) == (State.EXPIRED, "subscription_expired")
    assert (await fees.parts.invoices.get(payment.subject)).status is Status.RETURNED
    with pytest.raises(ConflictError):
        await fees.parts.subscriptions.change_plan(ident, "basic")
    await fees.deliver(payment)
    await fees.fact(EventKind.REFUND, payment, result.reference, "r1")
    assert await fees.state(ident) == (State.EXPIRED, "subscription_expired")
    assert await fees.books() == (0, 0, 0, 0)
    with pytest.raises(ProviderRefused):
        await fees.refunds.refund("one", payment.reference, None, "r2")
    await fees.audited()


async def test_a_part_that_is_refunded_is_not_credited_again(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    (payment,) = await fees.paid()
    await fees.refunds.refund("one", payment.reference, Money(60 * USD, "USD"), "r1")
    assert await fees.state(ident) == (State.ACTIVE, None)
    document = await fees.change(ident, "basic")
    assert document is None or document.kind == "invoice"
    available, _, _, there = await fees.books()
    assert available == 0
    assert there >= BASIC
    await fees.audited()


async def test_what_a_credit_note_gave_is_not_refunded_again(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    note = await fees.change(ident, "basic")
    assert note is not None
    (payment,) = await fees.paid()
    with pytest.raises(ProviderRefused, match="credit note"):
        await fees.refunds.refund("one", payment.reference, Money(BIG, "USD"), "r1")
    result = await fees.refunds.refund("one", payment.reference, None, "r2")
    assert result.amount.micros == BIG - note.total
    again = await fees.refunds.refund("one", payment.reference, None, "r2")
    assert again.reference == result.reference
    assert await fees.books() == (note.total, 0, 0, note.total)
    await fees.audited()


async def test_each_fee_goes_back_once_whatever_was_credited_of_the_others(fees: FeeWorld) -> None:
    """Three fees and three credit notes in one period: of each fee, its own note is not refunded
    as well, however much is left of the others."""
    ident = await fees.begin("big")
    notes = []
    for upward, downward in ((None, "free"), ("big", "usage"), ("big", "basic")):
        if upward is not None:
            await fees.change(ident, upward)
        fees.parts.clock.pass_(hours=30)
        note = await fees.change(ident, downward)
        assert note is not None
        assert note.kind == "credit"
        notes.append(note.total)
        fees.parts.clock.pass_(hours=30)
    payments = sorted(await fees.paid(), key=lambda one: one.paid_at)
    assert len(payments) == 3
    left = [paid.amount - note for paid, note in zip(payments, notes, strict=True)]
    for number in (1, 0, 2):
        paid = payments[number]
        more = Money(left[number] + 10_000, "USD")
        with pytest.raises(ProviderRefused, match="credit note"):
            await fees.refunds.refund("one", paid.reference, more, f"more {number}")
        result = await fees.refunds.refund("one", paid.reference, None, f"rest {number}")
        assert result.amount.micros == left[number]
    assert await fees.books() == (sum(notes), 0, 0, sum(notes))
    await fees.audited()


async def test_a_credit_note_draws_on_the_newest_fee_first(fees: FeeWorld) -> None:
    """What was not used of the older plan went into the newer one, and came back with it."""
    ident = await fees.begin("basic")
    await fees.change(ident, "big")
    note = await fees.change(ident, "free")
    assert note is not None
    older, newer = sorted(await fees.paid(), key=lambda one: one.amount)
    assert newer.amount < note.total < older.amount + newer.amount + 1
    with pytest.raises(ProviderRefused):
        await fees.refunds.refund("one", newer.reference, None, "r1")
    rest = older.amount + newer.amount - note.total
    if rest:
        result = await fees.refunds.refund("one", older.reference, None, "r2")
        assert result.amount.micros == rest
    else:
        with pytest.raises(ProviderRefused):
            await fees.refunds.refund("one", older.reference, None, "r2")
    assert await fees.books() == (note.total, 0, 0, note.total)
    await fees.audited()


async def test_a_fee_that_was_paid_twice_goes_back_once(fees: FeeWorld) -> None:
    """The payment in the wallet is not refunded too, and what the other one's credit note gave
    is not taken for it."""
    ident = await fees.begin()
    (first,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_1")
    await fees.parts.dunning.method_attached(fees.account)
    await fees.parts.settle()
    await fees.fact(EventKind.DISPUTE_WON, first, "dp_1")
    await fees.deliver(first)
    await fees.parts.settle()
    (second,) = [one for one in await fees.paid() if one.reference != first.reference]
    note = await fees.change(ident, "free")
    assert note is not None
    for payment, rest in ((first, 0), (second, second.amount - note.total)):
        more = Money(rest + 10_000, "USD")
        with pytest.raises(ProviderRefused):
            await fees.refunds.refund("one", payment.reference, more, payment.reference)
    wallet, _, _, there = await fees.books()
    assert wallet == BASIC + note.total
    assert there == 2 * BASIC
    await fees.audited()


async def test_a_fee_that_was_credited_is_not_credited_again_when_its_dispute_is_won(
    fees: FeeWorld,
) -> None:
    """Its invoice was given up meanwhile: the payment then counts as late, and most of it is in
    the wallet since the change of plan."""
    ident = await fees.begin("big")
    (first,) = await fees.paid()
    note = await fees.change(ident, "basic")
    assert note is not None
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_1")
    await fees.change(ident, "big")
    assert (await fees.parts.invoices.get(first.subject)).status is Status.VOID
    await fees.fact(EventKind.DISPUTE_WON, first, "dp_1")
    for _ in range(2):
        await fees.deliver(first)
        await fees.parts.settle()
    available, held, _, _ = await fees.books()
    assert (available, held) == (BIG, 0)  # the note, and the rest of what paid a void invoice
    with pytest.raises(ProviderRefused, match="credit note"):
        await fees.refunds.refund("one", first.reference, None, "r1")
    await fees.audited()


async def test_a_refund_that_the_provider_refuses_leaves_the_fee_earned(fees: FeeWorld) -> None:
    ident = await fees.begin()
    (payment,) = await fees.paid()
    fees.provider.mood = "refuse"
    with pytest.raises(ProviderRefused):
        await fees.refunds.refund("one", payment.reference, None, "r1")
    assert await fees.books() == (0, 0, BASIC, BASIC)
    assert await fees.state(ident) == (State.ACTIVE, None)
    fees.provider.mood = "lost"
    with pytest.raises(PaymentError):
        await fees.refunds.refund("one", payment.reference, None, "r2")
    assert await fees.books() == (0, BASIC, 0, BASIC)  # set aside until it is known
    fees.provider.mood = "up"
    await fees.refunds.refund("one", payment.reference, None, "r2")
    assert await fees.books() == (0, 0, 0, 0)
    await fees.audited()


# ---- currencies -------------------------------------------------------------------------


async def test_no_change_of_plan_crosses_currencies(fees: FeeWorld) -> None:
    """1,141 yen are not 1,141 dollars: there are no exchange rates."""
    yen = decode({"name": "yen", "price": {"flat": "1180 JPY"}}, Plan)
    plans = fees.parts.plan_of

    def plan_of(name: str) -> Plan | None:
        return yen if name == "yen" else plans(name)

    fees.parts.subscriptions.plans = plan_of
    ident = await fees.begin("yen")
    (payment,) = await fees.paid()
    for plan in ("basic", "usage", "big"):
        with pytest.raises(ConflictError, match="paid in JPY, and the plan costs USD"):
            await fees.parts.subscriptions.change_plan(ident, plan)
    found = await fees.parts.subscriptions.get(ident)
    assert (found.plan, found.state) == ("yen", State.ACTIVE)
    # Also when the plan's own price is in another currency by now.
    fees.parts.subscriptions.plans = lambda name: plans("basic" if name == "yen" else name)
    with pytest.raises(ConflictError, match="paid in JPY"):
        await fees.parts.subscriptions.change_plan(ident, "big")
    assert await fees.books("JPY") == (0, 0, payment.amount, payment.amount)
    assert await fees.world.ledger.wallet(fees.account, "USD") is None


async def test_a_payment_in_another_currency_or_too_small_pays_no_invoice(fees: FeeWorld) -> None:
    """It is the customer's, in its own currency, and the invoice stays open."""
    fees.account = await fees.parts.account()
    made = await fees.parts.subscriptions.create(fees.account, "basic")
    (bill,) = await fees.parts.invoices.open_of(made.id)
    for number, paid in enumerate(("29.58 EUR", "3000 JPY", "29.57 USD")):
        amount = Money.parse(paid)
        payment = Payment(
            provider="one",
            reference=f"pi_{number}",
            account=fees.account,
            currency=amount.currency,
            amount=amount.micros,
            purpose="invoice",
            subject=bill.id,
            paid_at=fees.parts.clock(),
        )
        for _ in range(2):
            await fees.deliver(payment)
        assert (await fees.parts.invoices.get(bill.id)).status is Status.OPEN
    for note in await fees.parts.invoices.open_credits():
        await fees.parts.schedule._credit(note)
    for currency, micros in (("EUR", BASIC), ("JPY", 3000 * USD), ("USD", BASIC - 10_000)):
        assert await fees.books(currency) == (micros, 0, 0, micros)
    await fees.audited()


# ---- older stores -----------------------------------------------------------------------


async def test_an_older_store_gets_its_fees_and_gives_them_back(fees: FeeWorld) -> None:
    """Down to before there were fees, and up again: the same books, audited; what was only noted
    on the invoice becomes a payment by hand."""
    ident = await fees.begin("big")
    await fees.change(ident, "basic")
    (payment,) = await fees.paid()
    await fees.refunds.refund("one", payment.reference, Money(10 * USD, "USD"), "r1")
    other = fees.account
    await fees.begin("basic", "second")
    (contested,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, contested, "dp_1")
    third = await fees.parts.account("by hand")
    made = await fees.parts.subscriptions.create(third, "yearly")
    (bill,) = await fees.parts.invoices.open_of(made.id)
    await fees.parts.dunning.settle(bill.id, result_of(ChargeStatus.SUCCEEDED, bill.amount, "t 7"))
    drawn = await credited(fees)
    assert len(drawn) == 1
    accounts = {other: await wallets(fees, other), fees.account: await wallets(fees, fees.account)}
    async with fees.world.store.write() as connection:
        await connection.run_sync(down_to, "0010")
    kinds = sa.select(ledger_entries.c.kind).distinct()
    async with fees.world.store.read() as connection:
        assert set((await connection.execute(kinds)).scalars()) <= {"credit", "pay_out"}
    (before,) = await wallets(fees, other)
    assert before.revenue == 0
    assert -before.provider_clearing == before.customer_available > 0  # as it was booked then
    async with fees.world.store.write() as connection:
        await connection.run_sync(up)
    for account, books in accounts.items():
        after = await wallets(fees, account)
        assert [sums(one) for one in after] == [sums(one) for one in books]
    assert await credited(fees) == drawn
    (paid,) = await fees.payments.of_account(third)
    assert (paid.provider, paid.reference, paid.subject) == ("manual", "t 7", bill.id)
    (books_of_third,) = await wallets(fees, third)
    assert books_of_third.revenue == bill.total
    await fees.world.restart()
    await fees.audited()


async def credited(fees: FeeWorld) -> list[tuple[str, str, int]]:
    """Credit note, invoice, how much of it."""
    notes = sa.select(invoices.c.id).where(invoices.c.kind == "credit")
    query = sa.select(invoice_draws).where(invoice_draws.c.document.in_(notes))
    async with fees.world.store.read() as connection:
        return [tuple(row) for row in (await connection.execute(query)).all()]


async def wallets(fees: FeeWorld, account: str) -> list[Wallet]:
    return await fees.world.ledger.wallets(account)


def sums(wallet: Wallet) -> tuple[int, ...]:
    return (
        *(getattr(wallet, book.value) for book in Book),
        wallet.credited,
        wallet.captured,
        wallet.overdraft,
    )


# ---- the audit --------------------------------------------------------------------------


async def test_the_audit_finds_what_is_not_booked(fees: FeeWorld) -> None:
    ident = await fees.begin("big")
    await fees.change(ident, "basic")
    (payment,) = await fees.paid()
    lost = Payment(
        provider="one",
        reference="pi_lost",
        account=fees.account,
        currency="USD",
        amount=5 * USD,
        purpose="top_up",
        paid_at=fees.parts.clock(),
    )
    await fees.payments.put(lost)
    async with fees.world.store.write() as connection:
        await connection.execute(
            sa.update(ledger_entries)
            .where(ledger_entries.c.id.like("credit:%"))
            .values(amount=ledger_entries.c.amount + 1)
        )
        await connection.execute(
            sa.insert(invoices).from_select(
                [column.name for column in invoices.c],
                sa.select(
                    *(
                        sa.literal(column.name[:2] + "x") if column.name in ("id", "number", "key")
                        else column
                        for column in invoices.c
                    )
                ).where(invoices.c.id == payment.subject),
            )
        )  # fmt: skip
    report = await audit_gateway(fees.world.pipeline)
    found = {check.name: check.findings for check in report.checks if not check.passed}
    assert found["payments"] == ["payment one pi_lost: booked nothing"]
    assert len(found["invoices"]) == 2
    assert found["invoices"][0].endswith(f"paid, but 0 of {BIG} was received")
    assert found["invoices"][1].startswith("credit note INVC-2026-000001")


async def test_the_audit_asks_providers_what_they_have(fees: FeeWorld) -> None:
    await fees.begin("big")
    (payment,) = await fees.paid()
    since = datetime(2026, 10, 1, tzinfo=UTC)

    async def audited() -> list[str]:
        (found,) = await audit_providers(fees.world.store, fees.chain.providers, since)
        return found.findings

    def theirs(micros: int, refunded: int = 0, reference: str = payment.reference) -> Turnover:
        return Turnover(reference=reference, amount=Money(micros, "USD"), refunded=refunded)

    fees.provider.has = [theirs(BIG)]
    assert await audited() == []
    fees.provider.has = [theirs(BIG + 1)]
    assert len(await audited()) == 1
    fees.provider.has = [theirs(BIG, refunded=10)]
    assert await audited() == [f"payment {payment.reference}: 10 micros refunded there, 0 here"]
    fees.provider.has = [theirs(BIG), theirs(5, reference="pi_other")]
    assert len(await audited()) == 1
    fees.provider.has = []
    assert await audited() == [f"payment {payment.reference}: booked here, unknown there"]
    fees.provider.mood = "down"
    assert await audited() == ["it did not answer: one is down"]


async def test_credits_by_hand_are_no_payments_that_are_missing(fees: FeeWorld) -> None:
    await fees.begin()
    await fees.world.wallets.credit(move("by hand", 5, fees.account, "USD"))
    await fees.audited()
