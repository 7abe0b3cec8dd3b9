"""What Prometheus sees of targets and of reloads, on a real gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from conftest import StartGateway
from gatewaykit import Client, Gateway, Upstream, eventually, fetch, proxying


def samples(gateway: Gateway, prefix: str) -> dict[str, float]:
    """What follows this prefix in the exposition → value."""
    text = gateway.api("/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith(prefix)]
    return {
        name.removeprefix(prefix): float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
    }


def pool(*targets: str, **more: Any) -> dict[str, Any]:
    """A configuration with one upstream of these targets."""
    return {
        "upstreams": [{"name": "app", "targets": list(targets), **more}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [{"name": "all", "path": "/{rest*}", "service": "app"}],
    }


def by_target(gateway: Gateway, what: str) -> dict[str, float]:
    """Samples of fastgate_target_`what`, by target."""
    found = samples(gateway, f"fastgate_target_{what}{{")
    return {labels.partition('target="')[2].partition('"')[0]: v for labels, v in found.items()}


def comes(probe: Callable[[], dict[str, float]], wanted: dict[str, float]) -> None:
    eventually(lambda: probe() == wanted, str(wanted))


def test_health_of_targets(gateway: StartGateway, upstream: Upstream) -> None:
    one, other = upstream, Upstream()
    checks = {"path": "/healthz", "interval": "100ms", "unhealthy_after": 1, "healthy_after": 1}
    running = gateway(pool(one.url, other.url, health=checks), workers=1)
    comes(lambda: by_target(running, "healthy"), {one.url: 1, other.url: 1})
    other.stop()
    comes(lambda: by_target(running, "healthy"), {one.url: 1, other.url: 0})
    assert by_target(running, "up") == {one.url: 1, other.url: 0}
    assert by_target(running, "ejected") == {one.url: 0, other.url: 0}
    address = other.url.removeprefix("http://")
    labels = f'upstream="app",target="{other.url}",address="{address}"}}'
    assert samples(running, "fastgate_target_up{")[labels] == 0
    # A target that is configured no more is shown no more.
    running.reload_and_wait(pool(one.url, health=checks))
    assert by_target(running, "healthy") == {one.url: 1}


def test_ejection_and_a_name_without_an_address(gateway: StartGateway, upstream: Upstream) -> None:
    nobody, name = "http://127.0.0.1:1", "http://name.invalid"
    eject = {"after": 1, "for": "1h"}
    running = gateway(pool(upstream.url, nobody, name, eject=eject), workers=1)
    assert by_target(running, "up") == {upstream.url: 1, nobody: 1, name: 0}
    assert by_target(running, "healthy") == {}, "nothing is checked"
    for _ in range(4):
        assert fetch(running.address(), "/").status == 200
    comes(lambda: by_target(running, "ejected"), {upstream.url: 0, nobody: 1, name: 0})
    assert by_target(running, "ejections_total") == {upstream.url: 0, nobody: 1, name: 0}
    assert by_target(running, "up") == {upstream.url: 1, nobody: 0, name: 0}


def test_reloads_by_source_and_result(gateway: StartGateway, upstream: Upstream) -> None:
    began = time.time()
    running = gateway(proxying(upstream), workers=1)
    counts = "fastgate_reloads_total"
    when = "fastgate_last_reload_timestamp_seconds"
    applied, refused = '{source="file",result="applied"}', '{source="file",result="refused"}'
    assert samples(running, counts) == {applied: 0, refused: 0}
    first = samples(running, when)
    assert first.keys() == {applied}
    assert began - 1 < first[applied] < time.time()

    running.reload_and_wait()
    comes(lambda: samples(running, counts), {applied: 1, refused: 0})
    running.reload("routes: 7")  # is not read
    comes(lambda: samples(running, counts), {applied: 1, refused: 1})
    running.reload(proxying(upstream, {"name": "all", "path": "/", "service": "none"}))
    comes(lambda: samples(running, counts), {applied: 1, refused: 2})
    last = samples(running, when)
    assert last[refused] > last[applied] > first[applied]

    running.write(proxying(upstream))
    assert running.api("/v1/config/reload?dry_run=true", method="POST").status == 200
    assert samples(running, counts) == {applied: 1, refused: 2}
    plan = {"name": "gold"}
    assert running.api("/v1/plans", method="POST", body=plan).status == 201
    wrong = {"name": "r", "path": "/r", "service": "none"}
    assert running.api("/v1/routes", method="POST", body=wrong).status == 422
    found = samples(running, counts)
    assert found['{source="api",result="applied"}'] == 1
    assert found['{source="api",result="refused"}'] == 1


async def test_slow_start(gateway: StartGateway, upstreams: Callable[[], Upstream]) -> None:
    """A target that a reload adds begins with a hundredth; also if control is replaced then."""
    one, two, three = (upstreams() for _ in range(3))
    running = gateway(pool(one.url, two.url, slow_start="1d"), workers=2)
    assert set(by_target(running, "weight_ratio").values()) == {1}
    running.reload_and_wait(pool(one.url, two.url, three.url, slow_start="1d"))
    for _ in range(2):
        ratios = by_target(running, "weight_ratio")
        assert ratios[one.url] == ratios[two.url] == 1
        assert ratios[three.url] == 0.01
        before = len(three.seen)
        async with Client(running.address()) as client:
            for _ in range(100):
                assert (await client.request("/hello")).status == 200
        assert len(three.seen) - before <= 2
        generation = running.generation
        running.kill("fg-control")
        eventually(lambda: running.generation > generation, "another control process")  # noqa: B023
    running.reload_and_wait(pool(one.url, two.url, three.url))
    assert by_target(running, "weight_ratio") == {}
