"""Reloads: nothing fails, nothing is reset, and what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import (
    PATIENCE,
    Client,
    Gateway,
    Upstream,
    clients,
    eventually,
    fetch,
    proxying,
)
from waitkit import free_port

Start = Callable[..., Gateway]


def versioned(upstream: Upstream, version: int, **more: Any) -> dict[str, Any]:
    """A configuration that shows which version serves."""
    config = proxying(upstream, **more)
    shows = {"status": 200, "body": str(version)}
    config["routes"].append({"name": "version", "path": "/version", "respond": shows})
    return config


# ---- under load --------------------------------------------------------------------------


class Load:
    """Requests without a pause, on kept-alive and on fresh connections; what failed, with why."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.done = 0
        self.failures: list[str] = []
        self._stop = False

    async def keep_alive(self, client: Client, path: str) -> None:
        while not self._stop:
            await self._one(client, path)

    async def fresh(self, path: str) -> None:
        while not self._stop:
            async with Client(self.address) as client:
                await self._one(client, path)

    async def _one(self, client: Client, path: str) -> None:
        body = b"x" * 100 if path.endswith("post") else b""
        try:
            answer = await client.request(path, method="POST" if body else "GET", body=body)
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))
            return
        self.done += 1
        if answer.status != 200:
            self.failures.append(f"{path}: {answer.status} {answer.body[:200]!r}")

    async def run(self, work: Callable[[], Any]) -> None:
        """Run the load while `work` runs in a thread."""
        async with clients(self.address, 6) as kept:
            paths = ("/a", "/post", "/chunked/3/50", "/size/20000", "/b", "/version")
            tasks = [
                *map(asyncio.ensure_future, map(self.keep_alive, kept, paths)),
                *map(asyncio.ensure_future, map(self.fresh, ("/c", "/fresh/post"))),
            ]
            try:
                await asyncio.to_thread(work)
            finally:
                self._stop = True
                await asyncio.gather(*tasks)


async def test_a_hundred_reloads_under_load_fail_no_request(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(versioned(upstream, 0))
    load = Load(running.address())

    def reload_often() -> None:
        for version in range(1, 101):
            running.reload_and_wait(versioned(upstream, version))

    await load.run(reload_often)
    assert load.failures == []
    assert load.done > 500
    assert fetch(running.address(), "/version").body == b"100"
    assert set(running.children()) == {"fg-control", "fg-worker-0", "fg-worker-1"}
    workers = running.api("/v1/workers").json["items"]
    assert {worker["starts"] for worker in workers} == {1}
    assert {worker["generation"] for worker in workers} == {running.generation}


async def test_a_kept_alive_connection_sees_the_new_configuration(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(versioned(upstream, 1))
    async with Client(running.address()) as client:
        assert (await client.request("/version")).body == b"1"
        await asyncio.to_thread(running.reload_and_wait, versioned(upstream, 2))
        assert (await client.request("/version")).body == b"2"
        assert client.connections == 1


async def test_a_request_in_progress_ends_as_it_began(gateway: Start, upstream: Upstream) -> None:
    running = gateway(versioned(upstream, 1))
    async with Client(running.address()) as client:
        held = asyncio.ensure_future(client.request("/hold"))
        await asyncio.to_thread(eventually, lambda: "/hold" in upstream.seen, "it is upstream")
        gone = {"routes": [{"name": "none", "path": "/none", "respond": {"status": 204}}]}
        await asyncio.to_thread(running.reload_and_wait, gone)
        assert fetch(running.address(), "/hold").status == 404
        upstream.release()
        answer = await held
        assert (answer.status, answer.body) == (200, b"held")


# ---- nothing is reset --------------------------------------------------------------------


def limited(upstream: Upstream, requests: int, **more: Any) -> dict[str, Any]:
    route = {
        "name": "limited",
        "path": "/limited",
        "quotas": [{"by": "route", "period": "year", "requests": requests}],
    }
    return proxying(upstream, route, **more)


def test_quotas_and_counters_go_on(gateway: Start, upstream: Upstream) -> None:
    running = gateway(limited(upstream, 5))
    assert [fetch(running.address(), "/limited").status for _ in range(3)] == [200] * 3
    running.reload_and_wait(limited(upstream, 5, drain_timeout="9s"))
    assert [fetch(running.address(), "/limited").status for _ in range(3)] == [200, 200, 429]
    # A raised limit takes effect at once, and what was used stays used.
    running.reload_and_wait(limited(upstream, 7))
    assert [fetch(running.address(), "/limited").status for _ in range(3)] == [200, 200, 429]
    text = running.api("/metrics").body.decode()
    assert 'fastgate_requests_total{route="limited",status="200",reason=""} 7' in text


# ---- what is wrong -----------------------------------------------------------------------


def refuses(running: Gateway, config: dict[str, Any] | str) -> str:
    """Reload with this: nothing changes, and the log says why; returns what it says."""
    before, length = running.generation, len(running.log_text())
    running.reload(config)
    eventually(lambda: "keeps serving" in running.log_text()[length:], "the refusal is said")
    said = running.log_text()[length:]
    assert "Traceback" not in said
    assert running.generation == before
    assert fetch(running.address(), "/version").body == b"1"
    return said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("version: 1\nroutes:\n  - {name: a, path: /a, service: nowhere}\n", "nowhere"),
        ("version: 1\nroutes: [", "fastgate.yaml"),
        ("version: 2\n", "version"),
        (
            {"routes": [{"name": "x", "path": "/x", "handler": "no_such_module:handle"}]},
            "no_such_module",
        ),
        (
            {
                "routes": [
                    {"name": "one", "path": "/same", "respond": {"status": 200}},
                    {"name": "two", "path": "/same", "respond": {"status": 200}},
                ]
            },
            "two",
        ),
        (
            {"observability": {"access_log": {"to": "/nowhere/at/all.log"}}},
            "access log",
        ),
    ],
    ids=["dangling", "syntax", "version", "handler", "conflict", "access log"],
)
def test_a_broken_file_changes_nothing_and_says_why(
    gateway: Start, upstream: Upstream, config: dict[str, Any] | str, said: str
) -> None:
    running = gateway(versioned(upstream, 1))
    assert said in refuses(running, config)
    assert fetch(running.address(), "/echo").status == 200
    running.reload_and_wait(versioned(upstream, 2))
    assert fetch(running.address(), "/version").body == b"2"


def test_a_missing_file_changes_nothing(gateway: Start, upstream: Upstream) -> None:
    running = gateway(versioned(upstream, 1))
    running.config.unlink()
    length = len(running.log_text())
    running.reload()
    eventually(lambda: "keeps serving" in running.log_text()[length:], "the refusal is said")
    assert fetch(running.address(), "/version").body == b"1"


def test_the_caller_of_the_api_is_told_what_is_wrong(gateway: Start, upstream: Upstream) -> None:
    running = gateway(versioned(upstream, 1))
    running.write({"routes": [{"name": "a", "path": "/a", "service": "nowhere"}]})
    answer = running.api("/v1/config/reload", method="POST")
    assert answer.status == 422, answer.body
    assert b"nowhere" in answer.body
    running.write(versioned(upstream, 2))
    answer = running.api("/v1/config/reload", method="POST")
    assert answer.status == 200, answer.body
    # It returned when every worker served it.
    for _ in range(20):
        assert fetch(running.address(), "/version").body == b"2"


# ---- listeners ---------------------------------------------------------------------------


def nobody_has(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


PUBLIC = {"name": "public", "bind": "127.0.0.1:0"}


def test_listeners_come_and_go(gateway: Start, upstream: Upstream, tmp_path: Path) -> None:
    running = gateway(versioned(upstream, 1, listeners=[PUBLIC]))
    public = running.address()
    path = tmp_path / "more.sock"
    more = [PUBLIC, {"name": "more", "bind": "127.0.0.1:0"}, {"name": "u", "bind": f"unix:{path}"}]
    running.reload_and_wait(versioned(upstream, 2, listeners=more))
    assert running.address() == public
    added = running.address("more")
    for _ in range(20):
        assert fetch(added, "/version").body == b"2"
        assert fetch(public, "/version").body == b"2"
    assert fetch(str(path), "/version").body == b"2"
    kept = socket.create_connection(added, timeout=PATIENCE)
    running.reload_and_wait(versioned(upstream, 3, listeners=[PUBLIC]))
    assert fetch(public, "/version").body == b"3"
    eventually(lambda: _refuses(added), "the port is closed")
    eventually(lambda: not path.exists(), "the Unix socket is removed")
    # Who was connected already is served on.
    kept.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = b""
    while chunk := kept.recv(4096):
        received += chunk
    kept.close()
    assert received.endswith(b"3")


def test_a_listener_that_cannot_be_bound_fails_the_whole(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(versioned(upstream, 1, listeners=[PUBLIC]))
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listeners = [
            PUBLIC,
            {"name": "good", "bind": f"127.0.0.1:{port}"},
            {"name": "bad", "bind": f"127.0.0.1:{taken.getsockname()[1]}"},
        ]
        said = refuses(running, versioned(upstream, 2, listeners=listeners))
        assert "already in use" in said
        assert "listeners[2].bind" in said
    # What was bound on the way is let go, by the supervisor, which is told before the log is.
    eventually(lambda: nobody_has(port), "the port is free")
    running.reload_and_wait(versioned(upstream, 2, listeners=listeners))
    assert fetch(("127.0.0.1", port), "/version").body == b"2"


def test_a_worker_born_later_has_all_listeners(gateway: Start, upstream: Upstream) -> None:
    running = gateway(versioned(upstream, 1, listeners=[PUBLIC]), workers=1)
    more = [PUBLIC, {"name": "more", "bind": "127.0.0.1:0"}]
    running.reload_and_wait(versioned(upstream, 2, listeners=more))
    running.kill("fg-worker-0")
    assert fetch(running.address("more"), "/version").body == b"2"
    running.reload_and_wait(versioned(upstream, 3, listeners=[PUBLIC]))
    assert fetch(running.address(), "/version").body == b"3"


def test_the_control_api_moves(gateway: Start, upstream: Upstream) -> None:
    running = gateway(versioned(upstream, 1))
    old = running.control
    running.reload_and_wait(versioned(upstream, 2, control={"bind": f"127.0.0.1:{free_port()}"}))
    assert running.control != old
    assert running.api("/readyz").status == 200
    host, _, port = old.removeprefix("http://").rpartition(":")
    eventually(lambda: _refuses((host, int(port))), "the old address is closed")


def _refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


# ---- upstreams ---------------------------------------------------------------------------


def test_active_checks_take_a_target_out_and_bring_it_back(
    gateway: Start, upstreams: Callable[..., Upstream]
) -> None:
    good, bad = upstreams(), upstreams()
    health = {"path": "/healthz", "interval": "100ms", "unhealthy_after": 2, "healthy_after": 1}
    config = {
        "upstreams": [{"name": "app", "targets": [good.url, bad.url], "health": health}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [{"name": "all", "path": "/{rest*}", "service": "app"}],
    }
    running = gateway(config)
    bad.healthy = False
    eventually(lambda: running.said("is unhealthy"), "the target is taken out")
    before = bad.seen.count("/echo")
    for _ in range(20):
        assert fetch(running.address(), "/echo").status == 200
    assert bad.seen.count("/echo") == before
    bad.healthy = True
    length = len(running.log_text())
    eventually(lambda: "is healthy" in running.log_text()[length:], "the target is back")
    for _ in range(20):
        assert fetch(running.address(), "/echo").status == 200
    assert bad.seen.count("/echo") > before


# ---- handlers ----------------------------------------------------------------------------


def test_handlers_are_found_beside_the_file_and_new_ones_by_a_reload(
    gateway: Start, tmp_path: Path
) -> None:
    hello = {"name": "hello", "path": "/hello", "handler": "first_handlers:hello"}
    config = {"routes": [hello]}
    first = gateway(config, wait=False)
    # The start fails without the module; this one was only to have its folder.
    first.wait()
    folder = first.folder
    source = "async def hello(exchange):\n    await exchange.respond(200, body=b'{}')\n"
    (folder / "first_handlers.py").write_text(source.format("first"))
    running = Gateway(config, folder, workers=2, state=tmp_path / "state")
    try:
        running.wait_serving()
        assert fetch(running.address(), "/hello").body == b"first"
        (folder / "second_handlers.py").write_text(source.format("second"))
        hello = {**hello, "handler": "second_handlers:hello"}
        running.reload_and_wait({"routes": [hello]})
        assert fetch(running.address(), "/hello").body == b"second"
    finally:
        running.stop()


# ---- logs --------------------------------------------------------------------------------


def test_the_access_log_is_reopened_on_request(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    log = {"access_log": {"to": str(path), "format": "json"}}
    running = gateway(versioned(upstream, 1, observability=log))
    fetch(running.address(), "/first")
    eventually(lambda: path.exists() and b"/first" in path.read_bytes(), "it is written")
    moved = tmp_path / "access.log.1"
    os.rename(path, moved)
    running.process.send_signal(signal.SIGUSR1)
    eventually(path.exists, "it is opened anew")
    fetch(running.address(), "/second")
    eventually(lambda: b"/second" in path.read_bytes(), "the new file is written")
    assert b"/second" not in moved.read_bytes()
    line = json.loads(path.read_bytes().splitlines()[-1])
    assert line["status"] == 200
    assert line["path"] == "/second"


def plans_of(running: Gateway) -> list[str]:
    return [plan["name"] for plan in running.api("/v1/config").json.get("plans", [])]


def test_changes_of_the_api_stay_with_an_untouched_file_and_are_listed_when_dropped(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream, workers=2))
    made = running.api("/v1/plans/gold", method="PUT", body={}, headers={"If-None-Match": "*"})
    assert made.status in (200, 201), made.body
    running.reload_and_wait()  # SIGHUP
    assert plans_of(running) == ["gold"]
    running.kill("fg-control")
    eventually(lambda: running.said("control is back"), "control is back")
    done = running.api("/v1/config/reload", method="POST").json
    assert (done["changes"], done["dropped"], plans_of(running)) == ([], [], ["gold"])

    running.write(proxying(upstream, workers=3, plans=[{"name": "free"}]))
    done = running.api("/v1/config/reload", method="POST").json
    assert [change["path"] for change in done["dropped"]] == ["plans[gold]"]
    assert done["pending_restart"] == ["workers"]
    assert plans_of(running) == ["free"]
    eventually(lambda: running.said("through the API: plans[gold]"), "it is logged")
    assert "workers: takes effect at the next start" in running.log_text()
    # A new control process knows with what the gateway was started.
    running.kill("fg-control")
    done = running.api("/v1/config/reload", method="POST").json
    assert (done["dropped"], done["pending_restart"]) == ([], ["workers"])


def test_a_file_that_changed_while_the_gateway_was_down_says_what_it_drops(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    first = gateway(proxying(upstream), state=tmp_path / "state")
    first.api("/v1/plans/gold", method="PUT", body={}, headers={"If-None-Match": "*"})
    assert first.stop() == 0
    second = gateway(proxying(upstream, plans=[{"name": "free"}]), state=tmp_path / "state")
    assert second.said("it undoes changes made through the API: plans[gold]")
    assert plans_of(second) == ["free"]


def test_a_changed_store_waits_for_a_restart_of_the_whole_gateway(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    def config(name: str) -> dict[str, Any]:
        return proxying(upstream, store={"url": f"sqlite:///{tmp_path}/{name}.db"})

    running = gateway(config("one"), state=tmp_path / "state")
    made = running.api("/v1/accounts", method="POST", body={"name": "of-the-first"})
    assert made.status == 201, made.body
    running.write(config("two"))
    done = running.api("/v1/config/reload", method="POST").json
    assert done["pending_restart"] == ["store"]
    running.kill("fg-control")  # its successor goes on with the store of the start
    accounts = running.api("/v1/accounts").json["items"]
    assert [account["name"] for account in accounts] == ["of-the-first"]
    assert not (tmp_path / "two.db").exists()
    assert running.stop() == 0
    again = gateway(config("two"), state=tmp_path / "state")
    assert again.api("/v1/accounts").json["items"] == []


def test_a_store_that_was_applied_is_used_after_a_restart(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    """By `fastgate apply`, which says that it waits, with the same file at the next start."""
    file, state = proxying(upstream), tmp_path / "state"
    running = gateway(file, state=state)
    assert running.api("/v1/accounts", method="POST", body={"name": "first"}).status == 201
    other = {**file, "store": {"url": f"sqlite:///{tmp_path}/two.db"}}
    running.write(other)
    document = running.config.read_text()
    running.write(file)
    (tmp_path / "other.json").write_text(document)
    address = f"http://{running.running['control']}"
    command = ["apply", str(tmp_path / "other.json"), "--state-dir", str(state)]
    done = subprocess.run(
        [sys.executable, "-m", "fastgate", *command, "--control", address],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "Pending a restart of the gateway: store." in done.stdout
    assert len(running.api("/v1/accounts").json["items"]) == 1
    assert running.stop() == 0
    again = gateway(file, state=state)
    assert again.api("/v1/accounts").json["items"] == []
    assert (tmp_path / "two.db").exists()
