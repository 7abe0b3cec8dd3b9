"""Files of frames: an append-only sequence of records, each complete or absent after a crash.

```
magic (8 octets) │ frame │ frame │ …          frame = length u32 │ crc32 u32 │ payload
```

A crash may leave an incomplete frame at the end. Reading stops there, and it is cut off, so that
the next append follows the last complete frame. If more is cut off than one append can leave, the
file was damaged, and that part is kept in another file.

The payload is bytes here; `spool` and `cell_cache` define it. Methods raise OSError.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from fastgate.files import replace_file

log = logging.getLogger("fastgate.billing")

_FRAME = struct.Struct("<II")
FRAME_MAX = 1 << 30
"""Maximum octets of a payload: far more than any record has, so a longer one is damage."""
MAGIC_SIZE = 8


def pack(payload: bytes) -> bytes:
    """A payload as a frame. Raises OSError if it is too long to be read back."""
    if len(payload) > FRAME_MAX:
        raise OSError(errno.EFBIG, f"a frame of {len(payload)} octets")
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


class FrameFile:
    """One file. `magic`: 8 octets that identify its format. Its folder must exist."""

    def __init__(self, path: Path, magic: bytes) -> None:
        assert len(magic) == MAGIC_SIZE
        self.path = path
        self._magic = magic
        self._fd: int | None = None
        self.end = 0
        """The offset of the next frame."""
        self.damaged = False
        """Whether complete frames could not be read, so records are missing."""

    def open(self) -> None:
        """Open or create the file and cut off an incomplete end."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = self._fd = os.open(self.path, flags, 0o600)
        os.fchmod(fd, 0o600)
        size = os.fstat(fd).st_size
        if os.pread(fd, MAGIC_SIZE, 0) != self._magic:
            if size > MAGIC_SIZE:
                self._keep_aside(0, size)
            os.ftruncate(fd, 0)
            os.pwrite(fd, self._magic, 0)
            size = MAGIC_SIZE
        self.end = MAGIC_SIZE
        for _, after in self.read(MAGIC_SIZE, size):
            self.end = after
        if self.end != size:
            self._cut(size)

    def _cut(self, size: int) -> None:
        """Cut off the data after the last complete frame. Torn: it is only one incomplete frame."""
        assert self._fd is not None
        head = os.pread(self._fd, _FRAME.size, self.end)
        torn = len(head) < _FRAME.size or self.end + _FRAME.size + _FRAME.unpack(head)[0] >= size
        if torn:
            log.warning("%s ends in an incomplete frame, which is cut off.", self.path)
        else:
            self._keep_aside(self.end, size)
        os.ftruncate(self._fd, self.end)
        os.fsync(self._fd)

    def _keep_aside(self, start: int, end: int) -> None:
        assert self._fd is not None
        self.damaged = True
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with open(aside, "ab") as file:
            while start < end and (data := os.pread(self._fd, min(1 << 20, end - start), start)):
                file.write(data)
                start += len(data)
        log.error("%s is damaged; the part that cannot be read is kept as %s.", self.path, aside)

    def read(self, at: int, end: int | None = None) -> Iterator[tuple[bytes, int]]:
        """The frames from `at` on, with the end of each; stops at the first incomplete one."""
        fd = self._fd
        assert fd is not None
        limit = self.end if end is None else end
        while at + _FRAME.size <= limit:
            length, checksum = _FRAME.unpack(os.pread(fd, _FRAME.size, at))
            if length > FRAME_MAX or at + _FRAME.size + length > limit:
                return
            payload = os.pread(fd, length, at + _FRAME.size)
            if len(payload) != length or zlib.crc32(payload) != checksum:
                return
            at += _FRAME.size + length
            yield payload, at

    def append(self, frames: bytes, *, sync: bool) -> None:
        """Append packed frames, all or none; with `sync`, to the disk."""
        fd = self._fd
        assert fd is not None
        written = 0
        try:
            while written < len(frames):
                written += os.pwrite(fd, frames[written:], self.end + written)
            if sync:
                os.fdatasync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self.end)
            raise
        self.end += len(frames)

    def clear(self) -> None:
        """Delete all frames."""
        assert self._fd is not None
        os.ftruncate(self._fd, MAGIC_SIZE)
        os.fdatasync(self._fd)
        self.end = MAGIC_SIZE

    def replace(self, payloads: Iterable[bytes]) -> None:
        """Write a new file and rename it over the old one, so that it is always complete."""
        replace_file(self.path, chain([self._magic], map(pack, payloads)))
        self.close()
        self.open()

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
