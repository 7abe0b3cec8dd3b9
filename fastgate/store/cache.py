"""The credential cache: a local file of consumers and credentials, for when the store is down.

It holds hashes, never keys, and is readable only by its owner. Format:

```
"FGCRED2\\n"  frame  frame  frame …        frame = length u32 │ crc32 u32 │ msgpack record
```

A change appends a frame and is synced to disk before it is answered. Reading stops at a frame that
a crash has truncated or damaged; the frames before it are used. If more than half of the file is
outdated, it is rewritten as a new file and renamed, so the file on disk is always complete.

If a change cannot be written, the file is removed. Without a cache, calls are refused until the
store is back; a stale cache would accept a revoked key.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from fastgate.files import replace_file

log = logging.getLogger("fastgate.store")

MAGIC = b"FGCRED2\n"
MAGICS = (MAGIC, b"FGCRED1\n")
"""Version 1 had neither kinds of credentials nor revoked tokens; its records are read, too."""
_FRAME = struct.Struct("<II")
FRAME_MAX = 64 * 1024
SLACK = 1024  # frames beyond the live ones before the file is rewritten


class ConsumerRecord(msgspec.Struct, array_like=True, tag="c", frozen=True):
    """A consumer, with the fields that workers use."""

    id: str
    name: str
    account: str | None
    plan: str | None
    suspended: bool
    limits: dict[str, dict[str, Any]] = {}
    """Its own limits, which override the configuration's."""


class KeyRecord(msgspec.Struct, array_like=True, tag="k", frozen=True):
    """A credential. Times in Unix seconds; 0: never."""

    digest: bytes
    id: str
    consumer: str
    expires_at: int
    revoked_at: int
    kind: str = "key"
    """See `fastgate.model.digests`; "key" is an API key."""
    about: dict[str, str] = {}
    """What identifies it to people, by its kind: issuer and subject, pin, user."""


class TokenRecord(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """A revoked token."""

    digest: bytes
    expires_at: int
    """Unix seconds: when it can be forgotten."""


class GoneRecord(msgspec.Struct, array_like=True, tag="g", frozen=True):
    """A consumer that was deleted, with its credentials."""

    consumer: str


CacheRecord = ConsumerRecord | KeyRecord | TokenRecord | GoneRecord
_decoder: msgspec.msgpack.Decoder[CacheRecord] = msgspec.msgpack.Decoder(CacheRecord)
_encoder = msgspec.msgpack.Encoder()


def _frame(record: CacheRecord) -> bytes:
    payload = _encoder.encode(record)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _frames(data: bytes) -> Iterator[tuple[CacheRecord, int]]:
    """The complete frames of a file, with the end of each; stops at the first incomplete one."""
    if not data.startswith(MAGICS):
        return
    at = len(MAGIC)
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if length > FRAME_MAX or len(payload) != length or zlib.crc32(payload) != checksum:
            return
        try:
            record = _decoder.decode(payload)
        except msgspec.DecodeError:
            return
        at += _FRAME.size + length
        yield record, at


class CredentialCache:
    """One cache file. Its folder must exist. Errors of the disk are logged, never raised."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._frames = 0

    def load(self) -> list[CacheRecord]:
        """All records in the file, oldest first; empty if there is no usable file."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("The credential cache %s cannot be read: %s", self.path, error)
            return []
        records: list[CacheRecord] = []
        end = len(MAGIC)
        for record, end in _frames(data):  # noqa: B007 - the last end is where we append
            records.append(record)
        if end != len(data) or not data.startswith(MAGICS):
            log.warning("The credential cache ends in a damaged record, which is dropped.")
            try:  # append only after complete frames
                if records:
                    os.truncate(self.path, end)
                else:
                    self.path.unlink()
            except OSError as error:
                self._give_up(error)
                return records
        self._frames = len(records)
        if data.startswith(MAGICS[1]):
            self.replace(records)  # what is appended is of the new version
        return records

    def append(self, records: Iterable[CacheRecord]) -> None:
        """Append changes (call `sync` to sync them to disk)."""
        frames = [_frame(record) for record in records]
        if not frames:
            return
        try:
            fd = self._open()
            data = b"".join(frames)
            if os.write(fd, data) != len(data):
                raise OSError("the disk is full")
        except OSError as error:
            self._give_up(error)
        else:
            self._frames += len(frames)

    def sync(self) -> None:
        """Sync appended frames to disk. This blocks, so call it from a thread."""
        fd = self._fd
        if fd is not None:
            try:
                os.fdatasync(fd)
            except OSError as error:
                self._give_up(error)

    def outdated(self, live: int) -> bool:
        """Whether the file should be rewritten, if `live` records are still needed."""
        return self._frames > 2 * live + SLACK

    def replace(self, records: Iterable[CacheRecord]) -> None:
        """Rewrite the whole file, atomically."""
        self.close()
        count = 0

        def frames() -> Iterator[bytes]:
            nonlocal count
            for record in records:
                count += 1
                yield _frame(record)

        try:
            replace_file(self.path, chain([MAGIC], frames()))
        except OSError as error:
            self._give_up(error)
        else:
            self._frames = count

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(self.path, flags, 0o600)
            os.fchmod(fd, 0o600)
            if os.fstat(fd).st_size < len(MAGIC):
                os.ftruncate(fd, 0)
                os.write(fd, MAGIC)
            self._fd = fd
        return self._fd

    def _give_up(self, error: OSError) -> None:
        log.error("The credential cache %s cannot be written and is removed: %s", self.path, error)
        with contextlib.suppress(OSError):
            self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._frames = 0
