"""News of providers is applied once: to the ledger, the cells, the charges, the subscriptions."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from moneykit import World
from paykit import START, Clock, Scripted

from fastgate.billing.ledger.ledger import InsufficientFundsError
from fastgate.billing.payments.base import (
    ChargeResult,
    ChargeStatus,
    EventKind,
    Notification,
    ProviderEvent,
    ProviderRefused,
    ProviderSubscription,
    ProviderUnavailable,
    Purpose,
    SubscriptionState,
    WebhookRejected,
)
from fastgate.billing.payments.breaker import BreakerSettings
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.manual import ManualProvider
from fastgate.billing.payments.provider_poller import ProviderPoller
from fastgate.billing.payments.reconcile import EVERY, FIRST, OVERLAP, Reconciler
from fastgate.billing.payments.refunds import Refunds
from fastgate.billing.payments.webhooks_in import Applier, Inbox, lag, wait_after
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.model.units import Money
from fastgate.store.payment_events import EventTable
from fastgate.store.payments import AttemptTable, PaymentTable

EUR = Money(100, "EUR")


class Billing:
    """Subscriptions and dunning that write down what they are told."""

    def __init__(self) -> None:
        self.adopted: list[ProviderSubscription] = []
        self.methods: list[tuple[str, bool]] = []
        self.settled: list[tuple[str, ChargeStatus, str]] = []
        self.woken: list[str] = []
        self.back: list[str] = []

    async def adopt(self, provider: str, theirs: ProviderSubscription) -> object:
        self.adopted.append(theirs)
        return theirs

    async def method_changed(self, account: str, present: bool) -> None:
        self.methods.append((account, present))

    async def settle(self, ident: str, result: ChargeResult, key: str = "") -> bool:
        if ident == "inv_none":
            raise NotFoundError("There is no such invoice.")
        self.settled.append((ident, result.status, key))
        return True

    async def returned(self, ident: str) -> bool:
        self.back.append(ident)
        return True

    async def taken_back(self, ident: str) -> dict[tuple[str, str], int]:
        return {}

    async def method_attached(self, account: str) -> int:
        self.woken.append(account)
        return 1


class Bench:
    """The payment side on a real ledger with real cells, with a provider that obeys."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.provider = Scripted("one", self.clock)
        self.payments = PaymentTable(world.store)
        self.manual = ManualProvider(self.payments, self.clock)
        self.chain = Chain(
            [self.provider, self.manual],
            AttemptTable(world.store),
            self.clock,
            BreakerSettings(failures=3, wait=timedelta(seconds=10)),
        )
        self.billing = Billing()
        self.applier = Applier(
            self.chain,
            world.wallets,
            self.payments,
            self.clock,
            subscriptions=self.billing,
            dunning=self.billing,
        )
        self.heard: list[ProviderEvent] = []
        self.applier.on_event.append(self._hear)
        self.inbox = Inbox(self.chain, EventTable(world.store), self.applier, self.clock)
        self.refunds = Refunds(self.chain, self.payments, world.wallets, world.ledger, self.clock)
        self.reconciler = Reconciler(self.chain, self.inbox, self.clock)

    async def _hear(self, event: ProviderEvent) -> None:
        self.heard.append(event)

    async def books(self) -> tuple[int, int, int]:
        """Available, held, and what the providers have of ours; the cell agrees."""
        wallet = await self.world.ledger.wallet("acc_a", "EUR")
        if wallet is None:
            return 0, 0, 0
        await self.world.agrees()
        return wallet.customer_available, wallet.customer_held, -wallet.provider_clearing

    async def webhook(self, news: Notification) -> bool:
        """Whether it was new."""
        body = msgspec.json.encode(news)
        return (await self.inbox.receive("one", {"signature": "good"}, body)).fresh


@pytest.fixture
async def bench(store_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """On both kinds of store."""
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    yield Bench(world)
    await world.close()


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    yield Bench(world)
    await world.close()


def fact(kind: EventKind, reference: str = "pi_1", **more: object) -> ProviderEvent:
    given: dict[str, object] = {
        "kind": kind,
        "provider": "one",
        "key": f"{kind}:{reference}",
        "at": START,
        "account": "acc_a",
        "amount": EUR,
        "reference": reference,
        "payment": "pi_1",
        "purpose": Purpose.TOP_UP,
        **more,
    }
    return ProviderEvent(**given)  # type: ignore[arg-type]


PAID = fact(EventKind.PAYMENT_SUCCEEDED)


# ---- facts and the books ------------------------------------------------------------------


async def test_a_payment_is_credited_once_whoever_tells_it(bench: Bench) -> None:
    first = bench.provider.news("evt_1", PAID)
    second = bench.provider.news("evt_2", PAID)
    assert await bench.webhook(first)
    assert not await bench.webhook(first)
    assert await bench.webhook(second)
    assert await bench.inbox.work() == 2
    assert await bench.books() == (100, 0, 100)
    await bench.applier.apply(PAID)
    assert await bench.inbox.revive("one", "evt_1")
    assert await bench.inbox.work() == 1
    assert await bench.inbox.work() == 0
    assert await bench.books() == (100, 0, 100)
    (payment,) = await bench.payments.of_account("acc_a")
    assert (payment.reference, payment.amount, payment.purpose) == ("pi_1", 100, "top_up")
    assert not await bench.inbox.revive("one", "evt_none")


async def test_refunds_and_disputes_may_come_in_any_order(lite: Bench) -> None:
    """Whole stories, told by any of their events first: the same books."""
    refund = fact(EventKind.REFUND, "re_1", amount=Money(30, "EUR"))
    opened = fact(EventKind.DISPUTE_OPENED, "dp_1", amount=Money(50, "EUR"))
    lost = fact(EventKind.DISPUTE_LOST, "dp_1", amount=Money(50, "EUR"))
    stories = {"a": [PAID], "b": [PAID, refund], "c": [PAID, opened], "d": [PAID, opened, lost]}
    for round_, order in enumerate(itertools.permutations(stories)):
        account = f"acc_{round_}"
        for name in order:
            for event in stories[name]:
                told = msgspec.structs.replace(
                    event,
                    account=account,
                    reference=f"{event.reference}{round_}",
                    payment=f"pi_1{round_}",
                )
                await lite.applier.apply(told)
        wallet = await lite.world.ledger.wallet(account, "EUR")
        assert wallet is not None
        assert (wallet.customer_available, wallet.customer_held) == (20, 0), order
        assert wallet.provider_clearing == -20
        assert await lite.world.agrees(account) == 20


async def test_a_dispute_takes_what_was_spent_already(bench: Bench) -> None:
    await bench.applier.apply(PAID)
    assert bench.world.use(70) is not None
    await bench.world.pipeline.step()
    await bench.applier.apply(fact(EventKind.DISPUTE_OPENED, "dp_1"))
    assert await bench.books() == (-70, 100, 100)
    assert bench.world.use(1) is None  # who owes is not served
    await bench.applier.apply(fact(EventKind.DISPUTE_WON, "dp_1"))
    assert await bench.books() == (30, 0, 100)
    (kept,) = await bench.payments.returns("one", "pi_1")
    assert (kept.kind, kept.state, kept.amount) == ("dispute", "kept", 100)
    await bench.applier.apply(fact(EventKind.DISPUTE_OPENED, "dp_1"))  # told again, late
    assert await bench.books() == (30, 0, 100)
    assert [item.state for item in await bench.payments.returns("one", "pi_1")] == ["kept"]


async def test_a_refund_that_failed_comes_back(bench: Bench) -> None:
    refund = fact(EventKind.REFUND, "re_1", amount=Money(40, "EUR"))
    failed = fact(EventKind.REFUND_FAILED, "re_1", amount=Money(40, "EUR"))
    for _ in range(2):
        for event in (PAID, refund, failed):
            await bench.applier.apply(event)
        assert await bench.books() == (100, 0, 100)
    assert [item.state for item in await bench.payments.returns("one", "pi_1")] == ["kept"]


@pytest.mark.parametrize(
    "strange", [{"purpose": None}, {"account": ""}, {"purpose": None, "account": ""}]
)
async def test_what_is_not_ours_moves_nothing(lite: Bench, strange: dict[str, object]) -> None:
    for kind in (
        EventKind.PAYMENT_SUCCEEDED,
        EventKind.PAYMENT_FAILED,
        EventKind.REFUND,
        EventKind.REFUND_FAILED,
        EventKind.DISPUTE_OPENED,
        EventKind.DISPUTE_LOST,
    ):
        await lite.applier.apply(fact(kind, **strange))
    assert await lite.world.ledger.all_wallets() == []
    assert lite.billing.settled == []
    assert len(lite.heard) == 6


async def test_a_paid_invoice_is_settled_and_credits_nothing(bench: Bench) -> None:
    invoice = {"purpose": Purpose.INVOICE, "subject": "inv_1", "attempt": "inv_1:0"}
    await bench.applier.apply(fact(EventKind.PAYMENT_FAILED, **invoice))
    await bench.applier.apply(fact(EventKind.PAYMENT_SUCCEEDED, **invoice))
    assert bench.billing.settled == [
        ("inv_1", ChargeStatus.FAILED, "inv_1:0"),
        ("inv_1", ChargeStatus.SUCCEEDED, "inv_1:0"),
    ]
    assert await bench.books() == (0, 0, 100)  # earned, and no wallet's
    await bench.applier.apply(fact(EventKind.DISPUTE_OPENED, "dp_1", **invoice))
    assert await bench.books() == (0, 100, 100)
    await bench.applier.apply(fact(EventKind.DISPUTE_WON, "dp_1", **invoice))
    assert await bench.books() == (0, 0, 100)
    await bench.applier.apply(fact(EventKind.REFUND, "re_1", **invoice))
    assert await bench.books() == (0, 0, 0)
    assert bench.billing.back == ["inv_1"] * 3
    unknown = {**invoice, "subject": "inv_none"}
    await bench.applier.apply(fact(EventKind.PAYMENT_SUCCEEDED, "pi_2", payment="pi_2", **unknown))
    assert len(bench.billing.settled) == 2


async def test_subscriptions_and_methods_are_handed_on(lite: Bench) -> None:
    theirs = ProviderSubscription(
        reference="sub_1", account="acc_a", state=SubscriptionState.ACTIVE, status="active"
    )
    changed = fact(EventKind.SUBSCRIPTION_CHANGED, "sub_1", subscription=theirs)
    await lite.applier.apply(changed)
    await lite.applier.apply(msgspec.structs.replace(changed, account=""))
    assert lite.billing.adopted == [theirs]
    await lite.applier.apply(fact(EventKind.METHOD_ATTACHED, "pm_1"))
    lite.provider.has_method = False
    await lite.applier.apply(fact(EventKind.METHOD_DETACHED, "pm_1"))
    await lite.applier.apply(fact(EventKind.METHOD_UPDATED, "pm_1", account=""))
    assert lite.billing.methods == [("acc_a", True), ("acc_a", False)]
    assert lite.billing.woken == ["acc_a"]


async def test_a_charge_is_credited_when_it_returns_and_not_again_by_its_news(
    bench: Bench,
) -> None:
    bench.chain.on_success.append(bench.applier.apply)
    result = await bench.chain.charge_saved("acc_a", EUR, "k")
    assert await bench.books() == (100, 0, 100)
    told = fact(
        EventKind.PAYMENT_SUCCEEDED, result.reference, payment=result.reference, attempt="k"
    )
    await bench.webhook(bench.provider.news("evt_1", told))
    await bench.inbox.work()
    assert await bench.books() == (100, 0, 100)


# ---- the inbox ----------------------------------------------------------------------------


async def test_bad_webhooks_leave_nothing(lite: Bench) -> None:
    body = msgspec.json.encode(lite.provider.news("evt_1", PAID))
    with pytest.raises(WebhookRejected, match="signature"):
        await lite.inbox.receive("one", {"signature": "bad"}, body)
    with pytest.raises(WebhookRejected, match="larger"):
        await lite.inbox.receive("one", {"signature": "good"}, b" " * (1 << 20) + body)
    with pytest.raises(ProviderRefused, match="no payment provider"):
        await lite.inbox.receive("other", {"signature": "good"}, body)
    assert await lite.inbox.work() == 0
    assert not lite.inbox.arrived.is_set()


async def test_a_webhook_is_refused_while_the_store_is_away(lite: Bench) -> None:
    news = lite.provider.news("evt_1", PAID)
    await lite.world.store.stop()
    with pytest.raises(StoreError):
        await lite.webhook(news)
    await lite.world.store.connect()
    assert await lite.webhook(news)  # the provider sends it again
    await lite.inbox.work()
    assert await lite.books() == (100, 0, 100)


async def test_what_cannot_be_resolved_now_is_tried_later(bench: Bench) -> None:
    await bench.webhook(bench.provider.news("evt_1", PAID))
    bench.provider.mood = "down"
    assert await bench.inbox.work() == 1
    assert await bench.inbox.work() == 0
    row = await bench.inbox.events.get("one", "evt_1")
    assert row is not None
    assert (row.attempts, row.error) == (1, "ProviderUnavailable: one is down")
    assert row.next_at == START + timedelta(seconds=5)
    backlog = (await bench.inbox.backlog())["one"]
    assert (backlog.waiting, backlog.given_up) == (1, 0)
    bench.clock.pass_(seconds=5)
    assert lag(backlog, bench.clock()) == timedelta(seconds=5)
    bench.provider.mood = "up"
    assert await bench.inbox.work() == 1
    assert await bench.books() == (100, 0, 100)
    assert await bench.inbox.backlog() == {}


async def test_one_bad_event_does_not_keep_the_others(lite: Bench) -> None:
    bad = fact(EventKind.PAYMENT_SUCCEEDED, "pi_bad", payment="pi_bad", amount=None)
    await lite.webhook(lite.provider.news("evt_1", bad))
    await lite.webhook(lite.provider.news("evt_2", PAID))
    assert await lite.inbox.work() == 2
    assert await lite.books() == (100, 0, 100)
    row = await lite.inbox.events.get("one", "evt_1")
    assert row is not None
    assert row.error.startswith("ValueError")
    lite.clock.pass_(days=3, seconds=1)
    await lite.inbox.work()
    page = await lite.inbox.events.page("one", state="given_up", limit=10)
    assert [item.id for item in page.items] == ["evt_1"]
    assert (await lite.inbox.backlog())["one"].given_up == 1


async def test_whoever_dies_at_work_leaves_it_to_the_next(bench: Bench) -> None:
    await bench.webhook(bench.provider.news("evt_1", PAID))
    claimed = await bench.inbox.events.claim(bench.clock(), timedelta(minutes=2), 10)
    assert [item.id for item in claimed] == ["evt_1"]
    assert await bench.inbox.work() == 0  # someone else is at it
    bench.clock.pass_(minutes=2)
    assert await bench.inbox.work() == 1
    assert await bench.books() == (100, 0, 100)


async def test_done_events_are_forgotten_when_nobody_can_repeat_them(lite: Bench) -> None:
    await lite.webhook(lite.provider.news("evt_1", PAID))
    await lite.inbox.work()
    lite.clock.pass_(days=39)
    assert await lite.inbox.prune() == 0
    lite.clock.pass_(days=2)
    assert await lite.inbox.prune() == 1


def test_waits_double_up_to_an_hour() -> None:
    waits = [wait_after(attempts).total_seconds() for attempts in range(1, 40)]
    assert waits[:4] == [5, 10, 20, 40]
    assert waits == sorted(waits)
    assert waits[-1] == 3600


# ---- reconciliation -----------------------------------------------------------------------


async def test_what_webhooks_missed_is_found(bench: Bench) -> None:
    news = [
        bench.provider.news(
            f"evt_{n}", fact(EventKind.PAYMENT_SUCCEEDED, f"pi_{n}", payment=f"pi_{n}")
        )
        for n in range(3)
    ]
    bench.provider.listed = news
    await bench.webhook(news[1])
    found = await bench.reconciler.run("one")
    assert (found.found, found.missed, found.since) == (3, 2, START - FIRST)
    while await bench.inbox.work():
        pass
    assert await bench.books() == (300, 0, 300)
    bench.clock.pass_(hours=2)
    again = await bench.reconciler.run("one")
    assert (again.missed, again.since) == (0, START - OVERLAP)
    row = await bench.inbox.events.get("one", "evt_0")
    assert row is not None
    assert row.source == "reconcile"


async def test_the_cursor_stays_when_the_list_cannot_be_read(lite: Bench) -> None:
    await lite.reconciler.run("one")
    assert await lite.reconciler.due() == []
    lite.clock.pass_(seconds=EVERY.total_seconds())
    assert await lite.reconciler.due() == ["one"]
    lite.provider.mood = "doubt"
    with pytest.raises(ProviderUnavailable):
        await lite.reconciler.run("one")
    assert await lite.inbox.events.read_to("one") == START
    lite.provider.mood = "up"
    lite.clock.pass_(days=60)  # more than any provider lists
    assert (await lite.reconciler.run("one")).since == lite.clock() - timedelta(days=29)


class NoGrace:
    async def sweep(self) -> list[object]:
        return []


async def test_a_round_does_everything_that_is_due(bench: Bench) -> None:
    poller = ProviderPoller(bench.chain, bench.inbox, bench.reconciler, NoGrace(), bench.clock)  # type: ignore[arg-type]
    bench.chain.on_success.append(bench.applier.apply)
    bench.provider.mood = "lost"
    await bench.chain.charge_saved("acc_a", EUR, "k")
    bench.provider.mood = "up"
    bench.provider.listed = [
        bench.provider.news("evt_9", fact(EventKind.PAYMENT_SUCCEEDED, "pi_9", payment="pi_9"))
    ]
    bench.clock.pass_(minutes=1)
    await poller.poll()
    assert await bench.books() == (200, 0, 200)
    bench.provider.mood = "down"
    bench.clock.pass_(minutes=10)
    await poller.poll()  # a provider that is away stops nothing
    await bench.world.store.stop()
    with pytest.raises(StoreError):
        await poller.poll()
    await bench.world.store.connect()
    assert await bench.books() == (200, 0, 200)


# ---- refunds ------------------------------------------------------------------------------


async def test_a_refund_leaves_the_wallet_first_and_is_made_once(bench: Bench) -> None:
    await bench.applier.apply(PAID)
    part = Money(30, "EUR")
    first = await bench.refunds.refund("one", "pi_1", part, "r1")
    assert first.status is ChargeStatus.SUCCEEDED
    assert await bench.books() == (70, 0, 70)
    assert await bench.refunds.refund("one", "pi_1", part, "r1") == first
    assert await bench.refunds.refund("one", "pi_1", None, "r1") == first
    told = fact(EventKind.REFUND, first.reference, amount=part, attempt="r1")
    for event in (PAID, told):  # the provider's own news of it
        await bench.applier.apply(event)
    assert await bench.books() == (70, 0, 70)
    with pytest.raises(ProviderRefused, match=r"0\.00007 EUR can be refunded"):
        await bench.refunds.refund("one", "pi_1", Money(71, "EUR"), "r2")
    rest = await bench.refunds.refund("one", "pi_1", None, "r3")
    assert rest.amount == Money(70, "EUR")
    assert await bench.books() == (0, 0, 0)


async def test_what_is_spent_is_not_refunded(lite: Bench) -> None:
    await lite.applier.apply(PAID)
    assert lite.world.use(60) is not None
    with pytest.raises(InsufficientFundsError):
        await lite.refunds.refund("one", "pi_1", None, "r1")
    assert lite.provider.refunds == {}
    await lite.refunds.refund("one", "pi_1", Money(40, "EUR"), "r2")
    await lite.world.pipeline.step()
    assert await lite.books() == (0, 0, 60)


@pytest.mark.parametrize("mood", ["refuse", "failed"])
async def test_a_refused_refund_is_released_and_its_key_used_up(lite: Bench, mood: str) -> None:
    await lite.applier.apply(PAID)
    lite.provider.mood = mood
    if mood == "refuse":
        with pytest.raises(ProviderRefused, match="says no"):
            await lite.refunds.refund("one", "pi_1", None, "r1")
    else:
        result = await lite.refunds.refund("one", "pi_1", None, "r1")
        assert result.status is ChargeStatus.FAILED
    assert await lite.books() == (100, 0, 100)
    lite.provider.mood = "up"
    with pytest.raises(ConflictError, match="new key"):
        await lite.refunds.refund("one", "pi_1", None, "r1")
    await lite.refunds.refund("one", "pi_1", None, "r2")
    assert await lite.books() == (0, 0, 0)


async def test_a_refund_whose_answer_was_lost_stays_set_aside(bench: Bench) -> None:
    await bench.applier.apply(PAID)
    bench.provider.mood = "lost"
    with pytest.raises(ProviderUnavailable):
        await bench.refunds.refund("one", "pi_1", None, "r1")
    assert await bench.books() == (0, 100, 100)
    made = bench.provider.refunds["r1"]
    await bench.applier.apply(fact(EventKind.REFUND, made.reference, attempt="r1"))
    assert await bench.books() == (0, 0, 0)
    bench.provider.mood = "up"
    assert await bench.refunds.refund("one", "pi_1", None, "r1") == made
    assert await bench.books() == (0, 0, 0)


async def test_refunds_name_their_mistakes(lite: Bench) -> None:
    await lite.applier.apply(PAID)
    for provider, payment, amount, key in (
        ("one", "pi_none", None, "r"),
        ("one", "pi_1", Money(5, "USD"), "r"),
        ("one", "pi_1", None, ""),
        ("one", "pi_1", None, "x" * 121),
    ):
        with pytest.raises(ProviderRefused):
            await lite.refunds.refund(provider, payment, amount, key)
    assert await lite.books() == (100, 0, 100)


# ---- by hand ------------------------------------------------------------------------------


async def test_an_operator_credits_a_transfer_once(bench: Bench) -> None:
    event = bench.manual.received("acc_a", EUR, "transfer 17")
    for _ in range(2):
        await bench.applier.apply(event)
    assert await bench.books() == (100, 0, 100)
    other = bench.manual.received("acc_a", Money(99, "EUR"), "transfer 17")
    with pytest.raises(ConflictError):
        await bench.applier.apply(other)
    back = await bench.refunds.refund("manual", "transfer 17", Money(25, "EUR"), "r1")
    assert back.amount == Money(25, "EUR")
    assert await bench.refunds.refund("manual", "transfer 17", Money(25, "EUR"), "r1") == back
    assert await bench.books() == (75, 0, 75)


async def test_a_credit_by_hand_needs_a_reference(lite: Bench) -> None:
    for reference in ("", "x" * 121, "a\nb"):
        with pytest.raises(ProviderRefused, match="reference"):
            lite.manual.received("acc_a", EUR, reference)
    with pytest.raises(ProviderRefused, match="No payment"):
        await lite.manual.refund("none", None, "r")
    page = ManualProvider(lite.payments, lite.clock, instructions="https://shop.example/pay")
    assert (await page.create_top_up("acc_a", EUR, "https://b")).reference == "acc_a"
