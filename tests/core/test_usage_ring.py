"""Usage records on their way to the ledger: at least once, none lost, room made by commits."""

from __future__ import annotations

import mmap
import os
from collections import deque

import pytest
from bankkit import IDENTITY, SLOT, Bank, Memory, images
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.money.layout import UsageFlag
from fastgate._core.money.money_map import NO_SLOT, HoldTableFull, UsageRecord

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
FREE = int(UsageFlag.USAGE_FREE)


def note(bank: Bank, units: int, worker: int = 0) -> str | None:
    return bank.money.note(worker, SLOT, units=units)


def units_of(records: list[UsageRecord]) -> list[int]:
    return [record.units for record in records]


def test_a_record_without_money() -> None:
    bank = Bank(0)
    name = bank.money.note(
        1, SLOT, units=2**64 - 1, status=404, consumer=7, plan=3, now_ns=11, request_id=b"q" * 16
    )
    [record] = bank.collect(1)
    assert record.id == name
    assert (record.time_ns, record.account, record.account_slot) == (11, IDENTITY, SLOT)
    assert (record.consumer, record.plan, record.route) == (7, 3, NO_SLOT)
    assert (record.units, record.status, record.flags) == (2**64 - 1, 404, FREE)
    assert (record.amount, record.held, record.currency) == (0, 0, "")
    assert record.request_id == (b"q" * 16).hex()


def test_a_record_of_nobody() -> None:
    bank = Bank(0)
    assert bank.money.note(0, units=3) is not None
    [record] = bank.collect(0)
    assert (record.account, record.units) == (0, 3)
    with pytest.raises(KeyError, match="slot 7"):
        bank.money.note(0, 7)


def test_records_come_until_they_are_committed() -> None:
    bank = Bank(0)
    for units in range(5):
        note(bank, units)
    records, position = bank.money.drain(0, 3)
    assert (units_of(records), position) == ([0, 1, 2], 3)
    assert bank.money.drain(0, 3) == (records, 3)
    assert bank.again().money.drain(0, 3) == (records, 3)
    bank.money.commit(0, 2)
    assert units_of(bank.money.drain(0)[0]) == [2, 3, 4]
    bank.money.commit(0, 5)
    assert bank.money.drain(0) == ([], 5)
    bank.money.commit(0, 1)
    assert bank.money.state(0)[:2] == (5, 5)
    assert bank.money.drain(1) == ([], 0)
    with pytest.raises(ValueError, match="never published"):
        bank.money.commit(0, 6)
    for wrong in (bank.money.drain, bank.money.state, bank.money.stopped):
        with pytest.raises(IndexError):
            wrong(2)


def test_a_pipeline_may_read_ahead_of_its_commits() -> None:
    bank = Bank(0)
    for units in range(6):
        note(bank, units)
    first, at = bank.money.drain(0, 2)
    second, further = bank.money.drain(0, 2, after=at)
    third, end = bank.money.drain(0, 9, after=further)
    assert [units_of(part) for part in (first, second, third)] == [[0, 1], [2, 3], [4, 5]]
    bank.money.commit(0, further)
    for after in (further - 1, end + 1):
        with pytest.raises(ValueError, match="position"):
            bank.money.drain(0, after=after)
    assert bank.money.drain(0, after=end) == ([], end)


def test_a_full_ring_parks_records_in_the_hold_table() -> None:
    bank = Bank(100, ring=2, holds=4)
    assert note(bank, 0)
    hold = bank.money.hold(0, SLOT, 10)
    assert hold is not None
    assert hold.capture(1, units=1)
    parked = bank.money.hold(0, SLOT, 10)
    assert parked is not None
    assert not parked.capture(2, units=2)
    assert note(bank, 3)
    assert [o.state for o in bank.money.open_holds(0)] == ["parked", "parked"]
    assert bank.money.state(0).parked == 2
    assert bank.balance == 97
    # They come with the last of the ring, not before.
    assert units_of(bank.money.drain(0, 1)[0]) == [0]
    records, position = bank.money.drain(0, 2)
    assert sorted(units_of(records)) == [0, 1, 2, 3]
    assert len({record.id for record in records}) == 4
    bank.money.commit(0, position - 1)
    assert sorted(units_of(bank.money.drain(0)[0])) == [1, 2, 3]
    bank.money.commit(0, position)
    assert bank.money.drain(0) == ([], 2)
    assert bank.money.open_holds() == []
    assert bank.money.hold(0, SLOT, 97) is not None


def test_another_control_frees_no_parked_record_that_it_has_not_given() -> None:
    bank = Bank(100, ring=1, holds=4)
    for units in range(3):
        assert note(bank, units)
    position = bank.money.drain(0)[1]
    heir = bank.again()
    heir.money.commit(0, position)
    records, position = heir.money.drain(0)
    assert sorted(units_of(records)) == [1, 2]
    assert note(bank, 3)
    assert note(bank, 4)
    heir.money.commit(0, position)
    assert sorted(units_of(heir.collect(0))) == [3, 4]


def test_a_full_ring_and_a_full_table() -> None:
    bank = Bank(100, ring=1, holds=2)
    for units in range(3):
        assert note(bank, units)
    assert note(bank, 3) is None
    with pytest.raises(HoldTableFull):
        bank.money.hold(0, SLOT, 1)
    state = bank.money.state(0)
    assert (state.dropped, state.refused, state.parked, state.published) == (1, 1, 2, 1)
    assert note(bank, 0, worker=1)
    assert sorted(units_of(bank.collect(0))) == [0, 1, 2]
    # What control made free is found again.
    hold = bank.money.hold(0, SLOT, 1)
    assert hold is not None
    assert hold.capture(1)
    assert note(bank, 5)
    assert note(bank, 6)
    assert note(bank, 7) is None
    assert bank.money.state(0).dropped == 2
    assert sorted(units_of(bank.collect(0))) == [0, 5, 6]


def test_ids_are_never_given_twice() -> None:
    bank = Bank(100, ring=4)
    names = []
    for _ in range(5):
        bank.money.begin(0)
        for worker in range(2):
            names.append(note(bank, 0, worker))
            hold = bank.money.hold(worker, SLOT, 1)
            assert hold is not None
            names.append(hold.id)
            hold.release()
            bank.collect(worker)
    assert len(set(names)) == len(names) == 20
    assert {str(name)[:16] for name in names} == {bank.money.boot_id}
    assert {str(name)[16:18] for name in names} == {"01", "02"}


def test_a_damaged_record_is_counted_and_not_believed() -> None:
    bank = Bank(0, ring=4)
    for units in range(3):
        note(bank, units)
    with mmap.mmap(bank.money.fd, bank.money.bytes) as whole:
        # The second record of worker 0: its ring is the third page of its area.
        at = bank.money.bytes - 2 * 3 * 4096 + 2 * 4096 + 128
        assert whole[at] == 2
        whole[at] = 77
    assert units_of(bank.money.drain(0)[0]) == [0, 2]
    assert bank.money.damaged == 1


@pytest.mark.parametrize("full", [False, True])
def test_a_worker_killed_after_any_instruction_of_a_note(full: bool) -> None:
    """The record is there, whole, or not at all; ids go on."""
    bank = Bank(0, ring=2, holds=2)
    if full:
        note(bank, 1)
        note(bank, 1)
    states = images(bank, lambda: note(bank, 9))
    memory = Memory(bank)
    seen = []
    for state in states:
        memory.write(state)
        heir = bank.again()
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
    bank = Bank(0, ring=ring, holds=3)
    control = bank.again()
    waiting: deque[str] = deque()
    for step, size in steps:
        if step == "n":
            for _ in range(size):
                name = note(bank, 0)
                if name is None:
                    assert len(waiting) >= 3
                else:
                    waiting.append(name)
        elif step == "d":
            control = bank.again()
        else:
            records, position = control.money.drain(0, size)
            names = [record.id for record in records]
            assert set(names) <= set(waiting)
            if step == "c":
                control.money.commit(0, position)
                waiting = deque(name for name in waiting if name not in names)
    assert {record.id for record in control.collect(0)} == set(waiting)
    os.fstat(bank.money.fd)
