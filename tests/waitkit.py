"""What tests ask the system: is a descriptor readable, does a process live, which port is free."""

from __future__ import annotations

import contextlib
import select
import socket
from pathlib import Path
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def readable(what: int | HasFileno, seconds: float | None) -> bool:
    """Whether it can be read within so many seconds; None: however long it takes.

    By `poll`: `select` knows no descriptor above 1,023.
    """
    poller = select.poll()
    poller.register(what, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


def lives(pid: int) -> bool:
    """Whether a process, of whoever's children, is there and has not ended.

    In a container nobody may wait for orphans; and not every kernel has `pidfd_open`.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # before, or while, it is read
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def free_ports(count: int) -> list[int]:
    """So many different TCP ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in opened]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
