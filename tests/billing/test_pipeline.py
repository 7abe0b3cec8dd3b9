"""Usage reaches the ledger once: with the store, without it, and whoever is killed."""

from __future__ import annotations

import asyncio
import errno
import math
import mmap
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moneykit import NOW, NOW_NS, WORKERS, Killed, Tripwire, World, copy_of, move, records_in

from fastgate._core.money.layout import HoldState
from fastgate._core.money.money_map import MoneyMap
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.ledger.ledger import Charged
from fastgate.billing.ledger.names import Hashes, SlotNames
from fastgate.errors import StoreError
from fastgate.store import usage as usage_table
from fastgate.store.money_tables import usage_blocks
from fastgate.store.usage_blocks import Block, Usage


@pytest.fixture
async def world(store_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """On both kinds of store, with 1,000 in the wallet."""
    world = World(store_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 1000))
    yield world
    await world.close()


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Where the kind of store does not matter."""
    world = World(sqlite_url, tmp_path)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 1000))
    yield world
    await world.close()


async def until(done: Callable[[], bool]) -> None:
    """Let others work until it is so."""
    async with asyncio.timeout(30):
        while not done():  # noqa: ASYNC110 - shared memory has no events
            await asyncio.sleep(0.001)


async def stuck(
    world: World, monkeypatch: pytest.MonkeyPatch, *, lost: bool = False
) -> tuple[asyncio.Future[Any], asyncio.Event]:
    """A step whose charge hangs in the store until the event is set; then it is made, or lost."""
    begun, answers, charge = asyncio.Event(), asyncio.Event(), world.ledger.charge

    async def slow(*args: Any, **more: Any) -> Any:
        begun.set()
        await answers.wait()
        if lost:
            raise StoreError("lost")
        return await charge(*args, **more)

    monkeypatch.setattr(world.ledger, "charge", slow)
    world.use(1)
    step = asyncio.ensure_future(world.pipeline.step())
    await begun.wait()
    return step, answers


async def test_a_store_that_does_not_answer_lets_no_ring_run_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs with a batch, and the rings go to the spool; it has committed after all."""
    step, answers = await stuck(world, monkeypatch)
    used = 1
    for _ in range(3):  # three times what the ring has room for
        for _ in range(world.ring - 16):
            assert world.use(1) is not None
            used += 1
        await until(lambda: world.money.state(0).committed == world.money.state(0).published)
        assert not step.done()
    assert world.spool.records == used
    answers.set()
    while await step or not world.spool.empty:
        step = asyncio.ensure_future(world.pipeline.step())
    assert sum((await records_in(world.store)).values()) == used
    assert len(await records_in(world.store)) == used
    assert world.pipeline.counts.duplicates == 1
    assert world.pipeline.counts.records == world.pipeline.counts.spooled == used
    assert await world.agrees() == 1000 - used
    assert (await audit_gateway(world.pipeline)).passed


async def test_a_store_that_hangs_and_is_lost_gets_everything_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = world.ledger.charge
    step, answers = await stuck(world, monkeypatch, lost=True)
    for _ in range(200):
        world.use(1)
    await until(lambda: world.spool.records == 201)
    answers.set()
    await step
    assert world.spool.records == 201  # each once
    monkeypatch.setattr(world.ledger, "charge", charge)
    while await world.pipeline.step():
        pass
    assert world.spool.empty
    assert await world.agrees() == 1000 - 201


async def test_the_spool_is_replayed_in_parts(lite: World) -> None:
    """Between them others get the lock, and new records go behind the old."""
    lite.pipeline.replay_s = 0.0
    await lite.store.stop()
    for _ in range(5):
        lite.use(1)
        await lite.pipeline.step()
    await lite.store.connect()
    steps = 0
    while True:
        lite.use(1)
        waiting = lite.spool.records
        if not await lite.pipeline.step():
            break
        assert lite.spool.records == waiting  # one taken, one that came meanwhile
        steps += 1
        if steps == 8:
            lite.pipeline.replay_s = math.inf
    assert steps == 8
    assert await lite.agrees() == 1000 - 5 - 9


async def test_a_request_becomes_a_record_and_a_charge(world: World) -> None:
    ident = world.use(7, worker=1, units=3, status=201)
    await world.pipeline.step()
    async with world.store.read() as connection:
        (found,) = (await usage_table.page(connection, "acc_a", cursor=None, limit=5)).items
    assert found == Usage(
        id=ident,
        time_us=NOW_NS // 1000,
        account="acc_a",
        consumer="con_1",
        credential="crd_1",
        route="images",
        service="pictures",
        plan="pro",
        currency="EUR",
        amount=7,
        units=3,
        status=201,
        request="0" * 32,
        flags=1,
    )
    assert found.worker == 1
    assert world.money.state(1).committed == 1
    assert await world.agrees() == 993
    assert world.spool.empty


def test_every_column_of_a_block_is_written() -> None:
    assert sorted(usage_table._COLUMNS) == sorted(usage_blocks.columns.keys())


async def test_what_costs_nothing_is_recorded_as_well(world: World) -> None:
    assert world.money.note(0, units=5, status=200, route=1, now_ns=NOW_NS) is not None
    world.use(0)
    await world.pipeline.step()
    assert sorted((await records_in(world.store)).values()) == [0, 0]
    assert await world.agrees() == 1000


async def test_a_batch_takes_what_there_is_also_of_a_full_ring(lite: World) -> None:
    for _ in range(lite.ring + 10):  # ten are parked in their rows
        assert lite.use(1) is not None
    await lite.pipeline.step()
    assert len(await records_in(lite.store)) == lite.ring + 10
    await lite.pipeline.step()
    assert await lite.agrees() == 1000 - lite.ring - 10
    assert lite.pipeline.counts.duplicates == 0


async def test_a_batch_is_as_large_as_its_records_are_alike(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.LEAST", 1)
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.BLOCKS", 8)
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.MOST", 40)
    for _ in range(60):
        lite.use(1)
    sizes, more = [0], True
    while more:
        more = await lite.pipeline.step()
        sizes.append(lite.pipeline.counts.records)
    # Half of eight blocks is for each of two workers; then of as many records as make eight, but
    # no more than forty.
    assert [after - before for before, after in pairwise(sizes)] == [4, 16, 20, 20, 0]
    assert await lite.agrees() == 940


async def test_usage_goes_on_while_the_store_is_away(world: World) -> None:
    world.use(1)
    await world.store.stop()
    for number in range(30):
        world.use(2, worker=number % WORKERS)
        await world.pipeline.step()
    assert world.money.state(0).published == world.money.state(0).committed  # nothing piles up
    assert world.spool.records == 31
    balance = world.wallets.balance("acc_a", "EUR")
    assert balance.available == balance.settled == 939
    await world.store.connect()
    world.use(3)
    await world.pipeline.step()
    assert world.spool.empty
    assert len(await records_in(world.store)) == 32
    assert await world.agrees() == 936
    assert (await audit_gateway(world.pipeline)).passed


async def test_a_store_lost_under_a_batch_gets_it_later(lite: World) -> None:
    """Committed or not: the answer was lost, so the batch is spooled and comes again."""
    for commits in (True, False):
        real = lite.wallets.ledger

        class Losing:
            def __getattr__(self, name: str) -> object:
                return getattr(real, name)  # noqa: B023

            async def charge(self, *args: object, **more: object) -> None:
                if commits:  # noqa: B023
                    await real.charge(*args, **more)  # noqa: B023
                raise StoreError("lost")

        lite.use(5)
        lite.wallets.ledger = Losing()  # type: ignore[assignment]
        await lite.pipeline.step()
        assert lite.spool.records == 1
        lite.wallets.ledger = real
        await lite.pipeline.step()
        assert lite.spool.empty
    assert len(await records_in(lite.store)) == 2
    assert lite.pipeline.counts.duplicates == 1
    await lite.restart()
    assert await lite.agrees() == 990


async def test_what_was_spooled_and_not_committed_waits_once(lite: World) -> None:
    """Killed between spool and ring, and started again without the store: the cells are filled
    with what is left, to the micro-unit, before the store can say so."""
    lite.use(5)
    await lite.pipeline.step()
    lite.use(10)
    await lite.store.stop()
    wire = Tripwire(0)
    lite.pipeline.source = wire.around(lite.money, "commit")
    with pytest.raises(Killed):
        await lite.pipeline.step()
    await lite.reboot(up=False)
    assert lite.spool.records == 1
    assert lite.wallets.balance("acc_a", "EUR").available == 985
    await lite.up()
    assert await lite.agrees() == 985


async def test_a_full_disk_leaves_the_records_where_they_are(lite: World) -> None:
    lite.use(5)
    await lite.store.stop()
    real = lite.spool.append

    def refuse(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lite.spool.append = refuse
    with pytest.raises(OSError, match="No space"):
        await lite.pipeline.step()
    assert lite.money.state(0).committed == 0
    lite.spool.append = real
    await lite.store.connect()
    await lite.pipeline.step()
    assert await lite.agrees() == 995


async def test_what_was_written_and_could_not_be_spooled_comes_again(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has it, nobody said so, and the disk is full: the ring keeps it."""
    charge, append = lite.ledger.charge, lite.spool.append

    async def commits(*args: Any, **more: Any) -> Any:
        await charge(*args, **more)
        raise StoreError("lost")

    def refuse(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lite.use(5)
    monkeypatch.setattr(lite.ledger, "charge", commits)
    monkeypatch.setattr(lite.spool, "append", refuse)
    with pytest.raises(OSError, match="No space"):
        await lite.pipeline.step()
    monkeypatch.setattr(lite.ledger, "charge", charge)
    monkeypatch.setattr(lite.spool, "append", append)
    lite.use(6)
    await lite.pipeline.step()
    assert sorted((await records_in(lite.store)).values()) == [5, 6]
    assert lite.pipeline.counts.duplicates == 1
    await lite.restart()
    assert await lite.agrees() == 989


async def test_a_worker_killed_between_ring_and_row_left_its_record_twice(lite: World) -> None:
    ident = lite.use(5)
    await lite.pipeline.step()
    settled_again(lite.money, worker=0)
    lite.money.begin(0)  # its successor
    (found,) = await lite.pipeline.worker_died(0)
    assert (found.id, found.amount) == (ident, 5)
    assert await records_in(lite.store) == {ident: 5}
    assert lite.pipeline.counts.duplicates == 1
    assert await lite.agrees() == 995
    assert lite.money.open_holds() == []


def settled_again(money: MoneyMap, worker: int) -> None:
    """The first row of a worker's table as it is after its record was published, and before it is
    freed: what that worker's death at this moment leaves."""
    with mmap.mmap(money.fd, 0) as memory:
        workers_off, area_size, holds_at = struct.unpack_from("<3Q", memory, 64)
        at = workers_off + worker * area_size + holds_at
        (word,) = struct.unpack_from("<Q", memory, at)
        assert word & 0xFF == HoldState.HOLD_FREE
        struct.pack_into("<Q", memory, at, word | HoldState.HOLD_SETTLED)


async def test_the_task_goes_on_after_every_failure(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[BaseException] = [OSError("disk"), StoreError("store"), ValueError("bug")]
    seen: list[str | None] = []
    waits: list[float] = []
    real = lite.pipeline.step

    async def step() -> bool:
        if failures:
            raise failures.pop(0)
        return await real()

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        seen.append(lite.pipeline.problem)
        if len(waits) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(lite.pipeline, "step", step)
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.next_tick", pause)
    lite.use(1)
    with pytest.raises(asyncio.CancelledError):
        await lite.pipeline.run()
    assert seen == ["disk", "store", "ValueError('bug')", None]
    assert waits == [1.0, 1.0, 1.0, 0.05]
    monkeypatch.undo()
    assert await lite.agrees() == 999


async def test_under_load_a_ring_that_fills_is_not_waited_for(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.LOADED", 10)
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.LOADED_S", 3600.0)
    rests = 0

    async def rest(seconds: float) -> None:
        """Each time that the task rests, a few more requests were made, but for the last time."""
        nonlocal rests
        rests += 1
        for _ in range(10):
            lite.use(1)
        if lite.money.state(0).published > lite.ring:
            raise asyncio.CancelledError

    batches: list[int] = []
    real = lite.ledger.charge

    async def charge(blocks: Sequence[Block], *args: Any, **more: Any) -> Charged:
        batches.append(sum(block.records for block in blocks))
        done: Charged = await real(blocks, *args, **more)
        return done

    monkeypatch.setattr(lite.ledger, "charge", charge)
    for _ in range(10):
        lite.use(1)
    monkeypatch.setattr("fastgate.billing.ledger.pipeline.next_tick", rest)
    with pytest.raises(asyncio.CancelledError):
        await lite.pipeline.run()
    monkeypatch.undo()
    # The ring has 256: at 96 and more of them it is drained, long before the hour is over.
    assert batches == [10, 100, 100]
    assert rests == 25
    await lite.pipeline.step()
    assert await lite.agrees() == 1000 - 260


async def test_a_dead_workers_holds_are_settled_and_listed(world: World) -> None:
    slot = world.wallets.slot("acc_a")
    assert slot is not None
    for due in (0, 30):
        hold = world.money.hold(1, slot, 50, consumer=stable_hash("con_2"), now_ns=NOW_NS)
        assert hold is not None
        hold.due(due)
    world.money.begin(1)  # its successor
    found = await world.pipeline.worker_died(1)
    assert sorted(record.amount for record in found) == [0, 30]
    assert await world.pipeline.worker_died(1) == []
    assert world.money.open_holds() == []
    assert await world.agrees() == 970
    async with world.store.read() as connection:
        listed = await usage_table.resolved(connection, since=NOW - timedelta(1), limit=9)
    assert sorted((one.worker, one.consumer, one.charged) for one in listed) == [
        (1, "con_2", 0),
        (1, "con_2", 30),
    ]


async def test_who_is_not_known_is_charged_all_the_same_and_found_out_later(lite: World) -> None:
    """The cache is gone and the store away, but a record of an account is in the ring."""
    lite.use(5)
    await lite.store.stop()
    (lite.folder / "accounts.cache").unlink()
    await lite.restart(up=False)
    found = lite.spool.next()
    assert found is not None
    assert [block.account[0] for block in found[0].blocks] == ["#"]
    await lite.up()
    assert await lite.agrees() == 995


def test_hashes_and_slots_without_a_name_are_shown_as_they_are() -> None:
    ids = ["con_1"]
    hashes = Hashes(lambda: ids)
    assert hashes.find(0) == ""
    assert hashes.find(stable_hash("con_1")) == "con_1"
    assert hashes.find(stable_hash("con_2")) == f"#{stable_hash('con_2'):016x}"
    ids.append("con_2")
    assert hashes.find(stable_hash("con_2")).startswith("#")  # asked for once
    hashes.changed()
    assert hashes.find(stable_hash("con_2")) == "con_2"
    ids[:] = ["con_3"]
    assert hashes.find(stable_hash("con_3")) == "con_3"
    # What is gone keeps its name: its usage may still be on its way.
    assert hashes.find(stable_hash("con_1")) == "con_1"
    slots = {"a": 0}
    names = SlotNames(lambda: slots)
    assert [names.find(0), names.find(1), names.find(0xFFFFFFFF)] == ["a", "#1", ""]
    slots["b"] = 1
    assert names.find(1) == "b"
    slots.update(a=1, b=0)
    names.changed()
    assert [names.find(0), names.find(1)] == ["b", "a"]


# ---- killed anywhere --------------------------------------------------------------------


async def _traffic(world: World, made: dict[str, int]) -> None:
    """Requests, an outage, requests, the store again; `made`: what was served."""

    def use(amount: int, worker: int = 0) -> None:
        ident = world.use(amount, worker=worker)
        if ident is not None:
            made[ident] = amount

    use(1)
    await world.pipeline.step()
    use(2, 1)
    await world.store.stop()
    await world.pipeline.step()
    use(4)
    await world.pipeline.step()
    use(8)
    await world.store.connect()
    await world.pipeline.step()
    use(16, 1)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["control", "gateway"])
async def test_killed_at_any_step_nothing_is_lost_or_doubled(
    sqlite_migrated: Path, tmp_path: Path, whole: bool
) -> None:
    at = 0
    died = True
    while died:
        folder = tmp_path / str(at)
        world = World(copy_of(sqlite_migrated, folder), folder)
        await world.pipeline.begin()
        await world.up()
        await world.wallets.credit(move("t", 100))
        made: dict[str, int] = {}
        try:
            await world.restart(Tripwire(at))
            await _traffic(world, made)
        except Killed:
            pass
        else:
            died = False
        # Who comes back is without the store at first, and killed again on its way.
        again = Tripwire(at % 7)
        try:
            await (world.reboot(up=False) if whole else world.restart(again, up=False))
            world.use(32)
            await world.up()
        except Killed:
            pass
        await world.restart()
        found = await records_in(world.store)
        assert {ident: found.get(ident) for ident in made} == made
        # Nothing else than the one request in between, and that at most once.
        assert sorted(set(found) - set(made)) == [i for i in found if found[i] == 32]
        assert await world.agrees() == 100 - sum(found.values())
        assert (await audit_gateway(world.pipeline)).passed
        await world.close()
        at += 1
    assert at > 15


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("use"), st.integers(0, 9), st.integers(0, WORKERS - 1)),
            st.tuples(st.sampled_from(["step", "down", "up", "restart", "reboot", "dies"])),
        ),
        max_size=25,
    )
)
def test_whatever_happens_in_whatever_order(
    sqlite_migrated: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("life") / "one"
    asyncio.run(_play(copy_of(sqlite_migrated, folder), folder, steps))


async def _play(url: str, folder: Path, steps: list[tuple[object, ...]]) -> None:
    world = World(url, folder)
    await world.pipeline.begin()
    await world.up()
    await world.wallets.credit(move("t", 100))
    served: dict[str, int] = {}
    for what, *rest in steps:
        if what == "use":
            amount, worker = rest
            ident = world.use(int(amount), worker=int(worker))  # type: ignore[call-overload]
            if ident is not None:
                served[ident] = int(amount)  # type: ignore[call-overload]
        elif what == "step":
            await world.pipeline.step()
        elif what == "down":
            await world.store.stop()
        elif what == "up":
            await world.store.connect()
        elif what == "dies":
            slot = world.wallets.slot("acc_a")
            assert slot is not None
            world.money.hold(0, slot, 3)
            world.money.begin(0)
            await world.pipeline.worker_died(0)
        else:
            await getattr(world, str(what))(up=False)
        assert sum(served.values()) <= 100
        assert world.wallets.balance("acc_a", "EUR").available >= 0
    await world.store.connect()
    await world.pipeline.step()
    await world.pipeline.step()
    found = await records_in(world.store)
    assert {ident: amount for ident, amount in found.items() if ident in served} == served
    assert sum(found.values()) == sum(served.values())
    assert await world.agrees() == 100 - sum(served.values())
    report = await audit_gateway(world.pipeline)
    assert report.passed, report
    await world.close()
