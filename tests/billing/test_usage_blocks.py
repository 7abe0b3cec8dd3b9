"""Blocks of usage: made alike in C and in Python, taken apart, searched, listed, migrated."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from alembic import command
from hypothesis import given
from hypothesis import strategies as st
from moneykit import NOW, NOW_NS, move, pack, records_in, used

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.usage_block import Line, numbers, pack_lines, sums, unpack_lines
from fastgate._core.shared.segment import Segment
from fastgate.billing.audit.audit import audit
from fastgate.billing.ledger.ledger import Ledger
from fastgate.store import usage
from fastgate.store.engine import Store
from fastgate.store.migrate import alembic_config
from fastgate.store.migrations.versions.m0009_usage_lines import LINE, differences, fixed
from fastgate.store.pages import BadCursor, encode_cursor
from fastgate.store.usage_blocks import DAY_US, RECOVERED, Usage

NOTES = st.lists(
    st.tuples(
        st.integers(0, 3),  # account, consumer and the like: few, so that many are alike
        st.integers(0, 2),
        st.sampled_from([0, 1, DAY_US // 2, DAY_US]),
        st.integers(0, 1 << 40),
        st.sampled_from([200, 404, 500, 503]),
        st.binary(min_size=16, max_size=16),
    ),
    max_size=40,
)


@given(NOTES)
def test_records_are_put_together_in_c_as_in_python(given: list[tuple[object, ...]]) -> None:
    money = MoneyMap.create(None, 1, holds=16, ring=64)
    money.bind(Segment.create(1))
    money.begin(0)
    for consumer, route, later, units, status, request in given:
        money.note(
            0,
            consumer=consumer,
            credential=consumer,
            meter=route,
            route=route,
            service=0,
            plan=route,
            units=units,
            status=status,
            request_id=request,
            now_ns=NOW_NS + later * 1000,
        )
    records, position = money.drain(0)
    found, same, parked = money.drain_blocks(0)
    assert (same, parked) == (position, 0)
    expected = pack(
        Usage(
            record.id,
            record.time_ns // 1000,
            str(record.account),
            str(record.consumer),
            str(record.credential),
            str(record.route),
            str(record.service),
            str(record.plan),
            record.currency,
            record.amount,
            record.units,
            record.status,
            record.request_id,
            record.flags,
            str(record.meter or ""),
        )
        for record in records
    )
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert f"{ours.boot:016x}{ours.low:016x}" == theirs.low
        assert f"{ours.boot:016x}{ours.high:016x}" == theirs.high
        for name in ("day", "first_us", "last_us", "currency", "records", "failed", "recovered"):
            assert getattr(ours, name) == getattr(theirs, name), name
        for name in ("account", "consumer", "credential", "route", "service", "plan"):
            assert str(getattr(ours, name)) == getattr(theirs, name), name
        assert (ours.units, ours.amount, ours.lines) == (theirs.units, theirs.amount, theirs.lines)
        assert unpack_lines(ours.lines) == unpack_lines(theirs.lines)
        counted = (theirs.records, theirs.failed, theirs.units, theirs.amount)
        assert sums(ours.lines, meter=bool(ours.meter)) == counted
        assert numbers(ours.lines) == theirs.numbers()


def test_what_is_parked_and_what_a_dead_worker_left_is_told() -> None:
    segment = Segment.create(1)
    money = MoneyMap.create(None, 1, holds=16, ring=4)
    money.bind(segment)
    money.begin(0)
    for _ in range(6):
        money.note(0, units=1)
    found, position, parked = money.drain_blocks(0)
    assert [(block.records, block.units) for block in found] == [(6, 6)]
    assert (position, parked) == (4, 2)
    money.commit(0, position)
    assert money.drain_blocks(0) == ([], 4, 0)
    with pytest.raises(IndexError, match="worker 1"):
        money.drain_blocks(1)


WORD = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, (1 << 63) - 1, 1 << 63])
SIGNED = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([-(1 << 63), -1, 0])
SHORT = st.integers(0, (1 << 16) - 1)
LINES = st.lists(
    st.builds(Line, WORD, SIGNED, SIGNED, WORD, st.binary(min_size=16, max_size=16), SHORT, SHORT),
    max_size=20,
)


def plain(lines: Sequence[Line]) -> bytes:
    """Lines as the migration writes them, octet by octet."""
    return differences(b"".join(LINE.pack(*line) for line in lines))


@given(LINES)
def test_lines_are_written_as_differences(lines: list[Line]) -> None:
    packed = pack_lines(lines)
    assert packed == plain(lines)
    assert unpack_lines(packed) == lines
    assert numbers(packed) == [line.number for line in lines]
    assert fixed(packed) == b"".join(LINE.pack(*line) for line in lines)


def test_a_line_like_the_one_before_takes_little() -> None:
    def line(number: int) -> Line:
        return Line((1 << 56) + number, NOW_NS // 1000 + 40 * number, 9, 1, bytes(16), 200, 1)

    packed = pack_lines(line(number) for number in range(101))
    assert len(packed) - len(pack_lines([line(0)])) == 100 * 21
    assert packed.endswith(bytes([2, 80, 0, 0, 0]) + bytes(16))


@given(LINES.filter(len), st.data())
def test_lines_that_are_cut_off_are_an_error(lines: list[Line], data: st.DataObject) -> None:
    ends = {len(pack_lines(lines[:count])) for count in range(len(lines) + 1)}
    cut = data.draw(st.integers(0, max(ends)).filter(lambda at: at not in ends))
    for read in (unpack_lines, numbers, sums):
        with pytest.raises(ValueError, match=f"of {cut} begins no line"):
            read(pack_lines(lines)[:cut])


def test_what_is_no_line_is_an_error() -> None:
    assert (unpack_lines(b""), numbers(b""), sums(b"")) == ([], [], (0, 0, 0, 0))
    good = Line(1, 2, 3, 4, bytes(16), 200, 1)
    large = b"\xff" * 9
    assert numbers(large + b"\x01" + bytes(4 + 16)) == [1 << 63]
    no_marks = bytes(4) + b"\x80\x80\x80\x80\x20"  # 1 << 32: more than status and flags take
    for damaged in (large + b"\x02", large + b"\x80\x00", b"\x80" * 40, no_marks):
        with pytest.raises(ValueError, match="octet 21 of"):
            numbers(pack_lines([Line(0, 0, 0, 0, bytes(16), 0, 0)]) + damaged + bytes(20))
    for bad in ({"request": b"short"}, {"request": None}, {"status": "200"}, {"units": None}):
        with pytest.raises((TypeError, ValueError)):
            pack_lines([good._replace(**bad)])  # type: ignore[arg-type]
    for bad in ({"number": -1}, {"units": 1 << 64}, {"amount": 1 << 63}, {"status": 1 << 16}):
        with pytest.raises(OverflowError):
            pack_lines([good._replace(**bad)])  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 12), max_size=12), st.sets(st.integers(0, 12)))
def test_what_is_known_is_taken_out_and_each_left_once(given: list[int], known: set[int]) -> None:
    for block in pack(used(number, number) for number in given):
        left = block.without(known)
        expected = [number for number in dict.fromkeys(given) if number not in known]
        assert [one.amount for one in (left.usages() if left else ())] == expected
        assert (left is block) is (expected == given)
        assert left is None or left == pack(used(number, number) for number in expected)[0]


async def test_a_record_is_found_in_whatever_block_it_is(store: Store) -> None:
    """Blocks overlap, for a long request has a low number and comes late; other workers' and
    other starts' numbers are like these."""
    ledger = Ledger(store, lambda: NOW)
    areas = ["a" * 16 + "01", "a" * 16 + "02", "b" * 16 + "01"]

    def one(area: str, number: int) -> Usage:
        return used(number, 1, id=f"{area}{number:014x}")

    for area in areas:
        await ledger.charge(pack(one(area, number) for number in range(0, 40, 2)))
        await ledger.charge(pack(one(area, number) for number in (1, 77, 39)))
    again = pack(one(area, number) for area in areas for number in (1, 2, 3, 38, 39, 40, 77, 78))
    charged = await ledger.charge(again)
    assert charged.records == 3 * 3
    found = await records_in(store)
    assert len(found) == 3 * (20 + 3 + 3)
    (day,) = {one.day for one in again}
    assert day == NOW_NS // 1000 // DAY_US


async def test_the_list_is_the_newest_first_whatever_the_blocks(store: Store) -> None:
    ledger = Ledger(store, lambda: NOW)
    times = [5, 1, 9, 9, 3, 7, 2, 8, 4, 6, 9, 0]
    given = [used(number, 1, time_us=NOW_NS // 1000 + time) for number, time in enumerate(times)]
    for start in range(0, len(given), 4):
        await ledger.charge(pack(given[start : start + 4]))
    expected = sorted(given, key=lambda usage: (usage.time_us, usage.id), reverse=True)
    for limit in (1, 2, 5, 50):
        found: list[Usage] = []
        cursor = None
        while True:
            async with store.read() as connection:
                page = await usage.page(connection, "acc_a", cursor=cursor, limit=limit)
            found += page.items
            cursor = page.next
            if cursor is None:
                break
        assert found == expected
    async with store.read() as connection:
        with pytest.raises(BadCursor):
            await usage.page(connection, "acc_a", cursor=encode_cursor("x:y"), limit=1)


# ---- the migration ----------------------------------------------------------------------

RECORDS = [
    used(1, 5, status=503),
    used(2, 7),
    used(3, 0, flags=2),
    used(4, 7, meter="tokens"),
    used(5, 1, id="b" * 16 + "02" + "5".zfill(14), flags=1 | RECOVERED),
    used(6, 2, time_us=NOW_NS // 1000 + DAY_US),
    used(7, 2, "acc_b", "USD"),
]


def down(connection: sa.Connection) -> None:
    command.downgrade(alembic_config(connection), "0007")


def up(connection: sa.Connection) -> None:
    command.upgrade(alembic_config(connection), "head")


async def test_records_in_rows_become_blocks_and_rows_again(store: Store) -> None:
    ledger = Ledger(store, lambda: NOW)
    await ledger.credit(move("t", 100))
    await ledger.credit(move("u", 100, "acc_b", "USD"))
    await ledger.charge(pack(RECORDS))
    before = await contents(store)
    assert len(before) == len(RECORDS)
    async with store.write() as connection:
        await connection.run_sync(down)
        rows = await connection.execute(sa.text("SELECT id, entry, amount FROM usage_records"))
        assert {row.id: row.amount for row in rows if row.entry} == {
            usage.id: usage.amount for usage in RECORDS if usage.amount
        }
        await connection.run_sync(up)
    assert await contents(store) == before
    report = await audit(store)
    assert report.passed, report
    assert (await ledger.charge(pack(RECORDS))).records == 0


async def contents(store: Store) -> list[Usage]:
    async with store.read() as connection:
        pages = [
            await usage.page(connection, account, cursor=None, limit=9)
            for account in ("acc_a", "acc_b")
        ]
    return [one for page in pages for one in page.items]
