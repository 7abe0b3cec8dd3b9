"""Sticky cookies of whole gateways: the same for all workers, after reloads and restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import StartGateway
from gatewaykit import Client, Gateway, Upstream


def document(*targets: str, **sticky: Any) -> dict[str, Any]:
    upstream = {"name": "app", "targets": list(targets), "sticky": {"cookie": "lb", **sticky}}
    return {
        "upstreams": [upstream],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [{"name": "all", "path": "/{rest*}", "service": "app"}],
    }


async def cookies(gateway: Gateway, pools: list[Upstream]) -> list[str]:
    """A cookie for each target."""
    found: dict[int, str] = {}
    for _ in range(200):
        before = [len(pool.seen) for pool in pools]
        async with Client(gateway.address()) as client:
            cookie = (await client.request("/hello")).headers["set-cookie"].partition(";")[0]
        (taken,) = [i for i, pool in enumerate(pools) if len(pool.seen) > before[i]]
        assert found.setdefault(taken, cookie) == cookie
        if len(found) == len(pools):
            return [found[i] for i in range(len(pools))]
    raise AssertionError(f"only {sorted(found)} get requests")


async def holds(gateway: Gateway, pools: list[Upstream], named: list[str]) -> None:
    """Each cookie leads to its target, from connections to any worker."""
    for i, cookie in enumerate(named):
        before = len(pools[i].seen)
        for _ in range(12):
            async with Client(gateway.address()) as client:
                answer = await client.request("/hello", headers={"Cookie": cookie})
                assert "set-cookie" not in answer.headers
        assert len(pools[i].seen) == before + 12


async def test_reloads_and_restarts(
    gateway: StartGateway, upstreams: Callable[[], Upstream], tmp_path: Path
) -> None:
    pools = [upstreams() for _ in range(3)]
    urls = [pool.url for pool in pools]
    first = gateway(document(*urls[:2]), workers=2, state=tmp_path / "state")
    named = await cookies(first, pools[:2])
    for url in urls:
        assert url.rpartition(":")[2] not in "".join(named)
    await holds(first, pools, named)
    first.reload_and_wait(document(*urls[::-1]))
    await holds(first, pools, named)
    first.kill("fg-control")
    first.reload_and_wait(document(*urls))
    await holds(first, pools, named)
    first.stop()
    again = gateway(document(*urls), workers=2, state=tmp_path / "state")
    await holds(again, pools, named)


async def test_gateways_that_share_a_secret(
    gateway: StartGateway, upstreams: Callable[[], Upstream]
) -> None:
    pools = [upstreams() for _ in range(2)]
    config = document(*(pool.url for pool in pools), secret="env:STICKY")
    environ = {"STICKY": "something that both of them know"}
    one, other = (gateway(config, workers=1, environ=environ) for _ in range(2))
    await holds(other, pools, await cookies(one, pools))
    stranger = gateway(document(*(pool.url for pool in pools)), workers=1)
    assert not set(await cookies(stranger, pools)) & set(await cookies(one, pools))
