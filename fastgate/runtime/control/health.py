"""Active health checks, run by control and shared with the workers through the segment.

One task per target sends `GET path` at every interval, over TCP, TLS or a Unix socket, and reads
only the status line of the answer. The verdict changes after a number of equal results in a row. It
is one word in the target's row, which workers read when they choose a target::

    unknown (0) ── healthy_after successes ──▶ healthy (1)
        │   ▲                                    │  ▲
        │   └── checks end (so no row stays unhealthy without checks)
        └────── unhealthy_after failures ──▶ unhealthy (2)

An unknown target is usable, so a gateway serves at once and not only after a round of checks.
Workers do passive ejection themselves, from real requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgspec

from fastgate.model.gateway import UpstreamTls
from fastgate.tasks import keep_running

log = logging.getLogger("fastgate.control")

UNKNOWN, HEALTHY, UNHEALTHY = 0, 1, 2
_USUAL = (("User-Agent", "fastgate-health"), ("Accept", "*/*"))
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: |\r)")


PROXY_HEADERS = {
    None: b"",
    "v1": b"PROXY UNKNOWN\r\n",
    "v2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
}
"""An upstream's `proxy_protocol` → the PROXY header of a connection without a client."""


class Contexts(Protocol):
    """What checks over TLS need (see `runtime/control/certificates.py`)."""

    def context(self, profile: UpstreamTls) -> ssl.SSLContext:
        """The context for connections to an upstream, with its current certificates."""

    def pinned(self, profile: UpstreamTls, connection: ssl.SSLObject) -> bool:
        """Whether the chain of a connection has a key that the profile pins, if it pins any."""


class TargetRow(Protocol):
    """A target's row in the segment."""

    health: int
    started_ns: int


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The check of a target. Durations in seconds."""

    name: str  # for the log
    family: int
    address: Any  # for connect()
    host: str
    path: str
    interval: float
    timeout: float
    unhealthy_after: int
    healthy_after: int
    expect: tuple[str, ...]  # "200", "2xx"
    headers: tuple[tuple[str, str], ...] = ()
    tls: UpstreamTls | None = None
    server_name: str = ""  # with TLS: the name that the certificate must be valid for
    proxy_header: bytes = b""  # what the connection begins with, before TLS

    @property
    def request(self) -> bytes:
        """The request to send."""
        given = {name.lower() for name, _ in self.headers}
        fields = [("Host", self.host)]
        fields += [field for field in _USUAL if field[0].lower() not in given]
        fields += [*self.headers, ("Connection", "close")]
        lines = [f"GET {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "", ""]).encode()


class HealthState:
    """Counts results and decides the state of a target."""

    __slots__ = ("_check", "_run", "state")

    def __init__(self, check: Check, state: int = UNKNOWN) -> None:
        self._check = check
        self._run = 0  # > 0: successes in a row, < 0: failures
        self.state = state

    def result(self, good: bool) -> bool:
        """Count a result; True if the state changed."""
        if good:
            self._run = max(self._run, 0) + 1
            changed = self.state != HEALTHY and self._run >= self._check.healthy_after
            if changed:
                self.state = HEALTHY
        else:
            self._run = min(self._run, 0) - 1
            changed = self.state != UNHEALTHY and -self._run >= self._check.unhealthy_after
            if changed:
                self.state = UNHEALTHY
        return changed


class CheckFailed(Exception):
    """A target did not answer as expected; the text says what it did."""


async def ask(check: Check, contexts: Contexts | None = None) -> None:
    """One check; `contexts` are needed with TLS. Raises CheckFailed."""
    try:
        async with asyncio.timeout(check.timeout):
            status = await _status_of(check, contexts)
    except TimeoutError:
        raise CheckFailed(f"no answer within {check.timeout:g} s") from None
    except ssl.SSLError as error:
        raise CheckFailed(_tls_words(error)) from error
    except OSError as error:
        # asyncio puts the address into strerror, so use the text for the number.
        words = os.strerror(error.errno) if error.errno else str(error)
        raise CheckFailed(words or "the connection was reset") from error
    if not any(status == want or want == f"{status[0]}xx" for want in check.expect):
        raise CheckFailed(f"answered {status}")


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    reason = (error.reason or "unknown error").replace("_", " ").lower()
    return f"the TLS handshake failed: {reason}"


async def _status_of(check: Check, contexts: Contexts | None) -> str:
    sock = socket.socket(check.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, check.address)
        if check.proxy_header:
            await loop.sock_sendall(sock, check.proxy_header)
        more: dict[str, Any] = {}
        if check.tls is not None:
            assert contexts is not None
            more = {"ssl": contexts.context(check.tls), "server_hostname": check.server_name}
        reader, writer = await asyncio.open_connection(sock=sock, limit=8192, **more)
    except BaseException:
        sock.close()
        raise
    try:
        if check.tls is not None and contexts is not None:
            connection = writer.get_extra_info("ssl_object")
            if not contexts.pinned(check.tls, connection):
                raise CheckFailed("no certificate in its chain has a pinned key")
        writer.write(check.request)
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise CheckFailed("closed the connection without an answer") from error
        found = _STATUS_LINE.match(line)
        if found is None:
            raise CheckFailed("answered with something that is not HTTP/1")
        return found[1].decode()
    finally:
        if check.tls is not None:
            writer.transport.abort()  # closing would wait for the peer's close_notify
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _change(row: TargetRow, state: int) -> None:
    if row.health == UNHEALTHY and state != UNHEALTHY:
        row.started_ns = time.monotonic_ns()  # from now on it can be used: for slow start
    row.health = state


class _Watched:
    __slots__ = ("check", "row", "task")

    def __init__(self, check: Check, row: TargetRow, task: asyncio.Task[None]) -> None:
        self.check = check
        self.row = row
        self.task = task


class HealthChecks:
    """All active checks of the configuration that is served."""

    def __init__(self, ask_once: Callable[[Check], Any] = ask) -> None:
        self._ask = ask_once
        self._watched: dict[int, _Watched] = {}

    def update(self, wanted: Iterable[tuple[int, Check, TargetRow]]) -> None:
        """Check only these targets (identity, check, row) from now on.

        A check that is the same as before continues without interruption.
        """
        new = {identity: (check, row) for identity, check, row in wanted}
        for identity in list(self._watched):
            watched = self._watched[identity]
            if identity not in new or new[identity][0] != watched.check:
                watched.task.cancel()
                if identity not in new:
                    _change(watched.row, UNKNOWN)
                del self._watched[identity]
        for identity, (check, row) in new.items():
            if identity not in self._watched:
                work = partial(self._watch, check, row)
                what = f"the health check of {check.name}"
                task = asyncio.ensure_future(keep_running(what, work, log))
                self._watched[identity] = _Watched(check, row, task)

    async def stop(self) -> None:
        """Stop all checks; the rows keep the last verdicts."""
        tasks = [watched.task for watched in self._watched.values()]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, check: Check, row: TargetRow) -> None:
        verdict = HealthState(check, row.health)
        # So that not all targets are checked at the same time.
        await asyncio.sleep(random.uniform(0, min(check.interval, 1.0)))
        while True:
            why = ""
            try:
                await self._ask(check)
            except CheckFailed as error:
                why = str(error)
            if verdict.result(not why):
                _change(row, verdict.state)
                if verdict.state == UNHEALTHY:
                    log.warning("target %s is unhealthy: %s", check.name, why)
                else:
                    log.info("target %s is healthy", check.name)
            await asyncio.sleep(check.interval * random.uniform(0.9, 1.1))
