"""A channel of the control process, served by its event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from fastgate.runtime.wire.channel import Channel, ChannelClosed, ChannelFull
from fastgate.runtime.wire.messages import Message

log = logging.getLogger("fastgate.control")

T = TypeVar("T")


class AsyncChannel(Generic[T]):
    """Passes every message to `on_message`."""

    def __init__(
        self,
        sock: socket.socket,
        expects: Any,
        on_message: Callable[[T, list[int]], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._channel: Channel[T] = Channel(sock, expects)
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)
        self.closed = False

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send. Does nothing if the peer is gone; disconnects a peer that does not read."""
        if self.closed:
            return
        try:
            self._channel.send(message, fds)
        except (ChannelClosed, ChannelFull):
            self._end()
            return
        except (OSError, ValueError) as error:
            log.error("%s could not be sent: %s", type(message).__name__, error)
            return
        if self._channel.waiting:
            self._loop.add_writer(self._channel.fileno(), self._write)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._channel.close()

    def _read(self) -> None:
        while not self.closed:
            try:
                received = self._channel.receive()
            except ChannelClosed:
                self._end()
                return
            except msgspec.DecodeError as error:
                log.error("ignored a message: %s", error)
                continue
            if received is None:
                return
            try:
                self._on_message(*received)
            except Exception:
                log.exception("could not handle the message %s", type(received[0]).__name__)

    def _write(self) -> None:
        try:
            self._channel.flush()
        except ChannelClosed:
            self._end()
            return
        if not self._channel.waiting:
            self._loop.remove_writer(self._channel.fileno())

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._on_closed()
