"""Usage records on their way to the ledger: at least once, none lost, room made by commits."""

from __future__ import annotations

import mmap
import os
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moneymapkit import IDENTITY, SLOT, Memory, SharedWallet, images

from fastgate._core.money.layout import UsageFlag
from fastgate._core.money.money_map import NO_SLOT, HoldTableFull, UsageRecord

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
FREE = int(UsageFlag.USAGE_FREE)


def note(wallet: SharedWallet, units: int, worker: int = 0) -> str | None:
    return wallet.money.note(worker, SLOT, units=units)


def units_of(records: list[UsageRecord]) -> list[int]:
    return [record.units for record in records]


def test_a_record_without_money() -> None:
    wallet = SharedWallet(0)
    name = wallet.money.note(
        1, SLOT, units=2**64 - 1, status=404, consumer=7, plan=3, now_ns=11, request_id=b"q" * 16
    )
    [record] = wallet.collect(1)
    assert record.id == name
    assert (record.time_ns, record.account, record.account_slot) == (11, IDENTITY, SLOT)
    assert (record.consumer, record.plan, record.route) == (7, 3, NO_SLOT)
    assert (record.units, record.status, record.flags) == (2**64 - 1, 404, FREE)
    assert (record.amount, record.held, record.currency) == (0, 0, "")
    assert record.request_id == (b"q" * 16).hex()


def test_a_record_of_nobody() -> None:
    wallet = SharedWallet(0)
    assert wallet.money.note(0, units=3) is not None
    [record] = wallet.collect(0)
    assert (record.account, record.units) == (0, 3)
    with pytest.raises(KeyError, match="slot 7"):
        wallet.money.note(0, 7)


def test_records_come_until_they_are_committed() -> None:
    wallet = SharedWallet(0)
    for units in range(5):
        note(wallet, units)
    records, position = wallet.money.drain(0, 3)
    assert (units_of(records), position) == ([0, 1, 2], 3)
    assert wallet.money.drain(0, 3) == (records, 3)
    assert wallet.again().money.drain(0, 3) == (records, 3)
    wallet.money.commit(0, 2)
    assert units_of(wallet.money.drain(0)[0]) == [2, 3, 4]
    wallet.money.commit(0, 5)
    assert wallet.money.drain(0) == ([], 5)
    wallet.money.commit(0, 1)
    assert wallet.money.state(0)[:2] == (5, 5)
    assert wallet.money.drain(1) == ([], 0)
    with pytest.raises(ValueError, match="never published"):
        wallet.money.commit(0, 6)
    for wrong in (wallet.money.drain, wallet.money.state, wallet.money.stopped):
        with pytest.raises(IndexError):
            wrong(2)


def test_a_pipeline_may_read_ahead_of_its_commits() -> None:
    wallet = SharedWallet(0)
    for units in range(6):
        note(wallet, units)
    first, at = wallet.money.drain(0, 2)
    second, further = wallet.money.drain(0, 2, after=at)
    third, end = wallet.money.drain(0, 9, after=further)
    assert [units_of(part) for part in (first, second, third)] == [[0, 1], [2, 3], [4, 5]]
    wallet.money.commit(0, further)
    for after in (further - 1, end + 1):
        with pytest.raises(ValueError, match="position"):
            wallet.money.drain(0, after=after)
    assert wallet.money.drain(0, after=end) == ([], end)


def test_a_full_ring_parks_records_in_the_hold_table() -> None:
    wallet = SharedWallet(100, ring=2, holds=4)
    assert note(wallet, 0)
    hold = wallet.money.hold(0, SLOT, 10)
    assert hold is not None
    assert hold.capture(1, units=1)
    parked = wallet.money.hold(0, SLOT, 10)
    assert parked is not None
    assert not parked.capture(2, units=2)
    assert note(wallet, 3)
    assert [o.state for o in wallet.money.open_holds(0)] == ["parked", "parked"]
    assert wallet.money.state(0).parked == 2
    assert wallet.balance == 97
    # They come with the last of the ring, not before.
    assert units_of(wallet.money.drain(0, 1)[0]) == [0]
    records, position = wallet.money.drain(0, 2)
    assert sorted(units_of(records)) == [0, 1, 2, 3]
    assert len({record.id for record in records}) == 4
    wallet.money.commit(0, position - 1)
    assert sorted(units_of(wallet.money.drain(0)[0])) == [1, 2, 3]
    wallet.money.commit(0, position)
    assert wallet.money.drain(0) == ([], 2)
    assert wallet.money.open_holds() == []
    assert wallet.money.hold(0, SLOT, 97) is not None


def test_another_control_frees_no_parked_record_that_it_has_not_given() -> None:
    wallet = SharedWallet(100, ring=1, holds=4)
    for units in range(3):
        assert note(wallet, units)
    position = wallet.money.drain(0)[1]
    heir = wallet.again()
    heir.money.commit(0, position)
    records, position = heir.money.drain(0)
    assert sorted(units_of(records)) == [1, 2]
    assert note(wallet, 3)
    assert note(wallet, 4)
    heir.money.commit(0, position)
    assert sorted(units_of(heir.collect(0))) == [3, 4]


def test_a_full_ring_and_a_full_table() -> None:
    wallet = SharedWallet(100, ring=1, holds=2)
    for units in range(3):
        assert note(wallet, units)
    assert note(wallet, 3) is None
    with pytest.raises(HoldTableFull):
        wallet.money.hold(0, SLOT, 1)
    state = wallet.money.state(0)
    assert (state.dropped, state.refused, state.parked, state.published) == (1, 1, 2, 1)
    assert note(wallet, 0, worker=1)
    assert sorted(units_of(wallet.collect(0))) == [0, 1, 2]
    # What control made free is found again.
    hold = wallet.money.hold(0, SLOT, 1)
    assert hold is not None
    assert hold.capture(1)
    assert note(wallet, 5)
    assert note(wallet, 6)
    assert note(wallet, 7) is None
    assert wallet.money.state(0).dropped == 2
    assert sorted(units_of(wallet.collect(0))) == [0, 5, 6]


def test_ids_are_never_given_twice() -> None:
    wallet = SharedWallet(100, ring=4)
    names = []
    for _ in range(5):
        wallet.money.begin(0)
        for worker in range(2):
            names.append(note(wallet, 0, worker))
            hold = wallet.money.hold(worker, SLOT, 1)
            assert hold is not None
            names.append(hold.id)
            hold.release()
            wallet.collect(worker)
    assert len(set(names)) == len(names) == 20
    assert {str(name)[:16] for name in names} == {wallet.money.boot_id}
    assert {str(name)[16:18] for name in names} == {"01", "02"}


def test_a_damaged_record_is_counted_and_not_believed() -> None:
    wallet = SharedWallet(0, ring=4)
    for units in range(3):
        note(wallet, units)
    with mmap.mmap(wallet.money.fd, wallet.money.bytes) as whole:
        # The second record of worker 0: its ring is the third page of its area.
        at = wallet.money.bytes - 2 * 3 * 4096 + 2 * 4096 + 128
        assert whole[at] == 2
        whole[at] = 77
    assert units_of(wallet.money.drain(0)[0]) == [0, 2]
    assert wallet.money.damaged == 1


@pytest.mark.parametrize("full", [False, True])
def test_a_worker_killed_after_any_instruction_of_a_note(full: bool) -> None:
    """The record is there, whole, or not at all; ids go on."""
    wallet = SharedWallet(0, ring=2, holds=2)
    if full:
        note(wallet, 1)
        note(wallet, 1)
    states = images(wallet, lambda: note(wallet, 9))
    memory = Memory(wallet)
    seen = []
    for state in states:
        memory.write(state)
        heir = wallet.again()
        heir.money.begin(0)
        assert note(heir, 5)
        records = heir.collect(0) + heir.collect(0)
        assert len({record.id for record in records}) == len(records)
        seen.append(sorted(units_of(records)))
        assert {record.account for record in records} == {IDENTITY}
    before = [1, 1] if full else []
    assert [units for i, units in enumerate(seen) if i == 0 or seen[i - 1] != units] == [
        [*before, 5],
        [*before, 5, 9],
    ]


@given(
    st.lists(st.tuples(st.sampled_from("ncrd"), st.integers(1, 6)), max_size=60),
    st.sampled_from([1, 2, 8]),
)
def test_every_record_comes_out_once_it_went_in(steps: list[tuple[str, int]], ring: int) -> None:
    """Against a queue: n note, c drain and commit, r drain only, d another control takes over."""
    wallet = SharedWallet(0, ring=ring, holds=3)
    control = wallet.again()
    waiting: deque[str] = deque()
    for step, size in steps:
        if step == "n":
            for _ in range(size):
                name = note(wallet, 0)
                if name is None:
                    assert len(waiting) >= 3
                else:
                    waiting.append(name)
        elif step == "d":
            control = wallet.again()
        else:
            records, position = control.money.drain(0, size)
            names = [record.id for record in records]
            assert set(names) <= set(waiting)
            if step == "c":
                control.money.commit(0, position)
                waiting = deque(name for name in waiting if name not in names)
    assert {record.id for record in control.collect(0)} == set(waiting)
    os.fstat(wallet.money.fd)
