"""Whatever a change is interrupted by, a cancellation or a failure of the store at any await, its
balance is the same everywhere, with the same objects.

One world sees all the interruptions of a change, one after the other: each has ids of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from balancekit import Failing, homes_agree, no_more_than_the_ledger, quiet
from cancelkit import cancelled_at, killed_at
from moneykit import NOW, World, copy_of, move
from storekit import Cluster

import fastgate
from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.ledger.ledger import Ledger, LedgerError
from fastgate.errors import StoreError
from fastgate.model.units import MONEY_MOST
from fastgate.store.engine import Store
from fastgate.store.ledger import Book

Made = Callable[[], Awaitable[Any]]
"""A change that is ready to be made, as often as one likes: it is made once."""


@pytest.fixture
async def world(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """With money, promotional credit, an overdraft, and usage that is charged."""
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 1_000_000))
    await world.wallets.promo(move("p", 100_000))
    await world.wallets.set_overdraft("o", "acc_a", "EUR", 50)
    world.use(20_000)
    await world.pipeline.step()
    yield world
    await world.close()


# ---- the changes that there are ---------------------------------------------------------


def movement(method: str, amount: int) -> Callable[[World, int], Awaitable[Made]]:
    async def ready(world: World, at: int) -> Made:
        return lambda: getattr(world.wallets, method)(move(f"{method}{at}", amount))

    return ready


def settlement(before: str, method: str) -> Callable[[World, int], Awaitable[Made]]:
    """Of what `before` has set aside."""

    async def ready(world: World, at: int) -> Made:
        ident = f"{before}{method}{at}"
        await getattr(world.wallets, before)(move(ident, 7))
        return lambda: getattr(world.wallets, method)(ident)

    return ready


async def credit_with_tax(world: World, at: int) -> Made:
    return lambda: world.wallets.credit(move(f"credit{at}", 10), tax=2)


async def correct(world: World, at: int) -> Made:
    postings = {Book.AVAILABLE: -5, Book.REVENUE: 5}
    return lambda: world.wallets.correct(move(f"correct{at}", 5), postings)


async def reverse(world: World, at: int) -> Made:
    await world.wallets.credit(move(f"wrong{at}", 4))
    return lambda: world.wallets.reverse(f"wrong{at}")


async def take_back(world: World, at: int) -> Made:
    async def wanted() -> dict[tuple[str, str], int]:
        return {(f"invoice{at}", "EUR"): 6, (f"another{at}", "EUR"): 3}

    return lambda: world.wallets.take_back("acc_a", wanted)


async def give_again(world: World, at: int) -> Made:
    owed = 6

    async def wanted() -> dict[tuple[str, str], int]:
        return {(f"again{at}", "EUR"): owed}

    await world.wallets.take_back("acc_a", wanted)
    owed = 0
    return lambda: world.wallets.take_back("acc_a", wanted)


async def overdraft(world: World, at: int) -> Made:
    """Higher and lower in turns, and more often lower than not at the end."""
    most = 90 if at % 2 else 20
    return lambda: world.wallets.set_overdraft(f"overdraft{at}", "acc_a", "EUR", most)


async def more_overdraft(world: World, at: int) -> Made:
    more = 60 if at % 2 else -40
    return lambda: world.wallets.add_overdraft(f"more{at}", "acc_a", "EUR", more)


async def first_credit(world: World, at: int) -> Made:
    return lambda: world.wallets.credit(move(f"first{at}", 5, f"acc_{at}"))


async def open_wallet(world: World, at: int) -> Made:
    return lambda: world.wallets.open(f"acc_o{at}", "USD")


async def ensure(world: World, at: int) -> Made:
    return lambda: world.wallets.ensure(f"acc_e{at}")


async def tax_in_a_new_currency(world: World, at: int) -> Made:
    return lambda: world.wallets.tax(move(f"tax{at}", 1, f"acc_t{at}", "USD"))


async def usage(world: World, at: int) -> Made:
    world.use(3)
    world.use(4, worker=1)
    return lambda: world.pipeline.step()


async def usage_from_the_spool(world: World, at: int) -> Made:
    world.use(3)
    await world.store.stop()
    await world.pipeline.step()
    await world.store.connect()
    world.use(4)
    return lambda: world.pipeline.step()


async def all_again(world: World, at: int) -> Made:
    """The store was away: everything is compared and the directory is read."""
    world.pipeline._synced = False
    return lambda: world.pipeline.step()


async def a_start(world: World, at: int) -> Made:
    """Cells were filled without the store; meanwhile the ledger was changed."""
    await world.ledger.dispute(move(f"away{at}", 3))
    await world.reboot(up=False)
    world.use(2)
    await world.store.connect()
    return lambda: world.pipeline.step()


CHANGES: dict[str, Callable[[World, int], Awaitable[Made]]] = {
    "credit": credit_with_tax,
    "promo": movement("promo", 5),
    "end of a promotion": movement("end_promo", 3),
    "refund": movement("refund", 4),
    "freeze": movement("freeze", 6),
    "dispute": movement("dispute", 6),
    "release": settlement("freeze", "release"),
    "release of a dispute": settlement("dispute", "release"),
    "pay out": settlement("freeze", "pay_out"),
    "fee": movement("fee", 9),
    "fee aside": movement("fee_aside", 2),
    "release of a fee": settlement("fee_aside", "release"),
    "fee of a provider": movement("provider_fee", 1),
    "credit note": movement("credit_note", 8),
    "take back": take_back,
    "give again": give_again,
    "correction": correct,
    "reversal": reverse,
    "tax": movement("tax", 1),
    "overdraft": overdraft,
    "more overdraft": more_overdraft,
    "first credit": first_credit,
    "first wallet": open_wallet,
    "new account": ensure,
    "tax in a new currency": tax_in_a_new_currency,
    "usage": usage,
    "usage from the spool": usage_from_the_spool,
    "all again": all_again,
    "a start": a_start,
}


@pytest.mark.parametrize("name", CHANGES)
async def test_cancelled_at_any_await_it_is_whole(world: World, name: str) -> None:
    for at in count():
        change = await CHANGES[name](world, at)
        fired = await cancelled_at(at, _made(change))
        await quiet(world)
        if not world.wallets.seeded:
            await homes_agree(world)
        await change()
        while await world.pipeline.step():
            pass
        await homes_agree(world)
        if not fired:
            break
    assert at > 1
    report = await audit_gateway(world.pipeline)
    assert {check.name for check in report.checks if not check.passed} <= UNKNOWN, report


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["control", "gateway"])
@pytest.mark.parametrize("name", CHANGES)
async def test_killed_at_any_await_it_is_whole(world: World, name: str, whole: bool) -> None:
    for at in count():
        change = await CHANGES[name](world, at)
        fired = await killed_at(at, _made(change))
        if not world.wallets.seeded:
            await no_more_than_the_ledger(world)
        await (world.reboot() if whole else world.restart())
        await homes_agree(world)
        await change()
        await world.pipeline.step()
        await homes_agree(world)
        if not fired:
            break
    assert at > 1


FAILURES = {"nothing done": (StoreError, False), "answer lost": (StoreError, True)}
FAILURES["fault"] = (ZeroDivisionError, True)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", CHANGES)
async def test_a_failure_of_the_store_is_settled_by_the_next_step(
    world: World, name: str, failure: str
) -> None:
    kind, lost = FAILURES[failure]
    for at in count():
        change = await CHANGES[name](world, at)
        async with Failing(world, at, kind, lost=lost).failing() as store:
            with contextlib.suppress(kind):
                await change()
        await quiet(world)
        if not world.wallets.seeded:
            await no_more_than_the_ledger(world)
        while await world.pipeline.step():
            pass
        await homes_agree(world)
        await change()
        while await world.pipeline.step():
            pass
        await homes_agree(world)
        if not store.failed:
            break
    assert at > 0
    report = await audit_gateway(world.pipeline)
    assert {check.name for check in report.checks if not check.passed} <= UNKNOWN, report


UNKNOWN = {"accounts", "invoices", "payments", "credits"}
"""Checks of the audit that need accounts, invoices and payments, which there are none of here."""


async def _made(change: Made) -> None:
    await change()


PAIRS = [
    ("freeze", "freeze"),
    ("credit", "usage"),
    ("usage", "dispute"),
    ("overdraft", "usage from the spool"),
    ("release", "all again"),
    ("first credit", "first wallet"),
    ("take back", "credit"),
]


@pytest.mark.parametrize(("one", "two"), PAIRS, ids=map(" and ".join, PAIRS))
async def test_two_at_once_and_either_is_cancelled(world: World, one: str, two: str) -> None:
    """One that waits for its turn as well as the one that runs."""
    for swap in (False, True):
        for at in count():
            number = 2 * at + swap
            changes = [
                await CHANGES[one](world, number),
                await CHANGES[two](world, 1000 + number),
            ]
            if swap:
                changes.reverse()
            other = asyncio.ensure_future(_made(changes[0]))
            fired = await cancelled_at(at, _made(changes[1]))
            await other
            await quiet(world)
            await homes_agree(world)
            for change in changes:
                await change()
            await homes_agree(world)
            if not fired:
                break
        assert at > 1


async def test_a_change_whose_turn_has_not_come_is_made_all_the_same(world: World) -> None:
    """Or not begun: which of them, its caller does not know, and asks again with the same id."""
    async with world.wallets.lock:
        waits = asyncio.ensure_future(world.wallets.freeze(move("f", 10)))
        await asyncio.sleep(0)
        waits.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waits
    await quiet(world)
    await homes_agree(world)
    assert (await world.wallets.freeze(move("f", 10))).fresh is False
    await homes_agree(world)


@pytest.mark.slow
async def test_a_shutdown_cancelled_at_any_await_leaves_no_cache_too_high(
    sqlite_migrated: Path, tmp_path: Path
) -> None:
    """While a withdrawal is under way whose caller has gone."""
    for at in count():
        folder = tmp_path / str(at)
        world = World(copy_of(sqlite_migrated, folder), folder)
        await world.pipeline.begin()
        await world.up()
        await world.wallets.credit(move("t", 100))
        world.use(5)
        await world.pipeline.step()
        freeze = asyncio.ensure_future(world.wallets.freeze(move("f", 30)))
        await asyncio.sleep(0)
        freeze.cancel()
        fired = await cancelled_at(at, world.pipeline.close())
        assert fired or not world.wallets._changes.running
        await quiet(world)
        world.spool.close()
        await world.reboot(up=False)
        assert world.wallets.balance("acc_a", "EUR").available == 65, at
        await world.up()
        await homes_agree(world)
        await world.close()
        if not fired:
            break
    assert at > 1


async def test_a_change_after_the_end_is_in_the_cache_all_the_same(world: World) -> None:
    await world.pipeline.close()
    world.spool.open()
    await world.wallets.freeze(move("f", 30))
    await homes_agree(world)


# ---- kinds of faults that there were ----------------------------------------------------


async def test_without_a_cache_no_change_comes_before_the_cells_are_filled(world: World) -> None:
    """Its cell would be made empty, and then not be filled any more."""
    (world.folder / "accounts.cache").unlink()
    await world.reboot(up=False)
    await world.store.connect()
    with pytest.raises(StoreError, match="compared"):
        await world.wallets.credit(move("u", 5))
    with pytest.raises(StoreError, match="compared"):
        await world.wallets.open("acc_a", "EUR")
    await world.pipeline.step()
    await homes_agree(world)
    await world.wallets.credit(move("u", 5))
    await homes_agree(world)


async def test_a_cell_that_is_missing_is_filled_by_the_next_step(world: World) -> None:
    """Its wallet came into the store by another way, after the directory was read."""
    await world.ledger.credit(move("b", 5, "acc_b"))
    with pytest.raises(StoreError, match="compared"):
        await world.wallets.credit(move("u", 5, "acc_b"))
    await world.pipeline.step()
    await world.wallets.credit(move("u", 5, "acc_b"))
    assert await world.agrees("acc_b") == 10
    await homes_agree(world)


async def test_what_the_comparison_found_is_in_the_cache_before_it_is_over(world: World) -> None:
    await world.ledger.freeze(move("x", 40))  # the cell has not heard of it
    before = world.wallets.balance("acc_a", "EUR").available
    await world.reboot(up=False)
    await world.store.connect()
    await world.wallets.learn_slots()
    await world.wallets.true_up()
    await world.reboot(up=False)
    assert world.wallets.balance("acc_a", "EUR").available == before - 40


async def test_the_audit_waits_for_what_is_in_the_spool_and_in_the_ledger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hung with a batch, and had the ring run full."""
    charge = world.ledger.charge
    begun, answers = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Any:
        begun.set()
        await answers.wait()
        return await charge(*args, **more)

    monkeypatch.setattr(world.ledger, "charge", slow)
    world.use(1)
    step = asyncio.ensure_future(world.pipeline.step())
    await begun.wait()
    for _ in range(world.ring - 16):
        world.use(1)
    async with asyncio.timeout(30):
        while not world.spool.records:  # noqa: ASYNC110 - shared memory has no events
            await asyncio.sleep(0.001)
    answers.set()
    await step
    assert not world.spool.empty
    (cells,) = await _cells_of_the_audit(world)
    assert (cells.passed, cells.numbers["moving"], cells.numbers["compared"]) == (True, 1, 0)
    while await world.pipeline.step():
        pass
    (cells,) = await _cells_of_the_audit(world)
    assert (cells.passed, cells.numbers["moving"], cells.numbers["compared"]) == (True, 0, 1)


async def _cells_of_the_audit(world: World) -> list[Any]:
    report = await audit_gateway(world.pipeline)
    return [check for check in report.checks if check.name == "cells"]


async def test_a_balance_beyond_what_a_cell_takes_is_refused_before_it_is_booked(
    world: World,
) -> None:
    await world.wallets.credit(move("a", MONEY_MOST, "acc_b"))
    for account in ("acc_a", "acc_b"):
        with pytest.raises(LedgerError, match="the most is"):
            await world.wallets.credit(move("b", MONEY_MOST, account))
    assert await world.ledger.find("b") is None
    await homes_agree(world)
    slot, left = world.wallets.slot("acc_b"), world.wallets.balance("acc_b", "EUR").available
    world.cells.set_balance(slot, "EUR", 2 * MONEY_MOST)  # as an earlier version let it be
    await world.wallets.freeze(move("f", 5, "acc_b"))
    world.cells.set_balance(slot, "EUR", left - 5)
    await homes_agree(world)


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    return postgres_cluster.database(template="migrated")


async def test_a_transaction_that_is_still_being_committed_is_waited_for(
    postgres_url: str, tmp_path: Path
) -> None:
    """Its answer is lost, but the database has not ended it: what was noted is not undone yet."""
    world = World(postgres_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 100))
    other = Store(postgres_url)
    await other.connect()
    committing, goes_on = asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(other, name)

        async def run_write(self, work: Any) -> Any:
            async with other.write() as connection:
                await connection.run_sync(work)
                committing.set()
                await goes_on.wait()

    slow = asyncio.ensure_future(Ledger(Slow(), lambda: NOW).credit(move("u", 7)))  # type: ignore[arg-type]
    await committing.wait()
    real = world.ledger.credit

    async def lost(*_: Any, **__: Any) -> Any:
        raise StoreError("no answer")

    world.ledger.credit = lost
    with pytest.raises(StoreError, match="no answer"):
        await world.wallets.credit(move("u", 7))
    world.ledger.credit = real
    step = asyncio.ensure_future(world.pipeline.step())
    async with asyncio.timeout(30), other.read() as connection:
        waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        while not await connection.scalar(waits):  # noqa: ASYNC110 - the database has no events
            await asyncio.sleep(0.001)
    goes_on.set()
    await slow
    await step
    assert await world.agrees() == 107
    await homes_agree(world)
    await other.stop()
    await world.close()


# ---- who may reach in -------------------------------------------------------------------

MOVEMENTS = sorted(
    name
    for name, kind in vars(Ledger).items()
    if inspect.iscoroutinefunction(kind)
    and inspect.signature(kind).return_annotation == "Posted"
    and not name.startswith("_")
)
OWNED = re.compile(
    r"\.(_standing|_under_way|_seeding|_incomplete|_learn)\b|CellCache|"
    r"(cells|accounts)\.(prepare|apply|finish|credit|set_balance|open_wallet|open_credits)\(|"
    rf"ledger\.({'|'.join([*MOVEMENTS, 'charge', 'open_wallet'])})\("
)
OWNERS = {"balances.py", "seeding.py", "cell_cache.py"}


def test_nothing_else_changes_a_cell_the_directory_or_the_cache() -> None:
    """Nor does anything else book a movement."""
    assert {"credit", "freeze", "repair_cell"} < set(MOVEMENTS)
    package = Path(fastgate.__file__).parent
    ledger = package / "billing" / "ledger"
    found = {
        str(path.relative_to(package))
        for folder in ("api", "billing", "cli", "portal", "runtime")
        for path in (package / folder).rglob("*.py")
        if not (path.parent == ledger and path.name in OWNERS) and OWNED.search(path.read_text())
    }
    assert found == set()
