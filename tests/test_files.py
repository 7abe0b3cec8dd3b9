"""Files are replaced whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgate.files import replace_file


def test_a_file_is_made_and_replaced_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    replace_file(path, [b"one", b"", b"two" * 50_000])
    assert path.read_bytes() == b"one" + b"two" * 50_000
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    replace_file(path, [])
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_beside_it_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f".kept.{os.getpid()}"
    left.write_bytes(b"half of what was to be wri")
    left.chmod(0o644)
    replace_file(tmp_path / "kept", [b"new"])
    assert (tmp_path / "kept").read_bytes() == b"new"
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    assert not left.exists()


def test_it_is_on_the_disk_before_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    seen: list[tuple[bytes, int]] = []

    def sync(fd: int) -> None:
        seen.append((path.read_bytes(), os.fstat(fd).st_ino))

    monkeypatch.setattr(os, "fsync", sync)
    replace_file(path, [b"new"])
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert seen == [(b"old", file), (b"new", folder)]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_the_old_one_stays_when_it_fails(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(type(error)):
        replace_file(path, parts())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "nowhere" / "kept", [b"new"])
