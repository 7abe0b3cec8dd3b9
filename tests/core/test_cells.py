"""Cells: hashes and keys, and what a window does when cells are full, expired or claimed."""

from __future__ import annotations

import ipaddress
import mmap
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.shared.cells import limit_key_py
from fastgate._core.shared.limiter import LimiterTable
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.cell_keys import address_hash_py, hash_bytes_py, mix_key_py

WINDOW = 16
CLAIM = 1 << 63
SECOND = 10**9
NOW = 10**15
HOUR = 3600 * SECOND
PERIOD_DAY = 3

words = st.integers(0, 2**64 - 1)


def tables(cells: int = WINDOW) -> tuple[Segment, LimiterTable, QuotaTable]:
    segment = Segment.create(
        1, limiter_cells=cells, quota_cells=cells, targets=1, route_rows=1, log_records=2
    )
    return segment, LimiterTable(segment), QuotaTable(segment)


def address(text: str) -> bytes:
    ip = ipaddress.ip_address(text)
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


# ---- hashes -------------------------------------------------------------------------------

# What these functions have always answered.
HASHES = [
    0x44BC88BC414F9E95,
    0x634B7D2058C53B70,
    0x0B620D149F1CCA55,
    0x95769B8590C106D7,
    0xB6C6845C9A46F0D9,
]
LONG_HASH = 0x9E7F7AA38383FC52
MIXED = 0xB98D206F061B7076
ADDRESS = 0xEF0350B6F20C84F6
KEY = 0x467C1004F0A6E370


def test_hashes_are_stable() -> None:
    """Exported quotas are known by these numbers: a change here loses what users have counted."""
    assert [hash_bytes_py(b"consumer:42"[:n]) for n in (0, 1, 4, 8, 11)] == HASHES
    assert hash_bytes_py(bytes(range(100)), 7) == LONG_HASH
    assert mix_key_py(1, 2) == MIXED
    assert address_hash_py(address("192.0.2.1")) == ADDRESS
    assert limit_key_py(1, address=2, route=3, consumer=4, plan=5, service=6, credential=7) == KEY


@given(st.binary(max_size=200), words)
def test_every_byte_and_the_length_count(data: bytes, seed: int) -> None:
    h = hash_bytes_py(data, seed)
    assert h == hash_bytes_py(bytes(bytearray(data)), seed)
    assert h != hash_bytes_py(data + b"\0", seed)
    assert h != hash_bytes_py(data, seed ^ 1)
    for i in range(len(data)):
        other = bytearray(data)
        other[i] ^= 0x20
        assert h != hash_bytes_py(bytes(other), seed)


@pytest.mark.parametrize("shift", [0, 16, 32, 48])
def test_hashes_of_similar_names_are_spread(shift: int) -> None:
    """Chi-squared over 1,024 bins of names as people number them, in all parts of the hash."""
    n, bins = 200_000, 1024
    counts = Counter((hash_bytes_py(b"consumer-%d" % i) >> shift) % bins for i in range(n))
    expected = n / bins
    chi = sum((counts[b] - expected) ** 2 / expected for b in range(bins))
    # Mean bins - 1, deviation sqrt(2 * (bins - 1)): within 6 of them.
    assert abs(chi - (bins - 1)) < 6 * (2 * (bins - 1)) ** 0.5


def test_a_flipped_bit_changes_half_of_the_hash() -> None:
    for length in (8, 16, 24, 40, 64):
        data = bytes(i * 37 & 255 for i in range(length))
        h = hash_bytes_py(data)
        changed = []
        for bit in range(length * 8):
            other = bytearray(data)
            other[bit // 8] ^= 1 << bit % 8
            changed.append((hash_bytes_py(bytes(other)) ^ h).bit_count())
        assert 30 < sum(changed) / len(changed) < 34
        assert min(changed) > 10


def test_keys_have_no_collisions_among_many() -> None:
    keys = {limit_key_py(1, consumer=mix_key_py(i, 0)) for i in range(100_000)}
    keys |= {limit_key_py(2, consumer=mix_key_py(i, 0)) for i in range(100_000)}
    assert len(keys) == 200_000
    assert len({k & (1 << 48) - 1 for k in keys}) > 200_000 - 8


@given(words, words)
def test_mixed_keys_are_never_zero_and_ordered(a: int, b: int) -> None:
    assert mix_key_py(a, b) != 0
    if a != b:
        assert mix_key_py(a, b) != mix_key_py(b, a)


@given(st.lists(words, min_size=7, max_size=7, unique=True))
def test_each_part_of_a_scope_has_its_place(parts: list[int]) -> None:
    names = ("address", "route", "consumer", "plan", "service", "credential")
    value = parts[0]
    keys = {limit_key_py(parts[1], **{name: value}) for name in names}
    assert len(keys) == (6 if value else 1)
    full = dict(zip(names, parts[1:], strict=True))
    keys = {limit_key_py(value, **{k: v for k, v in full.items() if k != name}) for name in names}
    assert limit_key_py(value, **full) not in keys or 0 in parts
    assert 0 not in keys


def test_addresses_count_ipv6_by_the_64() -> None:
    same = [address_hash_py(address(a)) for a in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9")]
    assert same[0] == same[1]
    hashes = {
        address_hash_py(address(a))
        for a in ("2001:db8:1:2::1", "2001:db8:1:3::1", "::1", "192.0.2.1", "192.0.2.2", "0.0.0.0")
    }
    assert len(hashes) == 6
    assert 0 not in hashes
    with pytest.raises(ValueError, match="16 bytes"):
        address_hash_py(b"\x7f\0\0\1")


# ---- windows --------------------------------------------------------------------------------


def test_a_full_window_lets_through_and_is_counted() -> None:
    _, limiter, quota = tables()
    for key in range(1, WINDOW + 1):
        assert limiter.take(mix_key_py(key, 0), NOW, HOUR, HOUR).remaining == 0
        assert quota.take(mix_key_py(key, 0), PERIOD_DAY, 10**9, 1).remaining == 0
    assert (limiter.full, quota.full) == (0, 0)
    for _ in range(3):
        assert limiter.take(mix_key_py(99, 0), NOW, HOUR, HOUR).allowed
        assert quota.take(mix_key_py(99, 0), PERIOD_DAY, 10**9, 1).allowed
    assert (limiter.full, quota.full) == (3, 3)
    # The 16 that are there are not let through for that.
    for key in range(1, WINDOW + 1):
        assert not limiter.take(mix_key_py(key, 0), NOW, HOUR, HOUR).allowed
        assert not quota.take(mix_key_py(key, 0), PERIOD_DAY, 10**9, 1).allowed


def test_expired_cells_are_given_to_other_keys() -> None:
    _, limiter, _ = tables()
    for key in range(1, WINDOW + 1):
        limiter.take(mix_key_py(key, 0), NOW, SECOND * key, SECOND * key)
    # The buckets of keys 1 to 5 are full again, and a second of grace is over.
    later = NOW + 6 * SECOND + 1
    for key in range(101, 106):
        assert not limiter.take(mix_key_py(key, 0), later, HOUR, HOUR, 2).allowed
        assert limiter.take(mix_key_py(key, 0), later, HOUR, HOUR).allowed
        assert not limiter.take(mix_key_py(key, 0), later, HOUR, HOUR).allowed
    assert limiter.full == 0
    assert limiter.take(mix_key_py(106, 0), later, HOUR, HOUR).allowed
    assert limiter.full == 1
    for key in range(7, WINDOW + 1):
        assert not limiter.take(mix_key_py(key, 0), later, SECOND * key, SECOND * key).allowed


def test_a_cell_within_its_grace_is_not_given_away() -> None:
    _, limiter, _ = tables()
    for key in range(1, WINDOW + 1):
        limiter.take(mix_key_py(key, 0), NOW, SECOND, SECOND)
    limiter.take(mix_key_py(99, 0), NOW + 2 * SECOND, SECOND, SECOND)
    assert limiter.full == 1
    limiter.take(mix_key_py(99, 0), NOW + 2 * SECOND + 1, SECOND, SECOND)
    assert limiter.full == 1


def test_refusing_takes_no_cell() -> None:
    _, limiter, quota = tables()
    assert not limiter.take(7, NOW, HOUR, HOUR, 2).allowed
    assert not quota.take(7, PERIOD_DAY, 10**9, 1, 2).allowed
    limiter.peek(7, NOW, HOUR, HOUR)
    quota.peek(7, PERIOD_DAY, 10**9, 1)
    limiter.give_back(7, HOUR)
    quota.give_back(7, PERIOD_DAY, 10**9)
    assert limiter.cells() == []
    assert quota.cells() == []


# ---- claims that a killed worker left ---------------------------------------------------------


class Raw:
    """The limiter's cells of a segment, written as a killed worker may have left them."""

    def __init__(self, segment: Segment) -> None:
        self.map = mmap.mmap(segment.fd, segment.bytes)
        self.at = segment.layout["limiter"]

    def put(self, index: int, key: int, state: int) -> None:
        at = self.at + 16 * index
        self.map[at : at + 16] = struct.pack("<QQ", key & (1 << 48) - 1, state)

    def key(self, index: int) -> int:
        (word,) = struct.unpack_from("<Q", self.map, self.at + 16 * index)
        return int(word) & (1 << 48) - 1


@pytest.mark.parametrize("places", [[0], [15], [3, 9], [0, 1, 2], list(range(16))])
def test_claims_of_the_dead_serve_their_key(places: list[int]) -> None:
    segment, limiter, _ = tables()
    raw = Raw(segment)
    key = mix_key_py(5, 5)
    for number, place in enumerate(places):
        raw.put(place, key, CLAIM | 1000 + number)
    assert limiter.peek(key, NOW, HOUR, 3 * HOUR).remaining == 3
    assert [limiter.take(key, NOW, HOUR, 3 * HOUR).allowed for _ in range(4)] == [True] * 3 + [
        False
    ]
    assert [k for k, _ in limiter.cells()] == [key & (1 << 48) - 1]
    assert limiter.full == 0


def test_claims_of_the_dead_give_way_to_a_live_cell() -> None:
    segment, limiter, _ = tables()
    raw = Raw(segment)
    key = mix_key_py(5, 5)
    assert limiter.take(key, NOW, HOUR, 2 * HOUR).allowed
    (live,) = (i for i in range(16) if raw.key(i) != 0)
    for place in set(range(16)) - {live}:
        raw.put(place, key, CLAIM | place)
    assert limiter.take(key, NOW, HOUR, 2 * HOUR).allowed
    assert not limiter.take(key, NOW, HOUR, 2 * HOUR).allowed
    limiter.give_back(key, HOUR)
    assert limiter.take(key, NOW, HOUR, 2 * HOUR).allowed


def test_claims_of_the_dead_are_taken_over_when_nothing_else_is_free() -> None:
    segment, limiter, _ = tables()
    raw = Raw(segment)
    for place in range(16):
        raw.put(place, mix_key_py(place, 9), CLAIM | place)
    keys = [mix_key_py(n, 1) for n in range(16)]
    for key in keys:
        assert limiter.take(key, NOW, HOUR, HOUR).allowed
    assert limiter.full == 0
    for key in keys:
        assert not limiter.take(key, NOW, HOUR, HOUR).allowed
    assert all(state is not None for _, state in limiter.cells())
