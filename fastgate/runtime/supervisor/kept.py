"""What the supervisor keeps for processes to come: a worker that is forked while control is dead
starts with it, and so does the next control process."""

from __future__ import annotations

import os
from collections.abc import Collection


class Kept:
    """Descriptors of memfds, -1 while there is none, and the numbers of what is in them."""

    __slots__ = ("credentials", "generation", "keyring", "serial", "snapshot")

    def __init__(self) -> None:
        self.snapshot = -1
        self.generation = 0
        """Of the snapshot; 0: none."""
        self.credentials = -1
        self.keyring = -1
        self.serial = 0
        """Of the keyring; 0: none."""

    def keep_snapshot(self, fd: int, generation: int) -> None:
        """Take ownership of it, and close the old one."""
        old, self.snapshot, self.generation = self.snapshot, fd, generation
        _close(old)

    def keep_credentials(self, fd: int) -> None:
        """Take ownership of it, and close the old one."""
        old, self.credentials = self.credentials, fd
        _close(old)

    def keep_keyring(self, fd: int, serial: int) -> None:
        """Take ownership of it, and close the old one."""
        old, self.keyring, self.serial = self.keyring, fd, serial
        _close(old)

    @property
    def fds(self) -> set[int]:
        """All descriptors."""
        return {fd for fd in (self.snapshot, self.credentials, self.keyring) if fd >= 0}

    def close(self, but: Collection[int] = ()) -> None:
        """Close all, except those."""
        for fd in self.fds.difference(but):
            os.close(fd)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
