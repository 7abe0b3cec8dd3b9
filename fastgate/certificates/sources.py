"""Where certificates and keys are read from: files and environment variables.

A file that holds a key must belong to this user or root, and nobody but its owner may write it and
nobody but its owner and group may read it. A *stamp* says whether a file may have changed: it is
made of what the file system says about it, not of its content.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from fastgate.certificates.pem import PemError
from fastgate.model.secret import PemPlace

MOST = 4 << 20
"""Maximum bytes of a file; a bundle of all root certificates has a quarter of a megabyte."""
TOO_WIDE = 0o037
"""The permissions that a file with a key must not give: to write for the group, all to others."""


class Stamp(NamedTuple):
    """The state of a file. A replaced or rewritten file has another one."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Content(NamedTuple):
    """What was read."""

    where: str
    """The file's path, or "the variable NAME"."""
    data: bytes
    path: str = ""
    """Empty: a variable."""
    stamp: Stamp | None = None
    mode: int = 0o600
    owner: int = 0


def read(place: PemPlace, environ: Mapping[str, str] = os.environ) -> Content:
    """The content of a file or variable. Raises PemError."""
    if place.kind == "env":
        where = f"the variable {place.place}"
        text = environ.get(place.place, "")
        if not text.strip():
            raise PemError(f"{where} is empty or not set", "Set it in the gateway's environment.")
        return Content(where, text.encode())
    return read_file(place.place)


def read_file(path: str) -> Content:
    """The content of a file. Raises PemError."""
    try:
        # A FIFO must not block.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PemError(f"{path} cannot be read: {error.strerror}", _advice(error)) from None
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise PemError(f"{path} is not a file")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise PemError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > MOST:
        raise PemError(f"{path} is larger than {MOST >> 20} MiB")
    return Content(path, data, path, _stamp(state), stat.S_IMODE(state.st_mode), state.st_uid)


def _advice(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "Check the path; it is that of the machine the gateway runs on."
    if isinstance(error, PermissionError):
        return f"The gateway runs as user {os.geteuid()}; allow its group to read the file."
    return ""


def check_private(content: Content) -> None:
    """Raise PemError if others could read or replace a key."""
    if not content.path:
        return
    mine = os.geteuid()
    if content.owner not in (0, mine):
        raise PemError(
            f"{content.where} holds a private key and belongs to user {content.owner}, who can "
            "replace it",
            f"Give it to root or to the gateway's user: `chown {mine} {content.where}`.",
        )
    if content.mode & TOO_WIDE:
        raise PemError(
            f"{content.where} holds a private key, and its mode {content.mode:04o} lets others "
            "read or write it",
            f"`chmod 640 {content.where}`; if others may have read it, replace the key.",
        )


def stamp_of(path: str) -> Stamp | None:
    """The state of a file now; None if there is none."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(state: os.stat_result) -> Stamp:
    return Stamp(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
