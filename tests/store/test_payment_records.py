"""The rows of payments: kept once, found again, paged, on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from fastgate.errors import ConflictError
from fastgate.store.engine import Store
from fastgate.store.pages import BadCursor
from fastgate.store.payment_events import Backlog, EventRow, EventTable
from fastgate.store.payments import (
    Attempt,
    AttemptTable,
    CustomerTable,
    Payment,
    PaymentTable,
    Return,
)

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)


async def test_a_customer_is_linked_once_each_way(store: Store) -> None:
    table = CustomerTable(store, lambda: NOW)
    assert await table.customer_of("stripe", "acc_a") is None
    assert await table.link("stripe", "acc_a", "cus_1") == "cus_1"
    assert await table.link("stripe", "acc_a", "cus_2") == "cus_1"
    with pytest.raises(ConflictError):
        await table.link("stripe", "acc_b", "cus_1")
    assert await table.link("other", "acc_a", "cus_1") == "cus_1"
    assert await table.account_of("stripe", "cus_1") == "acc_a"
    assert await table.account_of("stripe", "cus_2") is None
    assert await table.account_of("stripe", "cus\x00") is None


def _attempt(key: str, **more: object) -> Attempt:
    given: dict[str, object] = {
        "key": key,
        "account": "acc_a",
        "provider": "stripe",
        "currency": "EUR",
        "amount": 100,
        "purpose": "top_up",
        "created": NOW,
        "updated": NOW,
        "next_at": NOW,
        **more,
    }
    return Attempt(**given)  # type: ignore[arg-type]


async def test_an_attempt_is_opened_once_and_moved_by_who_has_seen_it(store: Store) -> None:
    table = AttemptTable(store)
    first, fresh = await table.open(_attempt("k"))
    assert fresh
    assert await table.open(_attempt("k", amount=7)) == (first, False)
    moved = msgspec.structs.replace(
        first, state="failed", message="x" * 900, updated=NOW + timedelta(seconds=1), next_at=None
    )
    assert await table.move(moved, before=first)
    assert not await table.move(moved, before=first)
    found = await table.get("k")
    assert found == msgspec.structs.replace(moved, message="x" * 500)
    assert await table.get("none") is None
    assert await table.get("\x00") is None
    await table.open(_attempt("k2", created=NOW + timedelta(seconds=1)))
    assert [item.key for item in await table.of_account("acc_a")] == ["k2", "k"]
    assert [item.key for item in await table.due(NOW)] == ["k2"]
    assert await table.due(NOW - timedelta(seconds=1)) == []


async def test_payments_and_returns(store: Store) -> None:
    table = PaymentTable(store)
    payment = Payment(
        provider="stripe",
        reference="pi_1",
        account="acc_a",
        currency="EUR",
        amount=100,
        purpose="top_up",
        paid_at=NOW,
    )
    assert await table.put(payment)
    assert not await table.put(payment)
    assert await table.get("stripe", "pi_1") == payment
    assert await table.get("stripe", "pi_\x00") is None
    later = msgspec.structs.replace(payment, reference="pi_2", paid_at=NOW + timedelta(days=1))
    await table.put(later)
    assert await table.of_account("acc_a") == [later, payment]
    opened = Return(
        provider="stripe",
        reference="dp_1",
        payment="pi_1",
        kind="dispute",
        currency="EUR",
        amount=100,
        state="contested",
        at=NOW,
        updated=NOW,
    )
    await table.put_return(opened)
    lost = msgspec.structs.replace(opened, state="returned", updated=NOW + timedelta(days=1))
    await table.put_return(lost)
    await table.put_return(opened)  # told again, late
    assert await table.returns("stripe", "pi_1") == [lost]


def _event(number: int, **more: object) -> EventRow:
    given: dict[str, object] = {
        "provider": "stripe",
        "id": f"evt_{number:05d}",
        "type": "charge.refunded",
        "object": "ch_1",
        "created": NOW + timedelta(seconds=number),
        "received": NOW,
        "source": "webhook",
        "next_at": NOW,
        **more,
    }
    return EventRow(**given)  # type: ignore[arg-type]


async def test_events_are_kept_once_also_in_thousands(store: Store) -> None:
    table = EventTable(store)
    many = [_event(number) for number in range(1200)]
    assert len(await table.add(many)) == 1200
    assert await table.add([*many[5:10], _event(2000)]) == ["evt_02000"]
    assert await table.add([]) == []
    assert await table.backlog() == {"stripe": Backlog(1201, NOW, 0)}
    page = await table.page("stripe", limit=1000)
    rest = await table.page("stripe", cursor=page.next, limit=1000)
    assert len(page.items) + len(rest.items) == 1201
    assert rest.next is None
    with pytest.raises(BadCursor):
        await table.page("stripe", cursor="?", limit=10)


async def test_events_are_claimed_once_at_a_time(store: Store) -> None:
    table = EventTable(store)
    await table.add([_event(number) for number in range(20)])
    lease = timedelta(minutes=2)
    taken = await asyncio.gather(*(table.claim(NOW, lease, 5) for _ in range(6)))
    ids = [event.id for batch in taken for event in batch]
    assert len(ids) == len(set(ids))
    while more := await table.claim(NOW, lease, 5):
        ids += [event.id for event in more]
    assert sorted(ids) == [f"evt_{number:05d}" for number in range(20)]
    again = await table.claim(NOW + lease, lease, 50)
    assert {event.attempts for event in again} == {2}
    await table.done(again[0], NOW)
    await table.give_up(again[1], NOW, "x" * 900)
    assert (await table.backlog())["stripe"] == Backlog(18, NOW, 1)
    assert await table.prune(NOW + timedelta(days=1)) == 1
    assert await table.get("stripe", again[0].id) is None


async def test_how_far_a_list_was_read(store: Store) -> None:
    table = EventTable(store)
    assert await table.read_to("stripe") is None
    for hours in (1, 2):
        await table.set_read_to("stripe", NOW + timedelta(hours=hours), NOW)
    assert await table.read_to("stripe") == NOW + timedelta(hours=2)
    assert await table.read_to("other") is None
