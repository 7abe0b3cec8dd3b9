"""Splits and mirrors of whole gateways: exact over all workers, and the same after a reload."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conftest import StartGateway
from gatewaykit import Client, Gateway, Upstream, eventually, fetch
from test_traffic_gateway import cli

REQUESTS = 20_000
CONNECTIONS = 40
BATCH = 50


def document(own: Upstream, new: Upstream, **route: Any) -> dict[str, Any]:
    return {
        "upstreams": [
            {"name": "app", "targets": own.url},
            {"name": "app-v2", "targets": new.url},
        ],
        "services": [
            {"name": "app", "upstream": "app"},
            {"name": "app-v2", "upstream": "app-v2"},
        ],
        "routes": [{"name": "all", "path": "/{rest*}", "service": "app", **route}],
    }


def pipelined(address: tuple[str, int], count: int) -> None:
    """So many requests over one connection."""
    request = b"GET /status/200 HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection(address, 60) as peer:
        for _ in range(count // BATCH):
            peer.sendall(request * BATCH)
            said = b""
            while said.count(b"HTTP/1.1 200 ") < BATCH or not said.endswith(b"status"):
                part = peer.recv(1 << 16)
                assert part, said[-500:]
                said += part


def samples(gateway: Gateway, name: str, label: str) -> Counter[str]:
    """The values of a metric by one of its labels."""
    found: Counter[str] = Counter()
    for line in gateway.api("/metrics").body.decode().splitlines():
        if line.startswith(f"{name}{{"):
            found[line.partition(f'{label}="')[2].partition('"')[0]] += int(line.split()[-1])
    return found


def chosen(gateway: Gateway) -> Counter[str]:
    return samples(gateway, "fastgate_split_total", "service")


def test_shares_are_exact_over_all_workers_and_none_drains(
    gateway: StartGateway, upstreams: Callable[[], Upstream]
) -> None:
    own, new = upstreams(), upstreams()
    split = [{"service": "app-v2", "weight": "5%", "when": {"headers": {"X-Canary": "1"}}}]
    running = gateway(document(own, new, split=split), workers=4)
    with ThreadPoolExecutor(8) as pool:
        each = REQUESTS // CONNECTIONS
        list(pool.map(lambda _: pipelined(running.address(), each), range(CONNECTIONS)))
    found = chosen(running)
    assert found.total() == REQUESTS
    assert abs(found["app-v2"] - REQUESTS * 0.05) <= 4  # less than one in each worker
    assert abs(found["app-v2"] - REQUESTS * 0.05) <= REQUESTS * 0.002
    assert len(new.seen) == found["app-v2"]
    assert samples(running, "fastgate_requests_total", "route") == {"all": REQUESTS}
    # A share of nothing: no new requests, but those that ask for it.
    running.reload_and_wait(document(own, new, split=[{**split[0], "weight": "0%"}]))
    before = len(new.seen)
    pipelined(running.address(), 200)
    assert len(new.seen) == before
    assert fetch(running.address(), "/hello", headers={"X-Canary": "1"}).status == 200
    assert len(new.seen) == before + 1
    # Without the split, its counts stay, and are nobody else's.
    running.reload_and_wait(document(own, new))
    assert chosen(running)["app-v2"] == found["app-v2"] + 1
    assert set(samples(running, "fastgate_requests_total", "route")) == {"all"}


async def test_clients_stay_over_a_reload_and_a_restart(
    gateway: StartGateway, upstreams: Callable[[], Upstream], tmp_path: Any
) -> None:
    own, new = upstreams(), upstreams()

    def with_share(weight: str) -> dict[str, Any]:
        split = {"sticky": "cookie", "to": [{"service": "app-v2", "weight": weight}]}
        return document(own, new, split=split)

    async def side(address: Any, cookie: str) -> str:
        before = len(new.seen)
        async with Client(address) as client:
            answer = await client.request("/hello", headers={"Cookie": cookie})
            assert "set-cookie" not in answer.headers
        return "new" if len(new.seen) > before else "own"

    running = gateway(with_share("50%"), workers=4, state=tmp_path / "state")
    sides: dict[str, str] = {}
    for _ in range(40):
        before = len(new.seen)
        async with Client(running.address()) as client:
            cookie = (await client.request("/hello")).headers["set-cookie"].partition(";")[0]
        sides[cookie] = "new" if len(new.seen) > before else "own"
    assert set(sides.values()) == {"own", "new"}
    running.reload_and_wait(with_share("50%"))
    assert {cookie: await side(running.address(), cookie) for cookie in sides} == sides
    running.reload_and_wait(with_share("0%"))
    assert {cookie: await side(running.address(), cookie) for cookie in sides} == sides
    running.stop()
    again = gateway(with_share("50%"), workers=2, state=tmp_path / "state")
    assert {cookie: await side(again.address(), cookie) for cookie in sides} == sides


def test_why_and_the_log_say_which_service_it_is(
    gateway: StartGateway, upstreams: Callable[[], Upstream]
) -> None:
    own, new = upstreams(), upstreams()
    split = {"sticky": "consumer", "to": [{"service": "app-v2", "weight": "50%"}]}
    config = document(own, new, split=split, auth="api_key")
    names = [f"c{i}" for i in range(8)]
    config["consumers"] = [{"name": name, "keys": [f"the-secret-key-of-{name}"]} for name in names]
    running = gateway(config, workers=2)
    said = {}
    for name in names:
        key = f"the-secret-key-of-{name}"
        text = cli(running, "why", key, "--route", "all")
        by_name = json.loads(cli(running, "why", name, "--consumer", "--route", "all", "--json"))
        service = by_name["service"]
        assert by_name["service_by"] == "consumer"
        assert f"The service is {service}, chosen by consumer." in text
        before = len(new.seen)
        answer = fetch(running.address(), "/hello", headers={"X-Api-Key": key})
        assert answer.status == 200
        assert ("app-v2" if len(new.seen) > before else "app") == service
        said[answer.headers["x-request-id"]] = service
    assert set(said.values()) == {"app", "app-v2"}
    for ident, service in said.items():
        assert running.api(f"/v1/requests/{ident}").json["service"] == service
        explained = running.api(f"/v1/requests/{ident}/diagnosis").json
        assert (explained["service"], explained["service_by"]) == (service, "asked")


def test_a_dead_mirror_costs_no_request(
    gateway: StartGateway, upstreams: Callable[[], Upstream]
) -> None:
    own = upstreams()
    config = document(own, own, mirror={"service": "app-v2", "share": "100%"})
    config["upstreams"][1]["targets"] = "http://127.0.0.1:1"
    running = gateway(config, workers=2)
    pipelined(running.address(), 1000)
    assert samples(running, "fastgate_requests_total", "status") == {"200": 1000}
    found = eventually(
        lambda: (
            x
            if (x := samples(running, "fastgate_mirrored_total", "result")).total() == 1000
            else None
        ),
        "every copy has ended",
    )
    assert found["sent"] == 0
