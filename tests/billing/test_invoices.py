"""Invoices: numbers without gaps, each document once, whole coins, a page that is safe."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulekit import BEGIN, ManualClock

from fastgate.billing.amounts import coin, show, whole_coins
from fastgate.billing.invoices.invoices import (
    DocumentKind,
    Draft,
    Invoice,
    InvoiceLine,
    Invoices,
    Status,
    render_html,
    rounded,
)
from fastgate.errors import ConflictError, NotFoundError
from fastgate.model.billing import Seller
from fastgate.store.engine import Store

SELLER = Seller(name="Seller & Sons", address=["1 Road", "Town"], tax_id="X1", email="a@b.example")


def draft(key: str, micros: int = 5_000_000, **more: object) -> Draft:
    values: dict[str, object] = {
        "key": key,
        "account": "acc_1",
        "currency": "USD",
        "lines": [InvoiceLine("Service", micros)],
    }
    return Draft(**(values | more))  # type: ignore[arg-type]


def invoices(store: Store, clock: ManualClock | None = None) -> Invoices:
    return Invoices(store, clock or ManualClock(), SELLER)


async def test_numbers_have_no_gaps_whatever_happens_at_once(store: Store) -> None:
    kept = invoices(store)

    async def fails() -> None:
        async with store.write() as connection:
            await kept.issue_in(connection, draft("never"))
            raise ZeroDivisionError

    jobs = [kept.issue(draft(f"k{number}")) for number in range(12)]
    done = await asyncio.gather(*jobs[:6], fails(), *jobs[6:], fails(), return_exceptions=True)
    numbers = sorted(one.number for one in done if isinstance(one, Invoice))
    assert numbers == [f"INV-2026-{number:06d}" for number in range(1, 13)]
    assert sum(isinstance(one, ZeroDivisionError) for one in done) == 2
    assert (await kept.issue(draft("after"))).number == "INV-2026-000013"


async def test_a_key_is_one_document_however_often_and_by_whomever(store: Store) -> None:
    kept, other = invoices(store), invoices(store)
    done = await asyncio.gather(
        *(one.issue(draft("same", 1_000_000 * n)) for n, one in enumerate((kept, other) * 4, 1))
    )
    assert len({invoice.id for invoice in done}) == 1
    assert (await kept.issue(draft("next"))).number == "INV-2026-000002"
    assert await kept.by_key("same") == done[0]
    assert await other.get(done[0].number) == done[0]
    with pytest.raises(NotFoundError):
        await kept.get("INV-1")


async def test_kinds_and_years_have_series_of_their_own(store: Store) -> None:
    clock = ManualClock()
    kept = invoices(store, clock)
    numbers = [(await kept.issue(draft(kind.value, kind=kind))).number for kind in DocumentKind]
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    numbers.append((await kept.issue(draft("later"))).number)
    assert numbers == [
        "INV-2026-000001",
        "INVR-2026-000001",
        "INVC-2026-000001",
        "INV-2027-000001",
    ]


async def test_a_document_is_paid_once(store: Store) -> None:
    clock = ManualClock()
    kept = invoices(store, clock)
    made = await kept.issue(draft("k"))
    assert (made.status, made.amount.micros, made.due) == (Status.OPEN, 5_000_000, BEGIN)
    clock.pass_(hours=1)
    done = await asyncio.gather(*(kept.mark_paid(made.id, f"pay_{n}") for n in range(5)))
    assert sum(changed for _, changed in done) == 1
    paid = await kept.get(made.id)
    assert (paid.status, paid.paid_at) == (Status.PAID, clock())
    with pytest.raises(ConflictError, match="is already paid"):
        await kept.void(made.id)
    void, changed = await kept.void((await kept.issue(draft("v"))).id)
    assert (void.status, changed) == (Status.VOID, True)
    assert (await kept.void(void.id))[1] is False
    receipt = await kept.issue(draft("r", kind=DocumentKind.RECEIPT, paid=True, reference="pay_9"))
    assert (receipt.status, receipt.reference) == (Status.PAID, "pay_9")


async def test_pages_are_the_newest_first(store: Store) -> None:
    kept = invoices(store)
    made = [await kept.issue(draft(f"k{n}", account=f"acc_{n % 2}")) for n in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await kept.page("acc_0", cursor=cursor, limit=2)
        seen += [invoice.id for invoice in page.items]
        if (cursor := page.next) is None:
            break
    assert seen == [invoice.id for invoice in reversed(made[::2])]


amounts = st.integers(-(10**12), 10**12)


@given(st.lists(amounts, max_size=6), st.sampled_from(["USD", "JPY", "KWD"]))
def test_totals_are_whole_coins_in_the_customers_favour(micros: list[int], currency: str) -> None:
    lines = [InvoiceLine("x", amount) for amount in micros]
    total = sum(line.micros for line in rounded(lines, currency))
    assert total % coin(currency) == 0
    assert 0 <= sum(micros) - total < coin(currency)
    assert whole_coins(sum(micros), currency) == total


@pytest.mark.parametrize(
    ("micros", "currency", "text"),
    [
        (12_500_000, "EUR", "12.50 EUR"),
        (-2_000, "USD", "-0.002 USD"),
        (0, "USD", "0.00 USD"),
        (7_000_000, "JPY", "7 JPY"),
        (1_234_000, "KWD", "1.234 KWD"),
        (-1, "USD", "-0.000001 USD"),
    ],
)
def test_amounts_as_people_read_them(micros: int, currency: str, text: str) -> None:
    assert show(micros, currency) == text


class _Reader(HTMLParser):
    """Collects text and tags, and whether every tag that is opened is closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


async def test_the_page_says_it_all_and_runs_nothing(sqlite_store: Store) -> None:
    nasty = "<script>alert('x')</script> & ${title}"
    made = await invoices(sqlite_store).issue(
        draft(
            "k",
            lines=[InvoiceLine(nasty, 1_000_000, 3), InvoiceLine("More", 234_567)],
            tax=190_000,
            period_start=datetime(2026, 10, 31, 23, tzinfo=UTC),
            period_end=datetime(2026, 11, 30, 23, tzinfo=UTC),
            reference="pay_1",
        )
    )
    page = render_html(made, SELLER, ["Customer <b>", "Street"], "Europe/Berlin")
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert not {"script", "img", "link", "iframe", "b"} & set(reader.tags)
    text = " ".join(" ".join(reader.words).split())
    for words in (
        "Invoice INV-2026-000001", nasty, "1.00 USD", "Seller & Sons", "Customer <b>", "Total",
        "1.23 USD", "0.19 USD", "For 2026-11-01 to 2026-11-30", "Due 2026-11-01", "Rounding",
        "Payment pay_1",
    ):  # fmt: skip
        assert words in text, words
