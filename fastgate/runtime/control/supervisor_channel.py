"""Control's channel to the supervisor: requests sockets and passes on generations."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable

from fastgate.errors import ApplyError
from fastgate.runtime.control.async_channel import AsyncChannel
from fastgate.runtime.supervisor.listeners import BindError
from fastgate.runtime.wire.messages import (
    Bind,
    Bound,
    Listener,
    Message,
    Release,
    ToControl,
)

BIND_S = 10.0


class SupervisorChannel:
    """The channel to the supervisor. `on_message` gets all messages that are not answers."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[ToControl, list[int]], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._on_message = on_message
        self._channel: AsyncChannel[ToControl] = AsyncChannel(
            sock, ToControl, self._receive, on_closed
        )
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Bound, list[int]]]] = {}

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        self._channel.send(message, fds)

    async def bind(self, listener: Listener) -> tuple[list[socket.socket], str]:
        """Bind an address. Returns its sockets and the address as bound. Raises BindError."""
        number = next(self._ids)
        future: asyncio.Future[tuple[Bound, list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self.send(Bind(id=number, listener=listener))
        try:
            async with asyncio.timeout(BIND_S):
                answer, fds = await future
        except TimeoutError:
            raise ApplyError(f"the supervisor does not answer for {listener.bind}") from None
        finally:
            self._waiting.pop(number, None)
        if answer.error:
            raise BindError(answer.error, answer.hint)
        return [socket.socket(fileno=fd) for fd in fds], answer.address

    def release(self, binds: list[str]) -> None:
        """Close the sockets that were bound for an apply that failed."""
        if binds:
            self.send(Release(binds=binds))

    def close(self) -> None:
        self._channel.close()

    def _receive(self, message: ToControl, fds: list[int]) -> None:
        if not isinstance(message, Bound):
            self._on_message(message, fds)
            return
        future = self._waiting.get(message.id)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
        else:
            future.set_result((message, fds))
