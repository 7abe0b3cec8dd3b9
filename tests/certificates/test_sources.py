"""Files and variables with certificates and keys: who may have written and who may read them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fastgate.certificates import sources
from fastgate.certificates.pem import PemError
from fastgate.certificates.sources import Content, check_private, read, read_file, stamp_of
from fastgate.model.secret import PemPlace


def test_files_and_variables(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_bytes(b"content")
    found = read(PemPlace.parse(f"path:{file}"), {})
    assert (found.data, found.where, found.path) == (b"content", str(file), str(file))
    assert found.stamp == stamp_of(str(file))
    found = read(PemPlace.parse("env:CERT"), {"CERT": "content"})
    assert (found.data, found.where, found.path) == (b"content", "the variable CERT", "")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(sources.MOST + 1)
    for path, says in (
        (tmp_path / "none", "none cannot be read: No such file or directory"),
        (tmp_path, "is not a file"),
        (fifo, "is not a file"),  # and is not waited for
        (large, "is larger than 4 MiB"),
    ):
        with pytest.raises(PemError, match=says):
            read_file(str(path))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        with pytest.raises(PemError, match="sock cannot be read"):
            read_file(str(tmp_path / "sock"))
    with pytest.raises(PemError, match="the variable CERT is empty or not set"):
        read(PemPlace.parse("env:CERT"), {"CERT": " "})


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.touch(mode=0o000)
    me = os.geteuid()
    user = me or 65_534  # root may read every file
    os.seteuid(user)
    try:
        with pytest.raises(PemError) as caught:
            read_file(str(file))
    finally:
        os.seteuid(me)
    assert "Permission denied" in str(caught.value)
    assert f"runs as user {user}" in caught.value.hint


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440, 0o700])
def test_keys_that_only_their_owner_and_group_can_read(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    file.touch()
    file.chmod(mode)
    check_private(read_file(str(file)))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o602, 0o650, 0o777])
def test_keys_that_others_can_read_or_write(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    file.touch()
    file.chmod(mode)
    with pytest.raises(PemError) as caught:
        check_private(read_file(str(file)))
    assert f"{file} holds a private key, and its mode {mode:04o} lets others" in str(caught.value)
    assert f"chmod 640 {file}" in caught.value.hint


def test_a_key_that_belongs_to_somebody_else() -> None:
    mine = os.geteuid()
    for owner in (0, mine):
        check_private(Content("/k", b"", "/k", owner=owner))
    with pytest.raises(PemError, match=f"/k holds a private key and belongs to user {mine + 1}"):
        check_private(Content("/k", b"", "/k", owner=mine + 1))
    check_private(Content("the variable KEY", b"", owner=mine + 1))  # a variable has no owner


def test_the_stamp_of_a_file_says_whether_it_may_have_changed(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    assert stamp_of(str(file)) is None
    file.write_bytes(b"one")
    first = stamp_of(str(file))
    assert first == stamp_of(str(file)) is not None
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(first.modified_ns, first.modified_ns))  # type: ignore[union-attr]
    other.replace(file)  # as long, and as old
    assert stamp_of(str(file)) != first


def test_the_stamp_of_a_link_is_that_of_its_file(tmp_path: Path) -> None:
    """Kubernetes replaces a link to a directory when it updates a secret."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.pem").write_bytes(b"same")
    link = tmp_path / "current"
    link.symlink_to("v1")
    first = stamp_of(str(link / "a.pem"))
    link.unlink()
    link.symlink_to("v2")
    assert stamp_of(str(link / "a.pem")) != first
