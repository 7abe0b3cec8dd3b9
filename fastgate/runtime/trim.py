"""Giving back memory that only a process's start needed.

Importing runs the initialization of every extension module, and reads its tables of names: some
10 MiB of code and constants that are mapped from then on and never used again. A page that is the
same as in its file may be unmapped at any time: the kernel has it in its cache, and maps it again
when it is used. Which pages are the same is certain where nothing can be written and nothing has
been (by the loader, before it took the right away).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)")


def trim() -> None:
    """Unmap what is as in its file, and give back free pages of the heap."""
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # glibc has it
        libc.malloc_trim(ctypes.c_size_t(0))
    with suppress(OSError):  # not every kernel has it (gVisor's has not)
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            found = list(unchanged(smaps))
        for start, size in found:
            # A refusal changes nothing: the pages stay.
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def unchanged(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and size of each mapping of a file that cannot be written and has no page of its
    own, in the format of /proc/PID/smaps."""
    start = end = 0
    candidate = False
    for line in smaps:
        if mapping := _MAPPING.match(line):
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            # Private, not writable; the number of a file, which the kernel's own pages lack.
            candidate = mapping[3] in ("r-xp", "r--p") and mapping[4] != "0"
        elif candidate and line.startswith("Anonymous:"):
            if line.split()[1] == "0":
                yield start, end - start
            candidate = False
