"""Health checks: when a verdict changes, what an answer must look like, what tasks leave behind."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxykit import LOCAL, binary

from fastgate.model.codec import decode
from fastgate.model.gateway import Upstream
from fastgate.runtime.control.health import (
    HEALTHY,
    UNHEALTHY,
    UNKNOWN,
    Check,
    CheckFailed,
    HealthChecks,
    HealthState,
    ask,
)
from fastgate.runtime.control.publisher import check_of


def check(address: Any = ("127.0.0.1", 1), **more: Any) -> Check:
    values: dict[str, Any] = {
        "name": "orders: one",
        "family": socket.AF_INET,
        "address": address,
        "host": "orders.internal",
        "path": "/healthz?deep=1",
        "interval": 0.001,
        "timeout": 5.0,
        "unhealthy_after": 3,
        "healthy_after": 2,
        "expect": ("2xx",),
    }
    return Check(**{**values, **more})


class Row:
    health = UNKNOWN
    started_ns = 0


def naive(results: list[bool], down: int, up: int) -> int:
    """The state after these results, by looking at the whole history again and again."""
    state = UNKNOWN
    for end in range(1, len(results) + 1):
        seen = results[:end]
        if len(seen) >= up and all(seen[-up:]):
            state = HEALTHY
        elif len(seen) >= down and not any(seen[-down:]):
            state = UNHEALTHY
    return state


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_verdict_is_what_the_history_says(results: list[bool], down: int, up: int) -> None:
    verdict = HealthState(check(unhealthy_after=down, healthy_after=up))
    state = UNKNOWN
    for good in results:
        changed = verdict.result(good)
        assert changed == (verdict.state != state)
        state = verdict.state
    assert state == naive(results, down, up)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[tuple[str, int], list[bytes]]]:
    """A server that sends these bytes to everyone; yields its address and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if asked[-1] == b"\r\n\r\n":  # the beginning of a PROXY header
            asked[-1] += await reader.readexactly(12) + await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname(), asked
    finally:
        server.close()


async def test_a_check_asks_as_a_client_does() -> None:
    async with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as (address, asked):
        await ask(check(address))
    assert asked[0].startswith(b"GET /healthz?deep=1 HTTP/1.1\r\nHost: orders.internal\r\n")
    assert b"Connection: close\r\n" in asked[0]


async def test_a_check_has_the_fields_it_is_given() -> None:
    headers = (("Authorization", "Basic eA=="), ("user-agent", "kube-probe"), ("X-Check", ""))
    async with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as (address, asked):
        await ask(check(address, headers=headers, host="[::1]:90"))
    lines = asked[0].decode().split("\r\n")
    assert lines == [
        "GET /healthz?deep=1 HTTP/1.1",
        "Host: [::1]:90",
        "Accept: */*",
        "Authorization: Basic eA==",
        "user-agent: kube-probe",
        "X-Check: ",
        "Connection: close",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("version", "header"),
    [("v1", b"PROXY UNKNOWN\r\n"), ("v2", binary(command=LOCAL)), (None, b"")],
)
async def test_a_check_begins_with_the_header_that_the_target_expects(
    version: str | None, header: bytes
) -> None:
    document = {"name": "u", "targets": ["http://10.0.0.1:9000"], "proxy_protocol": version}

    def header_of(**health: Any) -> bytes:
        upstream = decode({**document, "health": {"path": "/", **health}}, Upstream)
        target = {"name": b"http://10.0.0.1:9000"}
        found = check_of(upstream, target, socket.AF_INET, ("10.0.0.1", 9000))
        assert found is not None
        return found.proxy_header

    assert header_of() == header
    assert header_of(port=9100) == b""
    async with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as (address, asked):
        await ask(check(address, proxy_header=header_of()))
    assert asked[0].startswith(header + b"GET /healthz?deep=1 HTTP/1.1\r\n")


def checked(upstream_host: str = "target", /, **health: Any) -> Check:
    """The check of the target http://10.0.0.1:9000."""
    document = {"name": "u", "targets": ["http://10.0.0.1:9000"], "host": upstream_host}
    upstream = decode({**document, "health": {"path": "/", **health}}, Upstream)
    target = {"name": b"http://10.0.0.1:9000"}
    found = check_of(upstream, target, socket.AF_INET, ("10.0.0.1", 9000))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("upstream", "health", "expected"),
    [
        ("target", {}, "10.0.0.1:9000"),
        ("client", {}, "10.0.0.1:9000"),
        ("orders.internal", {}, "orders.internal"),
        ("orders.internal", {"host": "target"}, "10.0.0.1:9000"),
        ("orders.internal", {"host": "health.internal:81"}, "health.internal:81"),
        ("target", {"port": 9100}, "10.0.0.1:9100"),
        ("target", {"port": 80}, "10.0.0.1"),
        ("orders.internal", {"port": 9100}, "orders.internal"),
    ],
)
def test_whose_host_a_check_names(upstream: str, health: dict[str, Any], expected: str) -> None:
    assert checked(upstream, **health).host == expected


def test_the_port_of_a_check_may_be_another() -> None:
    assert checked().address == ("10.0.0.1", 9000)
    assert checked(port=9100, headers={"X-Check": "1"}).address == ("10.0.0.1", 9100)
    assert checked(headers={"X-Check": "1"}).headers == (("X-Check", "1"),)


@pytest.mark.parametrize(
    ("answer", "expect", "why"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", ("2xx",), "answered 500"),
        (b"HTTP/1.1 201 Created\r\n\r\n", ("200", "3xx"), "answered 201"),
        (b"SSH-2.0-OpenSSH\r\n", ("2xx",), "not HTTP/1"),
        (b"", ("2xx",), "without an answer"),
        (b"x" * 20_000, ("2xx",), "without an answer"),
    ],
)
async def test_another_answer_is_a_failure_that_says_so(
    answer: bytes, expect: tuple[str, ...], why: str
) -> None:
    async with answering(answer) as (address, _):
        with pytest.raises(CheckFailed, match=why):
            await ask(check(address, expect=expect))


async def test_expected_statuses_may_be_exact() -> None:
    async with answering(b"HTTP/1.0 401 Unauthorized\r\n\r\n") as (address, _):
        await ask(check(address, expect=("200", "401")))


async def test_no_listening_process_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
    with pytest.raises(CheckFailed, match="refused"):
        await ask(check(address))


async def test_silence_is_a_failure() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        pytest.raises(CheckFailed, match="no answer within"),
    ):
        await ask(check(sock.getsockname(), timeout=0.01))


async def test_unix_sockets_are_asked_too(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    path = str(tmp_path / "app.sock")
    server = await asyncio.start_unix_server(serve, path)
    await ask(check(path, family=socket.AF_UNIX))
    server.close()


class Scripted:
    """Answers checks by a function; `after` waits for that many."""

    def __init__(self, good: Callable[[int], bool]) -> None:
        self._good = good
        self.count = 0
        self._changed = asyncio.Event()

    async def __call__(self, check: Check) -> None:
        self.count += 1
        self._changed.set()
        if not self._good(self.count):
            raise CheckFailed("scripted")

    async def after(self, count: int) -> None:
        while self.count < count:
            self._changed.clear()
            await self._changed.wait()


async def test_the_row_follows_the_checks() -> None:
    scripted = Scripted(lambda n: n > 5)
    row = Row()
    checks = HealthChecks(scripted)
    checks.update([(1, check(), row)])
    await scripted.after(5)
    assert row.health == UNHEALTHY
    assert row.started_ns == 0
    began = time.monotonic_ns()
    await scripted.after(8)
    assert row.health == HEALTHY
    assert began <= row.started_ns <= time.monotonic_ns()
    await checks.stop()
    assert row.health == HEALTHY


async def test_a_target_that_was_never_unhealthy_does_not_start() -> None:
    scripted = Scripted(lambda n: n > 2)
    row = Row()
    checks = HealthChecks(scripted)
    checks.update([(1, check(), row)])
    await scripted.after(5)
    assert (row.health, row.started_ns) == (HEALTHY, 0)
    await checks.stop()


async def test_a_target_that_is_no_longer_checked_does_not_stay_unhealthy() -> None:
    scripted = Scripted(lambda n: False)
    row = Row()
    checks = HealthChecks(scripted)
    checks.update([(1, check(), row)])
    await scripted.after(4)
    assert row.health == UNHEALTHY
    checks.update([])
    assert row.health == UNKNOWN
    assert row.started_ns > 0  # it can be used again
    await checks.stop()


async def test_an_unchanged_check_continues_and_a_changed_one_restarts() -> None:
    scripted = Scripted(lambda n: True)
    row = Row()
    checks = HealthChecks(scripted)
    checks.update([(1, check(), row)])
    first = checks._watched[1].task
    checks.update([(1, check(), row)])
    assert checks._watched[1].task is first
    checks.update([(1, check(path="/other"), row)])
    assert checks._watched[1].task is not first
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    await checks.stop()
