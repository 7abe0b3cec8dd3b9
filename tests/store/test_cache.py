"""The credential cache survives crashes, tells the last word, and is never stale."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgate.store.cache import (
    MAGIC,
    MAGICS,
    SLACK,
    ConsumerRecord,
    CredentialCache,
    GoneRecord,
    KeyRecord,
    TokenRecord,
)

_records = st.lists(
    st.one_of(
        st.builds(
            ConsumerRecord,
            st.text(max_size=8),
            st.text(max_size=8),
            st.none() | st.text(max_size=4),
            st.none() | st.text(max_size=4),
            st.booleans(),
        ),
        st.builds(
            KeyRecord,
            st.binary(min_size=32, max_size=32),
            st.text(max_size=8),
            st.text(max_size=8),
            st.integers(0, 2**40),
            st.integers(0, 2**40),
            st.sampled_from(["key", "subject"]),
            st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
        ),
        st.builds(TokenRecord, st.binary(min_size=32, max_size=32), st.integers(0, 2**40)),
        st.builds(GoneRecord, st.text(max_size=8)),
    ),
    max_size=12,
)
fast = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fast
@given(_records, _records)
def test_what_was_written_is_read(tmp_path: Path, first: list, more: list) -> None:  # type: ignore[type-arg]
    path = tmp_path / "credentials.cache"
    cache = CredentialCache(path)
    cache.replace(first)
    cache.append(more)
    cache.sync()
    cache.close()
    assert CredentialCache(path).load() == first + more
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [path.name]


@fast
@given(_records, st.data())
def test_a_crash_at_any_byte_leaves_what_came_before(
    tmp_path: Path,
    records: list,
    data: st.DataObject,  # type: ignore[type-arg]
) -> None:
    path = tmp_path / "credentials.cache"
    path.unlink(missing_ok=True)
    cache = CredentialCache(path)
    ends = [0, len(MAGIC)]
    for record in records:
        cache.append([record])
        ends.append(path.stat().st_size)
    cache.close()
    whole = path.read_bytes() if records else b""
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = max(0, sum(end <= cut for end in ends) - 2)
    again = CredentialCache(path)
    assert again.load() == records[:kept]
    again.append([GoneRecord("after")])  # goes on behind what is whole
    again.close()
    assert CredentialCache(path).load() == [*records[:kept], GoneRecord("after")]


@fast
@given(_records.filter(bool), st.data())
def test_a_damaged_record_ends_the_reading(
    tmp_path: Path,
    records: list,
    data: st.DataObject,  # type: ignore[type-arg]
) -> None:
    path = tmp_path / "credentials.cache"
    cache = CredentialCache(path)
    cache.replace(records)
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    found = CredentialCache(path).load()
    assert found == records[: len(found)]
    assert len(found) < len(records)


def test_another_file_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "credentials.cache"
    path.write_bytes(b"something else entirely")
    assert CredentialCache(path).load() == []
    assert CredentialCache(tmp_path / "missing").load() == []


def test_it_knows_when_it_is_mostly_outdated(tmp_path: Path) -> None:
    cache = CredentialCache(tmp_path / "credentials.cache")
    record = GoneRecord("a")
    for _ in range(SLACK):
        cache.append([record])
    assert not cache.outdated(1)
    cache.append([record] * 3)
    assert cache.outdated(1)
    cache.replace([record])
    assert not cache.outdated(1)
    assert CredentialCache(cache.path).load() == [record]


def test_a_cache_that_cannot_follow_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credentials.cache"
    cache = CredentialCache(path)
    cache.replace([ConsumerRecord("a", "a", None, None, False)])
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)  # a full disk
    cache.append([GoneRecord("a")])
    assert not path.exists()
    monkeypatch.undo()
    cache.append([GoneRecord("a")])
    assert CredentialCache(path).load() == [GoneRecord("a")]
    cache.close()


def _old_frame(fields: list[object]) -> bytes:
    payload = msgspec.msgpack.encode(fields)
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def test_a_file_of_version_1_is_read_and_becomes_one_of_this_version(tmp_path: Path) -> None:
    """Its keys have no kind. What is appended is not mixed with it."""
    path = tmp_path / "credentials.cache"
    consumer = ["c", "con_1", "acme", None, "free", False, {}]
    key = ["k", b"d" * 32, "crd_1", "con_1", 0, 7]
    path.write_bytes(MAGICS[1] + _old_frame(consumer) + _old_frame(key))
    cache = CredentialCache(path)
    records = cache.load()
    assert records == [
        ConsumerRecord("con_1", "acme", None, "free", False),
        KeyRecord(b"d" * 32, "crd_1", "con_1", 0, 7, "key", {}),
    ]
    assert path.read_bytes().startswith(MAGIC)
    revoked = TokenRecord(b"t" * 32, 9)
    cache.append([revoked])
    cache.close()
    assert CredentialCache(path).load() == [*records, revoked]


def test_a_file_of_another_version_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "credentials.cache"
    path.write_bytes(b"FGCRED9\n" + _old_frame(["g", "con_1"]))
    assert CredentialCache(path).load() == []
    assert not path.exists()
