"""Notices: complete texts, each sent once, by every way it has to go; reminders in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from schedulekit import BEGIN, PLANS, BillingParts
from test_subscriptions import subscription

from fastgate.billing.invoices.receipts import Receipts
from fastgate.billing.notices.notices import KINDS, Message, needs, render, wants
from fastgate.billing.subscriptions.lifecycle import State
from fastgate.billing.subscriptions.reminders import in_days, next_look, reminder_due, reminders
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.billing.templates import fill, holes
from fastgate.errors import NotFoundError
from fastgate.model.units import Money
from fastgate.refusal.remedies import REMEDIES
from fastgate.store.billing_tables import outbox
from fastgate.store.engine import Store

DAYS = [14, 7, 3, 1, 0]
DAY = timedelta(days=1)
BILLING: dict[str, Any] = {
    "smtp": {"host": "mail.example", "sender": "Acme <billing@acme.example>"},
    "webhooks": [
        {"name": "all", "url": "https://a.example/hook", "secret": "env:A"},
        {"name": "pay", "url": "https://b.example/hook", "secret": "env:B", "events": "payment.*"},
    ],
}


def message(key: str = "k", account: str = "acc_1", kind: str = "balance.low") -> Message:
    data = {name: f"<{name}>" for name in needs(kind)}
    return Message(kind=kind, account=account, key=key, data=data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_text_that_can_be_filled(kind: str) -> None:
    title, body = render(message(kind=kind))
    assert title
    assert body
    assert "\n" not in title
    assert "$" not in title + body
    for name in needs(kind):
        assert f"<{name}>" in title + body
    with pytest.raises(KeyError):
        render(Message(kind=kind, account="a", key="k", data={}))


def test_links_lead_to_pages_that_there_are() -> None:
    pages = {remedy.page for remedies in REMEDIES.values() for remedy in remedies}
    for kind in KINDS.values():
        if kind.manage:
            assert kind.manage.removeprefix("/_fastgate/account").removeprefix("/") in pages


def test_a_value_with_dollars_is_only_a_value() -> None:
    assert fill("payment.recovered.txt", amount="${subject}", subject="$$x").count("${subject}")
    assert holes("invoice.html") >= {"title", "rows", "total"}


@pytest.mark.parametrize(
    ("events", "kind", "wanted"),
    [
        ([], "payment.failed", True),
        (["payment.failed"], "payment.failed", True),
        (["payment.*"], "payment.failed", True),
        (["pay.*", "payment"], "payment.failed", False),
        (["usage.quota", "payment.recovered"], "payment.failed", False),
    ],
)
def test_webhooks_choose_kinds(events: list[str], kind: str, wanted: bool) -> None:
    assert wants(events, kind) is wanted


async def ways(parts: BillingParts) -> list[tuple[str, str]]:
    async with parts.store.read() as connection:
        rows = await connection.execute(sa.select(outbox.c.channel, outbox.c.target))
        return sorted((row.channel, row.target) for row in rows)


async def test_a_notice_is_sent_once_through_every_channel(store: Store) -> None:
    parts = BillingParts(store, BILLING)
    emails = ["a@x.example", "b@x.example", "a@x.example"]
    account = await parts.account(emails=emails)
    done = await asyncio.gather(*(parts.notices.put(message("k", account)) for _ in range(6)))
    assert sum(notice is not None for notice in done) == 1
    assert await ways(parts) == [
        ("mail", "a@x.example"),
        ("mail", "b@x.example"),
        ("webhook", "all"),
    ]
    await parts.notices.put(message("l", "acc_other", "payment.recovered"))
    assert (await ways(parts))[3:] == [("webhook", "all"), ("webhook", "pay")]


async def test_a_notice_is_stored_with_its_event_or_not_at_all(store: Store) -> None:
    parts = BillingParts(store, BILLING)

    async def fails() -> None:
        async with store.write() as connection:
            await parts.notices.put_in(connection, message())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert await parts.kinds("acc_1") == []
    assert await ways(parts) == []
    assert await parts.notices.put(message()) is not None


async def test_notices_are_read_in_the_api(store: Store) -> None:
    parts = BillingParts(store)
    made = [await parts.notices.put(message(f"k{number}")) for number in range(5)]
    await parts.notices.put(message("other", "acc_2"))
    ids = [notice.id for notice in made if notice is not None]
    seen: list[str] = []
    cursor = None
    while True:
        page = await parts.notices.page("acc_1", cursor=cursor, limit=2)
        seen += [notice.id for notice in page.items]
        if (cursor := page.next) is None:
            break
    assert seen == ids[::-1]
    assert await parts.notices.unread("acc_1") == 5
    read = await parts.notices.mark_read("acc_1", ids[0])
    assert read.read_at == BEGIN
    parts.clock.pass_(hours=1)
    assert (await parts.notices.mark_read("acc_1", ids[0])).read_at == BEGIN
    assert await parts.notices.unread("acc_1") == 4
    unread = await parts.notices.page("acc_1", cursor=None, limit=9, unread=True)
    assert ids[0] not in [notice.id for notice in unread.items]
    for account, ident in (("acc_2", ids[1]), ("acc_1", "ntc_none")):
        with pytest.raises(NotFoundError):
            await parts.notices.mark_read(account, ident)


async def test_old_notices_go_unless_they_are_still_on_their_way(store: Store) -> None:
    parts = BillingParts(store, {**BILLING, "webhooks": []})
    account = await parts.account(emails=["a@x.example"])
    await parts.notices.put(message("on its way", account))
    await parts.notices.put(message("done", "acc_2"))
    parts.clock.pass_(days=91)
    await parts.notices.put(message("new", "acc_2"))
    assert await parts.notices.prune() == 1
    assert len(await parts.kinds(account)) == len(await parts.kinds("acc_2")) == 1
    await parts.outbox.deliver()
    assert await parts.notices.prune() == 1
    assert await ways(parts) == []


async def test_profiles(store: Store) -> None:
    parts = BillingParts(store, {"currency": "EUR", "time_zone": "Europe/Berlin"})
    profiles = parts.notices.profiles
    found = await profiles.get("acc_1")
    assert (found.currency, found.zone, found.emails) == ("EUR", "Europe/Berlin", [])
    await profiles.update("acc_1", emails=["a@x.example"], zone="Asia/Tokyo")
    changed = await profiles.update("acc_1", low_balance=5)
    assert changed == await profiles.get("acc_1")
    assert (changed.zone, changed.low_balance) == ("Asia/Tokyo", 5)
    with pytest.raises(ValueError, match="no time zone"):
        await profiles.update("acc_1", zone="Mars")
    for address in ("nobody", "a@b@c", "a@b\nBcc: c@d", "A <a@b>"):
        with pytest.raises(ValueError, match="not a mail address"):
            await profiles.update("acc_1", emails=[address])
    assert await profiles.get("acc_1") == changed


# ---- reminders --------------------------------------------------------------------------


def test_reminders_come_at_nine_in_the_accounts_morning() -> None:
    found = subscription(
        State.ACTIVE,
        zone="America/New_York",
        period_start=datetime(2026, 11, 1, 4, tzinfo=UTC),
        period_end=datetime(2026, 12, 1, 5, tzinfo=UTC),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert [(one.days, one.at) for one in reminders(found, DAYS)] == [
        (14, datetime(2026, 11, 17, 14, tzinfo=UTC)),
        (7, datetime(2026, 11, 24, 14, tzinfo=UTC)),
        (3, datetime(2026, 11, 28, 14, tzinfo=UTC)),
        (1, datetime(2026, 11, 30, 14, tzinfo=UTC)),
    ]
    assert in_days(0) == "today"
    assert in_days(1) == "tomorrow"
    assert in_days(7) == "in 7 days"


def test_a_reminder_never_comes_after_what_it_announces() -> None:
    ends = datetime(2026, 11, 8, 7, tzinfo=UTC)  # before nine
    found = subscription(State.TRIALING, trial_ends=ends)
    last = reminders(found, DAYS)[-1]
    assert (last.days, last.at) == (0, ends - timedelta(hours=1))
    assert last.kind == "subscription.trial_ending"


@given(
    st.integers(0, 24 * 60 * 40).map(lambda minutes: BEGIN + timedelta(days=20, minutes=minutes)),
    st.sampled_from(["UTC", "Asia/Tokyo", "America/Havana", "Pacific/Apia"]),
)
def test_the_words_are_those_of_the_date_that_is_shown(ends: datetime, zone: str) -> None:
    found = subscription(State.TRIALING, zone=zone, trial_ends=ends, created=BEGIN)
    place = ZoneInfo(zone)
    shown = date.fromisoformat(Subscriptions.day(ends, zone))
    sent = reminders(found, DAYS)
    assert [one.days for one in sent][:4] == [14, 7, 3, 1]
    for one in sent:
        assert (shown - one.at.astimezone(place).date()).days == one.days
        assert one.at < ends


hours = st.integers(0, 24 * 40).map(lambda count: BEGIN + timedelta(hours=count))


@given(st.lists(hours, max_size=30), st.sampled_from(["UTC", "Asia/Tokyo", "America/Havana"]))
def test_at_any_times_of_the_scheduler_no_notice_is_late_or_repeated(
    visits: list[datetime], zone: str
) -> None:
    found = subscription(State.ACTIVE, zone=zone)
    reminded: list[int] = []
    for now in sorted(visits):
        due = reminder_due(found, DAYS, now)
        if due is None or (reminded and reminded[-1] == due.days):
            continue
        reminded.append(due.days)
        assert due.at <= now < found.period_end
        later = [one for one in reminders(found, DAYS) if one.days < due.days]
        assert all(one.at > now for one in later)
    assert reminded == sorted(set(reminded), reverse=True)


@given(hours)
def test_the_scheduler_looks_again_when_something_is_due(now: datetime) -> None:
    found = subscription(State.ACTIVE)
    due = next_look(found, DAYS, now)
    moments = [*(one.at for one in reminders(found, DAYS)), found.period_end]
    assert due == min((m for m in moments if m > now), default=now)


async def test_reminders_are_sent_once_and_say_how(store: Store) -> None:
    parts = BillingParts(store)
    assert PLANS["usage"]
    account = await parts.account(has_method=True)
    made = await parts.subscriptions.create(account, "basic")
    await parts.settle()
    await parts.subscriptions.create(
        account, "usage", "search"
    )  # renews for nothing: not announced
    await parts.until(datetime(2026, 11, 25, tzinfo=UTC))
    await parts.subscriptions.cancel(made.id)
    parts.clock.now = datetime(2026, 11, 30, 12, tzinfo=UTC)  # was away over the third day
    await parts.settle()
    await parts.settle()
    page = await parts.notices.page(account, cursor=None, limit=50)
    titles = [notice.title for notice in reversed(page.items) if "payment" not in notice.kind]
    assert titles == [
        "basic renews in 14 days",
        "basic renews in 7 days",
        "basic ends tomorrow",
    ]
    assert "30.00 USD will be charged" in next(
        notice.body for notice in page.items if "in 7 days" in notice.title
    )


# ---- receipts ---------------------------------------------------------------------------


async def test_a_payment_into_the_wallet_has_one_receipt(store: Store) -> None:
    parts = BillingParts(store, {"smtp": BILLING["smtp"]})
    account = await parts.account(emails=["a@x.example"])
    receipts = Receipts(parts.invoices, parts.notices)
    money = Money.parse("25 USD")
    done = await asyncio.gather(
        *(receipts.top_up(account, money, "stripe:pi_1", method="Visa 4242") for _ in range(4))
    )
    assert len({receipt.id for receipt in done}) == 1
    assert (done[0].number, done[0].status, done[0].total) == (
        "INVR-2026-000001",
        "paid",
        25_000_000,
    )
    assert await parts.kinds(account) == ["payment.succeeded"]
    await parts.outbox.deliver()
    (mail,) = parts.sender.taken
    assert mail.title == "Receipt INVR-2026-000001: 25.00 USD"
    assert "Top-up by Visa 4242: 25.00 USD" in mail.body


async def test_receipts_may_be_made_and_not_sent(sqlite_store: Store) -> None:
    parts = BillingParts(sqlite_store, {"notices": {"receipts": False}})
    receipts = Receipts(parts.invoices, parts.notices)
    made = await receipts.top_up("acc_1", Money.parse("0.005 USD"), "manual:1")
    assert made.total == 5_000  # what was paid, to the micro-unit
    assert await parts.kinds("acc_1") == []
