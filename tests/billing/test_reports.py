"""Reports add up the same as a naive loop over the records, on both databases."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moneykit import NOW, copy_of, pack, used

from fastgate.billing.ledger.ledger import Ledger
from fastgate.billing.reports import By, ReportQuery, ReportRow, columns, report, write_csv
from fastgate.model.units import decimal_text
from fastgate.store.engine import Store
from fastgate.store.parties import Parties
from fastgate.store.usage_blocks import Usage

DAY_US = 86_400_000_000
FIRST = int(datetime(2031, 5, 1, tzinfo=UTC).timestamp()) * 1_000_000

USAGES = st.lists(
    st.tuples(
        st.integers(0, 3 * DAY_US - 1),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["c1", "c2", ""]),
        st.sampled_from(["k1", "k2"]),
        st.sampled_from(["r1", "r2"]),
        st.sampled_from(["EUR", "USD", ""]),
        st.integers(0, 50),
        st.sampled_from([200, 404, 500, 503]),
    ),
    max_size=25,
)
ASKED = st.builds(
    ReportQuery,
    by=st.lists(st.sampled_from(list(By)), max_size=4),
    since=st.none() | st.dates(date(2031, 4, 30), date(2031, 5, 4)),
    until=st.none() | st.dates(date(2031, 4, 30), date(2031, 5, 4)),
    account=st.none() | st.sampled_from(["a", "b", "z"]),
    route=st.none() | st.just("r1"),
    currency=st.none() | st.just("EUR"),
)


def made(values: list[tuple[object, ...]]) -> list[Usage]:
    return [
        used(
            number,
            amount if currency else 0,  # type: ignore[arg-type]
            str(account),
            str(currency),
            time_us=FIRST + when,  # type: ignore[operator]
            consumer=consumer,
            credential=key,
            route=route,
            status=status,
        )
        for number, (when, account, consumer, key, route, currency, amount, status) in enumerate(
            values
        )
    ]


def naive(usages: list[Usage], asked: ReportQuery) -> dict[tuple[object, ...], list[int]]:
    found: dict[tuple[object, ...], list[int]] = {}
    for usage in usages:
        day = usage.time.date()
        if (asked.since and day < asked.since) or (asked.until and day > asked.until):
            continue
        if any(
            getattr(asked, name) not in (None, getattr(usage, name))
            for name in ("account", "route", "currency")
        ):
            continue
        key = tuple(day if by == By.DAY else getattr(usage, by) for by in asked.by)
        sums = found.setdefault((*key, usage.currency), [0, 0, 0, 0])
        for at, value in enumerate((1, usage.status >= 500, usage.units, usage.amount)):
            sums[at] += value
    return found


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(USAGES, st.lists(ASKED, min_size=1, max_size=4), st.integers(1, 9))
def test_it_adds_up_as_a_naive_loop(
    sqlite_migrated: Path,
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[object, ...]],
    questions: list[ReportQuery],
    batch: int,
) -> None:
    url = copy_of(sqlite_migrated, tmp_path_factory.mktemp("report") / "one")
    asyncio.run(_compare(url, made(values), questions, batch))


async def _compare(url: str, usages: list[Usage], questions: list[ReportQuery], batch: int) -> None:
    store = Store(url)
    await store.connect()
    try:
        ledger = Ledger(store, lambda: NOW)
        for start in range(0, len(usages), batch):
            await ledger.charge(pack(usages[start : start + batch]))
        for asked in questions:
            rows = await report(store, asked)
            by = list(dict.fromkeys(asked.by))
            unique = ReportQuery(
                by=by,
                since=asked.since,
                until=asked.until,
                account=asked.account,
                route=asked.route,
                currency=asked.currency,
            )
            found = {
                (*(getattr(row, key) for key in by), row.currency): [
                    row.requests,
                    row.failed,
                    row.units,
                    row.amount,
                ]
                for row in rows
            }
            assert found == naive(usages, unique)
            assert list(found) == sorted(found)
    finally:
        await store.stop()


async def test_rows_carry_the_names_of_what_they_are_about(store: Store) -> None:
    parties = Parties(store)
    account = await parties.create_account("Acme")
    consumer, _ = await parties.create_consumer(
        name="app", account="Acme", plan=None, suspended=False
    )
    key, _, _ = await parties.create_credential(
        "app", digest=b"d" * 32, prefix="", label="laptop", expires_at=None
    )
    usage = used(1, 5, account.id, consumer=consumer.id, credential=key.id)
    both = pack([usage, used(2, 6, "acc_gone", status=502)])
    await Ledger(store, lambda: NOW).charge(both)
    rows = await report(store, ReportQuery(by=[By.ACCOUNT]))
    assert sorted((row.label, row.amount, row.failed) for row in rows if row.label) == [
        ("Acme", 5, 0)
    ]
    assert [row.label for row in rows if row.account == "acc_gone"] == [None]
    (row,) = await report(store, ReportQuery(by=[By.ACCOUNT, By.CONSUMER], account=account.id))
    assert (row.label, row.consumer, row.day) == ("app", consumer.id, None)
    (row,) = await report(store, ReportQuery(by=[By.DAY, By.KEY], consumer=consumer.id))
    assert (row.label, row.day) == ("laptop", NOW.date())
    (row,) = await report(store, ReportQuery(by=[], plan="pro"))
    assert (row.requests, row.amount, row.failed, row.label) == (2, 11, 1, None)


def test_csv_is_read_by_others_and_starts_no_formula() -> None:
    by = [By.DAY, By.ROUTE, By.ACCOUNT]
    row = ReportRow(
        day=date(2031, 5, 1),
        route='say "hi", you',
        account="acc",
        label="=1+1",
        currency="EUR",
        requests=3,
        failed=1,
        units=-2,
        amount=5_000_001,
    )
    file = io.StringIO(newline="")
    write_csv([row], by, file)
    names, values = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert names == columns(by)
    assert dict(zip(names, values, strict=True)) == {
        "day": "2031-05-01",
        "route": 'say "hi", you',
        "account": "acc",
        "label": "'=1+1",
        "currency": "EUR",
        "requests": "3",
        "failed": "1",
        "units": "-2",
        "amount": "5000001",
    }
    assert columns([By.ROUTE]) == ["route", "currency", "requests", "failed", "units", "amount"]


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00"),
        (1_234_567, "1.234567"),
        (2_000_000, "2.00"),
        (-500_000, "-0.50"),
        (1, "0.000001"),
        (10**18 + 120_000, "1000000000000.12"),
    ],
)
def test_decimals_are_exact(micros: int, text: str) -> None:
    assert decimal_text(micros) == text
