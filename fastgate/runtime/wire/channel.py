"""A channel for messages and file descriptors between two processes on one host.

A `SOCK_SEQPACKET` pair of Unix sockets keeps message boundaries. So there is no framing, and a
process that is killed during a send leaves either the complete message or nothing. Frames are
msgpack, decoded strictly into the union of structs that this end expects; descriptors are sent as
SCM_RIGHTS.

Neither end ever blocks. Messages that do not fit into the socket's buffer wait in an outbox (with
duplicates of their descriptors, so that the sender may close its own at once) until the owner's
loop calls `flush`. If a peer has not read for so long that the outbox is full, it counts as dead:
`ChannelFull`.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from fastgate.runtime.wire.messages import Message

MAX_MESSAGE = 64 * 1024
MAX_FDS = 250  # the kernel's limit for one message is 253
OUTBOX = 1024  # messages
# Kernel limits: buffers, or descriptors in transit; both recover when messages are read.
_NO_ROOM_NOW = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)

T = TypeVar("T")


class ChannelClosed(Exception):
    """The peer is gone."""


class ChannelFull(Exception):
    """The peer has not read for so long that its outbox is full."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, non-blocking and not inherited over exec."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    a.setblocking(False)
    b.setblocking(False)
    return a, b


class Channel(Generic[T]):
    """One end. `expects` is the union of structs that may arrive here.

    `sock`: a non-blocking SOCK_SEQPACKET socket, owned from now on.
    """

    __slots__ = ("_decode", "_encode", "_outbox", "sock")

    def __init__(self, sock: socket.socket, expects: Any) -> None:
        self.sock = sock
        self._decode = msgspec.msgpack.Decoder(expects).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def waiting(self) -> bool:
        """Whether the outbox has messages: call `flush` when the socket is writable."""
        return bool(self._outbox)

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Send a message with descriptors, which the caller still owns.

        Raises ChannelClosed if the peer is gone, ChannelFull if it does not read, OSError if the
        system has no resources, ValueError if the message is too large.
        """
        data = self._encode(message)
        if len(data) > MAX_MESSAGE or len(fds) > MAX_FDS:
            raise ValueError(
                f"{type(message).__name__}: {len(data)} bytes and {len(fds)} descriptors"
                f" exceed {MAX_MESSAGE} bytes and {MAX_FDS} descriptors"
            )
        if not self._outbox and self._put(data, fds):
            return
        if len(self._outbox) >= OUTBOX:
            raise ChannelFull
        self._outbox.append((data, [os.dup(fd) for fd in fds]))

    def flush(self) -> None:
        """Send as many waiting messages as possible. Raises ChannelClosed."""
        while self._outbox:
            data, fds = self._outbox[0]
            if not self._put(data, fds):
                return
            self._outbox.popleft()
            _close_all(fds)

    def receive(self) -> tuple[T, list[int]] | None:
        """The next message and its descriptors (now owned by the caller); None if there is none.

        Raises ChannelClosed at the end of the stream, msgspec.DecodeError for a frame that is not
        expected or has the wrong number of descriptors (they are closed).
        """
        try:
            # Not socket.recv_fds and send_fds: some versions of them lose the flags.
            data, ancillary, flags, _ = self.sock.recvmsg(
                MAX_MESSAGE + 1, socket.CMSG_LEN(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return None
        except (ConnectionResetError, BrokenPipeError) as error:
            raise ChannelClosed from error
        fds = _descriptors(ancillary)
        if not data:
            raise ChannelClosed
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _close_all(fds)
            raise msgspec.ValidationError("a message or its descriptors were cut short")
        try:
            message: T = self._decode(data)
            _check(message, fds)
        except (ValueError, RecursionError) as error:
            _close_all(fds)
            raise msgspec.ValidationError(str(error)) from error
        return message, fds

    def close(self) -> None:
        while self._outbox:
            _close_all(self._outbox.popleft()[1])
        self.sock.close()

    def _put(self, data: bytes, fds: Sequence[int]) -> bool:
        try:
            # The kernel accepts the complete message or nothing.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self.sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
            raise ChannelClosed from error
        except OSError as error:
            if error.errno in _NO_ROOM_NOW:
                return False
            raise
        return True


def _check(message: object, fds: Sequence[int]) -> None:
    """Raise ValueError if the message has the wrong number of descriptors."""
    wanted = message.descriptors() if isinstance(message, Message) else None
    if wanted is not None and wanted != len(fds):
        raise ValueError(
            f"{type(message).__name__} comes with {len(fds)} descriptors instead of {wanted}"
        )


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) // found.itemsize * found.itemsize])
    return list(found)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
