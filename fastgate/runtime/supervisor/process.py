"""Child processes by fork: start, signals, names, and ending with the parent.

A child is forked, not executed: it shares the pages of everything that the supervisor has
imported, starts in a millisecond, and gets its arguments as Python objects.

All signals are blocked during the fork, because the child inherits the parent's handlers and its
wake-up descriptor: a signal that arrived too early would be written into the parent's loop. The
child never returns from `spawn`; it ends in `os._exit`, so that no `finally` and no `atexit` of the
parent runs twice.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

# A terminal sends these to its whole foreground group; the supervisor handles them.
_IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_DEFAULT = (signal.SIGTERM, signal.SIGCHLD)

# The signals that the supervisor handles.
SIGNALS = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)

_libc = ctypes.CDLL(None, use_errno=True)


def spawn(name: str, main: Callable[[], int]) -> int:
    """Fork a child that runs `main` and exits with its result; returns its pid.

    name: shown by ps and top, at most 15 bytes.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(name, main, parent, blocked)
    finally:
        # In the parent only: the child does not come here.
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _run_child(
    name: str, main: Callable[[], int], parent: int, mask: set[signal.Signals | int]
) -> NoReturn:
    code = 70  # EX_SOFTWARE
    try:
        signal.set_wakeup_fd(-1)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for number in _DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        end_with_parent(parent)
        set_name(name)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        logging.getLogger("fastgate").error("%s was ended by sys.exit(%r)", name, error.code)
    except BaseException:
        logging.getLogger("fastgate").exception("%s ends because of an internal error", name)
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # its reader has closed it
        os._exit(code)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent ends for any reason."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(0)


def set_name(name: str) -> None:
    """Set the name that ps -o comm and top show, at most 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15] + b"\0", 0, 0, 0)


def describe_status(status: int) -> str:
    """A wait status as text: "exit 3", "signal 9 (SIGKILL)"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"signal {number} ({signal.Signals(number).name})"
        except ValueError:
            return f"signal {number}"
    return f"exit {os.waitstatus_to_exitcode(status)}"


class Backoff:
    """The delay before a child that died is restarted, in seconds.

    After the first `free` deaths in a row there is no delay; then 0.1, 0.2, 0.4 … up to `longest`.
    A life of `good` seconds resets the count.
    """

    __slots__ = ("_failures", "_free", "_good", "_longest")

    def __init__(self, *, longest: float = 10.0, good: float = 10.0, free: int = 1) -> None:
        self._longest = longest
        self._good = good
        self._free = free
        self._failures = 0

    @property
    def failures(self) -> int:
        """Deaths in a row, each after a life of less than `good` seconds."""
        return self._failures

    def after(self, lived: float) -> float:
        """The wait after a life of `lived` seconds."""
        if lived >= self._good:
            self._failures = 0
        self._failures += 1
        late = self._failures - self._free
        if late <= 0:
            return 0.0
        return float(min(self._longest, 0.1 * 2 ** min(late - 1, 32)))


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, a debugger)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")
