"""State that survives the processes: small files in the state directory.

    slots.json     the numbers of routes, services, upstreams, targets, plans
    names.json     the last addresses of targets' names
    served.json    the configuration last served, its generation, the digest of its file
    running.json   process and addresses of the running gateway, for tools
    quotas.bin     quota counts, at most one second old
    lock           held while a gateway runs here; has its process id

A file is written completely as a new file, synced, and renamed over the old one: a reader always
finds the old or the new one, even after a power failure. Only the gateway's user can access the
directory (0700) and its files (0600).
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
    """The configuration that was served last."""

    generation: int
    file_digest: str  # of the configuration file when it was last read; "": no file
    document: dict[str, Any]  # the configuration, as encoded by `model`
    file_document: dict[str, Any] | None = None  # the file's, if the API has changed it since


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """The running gateway. Addresses are as bound: with the actual port instead of 0."""

    pid: int  # of the supervisor
    generation: int
    listeners: dict[str, str]  # by name
    control: str  # with "https://" in front if it has TLS
    control_certificate: str = ""  # SHA-256 of the certificate that it presents, in hex


class StateDirectory:
    """The gateway's state directory; created if it is missing. Raises StateError."""

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
        """Lock the directory for this gateway, for the life of this process. Raises StateError.

        This is a record lock of the kernel: children do not inherit it, so it is released with the
        supervisor, even if a child lives slightly longer.
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
                    f"the state directory {self.path} is used by a running gateway "
                    f"(pid {other}). Stop it, or name another with --state-dir."
                ) from None
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())  # stays open, with the lock
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
        """Replace a file atomically. Raises StateError; then the old file stays."""
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
        """The configuration served last; None if there is none, or the file cannot be used."""
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
