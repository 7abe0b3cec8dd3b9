"""The money map's file: made whole or not at all, found again, grown, locked, refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from memorykit import taken
from moneymapkit import SIZES, SLOT, SharedWallet, charged

from fastgate._core.money.layout import UsageFlag
from fastgate._core.money.money_file import MoneyFile
from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.wallet import Accounts
from fastgate._core.shared.segment import Segment
from fastgate.errors import SegmentError

VERSION_AT, WORKERS_AT, SIZE_AT = 8, 12, 16
RECOVERED = int(UsageFlag.USAGE_RECOVERED)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "money.map"
    assert not (tmp_path / "money.map.new").exists()


def reopened(path: Path, workers: int = 2, policy: str = "due") -> tuple[MoneyMap, Accounts]:
    """A gateway that starts anew: another segment, the old file."""
    segment = Segment.create(workers, accounts=8, **SIZES)
    money = MoneyMap.open(path, workers, policy=policy)
    money.bind(segment)
    accounts = Accounts(segment, money)
    accounts.put(SLOT, 1, ["EUR"])
    return money, accounts


def test_layout_and_size() -> None:
    money = MoneyMap.create(None, 3)
    assert (money.workers, money.holds, money.ring, money.boots) == (3, 4096, 65536, 1)
    table, ring = 4096 * 128, 65536 * 128
    assert money.bytes == 4096 + 4096 + table + 3 * (4096 + table + ring)
    assert os.fstat(money.fd).st_size == money.bytes


def test_untouched_pages_take_no_memory() -> None:
    assert taken(MoneyMap.create(None, 3).fd) <= 2 * 4096


def test_a_file_has_its_blocks_from_the_start(path: Path) -> None:
    money = MoneyMap.create(path, 1, holds=32, ring=64)
    assert path.stat().st_blocks * 512 >= money.bytes
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SegmentError, match="already"):
        MoneyMap.create(path, 1, holds=32, ring=64)


@pytest.mark.parametrize(
    ("workers", "sizes", "name"),
    [
        (0, {}, "workers=0"),
        (65, {}, "workers=65"),
        (1, {"holds": 0}, "holds=0"),
        (1, {"holds": 4097}, "holds=4097"),
        (1, {"ring": 3}, "ring=3"),
        (1, {"ring": 1 << 25}, "ring="),
    ],
)
def test_counts_that_cannot_be(workers: int, sizes: dict[str, int], name: str) -> None:
    with pytest.raises(SegmentError, match=name):
        MoneyMap.create(None, workers, **sizes)


def test_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match="cannot be created"):
        MoneyMap.create(tmp_path / "missing" / "money.map", 1)
    with pytest.raises(SegmentError, match="cannot be opened"):
        MoneyMap.open(tmp_path, 1)


def test_the_constructor_is_not_for_use() -> None:
    for kind in (MoneyMap, MoneyFile):
        with pytest.raises(TypeError, match=r"MoneyMap\.create"):
            kind()


def test_captured_and_undrained_charges_survive_the_gateway(path: Path) -> None:
    wallet = SharedWallet(100, ring=2, path=path)
    names = []
    for cost in (1, 2, 3, 4):
        hold = wallet.money.hold(cost % 2, SLOT, 10)
        assert hold is not None
        hold.capture(cost)
        names.append(hold.id)
    hold = wallet.money.hold(0, SLOT, 10)
    assert hold is not None
    hold.capture(5)
    names.append(hold.id)
    boot = wallet.money.boot_id
    del wallet, hold
    money, accounts = reopened(path)
    assert (money.boots, money.boot_id == boot) == (2, False)
    accounts.set_balance(SLOT, "EUR", 85)
    records = [record for worker in range(2) for record in money.drain(worker)[0]]
    assert sorted(record.id for record in records) == sorted(names)
    assert charged(records) == 15
    # Settled before the end: nothing was recovered about them.
    assert all(not record.flags & RECOVERED for record in records)
    assert accounts.balance(SLOT) == 85


@pytest.mark.parametrize(("policy", "cost"), [("due", 4), ("charge", 10), ("release", 0)])
def test_holds_of_an_earlier_start(path: Path, policy: str, cost: int) -> None:
    wallet = SharedWallet(100, path=path)
    hold = wallet.money.hold(0, SLOT, 10)
    assert hold is not None
    hold.due(4)
    name = hold.id
    wallet.accounts.prepare(SLOT, "EUR", 5, b"k" * 16)
    del wallet, hold
    money, accounts = reopened(path, policy=policy)
    accounts.set_balance(SLOT, "EUR", 100)
    [record] = money.drain(0)[0]
    assert (record.id, record.amount) == (name, cost)
    assert record.flags & RECOVERED
    # Starting once more before the ledger has it changes nothing.
    del money, accounts
    money, accounts = reopened(path, policy="charge")
    accounts.set_balance(SLOT, "EUR", 100)
    assert money.drain(0) == ([record], 0)
    assert accounts.open_credits() == []
    money.begin(0)
    other = money.hold(0, SLOT, 100)
    assert other is not None
    assert other.id[:16] == money.boot_id != name[:16]
    money.commit(0, 0)
    assert [entry.record.id for entry in money.open_holds()] == [other.id]


def test_positions_go_on(path: Path) -> None:
    wallet = SharedWallet(100, path=path, ring=4)
    for _ in range(3):
        wallet.money.note(0)
    wallet.collect(0)
    wallet.money.note(0)
    del wallet
    money, _ = reopened(path)
    records, position = money.drain(0)
    assert (len(records), position) == (1, 4)


def test_more_workers_than_before(path: Path) -> None:
    wallet = SharedWallet(100, workers=1, path=path, ring=4)
    wallet.money.note(0, units=5)
    del wallet
    money, accounts = reopened(path, 3)
    accounts.set_balance(SLOT, "EUR", 10)
    assert money.workers == 3
    assert path.stat().st_size == money.bytes
    money.begin(2)
    hold = money.hold(2, SLOT, 10)
    assert hold is not None
    assert hold.id[16:18] == "03"
    assert [record.units for record in money.drain(0)[0]] == [5]
    assert MoneyMap.attach(money.fd).workers == 3


def test_fewer_workers_than_before(path: Path) -> None:
    wallet = SharedWallet(100, workers=3, path=path)
    wallet.money.note(2, units=7)
    del wallet
    money, _ = reopened(path, 1)
    assert money.workers == 3
    assert [record.units for record in money.drain(2)[0]] == [7]


def test_one_gateway_a_file(path: Path) -> None:
    first = MoneyMap.create(path, 1, holds=4, ring=4)
    with pytest.raises(SegmentError, match="another gateway"):
        MoneyMap.open(path, 1)
    same = MoneyMap.attach(first.fd)
    del first
    with pytest.raises(SegmentError, match="another gateway"):
        MoneyMap.open(path, 1)
    del same
    assert MoneyMap.open(path, 1).boots == 2


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "begins with other bytes"),
        (VERSION_AT, struct.pack("<I", 9), "version 9"),
        (WORKERS_AT, struct.pack("<I", 0), "workers=0"),
        (WORKERS_AT, struct.pack("<I", 2), "damaged"),
        (SIZE_AT, struct.pack("<Q", 8192), "damaged"),
    ],
)
def test_files_of_another_kind(path: Path, at: int, value: bytes, message: str) -> None:
    MoneyMap.create(path, 1, holds=4, ring=4)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)
    with pytest.raises(SegmentError, match=message):
        MoneyMap.open(path, 1)
    with path.open("rb") as file, pytest.raises(SegmentError, match=message):
        MoneyMap.attach(file.fileno())


def test_cut_files(path: Path) -> None:
    size = MoneyMap.create(path, 1, holds=4, ring=4).bytes
    os.truncate(path, size - 1)
    with pytest.raises(SegmentError, match="damaged"):
        MoneyMap.open(path, 1)
    os.truncate(path, 50)
    with pytest.raises(SegmentError, match="50 bytes"):
        MoneyMap.open(path, 1)
    with pytest.raises(SegmentError, match="not a money map"):
        MoneyMap.attach(9999)


def test_a_map_outlives_the_one_that_made_it() -> None:
    wallet = SharedWallet(10)
    other = MoneyMap.attach(wallet.money.fd)
    other.bind(wallet.segment)
    hold = wallet.money.hold(0, SLOT, 10)
    assert hold is not None
    del wallet
    assert [entry.taken for entry in other.open_holds()] == [True]
    hold.capture(10)
    assert charged(other.drain(0)[0]) == 10
