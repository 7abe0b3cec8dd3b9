"""Default policies: where they apply, and what goes before them."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.model.codec import decode
from fastgate.model.resolve import Effective, Resolver


def policy(name: str, **rules: Any) -> dict[str, Any]:
    value = {"response": {"set": {"X-Policy": name}}}
    return {"name": name, "headers": value, "limits": [{"by": "address", "rate": "5/s"}], **rules}


def effective(route: dict[str, Any], service: list[str], defaults: list[str]) -> Effective:
    gateway = decode(
        {
            "version": 1,
            "upstreams": [{"name": "u", "targets": "http://a"}],
            "services": [{"name": "s", "upstream": "u", "policies": service}],
            "routes": [{"name": "r", "path": "/", "service": "s", **route}],
            "policies": [
                policy("near", max_body="1KiB"),
                policy("mid", max_body="2KiB", cors="https://mid.example"),
                policy("far", max_body="3KiB", cors="https://far.example", addresses="10.0.0.1"),
            ],
            "default_policies": defaults,
        }
    )
    return Resolver(gateway).route(gateway.routes[0])


def owners(found: Effective) -> list[str]:
    return [owned.owner for owned in found.limits]


def applied(found: Effective) -> list[str]:
    return [rules.set["X-Policy"] for rules in found.response_rules]


def test_they_are_the_farthest() -> None:
    found = effective({"policies": ["near"]}, ["mid"], ["far"])
    assert owners(found) == ["policy:near", "policy:far"]  # the service's are its own
    assert applied(found) == ["far", "mid", "near"]
    assert str(found.max_body) == "1KiB"
    assert found.cors is not None
    assert found.cors.origins == ["https://mid.example"]
    assert found.addresses is not None


def test_a_route_can_do_without() -> None:
    found = effective({"default_policies": False}, [], ["far"])
    assert (owners(found), applied(found), found.addresses) == ([], [], None)


@pytest.mark.parametrize("where", ["route", "service"])
def test_one_that_is_named_nearer_is_there_and_only_there(where: str) -> None:
    route = {"policies": ["far"] if where == "route" else []}
    found = effective(route, ["far"] if where == "service" else [], ["far", "mid"])
    assert applied(found) == ["mid", "far"]
    assert owners(found) == (["policy:far", "policy:mid"] if where == "route" else ["policy:mid"])
    assert str(found.max_body) == "3KiB"


def test_several_in_their_order() -> None:
    found = effective({}, [], ["near", "far", "near"])
    assert owners(found) == ["policy:near", "policy:far"]
    assert str(found.max_body) == "1KiB"
