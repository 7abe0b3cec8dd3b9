"""Files that outlive the processes: whole, private, and old rather than damaged."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from fastgate.runtime.persist import Served, StateDirectory, StateError
from fastgate.runtime.supervisor.process import spawn


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    StateDirectory(path)
    assert mode(path) == 0o700
    path.chmod(0o755)
    StateDirectory(path)
    assert mode(path) == 0o700


def test_what_is_written_is_read_and_private(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.read("slots.json") is None
    state.write("slots.json", b"one")
    state.write("slots.json", b"two")
    assert state.read("slots.json") == b"two"
    assert mode(tmp_path / "slots.json") == 0o600
    assert os.listdir(tmp_path) == ["slots.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write("quotas.bin", b"old")
    (tmp_path / f".quotas.bin.{os.getpid()}").mkdir()
    with pytest.raises(StateError, match=r"quotas\.bin cannot be written"):
        state.write("quotas.bin", b"new")
    assert state.read("quotas.bin") == b"old"


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    contents = [bytes([65 + i]) * 100_000 for i in range(4)]
    state.write("file", contents[0])

    def write_for_ever() -> int:
        os.write(ready, b".")
        while True:
            for content in contents:
                state.write("file", content)

    for _ in range(10):
        read, ready = os.pipe()
        pid = spawn("writer", write_for_ever)
        os.read(read, 1)
        for _ in range(20):
            assert state.read("file") in contents
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(ready)
        assert state.read("file") in contents


def test_a_path_that_is_no_directory_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StateError, match="--state-dir"):
        StateDirectory(file)


def test_served_is_kept_and_a_damaged_one_set_aside(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.read_served() is None
    served = Served(generation=7, file_digest="abc", document={"version": 1, "routes": []})
    state.write_served(served)
    assert state.read_served() == served
    (tmp_path / "served.json").write_bytes(b'{"generation": "seven"}')
    assert state.read_served() is None
    assert (tmp_path / "served.json.damaged").exists()
