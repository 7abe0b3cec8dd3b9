"""Releases memory that is needed only at the start of a process.

Importing runs the initialization of every extension module and reads its tables of names: about 10
MiB of code and constants that stay mapped and are never used again. A page that is equal to its
file may be unmapped at any time: the kernel has it in its cache, and maps it again when it is used.
A page is certainly equal if its mapping cannot be written and never was (the loader may have
written to it before it removed the permission).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)")


def trim() -> None:
    """Unmap pages that are equal to their file, and release free pages of the heap."""
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # in glibc
        libc.malloc_trim(ctypes.c_size_t(0))
    with suppress(OSError):  # not in all kernels (not in gVisor)
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            found = list(unchanged(smaps))
        for start, size in found:
            # If this is refused, the pages simply stay.
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def unchanged(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and size of each file mapping that is not writable and has no private pages, in the
    format of /proc/PID/smaps."""
    start = end = 0
    candidate = False
    for line in smaps:
        if mapping := _MAPPING.match(line):
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            # Private and not writable, with an inode, which the kernel's own pages lack.
            candidate = mapping[3] in ("r-xp", "r--p") and mapping[4] != "0"
        elif candidate and line.startswith("Anonymous:"):
            if line.split()[1] == "0":
                yield start, end - start
            candidate = False
