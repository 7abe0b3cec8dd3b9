"""What routes, services and plans come to once policies are mixed in."""

from typing import Any

from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.resolve import Resolver

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "up", "targets": "http://a"}],
    "services": [
        {
            "name": "api",
            "upstream": "up",
            "limits": ["1000/s"],
            "policies": ["far", "both"],
        },
        {"name": "free", "upstream": "up"},
        {"name": "sold", "upstream": "up", "plans": ["gold"]},
    ],
    "routes": [
        {
            "name": "one",
            "path": "/1",
            "service": "api",
            "auth": "api_key",
            "limits": [{"rate": "5/s", "name": "burst"}],
            "quotas": ["9/day"],
            "policies": ["near", "both", "near"],
            "headers": {"request": {"set": {"X": "route"}}},
        },
        {"name": "two", "path": "/2", "service": "api", "auth": "api_key", "max_body": "1KiB"},
    ],
    "policies": [
        {
            "name": "far",
            "headers": {"request": {"set": {"X": "far"}}},
            "cors": "https://far.example",
            "max_body": "9MiB",
        },
        {
            "name": "near",
            "limits": ["50/s"],
            "cors": "https://near.example",
            "addresses": ["10.0.0.0/8"],
            "headers": {"request": {"set": {"X": "near"}}},
        },
        {"name": "both", "concurrency": [{"max": 3}]},
    ],
    "plans": [
        {"name": "gold", "limits": ["7/s"]},
        {"name": "silver", "services": ["sold", "sold"]},
    ],
}


def resolver() -> tuple[Gateway, Resolver]:
    gateway = decode(DOCUMENT)
    return gateway, Resolver(gateway)


def test_limits_add_up_each_once() -> None:
    gateway, found = resolver()
    route = found.route(gateway.routes[0])
    assert [owned.key for owned in route.limits] == [
        "route:one/rate/burst",
        "route:one/quota/0",
        "policy:near/rate/0",
    ]
    service = found.service_limits(gateway.services[0])
    assert [owned.key for owned in service] == ["service:api/rate/0", "policy:both/concurrency/0"]


def test_the_nearest_decides() -> None:
    gateway, found = resolver()
    one, two = (found.route(route) for route in gateway.routes)
    assert one.cors is not None
    assert two.cors is not None
    assert one.cors.origins == ["https://near.example"]
    assert two.cors.origins == ["https://far.example"]
    assert (str(one.max_body), str(two.max_body)) == ("9MiB", "1KiB")
    assert one.addresses is not None
    assert two.addresses is None


def test_header_rules_are_applied_nearest_last() -> None:
    gateway, found = resolver()
    rules = found.route(gateway.routes[0]).request_rules
    assert [rule.set["X"] for rule in rules] == ["far", "near", "route"]
    assert found.route(gateway.routes[0]).response_rules == []


def test_plans_of_a_service_are_named_from_both_ends() -> None:
    _, found = resolver()
    assert found.plans_of("sold") == ["gold", "silver"]
    assert found.plans_of("free") == []


def test_plan_limits() -> None:
    gateway, found = resolver()
    assert [owned.key for owned in found.plan_limits(gateway.plans[0])] == ["plan:gold/rate/0"]
