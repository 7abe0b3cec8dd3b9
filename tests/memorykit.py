"""How much memory a shared file takes, where the kernel says it."""

from __future__ import annotations

import functools
import os

import pytest


def taken(fd: int) -> int:
    """Bytes of a memfd that take memory. Skips the test where that cannot be known."""
    if not _counted():
        pytest.skip("this kernel counts the untouched pages of a memfd too (gVisor's does)")
    return os.fstat(fd).st_blocks * 512


@functools.cache
def _counted() -> bool:
    fd = os.memfd_create("counted")
    try:
        os.ftruncate(fd, 1 << 20)
        return os.fstat(fd).st_blocks == 0
    finally:
        os.close(fd)
