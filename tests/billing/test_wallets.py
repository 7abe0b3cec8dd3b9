"""Cells follow the ledger, at once, exactly, and whenever control is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from moneykit import Killed, Tripwire, World, copy_of, move

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.ledger.ledger import EntryKind, InsufficientFundsError, LedgerError, cell_key
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.store.ledger import WALLETS_MAX, Book


@pytest.fixture
async def world(store_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """On both kinds of store."""
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    yield world
    await world.close()


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Where the kind of store does not matter."""
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    yield world
    await world.close()


async def test_a_credit_can_be_spent_when_it_returns(world: World) -> None:
    posted = await world.wallets.credit(move("t", 100))
    assert posted.fresh
    assert world.wallets.balance("acc_a", "EUR").available == 100
    assert world.use(60) is not None
    assert world.use(41) is None
    balance = world.wallets.balance("acc_a", "EUR")
    assert (balance.available, balance.settled, balance.in_flight) == (40, 100, 60)
    await world.pipeline.step()
    assert await world.agrees() == 40
    assert (await world.wallets.credit(move("t", 100))).fresh is False
    assert await world.agrees() == 40
    with pytest.raises(ConflictError):
        await world.wallets.credit(move("t", 99))
    assert await world.agrees() == 40
    assert world.cells.open_credits() == []


async def test_what_is_paid_back_cannot_be_spent_from_the_first_step_on(world: World) -> None:
    wallets = world.wallets
    await wallets.credit(move("t", 100))
    assert world.use(30) is not None  # in the cell, not in the ledger yet
    with pytest.raises(InsufficientFundsError) as caught:
        await wallets.freeze(move("f", 71))
    assert caught.value.balance == 70
    await wallets.freeze(move("f", 70))
    assert world.use(1) is None
    with pytest.raises(InsufficientFundsError):
        await wallets.freeze(move("g", 1))
    await wallets.release("f")
    assert (await wallets.release("f")).fresh is False
    assert world.wallets.balance("acc_a", "EUR").available == 70
    await wallets.freeze(move("h", 20))
    await wallets.pay_out("h")
    with pytest.raises(ConflictError):
        await wallets.release("h")
    await world.pipeline.step()
    assert await world.agrees() == 50
    assert world.cells.open_credits() == []


async def test_a_refusal_of_the_ledger_gives_the_cell_back_what_was_taken(world: World) -> None:
    await world.wallets.promo(move("p", 50))
    with pytest.raises(InsufficientFundsError):
        await world.wallets.freeze(move("f", 10))  # given away: not to be paid back
    assert await world.agrees() == 50
    assert world.cells.open_credits() == []
    await world.wallets.end_promo(move("e", 50))
    assert await world.agrees() == 0


async def test_facts_are_booked_even_if_the_account_then_owes(world: World) -> None:
    wallets = world.wallets
    await wallets.credit(move("t", 100))
    world.use(90)
    await wallets.dispute(move("d", 100))
    await world.pipeline.step()
    assert await world.agrees() == -90
    assert world.use(1) is None
    await wallets.correct(move("c", 95), {Book.AVAILABLE: 95, Book.REVENUE: -95})
    assert await world.agrees() == 5
    await wallets.reverse("c")
    assert await world.agrees() == -90
    await wallets.refund(move("r", 90))
    await wallets.tax(move("x", 1))
    assert await world.agrees() == 0


async def test_an_overdraft_can_be_spent_but_not_paid_back(world: World) -> None:
    wallets = world.wallets
    await wallets.set_overdraft("o1", "acc_a", "EUR", 50)
    await wallets.set_overdraft("o1", "acc_a", "EUR", 50)
    await wallets.credit(move("t", 10))
    assert wallets.balance("acc_a", "EUR").available == 60
    with pytest.raises(InsufficientFundsError) as caught:
        await wallets.freeze(move("f", 11))
    assert caught.value.balance == 10
    assert world.use(60) is not None
    await world.pipeline.step()
    assert await world.agrees() == -50
    await wallets.set_overdraft("o2", "acc_a", "EUR", 0)
    assert wallets.balance("acc_a", "EUR").available == -50
    assert await world.agrees() == -50


async def test_an_overdraft_is_added_to_by_several_at_once_and_by_each_once(world: World) -> None:
    add = world.wallets.add_overdraft
    await asyncio.gather(
        add("one", "acc_a", "EUR", 5), add("two", "acc_a", "EUR", 7), add("one", "acc_a", "EUR", 5)
    )
    assert world.wallets.balance("acc_a", "EUR").overdraft == 12
    await add("three", "acc_a", "EUR", -20)
    assert world.wallets.balance("acc_a", "EUR").overdraft == 0
    assert await world.agrees() == 0


async def test_an_account_has_a_cell_for_each_of_a_few_currencies(lite: World) -> None:
    for number, currency in enumerate(("AAA", "BBB", "CCC", "DDD")[:WALLETS_MAX]):
        await lite.wallets.credit(move(f"t{number}", 1 + number, currency=currency))
    with pytest.raises(LedgerError, match="currencies"):
        await lite.wallets.credit(move("u", 1, currency="ZZZ"))
    assert [b.available for b in lite.wallets.balances("acc_a")] == [1, 2, 3, 4]
    with pytest.raises(NotFoundError):
        lite.wallets.balance("acc_a", "ZZZ")
    with pytest.raises(NotFoundError):
        lite.wallets.balance("acc_b", "AAA")


async def test_slots_belong_to_accounts_for_ever(world: World) -> None:
    wallets = world.wallets
    slots = await asyncio.gather(*(wallets.ensure(f"acc_{i}") for i in (3, 1, 3, 2)))
    assert slots[0] == slots[2]
    assert sorted(set(slots)) == [0, 1, 2]
    await world.reboot()
    for ident, slot in zip((3, 1, 3, 2), slots, strict=True):
        assert world.wallets.slot(f"acc_{ident}") == slot
    assert await world.wallets.ensure("acc_4") == 3
    assert world.wallets.account(0) == ""
    assert world.wallets.account(77) == "#000000000000004d"


async def test_nobody_changes_a_balance_while_the_store_is_away(lite: World) -> None:
    await lite.wallets.credit(move("t", 10))
    await lite.store.stop()
    with pytest.raises(StoreError):
        await lite.wallets.credit(move("u", 10))
    with pytest.raises(StoreError):
        await lite.wallets.freeze(move("f", 10))
    assert lite.use(10) is not None
    await lite.restart()
    assert await lite.agrees() == 0
    assert lite.cells.open_credits() == []


async def test_a_movement_goes_on_when_who_asked_has_gone(lite: World) -> None:
    task = asyncio.create_task(lite.wallets.credit(move("t", 10)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await lite.wallets._changes.idle()
    assert await lite.agrees() == 10


async def test_a_lost_answer_is_found_out_before_the_next_movement(lite: World) -> None:
    """The transaction was committed, and the store lost before it said so; and the other way."""
    ledger = lite.ledger

    class Deaf:
        def __getattr__(self, name: str) -> object:
            return getattr(ledger, name)

        async def credit(self, movement: object, *, tax: int) -> None:
            if movement.id != "never":  # type: ignore[attr-defined]
                await ledger.credit(movement, tax=tax)
            raise StoreError("gone")

        async def freeze(self, movement: object) -> None:
            raise StoreError("gone")

    await lite.wallets.credit(move("t", 100))
    lite.wallets.ledger = Deaf()  # type: ignore[assignment]
    for ident in ("lost", "never"):
        with pytest.raises(StoreError):
            await lite.wallets.credit(move(ident, 7))
    with pytest.raises(StoreError):
        await lite.wallets.freeze(move("f", 50))
    assert len(lite.cells.open_credits()) == 1  # the others were settled on the way
    lite.wallets.ledger = ledger
    await lite.wallets.credit(move("u", 1))
    assert await lite.agrees() == 108
    assert lite.cells.open_credits() == []


async def _movements(world: World) -> None:
    await world.wallets.credit(move("t", 100))
    await world.wallets.freeze(move("f", 30))
    await world.wallets.release("f")
    await world.wallets.freeze(move("g", 20))
    with pytest.raises(InsufficientFundsError):
        await world.wallets.freeze(move("h", 1000))
    await world.wallets.promo(move("p", 5))
    with pytest.raises(InsufficientFundsError):
        await world.wallets.freeze(move("i", 81))  # the ledger refuses: taken, and given back


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["control", "gateway"])
async def test_killed_at_any_step_nothing_is_lost_or_doubled(
    sqlite_migrated: Path, tmp_path: Path, whole: bool
) -> None:
    """Control, or the whole gateway, dies at each place; who comes back does the same again."""
    wire = Tripwire()
    at = 0
    while True:
        folder = tmp_path / str(at)
        world = World(copy_of(sqlite_migrated, folder), folder)
        wire = Tripwire(at)
        world.make(wire)
        try:
            await world.pipeline.begin()
            await world.up()
            await _movements(world)
        except Killed:
            died = True
        else:
            died = False
        await (world.reboot() if whole else world.restart())
        if await world.ledger.find("t") is not None:
            await world.agrees()  # also before anything else happens
        assert world.cells.open_credits() == []
        await _movements(world)
        assert await world.agrees() == 85
        wallet = await world.ledger.wallet("acc_a", "EUR")
        assert (wallet.customer_held, wallet.credited) == (20, 105)
        await world.close()
        at += 1
        if not died:
            break
    assert at > 30


async def test_cells_are_seeded_without_the_store_and_trued_up_with_it(world: World) -> None:
    await world.wallets.credit(move("t", 100))
    await world.wallets.credit(move("u", 40, "acc_b"))
    world.use(10)
    await world.pipeline.step()
    world.use(5)  # still in the ring when all is killed
    await world.reboot(up=False)
    assert world.wallets.seeded
    assert world.wallets.balance("acc_a", "EUR").available == 85
    with pytest.raises(StoreError):
        await world.wallets.credit(move("v", 1))
    assert world.use(20) is not None
    await world.pipeline.step()
    # What nobody here knew of: booked while this gateway was away.
    await world.store.connect()
    await world.ledger.credit(move("w", 1000))
    with pytest.raises(StoreError, match="compared"):
        await world.wallets.credit(move("v", 1))
    await world.pipeline.step()
    assert not world.wallets.seeded
    assert await world.agrees() == 1065
    assert await world.agrees("acc_b") == 40
    kinds = [entry.kind for entry in (await world.ledger.history("acc_a", limit=9)).items]
    assert kinds.count(EntryKind.CELL) == 1
    await world.restart()
    assert await world.agrees() == 1065


@pytest.mark.slow
@pytest.mark.parametrize("cold", [False, True], ids=["cache", "no cache"])
async def test_killed_while_it_comes_up_nothing_is_lost_or_doubled(
    sqlite_migrated: Path, tmp_path: Path, cold: bool
) -> None:
    """Seeding and truing up, killed at each place, while requests go on."""
    at = 0
    died = True
    while died:
        folder = tmp_path / str(at)
        world = World(copy_of(sqlite_migrated, folder), folder)
        await world.pipeline.begin()
        await world.up()
        await world.wallets.credit(move("t", 100))
        await world.wallets.credit(move("u", 50, "acc_b"))
        world.use(1)
        await world.ledger.credit(move("v", 7))  # the cell has not heard of it
        used = 1
        if cold:
            (folder / "accounts.cache").unlink()
        try:
            await world.reboot(Tripwire(at), up=False)
            used += 2 if world.use(2) else 0
            await world.pipeline.step()
            await world.up()
        except Killed:
            pass
        else:
            died = False
        used += 4 if world.use(4) else 0
        await world.restart(up=False)
        used += 8 if world.use(8) else 0
        await world.up()
        assert await world.agrees() == 107 - used
        assert await world.agrees("acc_b") == 50
        assert not world.wallets.seeded
        report = await audit_gateway(world.pipeline)
        assert report.passed, report
        await world.close()
        at += 1
    assert at > 20


async def test_a_cache_that_is_damaged_is_not_believed(lite: World) -> None:
    await lite.wallets.credit(move("t", 100))
    path = lite.folder / "accounts.cache"
    path.write_bytes(path.read_bytes()[:8] + b"\xff" * 200)
    await lite.reboot(up=False)
    assert lite.wallets.slot("acc_a") is None
    await lite.up()
    assert await lite.agrees() == 100


def test_the_key_of_an_undoing_is_none_of_an_entry() -> None:
    assert all(int(cell_key(f"m{number}")[:2], 16) < 0x80 for number in range(64))
