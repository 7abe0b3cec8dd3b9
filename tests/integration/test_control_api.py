"""The control API and the command line against a gateway of real processes.

What the API does with a request is tested in tests/api; here stands what only a whole gateway
can show: that what was answered is so on *every* worker, from the moment of the answer on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gatewaykit import (
    PATIENCE,
    PROJECT,
    Answer,
    Client,
    Gateway,
    Upstream,
    clients,
    eventually,
    fetch,
    proxying,
)

Start = Callable[..., Gateway]

KEYED = {"name": "keyed", "path": "/keyed/{rest*}", "auth": {"api_key": {"header": "X-Api-Key"}}}
OPEN = {"name": "open", "path": "/open/{rest*}"}
WORKERS = 3


@pytest.fixture
def running(gateway: Start, upstream: Upstream) -> Gateway:
    """A gateway of three workers with an open route, one with keys, and two plans."""
    plans = [
        {"name": "small", "quotas": [{"period": "year", "requests": 3, "name": "yearly"}]},
        {"name": "large", "quotas": [{"period": "year", "requests": 9, "name": "yearly"}]},
    ]
    return gateway(proxying(upstream, KEYED, OPEN, plans=plans), workers=WORKERS)


def ask(running: Gateway, path: str, key: str | None = None) -> Answer:
    headers = {} if key is None else {"X-Api-Key": key}
    return fetch(running.address(), path, headers=headers)


@asynccontextmanager
async def on_every_worker(running: Gateway) -> AsyncIterator[list[Client]]:
    """Kept-alive clients, so many that every worker has one of them."""
    for count in (16, 64, 256):
        async with clients(running.address(), count) as found:
            for client in found:
                assert (await client.request("/open/echo")).status == 200
            rows = running.api("/v1/workers").json["items"]
            if all(row["connections"] > 0 for row in rows) and len(rows) == WORKERS:
                yield found
                return
    pytest.fail("256 connections and a worker without one")


async def statuses(found: list[Client], path: str, key: str) -> set[int]:
    headers = {"X-Api-Key": key}
    return {(await client.request(path, headers=headers)).status for client in found}


def cli(running: Gateway, *arguments: str, token: str | None = None) -> tuple[int, str, str]:
    """Run `fastgate` as people do; its exit code, output and errors."""
    assert running.control  # it listens
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "FASTGATE_STATE_DIR": str(running.state),
        "COLUMNS": "200",
    }
    if token is not None:
        environment["FASTGATE_TOKEN"] = token
    ran = subprocess.run(
        [sys.executable, "-m", "fastgate", *arguments],
        capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=running.folder,
        check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


def cli_done(running: Gateway, *arguments: str) -> str:
    code, out, err = cli(running, *arguments)
    assert code == 0, err
    return out


# ---- consumers and keys ------------------------------------------------------------------


async def test_a_key_is_known_to_every_worker_and_a_revoked_one_to_none(running: Gateway) -> None:
    """From the very answer on: nothing is waited for between it and the next request."""
    assert running.api("/v1/consumers", method="POST", body={"name": "acme"}).status == 201
    path = "/v1/consumers/acme/credentials"
    async with on_every_worker(running) as found:
        assert await statuses(found, "/keyed/echo", "fg_not_a_key") == {401}
        for _ in range(3):
            made = running.api(path, method="POST", body={})
            assert made.status == 201, made.body
            assert await statuses(found, "/keyed/echo", made.json["key"]) == {200}
            gone = running.api(f"{path}/{made.json['id']}", method="DELETE")
            assert gone.status < 300, gone.body
            assert await statuses(found, "/keyed/echo", made.json["key"]) == {401}
    refusal = ask(running, "/keyed/echo", made.json["key"]).json
    assert refusal["reason"] == "credential_revoked"
    assert made.json["key"] not in running.log_text()


async def test_suspending_and_deleting_a_consumer_is_felt_at_once(running: Gateway) -> None:
    running.api("/v1/consumers", method="POST", body={"name": "acme"})
    key = cli_done(running, "keys", "create", "acme").strip()
    async with on_every_worker(running) as found:
        assert await statuses(found, "/keyed/echo", key) == {200}
        cli_done(running, "consumers", "suspend", "acme")
        assert await statuses(found, "/keyed/echo", key) == {403}
        cli_done(running, "consumers", "resume", "acme")
        assert await statuses(found, "/keyed/echo", key) == {200}
        cli_done(running, "consumers", "delete", "acme", "--yes")
        assert await statuses(found, "/keyed/echo", key) == {401}


def test_a_rotated_key_and_its_successor_overlap(running: Gateway) -> None:
    running.api("/v1/consumers", method="POST", body={"name": "acme"})
    path = "/v1/consumers/acme/credentials"
    first = running.api(path, method="POST", body={}).json
    turned = running.api(f"{path}/{first['id']}/rotate", method="POST", body={"overlap": 3600})
    assert turned.status < 300, turned.body
    second = turned.json["key"]
    assert [ask(running, "/keyed/echo", k).status for k in (first["key"], second)] == [200, 200]
    other = running.api(f"{path}/{turned.json['id']}/rotate", method="POST", body={}).json["key"]
    assert [ask(running, "/keyed/echo", k).status for k in (second, other)] == [401, 200]


def test_plans_limits_and_usage_of_a_consumer(running: Gateway) -> None:
    made = running.api("/v1/consumers", method="POST", body={"name": "acme", "plan": "small"})
    assert made.status == 201, made.body
    key = cli_done(running, "keys", "create", "acme").strip()
    assert [ask(running, "/keyed/echo", key).status for _ in range(4)] == [200, 200, 200, 429]

    (limit,) = running.api("/v1/limits/acme").json["items"]
    assert (limit["kind"], limit["amount"], limit["used"], limit["remaining"]) == ("quota", 3, 3, 0)
    told = json.loads(cli_done(running, "consumers", "limits", "acme", "--json"))
    assert told["items"] == [limit]

    cli_done(running, "consumers", "plan", "acme", "large")
    assert running.api("/v1/consumers/acme").json["plan"] == "large"
    assert ask(running, "/keyed/echo", key).status == 200
    assert running.api("/v1/consumers/acme").json["id"] == made.json["id"]

    def counted() -> dict[str, Any]:
        rows = running.api("/v1/usage?route=keyed").json["routes"]
        return rows[0] if rows else {}

    use = eventually(
        lambda: (row := counted()) and row["requests"] >= 5 and row, "the requests are counted"
    )
    assert use["requests"] == 5
    assert use["refused"] == {"quota_exhausted": 1}


async def test_own_numbers_of_a_consumer_hold_on_every_worker_at_once(running: Gateway) -> None:
    running.api("/v1/consumers", method="POST", body={"name": "acme", "plan": "small"})
    key = cli_done(running, "keys", "create", "acme").strip()
    generation = running.api("/v1/status").json["generation"]
    async with on_every_worker(running) as found:
        assert await statuses(found[:4], "/keyed/echo", key) == {200, 429}
        cli_done(running, "consumers", "override", "acme", "yearly", "--requests", "1000")
        assert await statuses(found, "/keyed/echo", key) == {200}
        (limit,) = running.api("/v1/limits/acme").json["items"]
        assert (limit["own"], limit["amount"], limit["used"]) == (True, 1000, 3 + len(found))
        assert "quota (own)" in cli_done(running, "consumers", "limits", "acme")
        assert f"{997 - len(found)} of 1000 requests a year" in cli_done(
            running, "why", "acme", "--consumer"
        )
        cli_done(running, "consumers", "override", "acme", "yearly", "--remove")
        assert await statuses(found, "/keyed/echo", key) == {429}
    code, _, err = cli(running, "consumers", "override", "acme", "hourly", "--requests", "9")
    assert code != 0
    assert "no limit 'hourly'" in err
    assert running.api("/v1/status").json["generation"] == generation


def test_a_plan_in_use_cannot_be_removed(running: Gateway) -> None:
    running.api("/v1/consumers", method="POST", body={"name": "acme", "plan": "small"})
    refused = running.api("/v1/plans/small", method="DELETE")
    assert refused.status == 422
    assert b"on it" in refused.body
    assert running.api("/v1/plans/large", method="DELETE").status < 300


# ---- configuration -----------------------------------------------------------------------


async def test_routes_come_change_and_go_on_every_worker(running: Gateway) -> None:
    route = {"name": "hello", "path": "/hello", "respond": "one"}
    async with on_every_worker(running) as found:

        async def said() -> set[tuple[int, bytes]]:
            answers = [await client.request("/hello") for client in found]
            return {(a.status, a.body if a.status == 200 else b"") for a in answers}

        assert await said() == {(404, b"")}
        made = running.api("/v1/routes", method="POST", body=route)
        assert made.status == 201, made.body
        assert await said() == {(200, b"one")}
        patch = {"respond": {"body": "two"}}
        stale = running.api("/v1/routes/hello", method="PATCH", body=patch)
        assert stale.json["reason"] == "precondition_required"
        assert await said() == {(200, b"one")}
        code, _, err = cli(running, "revisions", "rollback", "1")
        assert code == 0, err
        assert await said() == {(404, b"")}
        assert sum(client.connections for client in found) == len(found)


def test_revisions_tell_what_changed_and_bring_it_back(running: Gateway) -> None:
    for word in ("one", "two"):
        body = {"name": word, "path": f"/{word}", "respond": word}
        assert running.api("/v1/routes", method="POST", body=body).status == 201
    rows = running.api("/v1/config/revisions").json["items"]
    assert [(row["number"], row["author"], row["source"]) for row in rows] == [
        (3, "admin", "api"), (2, "admin", "api"), (1, "gateway", "file"),
    ]  # fmt: skip
    (change,) = running.api("/v1/config/revisions/3/diff").json["changes"]
    assert (change["kind"], change["path"]) == ("added", "routes[two]")
    assert "+ routes[two]" in cli_done(running, "revisions", "diff", "3")
    cli_done(running, "revisions", "rollback", "2")
    assert [ask(running, path).status for path in ("/one", "/two")] == [200, 404]
    assert running.api("/v1/config/revisions").json["items"][0]["number"] == 4


def test_a_file_is_compared_and_applied_whole_or_not_at_all(running: Gateway) -> None:
    document = json.loads(running.config.read_text())
    document["routes"].append({"name": "new", "path": "/new", "respond": "new"})
    running.write(document)
    assert "+ routes[new]" in cli_done(running, "diff", str(running.config))
    assert ask(running, "/new").status == 404
    assert "generation 2" in cli_done(running, "apply", str(running.config))
    assert ask(running, "/new").body == b"new"

    document["routes"].append({"name": "bad", "path": "/bad", "service": "ap"})
    running.write(document)
    code, _, err = cli(running, "apply", str(running.config))
    assert code == 4
    assert "'ap'" in err
    assert "app" in err.partition("'ap'")[2], "the nearest right name is told"
    assert running.generation == 2
    code, _, err = cli(running, "reload")
    assert code == 4
    checked = cli(running, "check", str(running.config))[2]
    (place,) = [line for line in checked.splitlines() if "'ap'" in line]
    assert place.startswith(f"{running.config}:")
    assert place in err, "reload names file, line and path as check does"
    assert ask(running, "/new").body == b"new"


def test_a_stopped_worker_holds_up_no_change_and_gets_it_when_it_goes_on(running: Gateway) -> None:
    """The others serve, so the gateway stays ready; who is missing is said."""
    stopped = running.worker(1)
    body = {"name": "hello", "path": "/hello", "respond": "hello"}
    assert running.api("/v1/status").json["ready"] is True  # and the API is imported
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert running.api("/v1/routes", method="POST", body=body).status == 201
        assert time.monotonic() - began < 10, "the stopped worker was waited for"
        assert running.said(f"worker 1 (pid {stopped}) has had no heartbeat")
        ready = eventually(
            lambda: (a := running.api("/readyz")).status == 200 and a, "ready without it"
        )
        assert ready.json["generation"] == 2
        assert [reason[:30] for reason in ready.json["reasons"]] == [
            "worker 1 has had no heartbeat "
        ]
        assert cli(running, "status")[0] == 0
        workers = running.api("/v1/workers").json["items"]
        assert workers[1]["generation"] == 1
    finally:
        os.kill(stopped, signal.SIGCONT)
    eventually(
        lambda: running.api("/v1/workers").json["items"][1]["generation"] == 2, "it serves it"
    )
    eventually(lambda: not running.api("/readyz").json["reasons"], "nobody is missing")


# ---- tokens ------------------------------------------------------------------------------


def test_roles_are_what_they_may(running: Gateway) -> None:
    tokens = {
        role: cli_done(running, "tokens", "create", role, "--role", role).strip()
        for role in ("viewer", "operator")
    }
    body = json.dumps({"name": "hello", "path": "/hello", "respond": "hello"}).encode()
    host, _, port = running.control.removeprefix("http://").rpartition(":")

    def call(method: str, path: str, token: str | None) -> int:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = body if method == "POST" else b""
        return fetch((host, int(port)), path, method=method, headers=headers, body=data).status

    asked = (("GET", "/v1/status"), ("POST", "/v1/routes"), ("GET", "/v1/tokens"))
    may = {
        who: [call(*what, token) for what in asked]
        for who, token in {**tokens, "nobody": None, "a stranger": "fgt_wrong"}.items()
    }
    assert may == {
        "viewer": [200, 403, 403],
        "operator": [200, 201, 403],
        "nobody": [401, 401, 401],
        "a stranger": [401, 401, 401],
    }
    assert cli(running, "tokens", "list", token=tokens["operator"])[0] == 1
    (mine,) = [t for t in running.api("/v1/tokens").json["items"] if t["label"] == "viewer"]
    cli_done(running, "tokens", "delete", mine["id"])
    assert call("GET", "/v1/status", tokens["viewer"]) == 401
    assert call("GET", "/v1/status", tokens["operator"]) == 200


# ---- operation ---------------------------------------------------------------------------


def test_a_refusal_is_explained_by_its_id(running: Gateway) -> None:
    refused = ask(running, "/keyed/echo")
    ident = refused.headers["x-request-id"]
    assert refused.json["instance"].endswith(ident)
    found = eventually(
        lambda: (a := running.api(f"/v1/requests/{ident}")).status == 200 and a.json,
        "the record is there",
    )
    assert (found["route"], found["status"], found["reason"]) == (
        "keyed", 401, "credential_missing",
    )  # fmt: skip
    told = cli_done(running, "explain", ident)
    assert "credential_missing" in told
    assert "authenticate" in told
    assert cli(running, "explain", "0" * 32)[0] == 1


def test_drain_by_the_command_line_ends_the_gateway(running: Gateway) -> None:
    cli_done(running, "drain", "--yes")
    assert running.wait() == 0
    assert not running.children()
    with pytest.raises(ConnectionRefusedError):
        ask(running, "/open/echo")
