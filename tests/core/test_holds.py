"""Holds: what they take and give back, and that a kill at any instruction leaves them exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from moneymapkit import IDENTITY, SLOT, Memory, SharedWallet, charged, images

from fastgate._core.money.layout import UsageFlag
from fastgate._core.money.money_map import NO_SLOT, Hold, HoldTableFull, MoneyMap
from fastgate._core.testing.hold_bench import bench_hold

# The children do nothing that a thread of the tests' process could have left half done.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
CAPTURED, FREE = int(UsageFlag.USAGE_CAPTURED), int(UsageFlag.USAGE_FREE)
RECOVERED = int(UsageFlag.USAGE_RECOVERED)
POLICIES = ("due", "charge", "release")
Held = tuple[Hold, int]  # and its worker


def held(wallet: SharedWallet, amount: int, worker: int = 0) -> Hold:
    hold = wallet.money.hold(worker, SLOT, amount)
    assert hold is not None
    return hold


# ---- the way of a hold -------------------------------------------------------------------------


def test_a_hold_takes_and_a_capture_gives_back_the_rest() -> None:
    wallet = SharedWallet(100)
    hold = wallet.money.hold(
        1,
        SLOT,
        30,
        consumer=7,
        credential=8,
        route=1,
        service=2,
        plan=3,
        meter=4,
        now_ns=10,
        request_id=b"r" * 16,
    )
    assert hold is not None
    assert (hold.worker, hold.held, hold.balance, hold.open) == (1, 30, 70, True)
    assert wallet.balance == 70
    [open_hold] = wallet.money.open_holds()
    assert open_hold[:4] == (1, "held", True, False)
    assert open_hold.record.time_ns == 10
    assert hold.capture(12, now_ns=20, units=5, status=201)
    assert wallet.balance == 88
    assert not hold.open
    assert wallet.money.open_holds() == []
    [record] = wallet.collect(1)
    assert record == (
        hold.id,
        20,
        IDENTITY,
        SLOT,
        7,
        8,
        1,
        2,
        3,
        0,
        "EUR",
        12,
        30,
        5,
        201,
        CAPTURED,
        (b"r" * 16).hex(),
        4,
    )
    assert record.id == f"{wallet.money.boot_id}02{1:014x}"


def test_what_a_record_says_when_nothing_was_said() -> None:
    wallet = SharedWallet(1)
    held(wallet, 1).capture(1)
    [record] = wallet.collect(0)
    assert (record.consumer, record.credential, record.time_ns, record.units) == (0, 0, 0, 0)
    assert (record.route, record.service, record.plan) == (NO_SLOT, NO_SLOT, NO_SLOT)
    assert (record.status, record.request_id) == (200, "00" * 16)


def test_a_release_gives_all_back_and_tells_nobody() -> None:
    wallet = SharedWallet(100)
    hold = held(wallet, 100)
    assert wallet.balance == 0
    hold.release()
    assert wallet.balance == 100
    assert wallet.collect(0) == []
    assert wallet.money.open_holds() == []


def test_a_capture_of_nothing_is_a_free_record() -> None:
    wallet = SharedWallet(5)
    held(wallet, 5).capture(0)
    [record] = wallet.collect(0)
    assert (record.amount, record.held, record.flags, wallet.balance) == (0, 5, FREE, 5)


def test_a_hold_of_nothing_needs_no_balance() -> None:
    wallet = SharedWallet(0)
    assert held(wallet, 0).capture(0)
    assert wallet.balance == 0
    assert charged(wallet.collect(0)) == 0


def test_not_enough_is_refused_and_nothing_is_held() -> None:
    wallet = SharedWallet(10)
    first = held(wallet, 10)
    assert wallet.money.hold(0, SLOT, 1) is None
    assert wallet.money.hold(1, SLOT, 1) is None
    assert len(wallet.money.open_holds()) == 1
    first.release()
    assert held(wallet, 10, worker=1).balance == 0


def test_a_debt_refuses_every_hold_but_gives_back_what_was_held() -> None:
    wallet = SharedWallet(10)
    hold = held(wallet, 10)
    wallet.accounts.credit(SLOT, -15)
    assert wallet.balance == -15
    assert wallet.money.hold(0, SLOT, 0) is None
    hold.capture(4)
    assert wallet.balance == -9


def test_a_hold_is_settled_once() -> None:
    wallet = SharedWallet(10)
    hold = held(wallet, 5)
    hold.capture(5)
    for again in (lambda: hold.capture(5), hold.release, lambda: hold.due(1)):
        with pytest.raises(ValueError, match="already settled"):
            again()
    other = held(wallet, 5)
    wallet.money.stopped(0)
    wallet.money.resolve_dead(0)
    with pytest.raises(ValueError, match="already settled"):
        other.capture(5)
    assert not other.open
    assert wallet.balance == 5


@pytest.mark.parametrize("actual", [-1, 6])
def test_captures_that_cannot_be(actual: int) -> None:
    wallet = SharedWallet(10)
    hold = held(wallet, 5)
    with pytest.raises(ValueError, match="5 are held"):
        hold.capture(actual)
    assert hold.open
    hold.release()


@pytest.mark.parametrize("amount", [-1, 2**60 + 1])
def test_amounts_that_cannot_be(amount: int) -> None:
    with pytest.raises(ValueError, match="micro-units"):
        SharedWallet(10).money.hold(0, SLOT, amount)


def test_amounts_as_large_as_can_be() -> None:
    wallet = SharedWallet(2**61)
    assert held(wallet, 2**60).capture(2**60)
    assert wallet.balance == 2**60


def test_who_cannot_hold() -> None:
    wallet = SharedWallet(10)
    with pytest.raises(KeyError, match="slot 6"):
        wallet.money.hold(0, 6, 1)
    with pytest.raises(KeyError, match="wallet 1"):
        wallet.money.hold(0, SLOT, 1, wallet=1)
    with pytest.raises(IndexError):
        wallet.money.hold(2, SLOT, 1)
    with pytest.raises(TypeError, match="was not called in this process"):
        wallet.again().money.hold(0, SLOT, 1)
    with pytest.raises(TypeError, match="bind"):
        MoneyMap.attach(wallet.money.fd).begin(0)
    with pytest.raises(TypeError, match="no such field of a hold: colour"):
        wallet.money.hold(0, SLOT, 1, colour=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="16 bytes"):
        wallet.money.hold(0, SLOT, 1, request_id=b"short")
    assert wallet.money.open_holds() == []


def test_a_full_table_refuses() -> None:
    wallet = SharedWallet(100, holds=3)
    holds = [held(wallet, 1) for _ in range(3)]
    with pytest.raises(HoldTableFull):
        held(wallet, 1)
    assert (wallet.balance, wallet.money.state(0).refused) == (97, 1)
    holds[1].release()
    assert held(wallet, 1).open
    assert held(wallet, 1, worker=1).open


def test_the_whole_table_can_be_used() -> None:
    wallet = SharedWallet(10**6, holds=4096, ring=8192)
    for _ in range(2):
        holds = [held(wallet, 2) for _ in range(4096)]
        with pytest.raises(HoldTableFull):
            held(wallet, 2)
        assert wallet.balance == 10**6 - 8192
        for hold in reversed(holds):
            hold.release()
    assert wallet.balance == 10**6


def test_wallets_of_an_account_are_apart() -> None:
    wallet = SharedWallet(10)
    wallet.accounts.put(SLOT, IDENTITY, ["USD"])
    wallet.accounts.credit(SLOT, 4, "USD")
    hold = wallet.money.hold(0, SLOT, 4, wallet=1)
    assert hold is not None
    assert (wallet.accounts.balance(SLOT, "EUR"), wallet.accounts.balance(SLOT, "USD")) == (10, 0)
    hold.capture(3)
    [record] = wallet.collect(0)
    assert (record.wallet, record.currency) == (1, "USD")
    assert wallet.accounts.balance(SLOT, "USD") == 1


def test_the_benchmark_settles_what_it_holds() -> None:
    assert bench_hold(2000) > 0
    assert bench_hold(2000, price=1, hold=3) > 0


# ---- the dead ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "due", "cost"),
    [("due", None, 0), ("due", 4, 4), ("due", 99, 10), ("charge", 4, 10), ("release", 4, 0)],
)
def test_a_dead_worker_s_hold(policy: str, due: int | None, cost: int) -> None:
    wallet = SharedWallet(100)
    hold = held(wallet, 10)
    if due is not None:
        hold.due(due)
    wallet.money.stopped(0)
    assert wallet.money.open_holds()[0].dead
    records = wallet.money.resolve_dead(0, policy)
    assert [(r.id, r.amount) for r in records] == [(hold.id, cost)]
    assert records[0].flags == RECOVERED | (CAPTURED if cost else FREE)
    assert wallet.balance == 100 - cost
    # Until it is committed, it is told again, with the same id, to anybody.
    assert wallet.again().money.resolve_dead(0, policy) == records
    assert wallet.again().money.drain(0)[0] == records
    assert wallet.collect(0) == records
    assert wallet.money.resolve_dead(0, policy) == []
    assert wallet.collect(0) == []


def test_the_living_are_not_resolved() -> None:
    wallet = SharedWallet(100)
    held(wallet, 1)
    assert wallet.money.resolve_dead(0) == []
    wallet.money.begin(0)
    successor = held(wallet, 2)
    assert [record.held for record in wallet.money.resolve_dead(0)] == [1]
    assert successor.open
    assert wallet.balance == 98
    assert [(o.state, o.dead) for o in wallet.money.open_holds()] == [
        ("parked", True),
        ("held", False),
    ]


def test_a_successor_gets_the_rows_of_the_dead_back() -> None:
    wallet = SharedWallet(100, holds=2)
    for _ in range(2):
        held(wallet, 1)
    wallet.money.begin(0)
    with pytest.raises(HoldTableFull):
        held(wallet, 1)
    wallet.money.resolve_dead(0)
    with pytest.raises(HoldTableFull):
        held(wallet, 1)
    assert len(wallet.collect(0)) == 2
    assert held(wallet, 1).open
    assert wallet.balance == 99


def test_policies_that_there_are_not() -> None:
    with pytest.raises(KeyError):
        SharedWallet().money.resolve_dead(0, "forgive")


# ---- killed at any instruction -----------------------------------------------------------------


def captures(wallet: SharedWallet, price: int) -> Callable[[], object]:
    return lambda: held(wallet, 30).capture(price)


def releases(wallet: SharedWallet) -> Callable[[], object]:
    return lambda: held(wallet, 30).release()


def two_in_a_row(wallet: SharedWallet) -> Callable[[], object]:
    def work() -> None:
        held(wallet, 30).capture(30)
        held(wallet, 20).capture(5)

    return work


WORKS: dict[str, Callable[[SharedWallet], Callable[[], object]]] = {
    "fixed price": lambda wallet: captures(wallet, 30),
    "part": lambda wallet: captures(wallet, 20),
    "nothing": lambda wallet: captures(wallet, 0),
    "release": releases,
    "two": two_in_a_row,
}


def finish(wallet: SharedWallet, policy: str, *, other: bool) -> tuple[int, int]:
    """Resolve worker 0, after worker 1 used the wallet or not: (charged by worker 0, its records).

    Whatever state memory was in: nothing is held afterwards, and the wallet says what records say.
    """
    wallet.money.stopped(0)
    if other:
        wallet.money.begin(1)
        held(wallet, 7, worker=1).capture(3)
    wallet.money.resolve_dead(0, policy)
    records = wallet.collect(0)
    assert wallet.money.open_holds() == []
    assert wallet.balance == 100 - charged(records) - charged(wallet.collect(1))
    wallet.money.begin(0)
    left = wallet.balance
    held(wallet, left).release()
    assert wallet.balance == left
    return charged(records), len({record.id for record in records})


@pytest.mark.parametrize("work", WORKS)
def test_a_worker_killed_after_any_instruction(work: str) -> None:
    wallet = SharedWallet(100, ring=4, holds=4)
    states = images(wallet, WORKS[work](wallet))
    assert len(states) > 15
    memory = Memory(wallet)
    for policy in POLICIES:
        for other in (False, True):
            costs = []
            for state in states:
                memory.write(state)
                costs.append(finish(wallet.again(), policy, other=other)[0])
            # What was captured stays captured, whenever the worker dies after that.
            if policy == "release":
                assert costs == sorted(costs)
            last = {"fixed price": 30, "part": 20, "nothing": 0, "release": 0, "two": 35}[work]
            assert costs[0] == 0
            assert costs[-1] == last


def test_a_worker_killed_while_the_ring_is_full() -> None:
    wallet = SharedWallet(100, ring=1, holds=4)
    held(wallet, 10).capture(10)
    states = images(wallet, captures(wallet, 20))
    memory = Memory(wallet)
    seen = set()
    for state in states:
        memory.write(state)
        seen.add(finish(wallet.again(), "release", other=True))
    assert seen == {(10, 1), (10, 2), (30, 2)}


@pytest.mark.parametrize("policy", POLICIES)
def test_control_killed_after_any_instruction_of_resolving(policy: str) -> None:
    """From each state that a worker can leave that differs for the resolver."""
    wallet = SharedWallet(100, ring=4, holds=4)
    memory = Memory(wallet)
    states = images(wallet, captures(wallet, 20))
    kinds = {}
    for state in states:
        memory.write(state)
        key = [(o.state, o.taken, o.record.amount) for o in wallet.money.open_holds(0)]
        kinds[str(key)] = state
    assert len(kinds) >= 7
    for state in kinds.values():
        memory.write(state)
        wallet.money.stopped(0)
        uninterrupted = None
        control = wallet.again().money
        for half_done in reversed(images(wallet, partial(control.resolve_dead, 0, policy))):
            memory.write(half_done)
            result = finish(wallet.again(), policy, other=True)
            uninterrupted = uninterrupted or result
            assert result == uninterrupted


def test_control_killed_after_any_instruction_of_a_credit() -> None:
    """The ledger wrote the entry after `prepare`; whoever follows makes the wallet agree."""
    wallet = SharedWallet(100, ring=4, holds=4)
    memory = Memory(wallet)

    def work() -> None:
        it = wallet.accounts.prepare(SLOT, "EUR", 50, b"k" * 16)
        wallet.accounts.apply(it)
        wallet.accounts.finish(it)

    states = images(wallet, work)
    seen = []
    for other in (False, True):
        for state in states:
            memory.write(state)
            heir = wallet.again()
            if other:
                heir.money.begin(1)
                held(heir, 7, worker=1).capture(0)
            before = heir.balance
            known = heir.accounts.open_credits()
            for credit in known:
                assert credit.applied == (before == 150)
                heir.accounts.apply(credit)
                heir.accounts.apply(credit)
                heir.accounts.finish(credit)
            assert heir.balance == (150 if known else before)
            assert heir.accounts.open_credits() == []
            seen.append((before, bool(known), heir.balance))
    # Never begun; noted; in the wallet, and noted; forgotten.
    assert set(seen) == {
        (100, False, 100),
        (100, True, 150),
        (150, True, 150),
        (150, False, 150),
    }


# ---- against a naive wallet ---------------------------------------------------------------


class HoldsMachine(RuleBasedStateMachine):
    """Anything that may happen, in any order, against sums."""

    holds: Bundle[Held] = Bundle("holds")

    @initialize(balance=st.integers(0, 50))
    def make(self, balance: int) -> None:
        self.wallet = SharedWallet(balance, holds=4, ring=4)
        self.credited = balance
        self.open: dict[str, int] = {}
        self.owed: dict[str, int] = {}
        self.charges: dict[str, int] = {}
        self.ledger: dict[str, int] = {}

    def expected(self) -> int:
        return self.credited - sum(self.open.values()) - sum(self.charges.values())

    @rule(target=holds, worker=st.integers(0, 1), amount=st.integers(0, 20))
    def hold(self, worker: int, amount: int) -> MultipleResults[Held] | Held:
        before = self.expected()
        try:
            hold = self.wallet.money.hold(worker, SLOT, amount)
        except HoldTableFull:
            assert len(self.wallet.money.open_holds(worker)) == 4
            return multiple()
        assert (hold is not None) == (before >= amount)
        if hold is None:
            return multiple()
        assert hold.id not in self.open
        assert hold.id not in self.charges
        self.open[hold.id] = amount
        return hold, worker

    @rule(it=consumes(holds), part=st.floats(0, 1))
    def capture(self, it: Held, part: float) -> None:
        hold = it[0]
        if hold.id in self.open:
            actual = int(self.open.pop(hold.id) * part)
            hold.capture(actual)
            self.charges[hold.id] = actual
            self.owed.pop(hold.id, None)

    @rule(it=consumes(holds))
    def release(self, it: Held) -> None:
        hold = it[0]
        if hold.id in self.open:
            hold.release()
            del self.open[hold.id]
            self.owed.pop(hold.id, None)

    @rule(it=holds, amount=st.integers(0, 25))
    def due(self, it: Held, amount: int) -> None:
        hold = it[0]
        if hold.id in self.open:
            hold.due(amount)
            self.owed[hold.id] = min(amount, hold.held)

    @rule(delta=st.integers(-20, 30), floor=st.one_of(st.none(), st.integers(-5, 5)))
    def credit(self, delta: int, floor: int | None) -> None:
        before = self.expected()
        after = self.wallet.accounts.credit(SLOT, delta, floor=floor)
        if after is None:
            assert floor is not None
            assert before + delta < floor
        else:
            assert after == before + delta
            self.credited += delta

    @rule(worker=st.integers(0, 1), policy=st.sampled_from(POLICIES), noted=st.booleans())
    def die(self, worker: int, policy: str, noted: bool) -> None:
        if noted:
            self.wallet.money.stopped(worker)
        self.wallet.money.begin(worker)
        for record in self.wallet.money.resolve_dead(worker, policy):
            if record.id in self.open:
                amount = self.open.pop(record.id)
                due = self.owed.pop(record.id, 0)
                cost = {"due": due, "charge": amount, "release": 0}[policy]
                assert record.amount == cost
                self.charges[record.id] = cost

    @rule(worker=st.integers(0, 1), most=st.integers(1, 5), commit=st.booleans())
    def drain(self, worker: int, most: int, commit: bool) -> None:
        records, position = self.wallet.money.drain(worker, most)
        for record in records:
            assert self.charges[record.id] == record.amount
            if commit:
                self.ledger[record.id] = record.amount
        if commit:
            self.wallet.money.commit(worker, position)

    @invariant()
    def the_wallet_is_exact(self) -> None:
        assert self.wallet.balance == self.expected()
        held_now = [o.record for o in self.wallet.money.open_holds() if o.taken]
        assert {record.id: record.held for record in held_now} == self.open

    def teardown(self) -> None:
        if hasattr(self, "wallet"):
            for worker in range(2):
                for record in self.wallet.collect(worker):
                    self.ledger[record.id] = record.amount
            assert self.ledger == self.charges


TestHolds = HoldsMachine.TestCase
TestHolds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
