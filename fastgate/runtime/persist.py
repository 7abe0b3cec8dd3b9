"""What outlives the processes: small files in the state directory.

    slots.json     which number every route, service, upstream, target, plan has
    served.json    the configuration last served, its generation, the digest of its file
    running.json   process and addresses of the gateway that runs, for tools
    quotas.bin     quota counts, at most one second old
    lock           held while a gateway runs here; says which process it is

A file is written whole beside its place, synced, and renamed over it: a reader finds the old
or the new one, whatever happens in between, also a power failure. The directory is for the
gateway's user alone (0700), its files as well (0600).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

import msgspec

from fastgate.errors import ProcessError
from fastgate.files import replace_file

LOCK = "lock"


class StateError(ProcessError):
    """The state directory, or a file in it, cannot be used."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What was served last."""

    generation: int
    file_digest: str  # of the configuration file when it was last read; "": there was none
    document: dict[str, Any]  # the configuration, as `model` writes it
    file_document: dict[str, Any] | None = None  # the file's, where the API has changed it since


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway that runs. Addresses are as bound: with the port where 0 was asked for."""

    pid: int  # of the supervisor
    generation: int
    listeners: dict[str, str]  # by name
    control: str


class StateDirectory:
    """The gateway's state directory; made when it is not there. Raises StateError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_uid == os.geteuid():
                path.chmod(0o700)
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(path))
        except OSError as error:
            raise StateError(
                f"the state directory {path} cannot be used: {error.strerror}. "
                "Name another with --state-dir."
            ) from error

    def claim(self) -> None:
        """Be the only gateway here, for as long as this process lives. Raises StateError.

        A record lock of the kernel: children do not inherit it, so it goes with the supervisor
        even where a child outlives it by a moment.
        """
        path = self.path / LOCK
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                other = os.read(fd, 20).decode("ascii", "replace").strip() or "?"
                os.close(fd)
                raise StateError(
                    f"the state directory {self.path} is that of a gateway that runs "
                    f"(pid {other}). End it, or name another with --state-dir."
                ) from None
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())  # and it stays open, with the lock
        except OSError as error:
            raise StateError(f"{path} cannot be locked: {error.strerror}.") from error

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file. Raises StateError."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.path / name} cannot be read: {error.strerror}") from error

    def write(self, name: str, content: bytes) -> None:
        """Replace a file at one stroke. Raises StateError; then the old one is still there."""
        target = self.path / name
        try:
            replace_file(target, [content])
        except OSError as error:
            raise StateError(f"{target} cannot be written: {error.strerror}") from error

    def set_aside(self, name: str) -> Path:
        """Rename a damaged file so that it is kept for inspection; returns its new path."""
        damaged = self.path / f"{name}.damaged"
        with contextlib.suppress(OSError):
            (self.path / name).rename(damaged)
        return damaged

    def read_served(self) -> Served | None:
        """What was served last; None when nothing was, or the file is of no use."""
        content = self.read("served.json")
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=Served)
        except msgspec.DecodeError:
            self.set_aside("served.json")
            return None

    def write_served(self, served: Served) -> None:
        self.write("served.json", msgspec.json.encode(served))
