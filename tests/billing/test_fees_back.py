"""Money that goes back after a change of plan has credited it, and upgrades that are never paid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from feekit import BASIC, BIG, USD, FeeWorld
from moneykit import World

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.invoices.invoices import Invoice, Status
from fastgate.billing.payments.base import EventKind, ProviderRefused
from fastgate.billing.subscriptions.lifecycle import State
from fastgate.errors import StoreError
from fastgate.model.billing import Billing
from fastgate.model.codec import decode
from fastgate.model.units import Money
from fastgate.store.billing_tables import invoice_draws
from fastgate.store.payments import Payment

COIN = 10_000
HALF = datetime(2026, 11, 16, tzinfo=UTC)  # of the month


@pytest.fixture
async def fees(store_url: str, tmp_path: Path) -> AsyncIterator[FeeWorld]:
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    yield FeeWorld(world)
    await world.close()


async def downgraded(fees: FeeWorld) -> tuple[str, Payment, int]:
    """A subscription whose fee was credited in part; its id, the payment, the credit."""
    ident = await fees.begin("big")
    note = await fees.change(ident, "basic")
    assert note is not None
    (payment,) = await fees.paid()
    return ident, payment, note.total


# ---- charge-backs -----------------------------------------------------------------------


async def test_a_dispute_takes_the_credit_with_it(fees: FeeWorld) -> None:
    """Lost, the customer has the money and not the credit too."""
    _, payment, _ = await downgraded(fees)
    for _ in range(2):  # however often it is told
        await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
        assert await fees.books() == (0, BIG, 0, BIG)
    await fees.audited()
    for _ in range(2):
        await fees.fact(EventKind.DISPUTE_LOST, payment, "dp_1")
        assert await fees.books() == (0, 0, 0, 0)
        await fees.deliver(payment)
    await fees.audited()


async def test_a_credit_that_was_spent_is_owed_when_its_fee_is_charged_back(fees: FeeWorld) -> None:
    _, payment, credit = await downgraded(fees)
    assert fees.world.use(credit - 5 * USD, fees.account) is not None
    await fees.world.pipeline.step()
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    await fees.fact(EventKind.DISPUTE_LOST, payment, "dp_1")
    available, held, revenue, there = await fees.books()
    assert (available, held, there) == (-(credit - 5 * USD), 0, 0)
    assert revenue == credit - 5 * USD
    assert fees.world.use(1, fees.account) is None  # who owes is not served
    await fees.audited()


async def test_a_dispute_that_is_won_gives_the_credit_again(fees: FeeWorld) -> None:
    ident, payment, credit = await downgraded(fees)
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    for _ in range(2):
        await fees.fact(EventKind.DISPUTE_WON, payment, "dp_1")
        await fees.deliver(payment)
        assert await fees.books() == (credit, 0, BIG - credit, BIG)
    assert await fees.state(ident) == (State.ACTIVE, None)
    await fees.audited()


async def test_an_invoice_that_is_paid_after_a_charge_back_gives_the_credit_again(
    fees: FeeWorld,
) -> None:
    ident, payment, credit = await downgraded(fees)
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    await fees.fact(EventKind.DISPUTE_LOST, payment, "dp_1")
    await fees.parts.dunning.method_attached(fees.account)
    await fees.parts.settle()
    assert await fees.state(ident) == (State.ACTIVE, None)
    assert await fees.books() == (credit, 0, BIG - credit, BIG)
    (again,) = [one for one in await fees.paid() if one.reference != payment.reference]
    more = Money(BIG - credit + COIN, "USD")
    with pytest.raises(ProviderRefused, match="credit note"):
        await fees.refunds.refund("one", again.reference, more, "r1")
    await fees.audited()


async def test_a_payment_that_was_credited_whole_takes_that_with_it(fees: FeeWorld) -> None:
    """Paid twice: the first is in the wallet, until it goes back; and when the second goes back,
    the invoice is owed, though the first is still there."""
    ident = await fees.begin()
    (first,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_1")
    await fees.parts.dunning.method_attached(fees.account)
    await fees.parts.settle()
    await fees.fact(EventKind.DISPUTE_WON, first, "dp_1")
    await fees.deliver(first)
    await fees.parts.settle()
    assert await fees.books() == (BASIC, 0, BASIC, 2 * BASIC)
    (second,) = [one for one in await fees.paid() if one.reference != first.reference]
    await fees.fact(EventKind.DISPUTE_OPENED, second, "dp_2")
    assert await fees.state(ident) == (State.GRACE, None)
    await fees.fact(EventKind.DISPUTE_LOST, second, "dp_2")
    assert await fees.books() == (BASIC, 0, 0, BASIC)
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_3")
    assert await fees.books() == (0, BASIC, 0, BASIC)
    await fees.fact(EventKind.DISPUTE_LOST, first, "dp_3")
    assert await fees.books() == (0, 0, 0, 0)
    await fees.audited()


async def test_a_dispute_won_for_an_invoice_that_was_given_up_is_credited(fees: FeeWorld) -> None:
    """Whether or not the provider tells of the payment again."""
    ident = await fees.begin("big")
    (payment,) = await fees.paid()
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    await fees.change(ident, "basic")
    assert (await fees.parts.invoices.get(payment.subject)).status is Status.VOID
    await fees.fact(EventKind.DISPUTE_WON, payment, "dp_1")
    await fees.parts.settle()
    assert (await fees.books())[0] == BIG
    # Contested once more, and lost: nothing is owed for what was given up.
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_2")
    await fees.fact(EventKind.DISPUTE_LOST, payment, "dp_2")
    assert (await fees.books())[0] == 0
    assert (await fees.parts.invoices.get(payment.subject)).status is Status.VOID
    await fees.audited()


async def test_what_a_crash_left_half_done_is_done_when_it_is_told_again(
    fees: FeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step that a dispute takes."""
    _, payment, credit = await downgraded(fees)
    dunning, wallets = fees.parts.dunning, fees.world.wallets
    steps = ((wallets, "fee_aside"), (dunning, "returned"), (wallets, "take_back"))
    for owner, name in steps:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, away)
            with pytest.raises(StoreError):
                await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
    assert await fees.books() == (0, BIG, 0, BIG)
    await fees.audited()
    with monkeypatch.context() as patch:
        patch.setattr(wallets, "take_back", away)
        with pytest.raises(StoreError):
            await fees.fact(EventKind.DISPUTE_WON, payment, "dp_1")
    await fees.fact(EventKind.DISPUTE_WON, payment, "dp_1")
    assert await fees.books() == (credit, 0, BIG - credit, BIG)
    await fees.audited()


async def away(*_: object, **__: object) -> None:
    raise StoreError("The store is away.")


# ---- refunds at the provider ------------------------------------------------------------


async def test_a_refund_in_the_providers_pages_takes_the_credit_with_it(fees: FeeWorld) -> None:
    _, payment, _ = await downgraded(fees)
    for _ in range(2):
        await fees.fact(EventKind.REFUND, payment, "re_1")
        assert await fees.books() == (0, 0, 0, 0)
    await fees.audited()


async def test_a_part_takes_what_is_not_covered_any_more(fees: FeeWorld) -> None:
    """First what was earned goes back, then what was credited."""
    _, payment, credit = await downgraded(fees)
    earned = BIG - credit
    await fees.fact(EventKind.REFUND, payment, "re_1", amount=earned - 5 * USD)
    assert await fees.books() == (credit, 0, 5 * USD, credit + 5 * USD)
    await fees.fact(EventKind.REFUND, payment, "re_2", amount=12 * USD)
    assert await fees.books() == (credit - 7 * USD, 0, 0, credit - 7 * USD)
    await fees.audited()


async def test_a_refund_that_failed_leaves_the_credit(fees: FeeWorld) -> None:
    """However often both are told, as a provider tells them together."""
    _, payment, credit = await downgraded(fees)
    for _ in range(3):
        await fees.fact(EventKind.REFUND, payment, "re_1")
        await fees.fact(EventKind.REFUND_FAILED, payment, "re_1")
        assert await fees.books() == (credit, 0, BIG - credit, BIG)
    page = await fees.world.ledger.history(fees.account, limit=50)
    assert len([entry for entry in page.items if entry.kind == "credit_back"]) == 2
    await fees.audited()


async def test_a_refund_that_failed_and_was_never_made_brings_nothing(fees: FeeWorld) -> None:
    await fees.begin()
    (payment,) = await fees.paid()
    await fees.fact(EventKind.REFUND_FAILED, payment, "re_1")
    assert await fees.books() == (0, 0, BASIC, BASIC)
    await fees.audited()


# ---- upgrades that are not paid ---------------------------------------------------------


async def upgraded(fees: FeeWorld, at: datetime = HALF) -> str:
    """An upgrade whose invoice is declined."""
    ident = await fees.begin("basic")
    fees.parts.clock.now = at
    fees.provider.mood = "failed"
    document = await fees.change(ident, "big")
    assert document is not None
    assert document.total == 30 * USD  # 45 for the rest of the month, less 15 that are not used
    return ident


async def test_an_upgrade_that_is_not_paid_keeps_what_was_paid_for_the_old_plan(
    fees: FeeWorld,
) -> None:
    ident = await upgraded(fees)
    fees.provider.mood = "up"
    note = await fees.change(ident, "free")
    assert note is not None
    assert (note.kind, note.total) == ("credit", 15 * USD)
    assert (await fees.books())[0] == 15 * USD
    (payment,) = await fees.paid()
    with pytest.raises(ProviderRefused, match="credit note"):
        await fees.refunds.refund("one", payment.reference, Money(BASIC, "USD"), "r1")
    await fees.audited()


async def test_back_to_the_old_plan_nothing_is_owed(fees: FeeWorld) -> None:
    ident = await upgraded(fees)
    fees.provider.mood = "up"
    assert await fees.change(ident, "basic") is None
    assert await fees.state(ident) == (State.ACTIVE, None)
    assert await fees.books() == (0, 0, BASIC, BASIC)


async def test_from_one_unpaid_upgrade_to_the_next_nothing_is_lost(fees: FeeWorld) -> None:
    ident = await upgraded(fees)
    fees.parts.clock.pass_(days=2)
    document = await fees.change(ident, "yearly")
    assert document is not None
    texts = {line.text: line.micros for line in document.lines}
    assert texts["Unused time of plans before it"] == -15 * USD
    assert texts["big until the change"] == 6 * USD
    fees.parts.clock.pass_(days=2)
    fees.provider.mood = "up"
    note = await fees.change(ident, "free")
    assert note is not None
    assert (note.kind, note.total) == ("credit", 7 * USD)  # 15, less 6, less 2 days of a year's
    await fees.audited()


@pytest.mark.parametrize("days", [1, 3, 6])
async def test_an_upgrade_that_is_never_paid_costs_the_time_it_was_used(
    fees: FeeWorld, days: int
) -> None:
    """It ends, and what was paid for the old plan is credited but for that."""
    ident = await upgraded(fees)
    fees.parts.clock.pass_(days=days)
    await fees.parts.subscriptions.cancel(ident, at_period_end=False)
    await fees.parts.settle()
    assert (await fees.books())[0] == max(0, 15 - 3 * days) * USD
    await fees.audited()


async def test_an_upgrade_that_expires_unpaid_credits_the_rest(fees: FeeWorld) -> None:
    """Who had no access used nothing."""
    fees.parts.subscriptions.billing = decode({"grace": {"payment": "2d"}}, Billing)
    ident = await upgraded(fees)
    await fees.parts.until(HALF + timedelta(days=3))
    assert (await fees.state(ident))[1] is not None
    await fees.parts.until(HALF + timedelta(days=120))
    assert (await fees.state(ident))[0] is State.EXPIRED
    assert (await fees.books())[0] == (15 - 2 * 3) * USD
    await fees.audited()


async def test_who_was_shut_out_is_not_asked_for_that_time(fees: FeeWorld) -> None:
    ident = await fees.begin("basic")
    await fees.parts.until(datetime(2026, 11, 30, tzinfo=UTC))
    fees.provider.mood = "failed"
    await fees.parts.until(datetime(2026, 12, 21, tzinfo=UTC))
    assert await fees.state(ident) == (State.GRACE, "subscription_past_due")
    ends = (await fees.parts.subscriptions.get(ident)).grace_ends
    assert ends is not None
    document = await fees.change(ident, "free")
    assert document is not None
    days = (ends - datetime(2026, 12, 1, tzinfo=UTC)) / timedelta(days=1)
    assert abs(document.total - 30 * USD * days / 31) < COIN


async def test_a_refund_in_full_ends_the_plan_and_credits_what_else_was_paid(
    fees: FeeWorld,
) -> None:
    """The upgrade's invoice goes back; what it took into account of the old plan does not."""
    ident = await fees.begin("basic")
    fees.parts.clock.now = HALF
    await fees.change(ident, "big")
    (older, newer) = sorted(await fees.paid(), key=lambda one: one.paid_at)
    fees.parts.clock.pass_(days=1)
    await fees.refunds.refund("one", newer.reference, None, "r1")
    await fees.parts.settle()
    assert (await fees.state(ident))[0] is State.EXPIRED
    assert await fees.books() == (12 * USD, 0, BASIC - 12 * USD, BASIC)
    with pytest.raises(ProviderRefused, match="credit note"):
        await fees.refunds.refund("one", older.reference, Money(BASIC, "USD"), "r2")
    await fees.audited()


# ---- refunds of a part, and later changes -----------------------------------------------


async def test_a_part_that_was_refunded_is_taken_off_once(fees: FeeWorld) -> None:
    ident = await fees.begin("basic")
    (payment,) = await fees.paid()
    await fees.refunds.refund("one", payment.reference, Money(10 * USD, "USD"), "r1")
    await fees.change(ident, "big")
    assert (await fees.books())[3] == BIG
    await fees.change(ident, "free")
    assert await fees.books() == (BIG, 0, 0, BIG)
    await fees.audited()


async def test_a_year_is_credited_whatever_was_refunded_of_its_months(fees: FeeWorld) -> None:
    """A month that is over, of the same year, has nothing to do with what was paid since."""
    ident = await fees.begin("basic")
    await fees.parts.until(datetime(2027, 3, 1, tzinfo=UTC))
    months = sorted(await fees.paid(), key=lambda one: one.paid_at)
    await fees.fact(EventKind.REFUND, months[2], "re_1", amount=20 * USD)  # January
    await fees.change(ident, "yearly")
    await fees.parts.until(datetime(2027, 5, 16, tzinfo=UTC))
    note = await fees.change(ident, "free")
    assert note is not None
    assert (note.kind, note.total) == ("credit", 230 * USD)  # as many days are left
    await fees.audited()


async def test_a_year_that_was_paid_in_full_is_credited_in_its_fifth_month(fees: FeeWorld) -> None:
    ident = await fees.begin("yearly")
    await fees.parts.until(datetime(2027, 5, 16, tzinfo=UTC))
    note = await fees.change(ident, "free")
    assert note is not None
    assert (note.kind, note.total) == ("credit", 230 * USD)
    await fees.audited()


# ---- the clock --------------------------------------------------------------------------


async def test_a_clock_that_went_back_forgets_no_credit(fees: FeeWorld) -> None:
    """The credit note is older than the invoice that it draws on."""
    ident = await fees.begin("basic")
    fees.parts.clock.pass_(hours=3)
    await fees.change(ident, "big")
    fees.parts.clock.pass_(hours=-2)
    note = await fees.change(ident, "free")
    assert note is not None
    there = sum(one.amount for one in await fees.paid())
    for payment in await fees.paid():
        try:
            await fees.refunds.refund("one", payment.reference, None, payment.reference)
        except ProviderRefused:
            continue
    available, _, revenue, rest = await fees.books()
    assert available == note.total <= rest <= there
    assert revenue >= 0
    await fees.audited()


# ---- the audit, and older stores --------------------------------------------------------


async def test_the_audit_finds_a_credit_whose_fee_went_back(fees: FeeWorld) -> None:
    _, payment, credit = await downgraded(fees)
    await fees.fact(EventKind.REFUND, payment, "re_1")
    async with fees.world.store.write() as connection:
        await connection.execute(sa.update(invoice_draws).values(amount=credit - 1))
    report = await audit_gateway(fees.world.pipeline)
    (found,) = [check for check in report.checks if not check.passed]
    assert found.name == "credits"
    assert found.findings == [
        f"invoice {payment.subject}: {credit} USD of its credits are taken, {credit - 1} must be"
    ]


# ---- changes of plan after a charge-back ------------------------------------------------


async def charged_back(
    fees: FeeWorld, days: int, plan: str, other: str
) -> tuple[str, Invoice | None]:
    """`plan` until the eleventh, `other` from then on; the first payment is charged back on the
    21st, and the plan given up `days` later: what that comes to."""
    fees.parts.clock.now = datetime(2026, 11, 1, tzinfo=UTC)
    ident = await fees.begin(plan)
    (first,) = await fees.paid()
    fees.parts.clock.pass_(days=10)
    await fees.change(ident, other)
    fees.parts.clock.pass_(days=10)
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_1")
    await fees.fact(EventKind.DISPUTE_LOST, first, "dp_1")
    fees.parts.clock.pass_(days=days)
    return ident, await fees.change(ident, "free")


async def test_time_before_a_change_is_owed_at_the_price_that_it_had(fees: FeeWorld) -> None:
    _, document = await charged_back(fees, 0, "big", "basic")
    assert document is not None
    assert (document.kind, document.total) == ("invoice", 30 * USD + 10 * USD)
    await fees.audited()


async def test_a_change_that_was_paid_is_not_owed_again(fees: FeeWorld) -> None:
    """Ten days at 1 and ten at 3 were used, and 40 was paid at the change."""
    _, document = await charged_back(fees, 0, "basic", "big")
    assert document is None
    await fees.audited()


async def test_what_a_paid_change_left_is_credited(fees: FeeWorld) -> None:
    fees.parts.clock.now = datetime(2026, 11, 1, tzinfo=UTC)
    ident = await fees.begin("basic")
    (first,) = await fees.paid()
    fees.parts.clock.pass_(days=10)
    await fees.change(ident, "big")
    fees.parts.clock.pass_(days=2)
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_1")
    await fees.fact(EventKind.DISPUTE_LOST, first, "dp_1")
    document = await fees.change(ident, "free")
    assert document is not None
    assert (document.kind, document.total) == ("credit", (40 - 10 - 6) * USD)
    await fees.audited()


async def test_months_of_a_yearly_plan_are_owed_after_a_charge_back(fees: FeeWorld) -> None:
    fees.parts.clock.now = datetime(2026, 10, 1, tzinfo=UTC)
    ident = await fees.begin("yearly")
    (first,) = await fees.paid()
    fees.parts.clock.now = datetime(2026, 11, 11, tzinfo=UTC)
    await fees.change(ident, "basic")
    fees.parts.clock.pass_(days=10)
    await fees.fact(EventKind.DISPUTE_OPENED, first, "dp_1")
    await fees.fact(EventKind.DISPUTE_LOST, first, "dp_1")
    document = await fees.change(ident, "free")
    assert document is not None
    assert (document.kind, document.total) == ("invoice", (41 + 10) * USD)
    await fees.audited()


async def test_a_dispute_that_was_lost_before_there_were_draws_is_matched(
    fees: FeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions left it: the fee went back, and nothing was taken of its credit."""

    async def nothing(event: object) -> None:
        pass

    _, payment, credit = await downgraded(fees)
    with monkeypatch.context() as patch:
        patch.setattr(fees.applier, "_match_credits", nothing)
        await fees.fact(EventKind.DISPUTE_OPENED, payment, "dp_1")
        await fees.fact(EventKind.DISPUTE_LOST, payment, "dp_1")
    assert (await fees.books())[0] == credit
    assert not (await audit_gateway(fees.world.pipeline)).passed
    for _ in range(2):
        await fees.applier.match_credits()
        assert await fees.books() == (0, 0, 0, 0)
    await fees.audited()
