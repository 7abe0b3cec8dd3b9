"""Names as targets: one target for each address, and how they share the weight."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from compilerkit import compiled

from fastgate.config.rendering import Found, ServiceAddress

SRV = "http+srv://_http._tcp.app.internal"
V4 = socket.AF_INET


def plain(*addresses: str, port: int = 80) -> list[Found]:
    return [(V4, (address, port)) for address in addresses]


def service(
    address: str, *, priority: int = 0, weight: int = 1, host: str = "", port: int = 80
) -> ServiceAddress:
    return ServiceAddress(V4, (address, port), host or f"h{address[-1]}.internal", priority, weight)


def weights(targets: list[Any], addresses: dict[str, list[Found]]) -> dict[str, tuple[int, int]]:
    """Address → weight and priority."""
    with compiled(
        {"upstreams": [{"name": "up", "targets": targets}]}, addresses=addresses
    ) as snapshot:
        upstream = snapshot.upstream(0)
        found = [snapshot.target(i) for i in upstream["targets"]]
        assert upstream["tiers"] == (len({target["priority"] for target in found}) > 1)
        return {
            socket.inet_ntoa(target["sockaddr"][4:8]): (target["weight"], target["priority"])
            for target in found
        }


def test_without_names_weights_are_as_configured() -> None:
    targets = [{"url": "http://10.0.0.1", "weight": 4}, {"url": "http://10.0.0.2", "weight": 2}]
    assert weights(targets, {}) == {"10.0.0.1": (4, 0), "10.0.0.2": (2, 0)}


def test_the_addresses_of_a_name_share_its_weight() -> None:
    targets = [{"url": "http://app.internal", "weight": 2}, "http://10.0.0.9"]
    found = {"app.internal:80": plain("10.0.0.1", "10.0.0.2", "10.0.0.3")}
    shares = weights(targets, found)
    assert shares == {f"10.0.0.{i}": (2, 0) for i in (1, 2, 3)} | {"10.0.0.9": (3, 0)}


def test_srv_records_share_it_by_their_weights() -> None:
    found: list[Found] = [
        service("10.0.0.1", weight=3),
        service("10.0.0.2", weight=1, host="two.internal"),
        service("10.0.0.3", weight=1, host="two.internal"),
    ]
    shares = weights(
        [SRV, {"url": "http://10.0.0.9", "weight": 2}], {"_http._tcp.app.internal:0": found}
    )
    assert shares == {
        "10.0.0.1": (6, 0), "10.0.0.2": (1, 0), "10.0.0.3": (1, 0), "10.0.0.9": (16, 0),
    }  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), [((0, 0), (1, 1)), ((0, 5), (1, 500))])
def test_a_weight_of_0(given: tuple[int, int], expected: tuple[int, int]) -> None:
    found: list[Found] = [
        service(f"10.0.0.{i}", weight=weight) for i, weight in enumerate(given, 1)
    ]
    shares = weights([SRV], {"_http._tcp.app.internal:0": found})
    assert tuple(weight for weight, _ in shares.values()) == expected


def test_priorities_are_counted_from_0() -> None:
    found: list[Found] = [
        service("10.0.0.1", priority=20),
        service("10.0.0.2", priority=10),
        service("10.0.0.3", priority=30),
    ]
    shares = weights([SRV, "http://10.0.0.9"], {"_http._tcp.app.internal:0": found})
    assert {address: priority for address, (_, priority) in shares.items()} == {
        "10.0.0.2": 0, "10.0.0.1": 1, "10.0.0.3": 2, "10.0.0.9": 0,
    }  # fmt: skip


def test_odd_shares_are_rounded() -> None:
    found: list[Found] = [
        service(f"10.0.0.{i}", weight=weight, port=8000 + i)
        for i, weight in enumerate((65_535, 65_521, 1), 1)
    ]
    targets = [SRV, *(f"http://n{i}.internal" for i in (7, 11, 13))]
    names = {
        f"n{n}.internal:80": plain(*(f"10.1.{n}.{i}" for i in range(1, n + 1))) for n in (7, 11, 13)
    }
    shares = weights(targets, {"_http._tcp.app.internal:0": found, **names})
    assert min(weight for weight, _ in shares.values()) >= 1
    assert max(weight for weight, _ in shares.values()) <= 1_000_000
    total = sum(weight for weight, _ in shares.values())
    for n in (7, 11, 13):
        of_name = sum(w for address, (w, _) in shares.items() if address.startswith(f"10.1.{n}."))
        assert of_name / total == pytest.approx(0.25, rel=1e-3)


def test_what_a_service_is_called() -> None:
    """The records say where it is, and the configuration how it is called."""
    document = {
        "upstreams": [{"name": "up", "targets": ["https+srv://_http._tcp.App.internal/v1"]}]
    }
    found: dict[str, list[Found]] = {"_http._tcp.app.internal:0": [service("10.0.0.1", port=8443)]}
    with compiled(document) as snapshot:
        assert snapshot.target(0)["sockaddr_len"] == 0
    with compiled(document, addresses=found) as snapshot:
        target = snapshot.target(0)
        assert target["sockaddr"][2:8] == (8443).to_bytes(2) + socket.inet_aton("10.0.0.1")
        assert target["name"] == b"https+srv://_http._tcp.app.internal/v1"
        assert (target["host"], target["authority"]) == (b"app.internal", b"app.internal")
        assert target["path"] == b"/v1"
        assert target["tls"]


def test_a_target_stays_the_same_when_weights_change() -> None:
    first: list[Found] = [service("10.0.0.1"), service("10.0.0.2")]
    later: list[Found] = [service("10.0.0.1", weight=9), service("10.0.0.2", priority=5)]
    identities = []
    for found in (first, later):
        with compiled(
            {"upstreams": [{"name": "up", "targets": [SRV]}]},
            addresses={"_http._tcp.app.internal:0": found},
        ) as snapshot:
            identities.append({snapshot.target(i)["identity"] for i in (0, 1)})
    assert identities[0] == identities[1]
