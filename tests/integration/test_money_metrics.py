"""What Prometheus sees of money, on a real gateway."""

from __future__ import annotations

from conftest import StartGateway
from gatewaykit import Gateway, Upstream, eventually, fetch, proxying
from paidkit import PRICE, call, customer, paid_config, settled


def samples(gateway: Gateway) -> dict[str, float]:
    """The exposition, by name and labels as they stand."""
    text = gateway.api("/metrics").body.decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_of_money(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(paid_config(upstream), workers=1)
    acme = customer(running, "acme", 2 * PRICE)
    assert [call(running, acme).status for _ in range(3)] == [200, 200, 402]
    settled(running)
    found = eventually(
        lambda: (got := samples(running)).get("fastgate_usage_spool_records") is not None and got,
        "the gauges are there",
    )
    assert isinstance(found, dict)
    assert found['fastgate_usage_records_total{worker="0"}'] == 2
    assert found['fastgate_holds_open{worker="0"}'] == 0
    assert found['fastgate_usage_waiting{worker="0"}'] == 0
    assert found["fastgate_usage_stuck"] == 0
    assert found["fastgate_wallets"] == 1
    assert found['fastgate_payment_provider_up{provider="manual"}'] == 1
    refused = 'fastgate_requests_total{route="paid",status="402",reason="insufficient_balance"}'
    assert found[refused] == 1


def test_there_is_none_of_it_where_nothing_costs_money(
    gateway: StartGateway, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream), workers=1)
    assert fetch(running.address(), "/").status == 200
    assert not [name for name in samples(running) if "usage" in name or "wallet" in name]
    assert not (running.state / "money.map").exists()


def test_prices_cannot_begin_without_a_restart(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(proxying(upstream), workers=1)
    generation = running.generation
    running.reload(paid_config(upstream))
    eventually(lambda: running.said("cannot start charging"), "the reload is refused")
    assert running.generation == generation
    assert fetch(running.address(), "/").status == 200
    state = running.state
    running.stop()
    again = gateway(paid_config(upstream), workers=1, state=state)
    acme = customer(again, "acme", PRICE)
    assert call(again, acme).status == 200
