"""Accounts in the shared segment: rows, access, subscriptions, limits, balances, credits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memorykit import taken
from moneymapkit import IDENTITY, SIZES, SLOT, SharedWallet

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.wallet import ANY, Account, Accounts, SpendingLimit, Subscription
from fastgate._core.shared.segment import Segment

KEY = b"k" * 16


def accounts_of(rows: int = 4) -> Accounts:
    return Accounts(Segment.create(1, accounts=rows, **SIZES))


def test_an_account_in_its_row() -> None:
    accounts = accounts_of()
    accounts.put(2, 77, ["EUR", "USD"], access=20)
    assert accounts.get(2) == Account(2, 77, 20, {"EUR": 0, "USD": 0}, (), ())
    assert (2 in accounts, 1 in accounts, 9 in accounts, -1 in accounts) == (
        True,
        False,
        False,
        False,
    )
    assert (accounts.slots(), accounts.capacity) == ([2], 4)
    other = Accounts(Segment.attach(accounts.segment.fd))
    assert other.get(2) == accounts.get(2)


def test_putting_it_again_adds_wallets_only() -> None:
    wallet = SharedWallet(5)
    wallet.accounts.set_access(SLOT, 25)
    wallet.accounts.put(SLOT, IDENTITY, ["USD", "EUR"])
    account = wallet.accounts.get(SLOT)
    assert (account.wallets, account.access) == ({"EUR": 5, "USD": 0}, 25)
    assert wallet.accounts.open_wallet(SLOT, "GBP") == 2
    assert wallet.accounts.open_wallet(SLOT, "USD") == wallet.accounts.wallet(SLOT, "USD") == 1
    assert wallet.accounts.open_wallet(SLOT, "JPY") == 3
    with pytest.raises(ValueError, match="at most 4"):
        wallet.accounts.open_wallet(SLOT, "CHF")
    with pytest.raises(ValueError, match="at most 4"):
        wallet.accounts.put(SLOT, IDENTITY, ["CHF"])


def test_rows_that_cannot_be() -> None:
    accounts = accounts_of()
    accounts.put(0, 1)
    with pytest.raises(ValueError, match="another account"):
        accounts.put(0, 2)
    with pytest.raises(ValueError, match="cannot be 0"):
        accounts.put(1, 0)
    with pytest.raises(IndexError):
        accounts.put(4, 1)
    for slot in (1, 4, -1):
        for look in (accounts.get, accounts.balance):
            with pytest.raises(KeyError):
                look(slot)
    with pytest.raises(KeyError):
        accounts.balance(0)
    with pytest.raises(KeyError, match="EUR"):
        accounts.balance(0, "EUR")
    for currency in ("eur", "EURO", "", "E1R", "ÄÖÜ"):
        with pytest.raises(ValueError, match="three capital letters"):
            accounts.open_wallet(0, currency)


def test_untouched_rows_take_no_memory() -> None:
    segment = Segment.create(1)
    before = taken(segment.fd)
    Accounts(segment).put(65535, 1, ["EUR"])
    assert taken(segment.fd) - before <= 4096


def test_access_of_an_account() -> None:
    accounts = accounts_of()
    accounts.put(1, 5)
    accounts.set_access(1, 22)
    assert accounts.get(1).access == 22
    accounts.set_access(1, 0)
    assert accounts.get(1).access == 0
    with pytest.raises(ValueError, match="reason"):
        accounts.set_access(1, 65536)


def test_subscriptions_stay_where_they_are() -> None:
    accounts = accounts_of()
    accounts.put(1, 5)
    first = [Subscription(service, service + 10) for service in range(8)]
    accounts.set_subscriptions(1, first)
    assert accounts.get(1).subscriptions == tuple(first)
    kept = [Subscription(6, 1, 21), Subscription(ANY, 2, 0), Subscription(2, 12)]
    accounts.set_subscriptions(1, kept)
    assert accounts.get(1).subscriptions == (kept[1], kept[2], kept[0])
    accounts.set_subscriptions(1, [(6, 1)])
    assert accounts.get(1).subscriptions == (Subscription(6, 1),)
    accounts.set_subscriptions(1, [])
    assert accounts.get(1).subscriptions == ()
    for wrong in ([(1, 1), (1, 2)], [(service, 0) for service in range(9)]):
        with pytest.raises(ValueError, match="at most 8"):
            accounts.set_subscriptions(1, wrong)


def test_the_subscription_for_a_service() -> None:
    accounts = accounts_of()
    accounts.put(1, 5)
    assert accounts.subscription_for(1, 3) is None
    accounts.set_subscriptions(1, [(ANY, 1), (3, 2, 21)])
    assert accounts.subscription_for(1, 3) == Subscription(3, 2, 21)
    assert accounts.subscription_for(1, 4) == Subscription(ANY, 1)
    accounts.set_subscriptions(1, [(3, 2)])
    assert accounts.subscription_for(1, 4) is None
    # What is left of a subscription that was taken away is none, also for service 0.
    accounts.set_subscriptions(1, [])
    assert accounts.subscription_for(1, 0) is None


@given(st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 3), max_size=8), max_size=6))
def test_subscriptions_are_those_that_were_set(sets: list[dict[int, int]]) -> None:
    accounts = accounts_of()
    accounts.put(1, 5)
    for wanted in sets:
        accounts.set_subscriptions(1, list(wanted.items()))
        found = accounts.get(1).subscriptions
        assert sorted(found) == sorted(Subscription(*item) for item in wanted.items())


def test_spending_limits() -> None:
    accounts = accounts_of()
    accounts.put(1, 5)
    limits = (SpendingLimit(5_000_000, 3), SpendingLimit(2**56 - 1, 4))
    accounts.set_limits(1, limits)
    assert accounts.get(1).limits == limits
    accounts.set_limits(1, [(7, 4)])
    assert accounts.get(1).limits == (SpendingLimit(7, 4),)
    accounts.set_limits(1, [])
    assert accounts.get(1).limits == ()
    accounts.set_limits(1, [(0, 3)])  # nothing may be spent, which is not the same as no limit
    assert accounts.get(1).limits == (SpendingLimit(0, 3),)
    for wrong in ([(1, 0)], [(2**56, 3)], [(1, 7)], [(-1, 3)], [(1, 1), (2, 2), (3, 3)]):
        with pytest.raises(ValueError, match="spending limit"):
            accounts.set_limits(1, wrong)


# ---- balances ----------------------------------------------------------------------------------


def test_credits_and_debits() -> None:
    wallet = SharedWallet(0)
    assert wallet.accounts.credit(SLOT, 100) == 100
    assert wallet.accounts.credit(SLOT, -30, "EUR") == 70
    assert wallet.accounts.credit(SLOT, -71, floor=0) is None
    assert wallet.accounts.credit(SLOT, -70, floor=0) == 0
    assert wallet.accounts.credit(SLOT, -5) == -5
    assert wallet.accounts.credit(SLOT, 3, floor=0) == -2
    assert wallet.accounts.open_credits() == []


def test_balances_need_a_map_of_the_same_segment() -> None:
    wallet = SharedWallet(0)
    for accounts in (
        Accounts(wallet.segment),
        Accounts(wallet.segment, MoneyMap.create(None, 1, holds=1, ring=1)),
    ):
        with pytest.raises(TypeError, match="bound"):
            accounts.credit(SLOT, 1)
        with pytest.raises(TypeError, match="bound"):
            accounts.set_balance(SLOT, 0, 1)
        assert accounts.balance(SLOT) == 0


def test_a_credit_step_by_step() -> None:
    wallet = SharedWallet(10)
    credit = wallet.accounts.prepare(SLOT, "EUR", 5, KEY)
    assert wallet.balance == 10
    assert wallet.accounts.open_credits() == [credit]
    assert credit[2:] == (KEY, SLOT, 0, 5, False)
    assert wallet.accounts.apply(credit) == 15
    assert wallet.accounts.apply(credit) == 15
    assert wallet.again().accounts.open_credits() == [credit._replace(applied=True)]
    wallet.accounts.finish(credit)
    for step in (wallet.accounts.finish, wallet.accounts.apply):
        with pytest.raises(ValueError, match="already finished"):
            step(credit)
    other = wallet.accounts.prepare(SLOT, "EUR", 1, KEY)
    assert other.row == credit.row
    with pytest.raises(ValueError, match="already finished"):
        wallet.accounts.apply(credit)
    with pytest.raises(ValueError, match="no such credit"):
        wallet.accounts.apply(credit._replace(row=8))
    wallet.accounts.finish(other)
    assert wallet.balance == 15


def test_a_credit_that_was_used_at_once_is_not_applied_twice() -> None:
    """The tag is gone when control asks; the hold that replaced it has noted it in the row."""
    wallet = SharedWallet(0)
    credit = wallet.accounts.prepare(SLOT, "EUR", 5, KEY)
    assert wallet.accounts.apply(credit) == 5
    hold = wallet.money.hold(0, SLOT, 5)
    assert hold is not None
    heir = wallet.again().accounts
    [found] = heir.open_credits()
    assert found.applied
    assert heir.apply(found) == 0
    hold.release()
    assert heir.apply(found) == 5


def test_as_many_credits_as_there_are_rows() -> None:
    wallet = SharedWallet(0, holds=3)
    prepared = [wallet.accounts.prepare(SLOT, "EUR", n, KEY) for n in range(3)]
    with pytest.raises(RuntimeError, match="3 rows for credits"):
        wallet.accounts.credit(SLOT, 1)
    wallet.accounts.finish(prepared[1])
    assert wallet.accounts.credit(SLOT, 1) == 1
    assert [credit.delta for credit in wallet.accounts.open_credits()] == [0, 2]


def test_credits_that_cannot_be() -> None:
    wallet = SharedWallet(0)
    for delta in (2**60 + 1, -(2**60) - 1):
        with pytest.raises(ValueError, match="micro-units"):
            wallet.accounts.credit(SLOT, delta)
    with pytest.raises(ValueError, match="16 bytes"):
        wallet.accounts.prepare(SLOT, 0, 1, b"short")
    for balance in (2**62 + 1, -(2**62) - 1):
        with pytest.raises(ValueError, match="micro-units"):
            wallet.accounts.set_balance(SLOT, 0, balance)
    wallet.accounts.set_balance(SLOT, 0, 2**62)
    with pytest.raises(OverflowError):
        wallet.accounts.credit(SLOT, 1)
    wallet.accounts.set_balance(SLOT, 0, -(2**62))
    with pytest.raises(OverflowError):
        wallet.accounts.credit(SLOT, -1)
    assert wallet.balance == -(2**62)
    assert wallet.accounts.open_credits() == []


@given(
    st.lists(
        st.tuples(st.integers(-50, 50), st.one_of(st.none(), st.integers(-20, 20))), max_size=30
    )
)
def test_balances_are_sums(changes: list[tuple[int, int | None]]) -> None:
    wallet = SharedWallet(0)
    total = 0
    for delta, floor in changes:
        after = wallet.accounts.credit(SLOT, delta, floor=floor)
        if floor is None or delta >= 0 or total + delta >= floor:
            total += delta
            assert after == total
        else:
            assert after is None
        assert wallet.balance == total
