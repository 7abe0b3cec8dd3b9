"""Files that are replaced at one stroke: written beside their place, synced, and renamed over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

BUFFER = 1 << 16


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Make these parts the content of a file that only its owner may read (0600).

    A reader finds all of the old content or all of the new, also after the machine has lost
    power. Raises OSError, and what `parts` raises; then the old one is still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=BUFFER) as file:
            os.fchmod(fd, 0o600)  # one that a crash has left may have other rights
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(fd)
        beside.replace(path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
