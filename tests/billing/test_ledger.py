"""The ledger books each movement once, in double entry, and agrees with a naive one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moneykit import NOW, move, pack, used

from fastgate.billing.ledger.ledger import (
    EntryKind,
    InsufficientFundsError,
    Ledger,
    LedgerError,
    Movement,
    cell_key,
    settled_id,
)
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.store import usage as usage_table
from fastgate.store.engine import Store
from fastgate.store.ledger import WALLETS_MAX, Book, Standing, Wallet
from fastgate.store.money_tables import ledger_postings, usage_blocks, usage_daily
from fastgate.store.usage_blocks import RECOVERED, Usage


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store, lambda: NOW)


async def wallet_of(ledger: Ledger, account: str = "acc_a", currency: str = "EUR") -> Wallet:
    wallet = await ledger.wallet(account, currency)
    assert wallet is not None
    return wallet


async def test_a_credit_is_available_and_comes_from_the_provider(ledger: Ledger) -> None:
    movement = Movement("top-1", "acc_a", "EUR", 100, reference="inv 7", note="thanks")
    posted = await ledger.credit(movement, tax=19)
    assert posted.fresh
    assert posted.entry == await ledger.entry("top-1")
    assert posted.entry.postings == {Book.AVAILABLE: 100, Book.CLEARING: -119, Book.TAX: 19}
    assert (posted.entry.reference, posted.entry.note) == ("inv 7", "thanks")
    assert posted.entry.created == NOW
    assert await ledger.has_key(cell_key("top-1"))
    assert not await ledger.has_key(cell_key("top-2"))
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.credited, wallet.position) == (100, 100, 0)
    assert await ledger.wallet("acc_a", "USD") is None


async def test_the_same_movement_is_booked_once_and_another_is_refused(ledger: Ledger) -> None:
    first = await ledger.credit(move("t", 100))
    again = await ledger.credit(move("t", 100))
    assert (again.fresh, again.entry) == (False, first.entry)
    for other in (move("t", 101), move("t", 100, "acc_b"), move("t", 100, currency="USD")):
        with pytest.raises(ConflictError, match="a different movement"):
            await ledger.credit(other)
    with pytest.raises(ConflictError):
        await ledger.credit(move("t", 100), tax=1)
    with pytest.raises(ConflictError):
        await ledger.promo(move("t", 100))
    assert (await wallet_of(ledger)).customer_available == 100


async def test_many_at_once_with_one_id_are_one_entry(ledger: Ledger) -> None:
    posted = await asyncio.gather(*(ledger.credit(move("t", 5)) for _ in range(8)))
    assert sum(one.fresh for one in posted) == 1
    assert (await wallet_of(ledger)).customer_available == 5


async def test_promotional_credit_is_spent_first_and_is_no_revenue(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100))
    await ledger.promo(move("p", 30))
    charged = await ledger.charge(pack([used(1, 20), used(2, 25)]))
    assert charged.wallets == {("acc_a", "EUR"): Standing(85, 0)}
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.promotional, wallet.revenue) == (85, 0, 15)
    assert (wallet.captured, wallet.promo_spent, wallet.credited) == (45, 30, 130)
    # Revenue comes back first, then what promotion had paid for.
    await ledger.refund(move("r1", 10))
    await ledger.refund(move("r2", 10))
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.promotional, wallet.revenue) == (105, 5, 0)
    assert (wallet.captured, wallet.promo_spent) == (25, 25)
    with pytest.raises(InsufficientFundsError):
        await ledger.refund(move("r3", 26))
    again = await ledger.refund(move("r2", 10))
    assert again.fresh is False


async def test_promotional_credit_expires_as_far_as_it_is_left(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100))
    await ledger.promo(move("p", 30))
    await ledger.charge(pack([used(1, 20)]))
    with pytest.raises(InsufficientFundsError) as caught:
        await ledger.end_promo(move("e", 11))
    assert (caught.value.balance, caught.value.required) == (10, 11)
    await ledger.end_promo(move("e", 10))
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.promotional) == (100, 0)


async def test_what_is_paid_back_is_set_aside_first_and_settled_once(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100))
    await ledger.promo(move("p", 30))
    with pytest.raises(InsufficientFundsError) as caught:
        await ledger.freeze(move("f", 101))  # what was given away is not paid back
    assert caught.value.balance == 100
    await ledger.freeze(move("f", 60))
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.customer_held, wallet.credited) == (70, 60, 130)
    out = await ledger.pay_out("f", reference="re_1")
    assert (out.entry.id, out.entry.reference) == (settled_id("f"), "re_1")
    assert (await ledger.pay_out("f")).fresh is False
    with pytest.raises(ConflictError):
        await ledger.release("f")
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.customer_held, wallet.credited) == (70, 0, 70)
    assert wallet.provider_clearing == -40
    await ledger.freeze(move("g", 40))
    await ledger.release("g")
    assert (await wallet_of(ledger)).customer_available == 70
    with pytest.raises(NotFoundError):
        await ledger.pay_out("nothing")
    with pytest.raises(NotFoundError, match="did not set an amount aside"):
        await ledger.release("t")


async def test_a_dispute_may_leave_the_account_owing(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100))
    await ledger.charge(pack([used(1, 80)]))
    await ledger.dispute(move("d", 100))
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.customer_held) == (-80, 100)
    await ledger.pay_out("d")
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.provider_clearing, wallet.revenue) == (-80, 0, 80)


async def test_tax_leaves_revenue(ledger: Ledger) -> None:
    await ledger.credit(move("t", 119))
    await ledger.charge(pack([used(1, 119)]))
    await ledger.tax(move("x", 19))
    wallet = await wallet_of(ledger)
    assert (wallet.revenue, wallet.tax, wallet.captured) == (100, 19, 119)


async def test_corrections_are_new_entries(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100), tax=19)
    movement, postings = await ledger.reversal("t")
    await ledger.correct(movement, postings)
    assert (await ledger.correct(movement, postings)).fresh is False
    wallet = await wallet_of(ledger)
    assert (wallet.customer_available, wallet.provider_clearing, wallet.tax) == (0, 0, 0)
    assert (await ledger.entry("t")).amount == 100
    with pytest.raises(LedgerError, match="zero"):
        await ledger.correct(move("c", 5), {Book.AVAILABLE: 5, Book.REVENUE: -4})
    with pytest.raises(LedgerError, match="zero"):
        await ledger.correct(move("c", 4), {Book.AVAILABLE: 5, Book.REVENUE: -5})
    await ledger.credit(move("u", 100))
    await ledger.freeze(move("f", 10))
    with pytest.raises(LedgerError, match="cannot be reversed"):
        await ledger.reversal("f")


async def test_an_overdraft_is_noted_with_the_wallet(ledger: Ledger) -> None:
    await ledger.set_overdraft(move("o", 500), 500)
    wallet = await wallet_of(ledger)
    assert (wallet.overdraft, wallet.customer_available, wallet.spendable) == (500, 0, 500)
    with pytest.raises(LedgerError):
        await ledger.set_overdraft(move("o2", 1), -1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("", "a", "EUR", 1), "id"),
        (("x" * 161, "a", "EUR", 1), "id"),
        (("a\0b", "a", "EUR", 1), "id"),
        (("x", "", "EUR", 1), "account"),
        (("x", "a", "eur", 1), "currency"),
        (("x", "a", "EURO", 1), "currency"),
        (("x", "a", "EUR", 0), "amount"),
        (("x", "a", "EUR", -5), "amount"),
        (("x", "a", "EUR", True), "amount"),
        (("x", "a", "EUR", 1.5), "amount"),
        (("x", "a", "EUR", 2**60 + 1), "amount"),
        (("x", "a", "EUR", 1, "r" * 201), "reference"),
    ],
)
def test_a_movement_that_cannot_be_is_refused(values: tuple[object, ...], says: str) -> None:
    with pytest.raises(LedgerError, match=says):
        Movement(*values)  # type: ignore[arg-type]


async def test_an_account_has_a_few_currencies(ledger: Ledger) -> None:
    for number in range(WALLETS_MAX):
        await ledger.credit(move(f"t{number}", 1, currency=f"AA{chr(65 + number)}"))
    with pytest.raises(LedgerError, match="currencies"):
        await ledger.credit(move("t", 1, currency="ZZZ"))
    assert [wallet.position for wallet in await ledger.wallets("acc_a")] == [0, 1, 2, 3]


async def test_usage_is_charged_once_whatever_way_it_comes(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100))
    await ledger.credit(move("u", 100, "acc_b", "USD"))
    batch = [used(1, 10), used(2, 0, flags=2), used(3, 7, "acc_b", "USD"), used(1, 10)]
    charged = await ledger.charge(pack(batch))
    assert charged.records == 3
    assert charged.wallets == {
        ("acc_a", "EUR"): Standing(90, 0),
        ("acc_b", "USD"): Standing(93, 0),
    }
    more = pack([used(3, 7, "acc_b", "USD"), used(4, 5)])
    charged = await ledger.charge(more)
    assert charged.wallets == {  # also of what was there already
        ("acc_a", "EUR"): Standing(85, 0),
        ("acc_b", "USD"): Standing(93, 0),
    }
    assert (await ledger.charge(pack(batch))).records == 0
    assert (await wallet_of(ledger)).customer_available == 85
    async with ledger.store.read() as connection:
        rows = (
            await connection.execute(
                sa.select(usage_blocks.c.records, usage_blocks.c.entry).order_by(usage_blocks.c.low)
            )
        ).all()
        days = (await connection.execute(sa.select(usage_daily))).all()
    assert [row.records for row in rows] == [2, 1, 1]
    assert all(row.entry for row in rows)
    assert {(day.account, day.requests, day.units, day.amount) for day in days} == {
        ("acc_a", 3, 9, 15),
        ("acc_b", 1, 3, 7),
    }
    page = await usage_page(ledger, "acc_a")
    assert page == [used(n, a, flags=f) for n, a, f in ((4, 5, 1), (2, 0, 2), (1, 10, 1))]


async def usage_page(ledger: Ledger, account: str) -> list[Usage]:
    items: list[Usage] = []
    cursor = None
    while True:
        async with ledger.store.read() as connection:
            page = await usage_table.page(connection, account, cursor=cursor, limit=1)
        items += page.items
        cursor = page.next
        if cursor is None:
            return items


async def test_what_dead_workers_left_is_listed(ledger: Ledger) -> None:
    await ledger.credit(move("t", 100))
    recovered = used(9, 40, flags=1 | RECOVERED, id="b" * 16 + "04" + "9".zfill(14))
    await ledger.charge(pack([used(1, 1), recovered]))
    await ledger.charge(pack([recovered]))
    async with ledger.store.read() as connection:
        (found,) = await usage_table.resolved(connection, since=NOW, limit=10)
        assert await usage_table.resolved(connection, since=NOW + timedelta(1), limit=10) == []
    assert (found.id, found.worker, found.charged) == (recovered.id, 3, 40)
    assert (found.happened, found.resolved) == (recovered.time, NOW)


async def test_history_is_read_in_pages_the_newest_first(ledger: Ledger) -> None:
    for number in range(5):
        await ledger.credit(move(f"t{number}", 1 + number))
        await ledger.credit(move(f"u{number}", 1, currency="USD"))
        await ledger.credit(move(f"v{number}", 1, "acc_b"))
    found: list[str] = []
    cursor = None
    while True:
        page = await ledger.history("acc_a", currency="EUR", cursor=cursor, limit=2)
        found += [entry.id for entry in page.items]
        assert all(sum(entry.postings.values()) == 0 for entry in page.items)
        cursor = page.next
        if cursor is None:
            break
    assert found == ["t4", "t3", "t2", "t1", "t0"]
    assert len((await ledger.history("acc_a", limit=50)).items) == 10


async def test_nothing_is_booked_while_the_store_is_away(ledger: Ledger) -> None:
    await ledger.store.stop()
    with pytest.raises(StoreError):
        await ledger.credit(move("t", 1))


async def test_unbalanced_postings_reach_no_table(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="zero"):
        await ledger._post(EntryKind.CORRECTION, move("t", 5), {Book.AVAILABLE: 5})
    async with ledger.store.read() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(ledger_postings)) == 0


# ---- against a naive ledger -------------------------------------------------------------

ACCOUNTS = st.sampled_from(["acc_a", "acc_b"])
AMOUNTS = st.integers(1, 60)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["credit", "promo", "end_promo", "refund", "freeze", "dispute"]),
            st.integers(0, 11),  # few ids, so that many are duplicates
            ACCOUNTS,
            AMOUNTS,
        ),
        st.tuples(st.sampled_from(["pay_out", "release"]), st.integers(0, 11), ACCOUNTS, AMOUNTS),
        st.tuples(
            st.just("charge"),
            st.lists(st.tuples(st.integers(0, 40), ACCOUNTS, st.integers(0, 20)), max_size=6),
        ),
    ),
    max_size=30,
)


class Naive:
    """Books as plain numbers, one account at a time, no tables, no batches."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, str, int]] = {}
        self.usage: dict[int, tuple[str, int]] = {}
        self.books: dict[str, dict[str, int]] = {}
        self.aside: dict[str, str] = {}

    def of(self, account: str) -> dict[str, int]:
        zero = ("paid", "promo", "held", "revenue", "promo_spent", "in")
        return self.books.setdefault(account, dict.fromkeys(zero, 0))

    def available(self, account: str) -> int:
        return self.of(account)["paid"] + self.of(account)["promo"]

    def step(self, kind: str, ident: str, account: str, amount: int) -> bool:
        """Whether it is booked, or was."""
        if kind in ("pay_out", "release"):
            return self.settle(kind, ident)
        if ident in self.seen:
            return self.seen[ident] == (kind, account, amount)
        b = self.of(account)
        if kind == "credit":
            b["paid"] += amount
            b["in"] += amount
        elif kind == "promo":
            b["promo"] += amount
        elif kind == "end_promo":
            if amount > min(b["promo"], self.available(account)):
                return False
            b["promo"] -= amount
        elif kind == "refund":
            if amount > b["revenue"] + b["promo_spent"]:
                return False
            money = min(amount, b["revenue"])
            b["revenue"] -= money
            b["paid"] += money
            b["promo_spent"] -= amount - money
            b["promo"] += amount - money
        else:
            if kind == "freeze" and amount > b["paid"]:
                return False
            b["paid"] -= amount
            b["held"] += amount
            self.aside[ident] = ""
        self.seen[ident] = (kind, account, amount)
        return True

    def settle(self, kind: str, ident: str) -> bool:
        if ident not in self.aside or self.aside[ident] not in ("", kind):
            return False
        if self.aside[ident] == "":
            _, account, amount = self.seen[ident]
            b = self.of(account)
            b["held"] -= amount
            b["in" if kind == "pay_out" else "paid"] += -amount if kind == "pay_out" else amount
            self.aside[ident] = kind
        return True

    def charge(self, batch: list[tuple[int, str, int]]) -> None:
        for number, account, amount in batch:
            if number in self.usage:
                continue
            self.usage[number] = (account, amount)
            b = self.of(account)
            promo = min(amount, b["promo"])
            b["promo"] -= promo
            b["promo_spent"] += promo
            b["paid"] -= amount - promo
            b["revenue"] += amount - promo


@pytest.mark.parametrize("run", range(2))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_it_agrees_with_a_naive_ledger(
    sqlite_migrated: Path, tmp_path: Path, run: int, steps: list[tuple[object, ...]]
) -> None:
    path = tmp_path / "one.db"
    path.write_bytes(sqlite_migrated.read_bytes())
    asyncio.run(_compare(f"sqlite:///{path}", steps, retry=bool(run)))
    for each in tmp_path.iterdir():
        each.unlink()


async def _compare(url: str, steps: list[tuple[object, ...]], *, retry: bool) -> None:
    """Play the steps on both; with `retry`, each step of ours twice."""
    store = Store(url)
    await store.connect()
    ledger, naive = Ledger(store, lambda: NOW), Naive()
    try:
        for kind, *rest in steps:
            if kind == "charge":
                (batch,) = rest
                naive.charge(batch)  # type: ignore[arg-type]
                # A block each: which record of an id comes first is not to depend on the blocks.
                usages = [used(n, amount, account) for n, account, amount in batch]  # type: ignore[attr-defined]
                blocks = [block for usage in usages for block in pack([usage])]
                for _ in range(1 + retry):
                    await ledger.charge(blocks)
                continue
            number, account, amount = rest
            ident = f"m{number}"
            expected = naive.step(str(kind), ident, str(account), int(amount))  # type: ignore[call-overload]
            for _ in range(1 + retry):
                assert await _try(ledger, str(kind), ident, str(account), int(amount)) is expected  # type: ignore[call-overload]
        for account, books in naive.books.items():
            wallet = await ledger.wallet(account, "EUR")
            if wallet is None:
                assert not any(books.values())
                continue
            assert wallet.customer_available == naive.available(account)
            assert wallet.promotional == books["promo"]
            assert wallet.customer_held == books["held"]
            assert wallet.revenue == books["revenue"]
            assert wallet.provider_clearing == -books["in"]
            assert wallet.promo_spent == books["promo_spent"]
            assert wallet.captured == books["revenue"] + books["promo_spent"]
            assert wallet.captured + wallet.customer_held + wallet.customer_available == (
                wallet.credited
            )
    finally:
        await store.stop()


async def _try(ledger: Ledger, kind: str, ident: str, account: str, amount: int) -> bool:
    try:
        if kind in ("pay_out", "release"):
            await getattr(ledger, kind)(ident)
        else:
            await getattr(ledger, kind)(move(ident, amount, account))
    except (LedgerError, ConflictError, NotFoundError):
        return False
    return True
