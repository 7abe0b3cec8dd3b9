"""The spool keeps what it was given, in order, also when a write was cut off anywhere."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moneykit import pack, used

from fastgate.billing.ledger import frames
from fastgate.billing.ledger.frames import FrameFile
from fastgate.billing.ledger.spool import MAGIC, Batch, Frame, Mark, Spool

FRAMES = st.lists(
    st.one_of(
        st.builds(Mark, st.text(max_size=8)),
        st.builds(
            Batch,
            st.lists(
                st.builds(
                    used, st.integers(0, 99), st.integers(0, 50), st.sampled_from(["a", "b"])
                ),
                max_size=3,
            ).map(pack),
        ),
    ),
    max_size=6,
)
several = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def opened(path: Path) -> Spool:
    spool = Spool(path)
    spool.open()
    return spool


def all_of(spool: Spool) -> list[Frame]:
    found = []
    while (one := spool.next()) is not None:
        found.append(one[0])
        spool.take(*one)
    return found


def naive_waiting(given: list[Frame]) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for frame in given:
        for block in frame.blocks if isinstance(frame, Batch) else ():
            for usage in block.usages():
                if usage.amount:
                    key = (usage.account, usage.currency)
                    sums[key] = sums.get(key, 0) + usage.amount
    return sums


@several
@given(FRAMES, FRAMES)
def test_what_was_given_comes_back_in_order(
    tmp_path: Path, first: list[Frame], more: list[Frame]
) -> None:
    path = tmp_path / "usage.spool"
    path.unlink(missing_ok=True)
    spool = opened(path)
    for frame in first:
        spool.append(frame)
    spool.close()
    spool = opened(path)
    assert spool.waiting == naive_waiting(first)
    for frame in more:
        spool.append(frame)
    assert spool.waiting == naive_waiting(first + more)
    assert spool.empty is not bool(first + more)
    assert all_of(spool) == first + more
    assert spool.empty
    assert (spool.waiting, spool.records) == ({}, 0)
    spool.close()
    assert path.read_bytes() == MAGIC


@several
@given(FRAMES.filter(bool), st.data())
def test_a_torn_tail_costs_only_what_was_torn(
    tmp_path: Path, given: list[Frame], data: st.DataObject
) -> None:
    path = tmp_path / "usage.spool"
    path.unlink(missing_ok=True)
    spool = opened(path)
    ends = []
    for frame in given:
        spool.append(frame)
        ends.append(path.stat().st_size)
    spool.close()
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    spool = opened(path)
    whole = given[: sum(end <= cut for end in ends)]
    spool.append(Mark("after"))
    assert all_of(spool) == [*whole, Mark("after")]
    spool.close()
    assert not path.with_name("usage.spool.damaged").exists()


def test_taking_is_forgotten_by_a_crash_and_harmless(tmp_path: Path) -> None:
    path = tmp_path / "usage.spool"
    spool = opened(path)
    batches: list[Frame] = [Batch(pack([used(n, 5)])) for n in range(3)]
    for batch in batches:
        spool.append(batch)
    found = spool.next()
    assert found is not None
    spool.take(*found)
    assert (spool.records, spool.waiting) == (2, {("acc_a", "EUR"): 10})
    spool.close()
    spool = opened(path)
    assert spool.last == {"0" * 16: {2}}
    assert all_of(spool) == batches
    spool.close()


def test_damage_in_the_middle_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "usage.spool"
    spool = opened(path)
    spool.append(Mark("one"))
    keep = path.stat().st_size
    spool.append(Mark("two"))
    spool.append(Mark("three"))
    spool.close()
    content = bytearray(path.read_bytes())
    content[keep + 9] ^= 1
    path.write_bytes(content)
    spool = opened(path)
    assert all_of(spool) == [Mark("one")]
    spool.close()
    assert path.with_name("usage.spool.damaged").read_bytes() == bytes(content[keep:])


def test_what_could_not_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path / "usage.spool")
    spool.append(Mark("one"))
    monkeypatch.setattr(frames, "FRAME_MAX", 64)
    with pytest.raises(OSError, match="a frame of"):
        spool.append(Batch(pack([used(1, 5)])))
    assert (spool.records, all_of(spool)) == (0, [Mark("one")])
    spool.close()


def test_a_file_of_another_kind_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "usage.spool"
    path.write_bytes(b"something else entirely")
    spool = opened(path)
    assert spool.empty
    spool.close()
    assert path.with_name("usage.spool.damaged").read_bytes() == b"something else entirely"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "usage.spool"
    spool = opened(path)
    spool.append(Mark("one"))
    before = path.read_bytes()
    real = os.pwrite

    def half(fd: int, data: bytes, at: int) -> int:
        if len(data) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[: len(data) // 2], at)

    monkeypatch.setattr(frames.os, "pwrite", half)
    with pytest.raises(OSError, match="No space"):
        spool.append(Batch(pack([used(1, 5)])))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert spool.waiting == {}
    spool.append(Mark("two"))
    assert all_of(spool) == [Mark("one"), Mark("two")]
    spool.close()


def test_an_append_is_on_disk_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path / "usage.spool")
    synced: list[int] = []
    monkeypatch.setattr(frames.os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    spool.append(Mark("one"))
    monkeypatch.undo()
    assert synced == [(tmp_path / "usage.spool").stat().st_size]
    spool.close()


def test_replacing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FrameFile(tmp_path / "some.file", b"FGTEST.1")
    file.open()
    file.append(frames.pack(b"old"), sync=False)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(frames.os, "replace", refuse)
    with pytest.raises(OSError, match="broken"):
        file.replace([b"new"])
    monkeypatch.undo()
    assert [payload for payload, _ in file.read(frames.MAGIC_SIZE)] == [b"old"]
    file.replace([b"new", b"newer"])
    file.append(frames.pack(b"newest"), sync=True)
    assert [payload for payload, _ in file.read(frames.MAGIC_SIZE)] == [b"new", b"newer", b"newest"]
    assert [each.name for each in tmp_path.iterdir()] == ["some.file"]
    file.close()
