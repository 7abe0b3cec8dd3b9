"""Atomic replacement of files: written as a new file, synced, and renamed over the old one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

BUFFER = 1 << 16


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Replace the content of a file with these parts; only its owner may read it (0600).

    A reader finds the complete old content or the complete new one, even after a power failure.
    Raises OSError, and what `parts` raises; then the old file stays.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=BUFFER) as file:
            os.fchmod(fd, 0o600)  # a file left by a crash may have other permissions
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(fd)
        beside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make sure that new names in a folder survive a power failure. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
