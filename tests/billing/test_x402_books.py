"""Payments for single requests in the ledger: each once, whoever dies when, and audited."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from enginekit import Backend, Seen
from paidroutekit import Clock, PaidRouteSetup, _clean, _facilitator, setup  # noqa: F401
from storekit import down_to, up
from x402kit import PRICE, Fault

from fastgate.billing.audit.audit import audit
from fastgate.billing.audit.report import Check
from fastgate.billing.ledger.ledger import Ledger
from fastgate.billing.reports import By, ReportQuery, report
from fastgate.billing.x402.books import X402_ACCOUNT, X402Books, decide, entry_id, listed
from fastgate.billing.x402.claims import ClaimRecord, Claims, Paid, State
from fastgate.errors import ConflictError, NotFoundError
from fastgate.store.engine import Store
from fastgate.store.ledger import Book

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
CURRENCY = f"eip155:84532/erc20:{TOKEN.lower()}"


def paid(**more: Any) -> Paid:
    fields: dict[str, Any] = {
        "network": "eip155:84532", "asset": TOKEN, "asset_name": "USDC", "decimals": 6,
        "amount": "1000", "pay_to": "0xshop",
    }  # fmt: skip
    return Paid(**{**fields, **more})


class X402World:
    """Claims of workers, and control's books of them."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.now = NOW.timestamp()
        self.claims = Claims(folder, lambda: self.now)
        self.store = store
        self.ledger = Ledger(store, lambda: NOW)
        self.books = X402Books(self.claims, store, lambda: NOW)

    def came(self, number: int, *states: State, **more: Any) -> str:
        """A payment's record, as far as it has come; its name."""
        key = number.to_bytes(32, "big")
        claim = self.claims.open(key)
        for state in states:
            fields = {"paid": paid(), "expires": int(self.now) + 60, **more}
            record = ClaimRecord(
                state=state, request="r", route="weather", payer="0xab", created=int(self.now),
                transaction="0xfeed", **fields,
            )  # fmt: skip
            claim.write(record)
        claim.close()
        return key.hex()

    @property
    def due(self) -> set[str]:
        return {name for name, _ in self.claims.due()}

    async def revenue(self) -> dict[str, int]:
        """What was earned, by currency."""
        found: dict[str, int] = {}
        for entry in (await self.ledger.history(X402_ACCOUNT, limit=500)).items:
            assert entry.postings[Book.CLEARING] == -entry.postings[Book.REVENUE]
            at = entry.currency
            found[at] = found.get(at, 0) + entry.postings[Book.REVENUE]
        return found

    async def balance(self) -> tuple[int, int, int]:
        """Cleared, owed to payers, earned."""
        books = (Book.CLEARING, Book.HELD, Book.REVENUE)
        entries = (await self.ledger.history(X402_ACCOUNT, limit=500)).items
        cleared, owed, earned = (
            sum(entry.postings.get(book, 0) for entry in entries) for book in books
        )
        return cleared, owed, earned

    async def audited(self) -> Check:
        """The audit passes; its check of these payments."""
        result = await audit(self.store)
        assert result.passed, [one.findings for one in result.checks]
        return next(one for one in result.checks if one.name == "x402")

    async def finding(self) -> list[str]:
        result = await audit(self.store)
        return [text for check in result.checks for text in check.findings]


@pytest.fixture
def world(store: Store, tmp_path: Path) -> X402World:
    return X402World(tmp_path / "x402", store)


async def test_a_settled_payment_is_an_entry_in_its_token(world: X402World) -> None:
    name = world.came(1, "running", "settling", "settled", "served")
    assert await world.books.step() == 1
    entry = await world.ledger.entry(entry_id(name))
    assert (entry.kind, entry.account, entry.currency, entry.amount) == (
        "x402", X402_ACCOUNT, CURRENCY, 1000,
    )  # fmt: skip
    assert entry.postings == {Book.CLEARING: -1000, Book.REVENUE: 1000}
    assert (entry.reference, entry.note) == ("0xfeed", "weather, paid by 0xab")
    check = await world.audited()
    assert check.numbers == {f"{CURRENCY}.paid": 1000, "doubtful": 0, "owed": 0, "wrong": 0}
    assert await world.ledger.wallets(X402_ACCOUNT) == []  # the payer is no customer
    assert world.due == set()


async def test_tokens_are_never_added_up(world: X402World) -> None:
    world.came(1, "settling", "settled")
    world.came(2, "settling", "settled", paid=paid(network="eip155:8453"))
    world.came(3, "settling", "settled", paid=paid(decimals=18, amount=str(5 * 10**17)))
    other = "0x" + "A" * 40
    world.came(4, "settling", "settled", paid=paid(asset=other, decimals=0, amount="2"))
    await world.books.step()
    assert await world.revenue() == {
        CURRENCY: 1000 + 500_000,
        CURRENCY.replace("84532", "8453"): 1000,
        f"eip155:84532/erc20:{other.lower()}": 2_000_000,
    }
    await world.audited()


async def test_whatever_is_looked_at_again_is_booked_once(world: X402World) -> None:
    for number in range(5):
        name = world.came(number, "settling", "settled")
    assert await world.books.step() == 5
    assert await world.books.step() == 0
    world.came(4, "settling", "settled")  # due once more
    assert world.due == {name}
    assert await world.books.step() == 0
    assert await world.revenue() == {CURRENCY: 5000}


@pytest.mark.parametrize("state", ["settling", "unknown", "unsent"])
async def test_what_is_in_doubt_waits_and_is_booked_when_it_is_found_out(
    world: X402World, state: State
) -> None:
    name = world.came(1, "settling", state)
    assert await world.books.step() == 0
    assert world.due == {name}
    world.came(1, "settled", presumed=True)
    assert await world.books.step() == 1
    (payment,) = (await listed(world.store, limit=10)).items
    assert (payment.state, payment.presumed, payment.amount) == ("settled", True, 1000)


async def test_what_was_never_found_out_is_listed_and_not_booked(world: X402World) -> None:
    names = {state: world.came(at, "settling", state) for at, state in enumerate(STATES)}
    world.now += 61
    assert world.claims.sweep() == 0  # not before the books have looked
    await world.books.step()
    assert world.due == set()
    found = (await listed(world.store, limit=10)).items
    assert {one.id: one.state for one in found} == {
        names["settling"]: "unknown", names["unknown"]: "unknown",
        names["settled"]: "settled", names["served"]: "settled",
    }  # fmt: skip
    assert await world.revenue() == {CURRENCY: 2000}
    assert (await world.audited()).numbers["doubtful"] == 2
    assert world.claims.sweep() == len(STATES)
    # It turns out to have been paid after all.
    world.came(STATES.index("unknown"), "settling", "settled")
    assert await world.books.step() == 1
    assert await world.revenue() == {CURRENCY: 3000}
    assert (await world.audited()).numbers["doubtful"] == 1
    unknown = (await listed(world.store, state="unknown", limit=10)).items
    assert [one.id for one in unknown] == [names["settling"]]


async def test_what_an_operator_found_out_is_booked_once(world: X402World) -> None:
    """It was paid, and nobody was served: that is owed to the payer, until it is decided."""
    first, second, third = (world.came(at, "settling", "unknown") for at in range(3))
    world.now += 61
    await world.books.step()

    async def say(name: str, outcome: str) -> str:
        return (await decide(world.store, lambda: NOW, name, outcome, "0xfound")).state

    for _ in range(2):
        assert [await say(first, "paid"), await say(second, "paid")] == ["owed", "owed"]
        assert await say(third, "unpaid") == "void"
    assert await world.balance() == (-2000, 2000, 0)
    check = await world.audited()
    assert (check.numbers["doubtful"], check.numbers["owed"]) == (0, 2)
    assert await report(world.store, ReportQuery(by=[By.ROUTE])) == []
    for _ in range(2):
        assert [await say(first, "refunded"), await say(second, "kept")] == ["refunded", "kept"]
    assert await world.balance() == (-1000, 0, 1000)
    (row,) = await report(world.store, ReportQuery(by=[By.ROUTE]))
    assert row.amount == 1000
    for name, outcome in ((first, "kept"), (second, "refunded"), (third, "kept")):
        with pytest.raises(ConflictError, match="cannot be"):
            await say(name, outcome)
    with pytest.raises(NotFoundError):
        await say("00", "paid")
    await world.audited()


async def test_what_was_paid_and_not_served_is_owed(world: X402World) -> None:
    world.came(1, "settling", "settled")
    await world.books.step()
    assert await world.balance() == (-1000, 0, 1000)
    for _ in range(2):
        name = world.came(1, "settled", code="owed")
        await world.books.step()
        assert await world.balance() == (-1000, 1000, 0)
        assert (await world.audited()).numbers["owed"] == 1
    await decide(world.store, lambda: NOW, name, "refunded")
    world.came(1, "settled", code="owed")  # asked for again
    await world.books.step()
    assert await world.balance() == (0, 0, 0)
    await world.audited()


STATES: list[State] = ["settling", "unknown", "unsent", "failed", "settled", "served"]


async def test_an_identifiers_record_is_no_payment(world: X402World) -> None:
    world.came(1, "served", paid=None)
    assert world.due == set()
    assert await world.books.step() == 0


async def test_what_cannot_be_counted_stays_due(world: X402World) -> None:
    name = world.came(1, "settling", "settled", paid=paid(decimals=18, amount="1"))
    world.came(2, "settling", "settled")
    assert await world.books.step() == 1
    assert world.due == {name}


async def test_a_payment_is_booked_once_by_two_controls(world: X402World, tmp_path: Path) -> None:
    for number in range(20):
        world.came(number, "settling", "settled")
    other = X402Books(world.claims, world.store, lambda: NOW)
    assert sum(await asyncio.gather(world.books.step(), other.step())) == 20
    assert await world.revenue() == {CURRENCY: 20_000}


class Killed(BaseException):
    """Control was killed here."""


@pytest.mark.parametrize("at", range(3))
async def test_control_killed_at_any_step(world: X402World, at: int, monkeypatch: Any) -> None:
    """Before the commit, after it, and after the first of the notes was taken away."""
    for number in range(3):
        world.came(number, "settling", "settled")
    with monkeypatch.context() as patch:
        steps = iter(range(99))

        def step() -> None:
            if next(steps) == at:
                raise Killed

        written, looked = world.store.run_write, world.claims.looked_at

        async def run_write(work: Callable[[sa.Connection], Any]) -> Any:
            step()
            result = await written(work)
            step()
            return result

        def looked_at(name: str) -> None:
            looked(name)
            step()

        patch.setattr(world.store, "run_write", run_write)
        patch.setattr(world.claims, "looked_at", looked_at)
        with pytest.raises(Killed):
            await world.books.step()
    assert len(world.due) == (2 if at == 2 else 3)
    again = X402Books(world.claims, world.store, lambda: NOW)
    assert await again.step() == (3 if at == 0 else 0)
    assert world.due == set()
    assert await world.revenue() == {CURRENCY: 3000}
    await world.audited()


# ---- what the audit finds -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "finding"),
    [
        ("DELETE FROM x402_payments", "entry x402:{0}: no x402 payment of that name"),
        ("UPDATE x402_payments SET amount = 7", "x402 payment {0}: booked ('x402', "),
        ("UPDATE x402_payments SET currency = 'EUR'", "x402 payment {0}: booked ('x402', "),
        ("UPDATE x402_payments SET state = 'unknown'", "x402 payment {0}: unknown, and booked"),
        ("UPDATE ledger_entries SET id = 'x402:other'", "x402 payment {0}: booked nothing"),
        ("UPDATE ledger_entries SET account = 'acc_a'", "x402 payment {0}: booked ('acc_a', "),
        ("UPDATE ledger_entries SET kind = 'fee'", "x402 payment {0}: booked nothing"),
        (
            "UPDATE ledger_postings SET book = 'tax' WHERE book = 'revenue'",
            "entry x402:{0}: the payment is settled, and its postings are {{",
        ),
    ],
)
async def test_the_audit_finds_what_was_broken(
    world: X402World, break_it: str, finding: str
) -> None:
    name = world.came(1, "settling", "settled")
    await world.books.step()
    await world.audited()
    async with world.store.write() as connection:
        await connection.execute(sa.text(break_it))
    assert any(text.startswith(finding.format(name)) for text in await world.finding())


async def test_other_entries_without_a_wallet_are_still_found(world: X402World) -> None:
    world.came(1, "settling", "settled")
    await world.books.step()
    async with world.store.write() as connection:
        await connection.execute(sa.text("UPDATE ledger_entries SET account = 'acc_a'"))
    assert f"acc_a {CURRENCY}: entries without a wallet" in await world.finding()


# ---- reports, lists, schema -----------------------------------------------------------------


async def test_it_is_in_reports_where_other_revenue_is(world: X402World) -> None:
    for number in range(3):
        world.came(number, "settling", "settled")
    world.came(9, "settling", "unknown")
    await world.books.step()
    day = date(2031, 5, 4)
    (row,) = await report(world.store, ReportQuery(by=[By.DAY, By.ACCOUNT, By.ROUTE]))
    assert (row.day, row.account, row.route, row.currency) == (
        day,
        X402_ACCOUNT,
        "weather",
        CURRENCY,
    )
    assert (row.requests, row.failed, row.units, row.amount) == (3, 0, 3, 3000)
    (row,) = await report(
        world.store, ReportQuery(by=[By.PLAN], account=X402_ACCOUNT, route="weather")
    )
    assert (row.plan, row.amount) == ("", 3000)
    for asked in (
        ReportQuery(account="acc_a"),
        ReportQuery(route="other"),
        ReportQuery(plan="pro"),
        ReportQuery(since=date(2031, 5, 5)),
        ReportQuery(until=date(2031, 5, 3)),
        ReportQuery(currency="EUR"),
    ):
        assert await report(world.store, asked) == []


async def test_the_list_has_pages(world: X402World) -> None:
    for number in range(5):
        world.came(number, "settling", "settled")
    await world.books.step()
    seen: list[str] = []
    cursor = None
    while True:
        page = await listed(world.store, cursor=cursor, limit=2)
        seen += [one.id for one in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 5


async def test_the_step_of_the_schema_goes_both_ways(world: X402World) -> None:
    world.came(1, "settling", "settled")
    await world.books.step()
    async with world.store.write() as connection:
        await connection.run_sync(down_to, "0012")
        left = await connection.execute(sa.text("SELECT count(*) FROM ledger_postings"))
        assert left.scalar() == 0
        await connection.run_sync(up)
    assert await world.revenue() == {}
    await world.audited()


# ---- through a real engine ------------------------------------------------------------------


async def test_what_the_shop_got_is_what_the_books_say(
    facilitator: Any, tmp_path: Path, sqlite_store: Store
) -> None:
    """Payments served, replayed, refused, lost in every way, asked again or not: the ledger has
    what the chain says, less what is still in doubt; nothing when it is found out."""
    chance = random.Random(7)
    ways = ["html", "lying", "truncated", "closed", "garbage", "long"]
    async with setup(facilitator, tmp_path / "x402", clock=Clock(), timeout="20s") as s:
        world = X402World(tmp_path / "x402", sqlite_store)
        world.now = s.store.clock()
        open_payments: list[str] = []
        for _ in range(40):
            kind = chance.choice(["good", "good", "replay", "doubt", "doubt", "again"])
            if kind == "good":
                payment = await s.payment()
                assert (await s.ask(payment)).status == 200
                if chance.random() < 0.3:
                    assert (await s.ask(payment)).status == 402
            elif kind == "replay":
                payment = await s.payment()
                await asyncio.gather(*(s.ask(payment) for _ in range(4)))
            elif kind == "doubt":
                payment = await s.payment()
                fault = Fault(chance.choice(ways), moved=chance.random() < 0.5)
                facilitator.faults["/settle"].append(fault)
                assert (await s.ask(payment)).status == 503
                open_payments.append(payment)
            elif open_payments:
                at = chance.randrange(len(open_payments))
                assert (await s.ask(open_payments.pop(at))).status == 200
            if chance.random() < 0.5:
                await world.books.step()
        await _agrees(s, world, len(open_payments))
        for payment in open_payments:
            assert (await s.ask(payment)).status == 200
        await _agrees(s, world, 0)
        assert s.sold > 10


async def _agrees(s: PaidRouteSetup, world: X402World, open_payments: int) -> None:
    await world.books.step()
    earned = sum((await world.revenue()).values())
    assert len(world.due) == open_payments
    assert earned <= s.sold * PRICE <= earned + open_payments * PRICE
    await world.audited()


async def test_a_client_that_left_is_booked_as_it_owes(
    facilitator: Any, tmp_path: Path, sqlite_store: Store
) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    async def respond(backend: Backend, seen: Seen) -> bytes:
        reached.set()
        await gate.wait()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async with setup(facilitator, tmp_path / "x402", respond) as s:
        world = X402World(tmp_path / "x402", sqlite_store)
        world.now = s.store.clock()
        payment = await s.payment()
        client = await s.plane.client()
        await client.send("GET", "/w/1", headers={"PAYMENT-SIGNATURE": payment})
        await reached.wait()
        await client.reset()
        await s.plane.settled(exchanges=0)
        await s.idle()
        gate.set()
        await _agrees(s, world, 0)
        assert list((await world.revenue()).values()) == [PRICE]
