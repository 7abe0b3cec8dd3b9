"""Targets with names, a real name server, and real gateways: names change while requests run."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import StartGateway
from dnskit import NameServer, name_server
from gatewaykit import Gateway, Upstream, eventually, fetch

SRV = "_http._tcp.app.internal"


@pytest.fixture
def names() -> Iterator[NameServer]:
    with name_server() as server:
        yield server


@pytest.fixture
def servers() -> Iterator[list[Upstream]]:
    """Three, at different addresses and the same port."""
    first = Upstream(host="127.0.0.2")
    port = first.address[1]
    started = [first, *(Upstream(host=f"127.0.0.{i}", port=port) for i in (3, 4))]
    yield started
    for each in started:
        with contextlib.suppress(RuntimeError):  # the test has stopped it
            each.stop()


def following(names: NameServer, *targets: str, **upstream: Any) -> dict[str, Any]:
    return {
        "dns": {"servers": [names.address], "min_ttl": "100ms", "timeout": "1s"},
        "upstreams": [{"name": "app", "targets": list(targets), **upstream}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [{"name": "all", "path": "/{rest*}", "service": "app"}],
    }


def metric(gateway: Gateway, name: str) -> dict[str, float]:
    text = gateway.api("/metrics").body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith(name + "{"))
    return {labels.removeprefix(name): float(value) for labels, _, value in lines}


def lookups(gateway: Gateway, result: str) -> float:
    return metric(gateway, "fastgate_dns_lookups_total")[f'{{result="{result}"}}']


def status_of(client: http.client.HTTPConnection) -> int:
    client.request("GET", "/x")
    with client.getresponse() as reply:
        reply.read()
        return reply.status


@contextmanager
def load(gateway: Gateway, n: int = 4) -> Iterator[list[int]]:
    """Clients that send one request after the other. What they got is in the list."""
    ended = threading.Event()
    statuses: list[int] = []

    def run() -> None:
        client = http.client.HTTPConnection(*gateway.address(), timeout=30)
        while not ended.is_set():
            statuses.append(status_of(client))
        client.close()

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


def test_addresses_change_under_load(
    gateway: StartGateway, names: NameServer, servers: list[Upstream]
) -> None:
    one, other, third = servers
    names.put("app.internal", "A", "127.0.0.2")
    running = gateway(following(names, f"http://app.internal:{one.address[1]}"))
    with load(running) as statuses:
        eventually(lambda: len(one.seen) > 20, "requests at the first address")
        names.put("app.internal", "A", "127.0.0.3", "127.0.0.4")
        eventually(lambda: len(other.seen) > 20 < len(third.seen), "requests at the new ones")
        for _ in range(3):
            names.put("app.internal", "A", "127.0.0.3")
            eventually(lambda: addresses_of(running) == {"127.0.0.3"}, "one address")
            names.put("app.internal", "A", "127.0.0.4", "127.0.0.3")
            eventually(lambda: len(addresses_of(running)) == 2, "two addresses")
        before = len(one.seen)
        one.stop()
        more = len(statuses) + 50
        eventually(lambda: len(statuses) > more, "more requests")
    assert set(statuses) == {200}
    assert len(one.seen) == before
    assert not running.said("could not be published")


def addresses_of(gateway: Gateway) -> set[str]:
    found = metric(gateway, "fastgate_target_up")
    return {labels.partition('address="')[2].partition(":")[0] for labels in found}


def test_a_name_that_goes_away_and_a_server_that_is_down(
    gateway: StartGateway, names: NameServer, servers: list[Upstream]
) -> None:
    names.put("app.internal", "A", "127.0.0.2")
    running = gateway(following(names, f"http://app.internal:{servers[0].address[1]}"))
    eventually(lambda: fetch(running.address(), "/").status == 200, "it is served")
    generation = running.generation
    names.drop("app.internal")
    eventually(lambda: lookups(running, "not_found") >= 1, "the name is gone")
    names.down = True
    eventually(lambda: lookups(running, "failed") >= 1, "the server is down")
    assert fetch(running.address(), "/").status == 200
    assert running.generation == generation
    assert running.said("its last addresses are kept")
    age = metric(running, "fastgate_dns_age_seconds")
    assert list(age) == [f'{{name="app.internal:{servers[0].address[1]}"}}']
    # Back with another address.
    names.put("app.internal", "A", "127.0.0.3")
    names.down = False
    eventually(lambda: addresses_of(running) == {"127.0.0.3"}, "the new address")
    assert fetch(running.address(), "/").status == 200
    assert servers[1].seen == ["/"]


def test_a_name_that_does_not_exist_yet(
    gateway: StartGateway, names: NameServer, servers: list[Upstream]
) -> None:
    running = gateway(following(names, f"http://app.internal:{servers[0].address[1]}"))
    refused = fetch(running.address(), "/")
    assert (refused.status, b"no_healthy_target" in refused.body) == (503, True)
    names.put("app.internal", "A", "127.0.0.2")
    eventually(lambda: fetch(running.address(), "/").status == 200, "its address has come")


def test_a_start_while_no_name_server_answers(
    gateway: StartGateway, names: NameServer, servers: list[Upstream], tmp_path: Any
) -> None:
    """The last addresses are used; a control process that takes over does the same."""
    names.put("app.internal", "A", "127.0.0.2")
    config = following(names, f"http://app.internal:{servers[0].address[1]}")
    first = gateway(config, state=tmp_path / "state")
    eventually(lambda: fetch(first.address(), "/").status == 200, "it is served")
    names.down = True
    generation = first.generation
    first.kill("fg-control")
    eventually(lambda: first.generation > generation, "another control process")
    assert fetch(first.address(), "/").status == 200
    first.stop()
    second = gateway(config, state=tmp_path / "state")
    assert fetch(second.address(), "/").status == 200


def test_srv_records(gateway: StartGateway, names: NameServer, servers: list[Upstream]) -> None:
    one, other, spare = servers
    port = one.address[1]
    names.put(
        SRV, "SRV",
        f"10 3 {port} one.internal.",
        f"10 1 {port} other.internal.",
        f"20 9 {port} spare.internal.",
    )  # fmt: skip
    for i, name in enumerate(("one", "other", "spare"), 2):
        names.put(f"{name}.internal", "A", f"127.0.0.{i}")
    checks = {"path": "/healthz", "interval": "100ms", "unhealthy_after": 1, "healthy_after": 1}
    config = following(names, f"http+srv://{SRV}/base", health=checks)
    running = gateway(config, workers=1)
    healthy = lambda: sum(metric(running, "fastgate_target_healthy").values())  # noqa: E731
    eventually(lambda: healthy() == 3, "all three are checked")

    def asked(server: Upstream) -> list[str]:
        return [target for target in server.seen if target != "/healthz"]

    reply = fetch(running.address(), "/x").json
    assert reply["headers"]["host"] == "app.internal"
    client = http.client.HTTPConnection(*running.address(), timeout=30)
    for _ in range(39):
        assert status_of(client) == 200
    client.close()
    assert (len(asked(one)), len(asked(other)), asked(spare)) == (30, 10, [])
    assert set(asked(one)) == {"/base/x"}
    one.healthy = other.healthy = False
    eventually(lambda: healthy() == 1, "both of the first are unhealthy")
    assert fetch(running.address(), "/spare").status == 200
    assert asked(spare) == ["/base/spare"]
    # The records change.
    names.put(SRV, "SRV", f"1 1 {port} spare.internal.")
    eventually(lambda: addresses_of(running) == {"127.0.0.4"}, "only the spare one is left")


def test_other_name_servers_by_a_reload(
    gateway: StartGateway, names: NameServer, servers: list[Upstream]
) -> None:
    url = f"http://app.internal:{servers[0].address[1]}"
    names.put("app.internal", "A", "127.0.0.2")
    names.ttl = 3600
    running = gateway(following(names, url))
    eventually(lambda: fetch(running.address(), "/").status == 200, "it is served")
    with name_server() as other:
        other.put("app.internal", "A", "127.0.0.3")
        running.reload_and_wait(following(other, url))
        eventually(lambda: addresses_of(running) == {"127.0.0.3"}, "the other server's answer")


def test_localhost(gateway: StartGateway, names: NameServer, upstream: Upstream) -> None:
    running = gateway(following(names, f"http://localhost:{upstream.address[1]}"))
    assert fetch(running.address(), "/").status == 200
    assert names.asked == []


def test_check_asks_no_name_server(names: NameServer, tmp_path: Any) -> None:
    config = {"version": 1, **following(names, "http://app.internal", f"http+srv://{SRV}")}
    file = tmp_path / "fastgate.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "fastgate", "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert names.asked == []
