"""What must hold between resources, and what looks unintended."""

import copy
from typing import Any

import msgspec
import pytest

from fastgate.config.price_steps import price_steps
from fastgate.errors import ConfigurationError
from fastgate.model.check import check, require, warnings
from fastgate.model.codec import decode

BASE: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "up", "targets": "http://a"}],
    "services": [{"name": "api", "upstream": "up"}],
    "routes": [
        {"name": "keyed", "path": "/keyed", "service": "api", "auth": "api_key"},
        {"name": "open", "path": "/open", "respond": 204},
    ],
    "policies": [{"name": "fair", "limits": ["5/s"]}],
    "plans": [{"name": "starter"}],
    "consumers": [{"name": "demo", "keys": "demo-key-1", "plan": "starter"}],
}


def faults(**changes: Any) -> list[tuple[str, str]]:
    document = {**copy.deepcopy(BASE), **changes}
    return [(error.path, str(error)) for error in check(decode(document))]


def with_route(index: int, **values: Any) -> dict[str, Any]:
    routes = copy.deepcopy(BASE["routes"])
    routes[index].update(values)
    return {"routes": routes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"max_body": "1025MiB"},
            "bodies up to 1025MiB; they are kept in memory, and at most 1GiB is the",
        ),
        ({"max_body": "4GiB"}, "bodies up to 4GiB;"),
        ({"max_body": 0}, "bodies of any size (0B);"),
        ({"policies": ["large"]}, "bodies up to 3GiB as its policies say;"),
        ({}, "bodies up to 2GiB as `caps.body` says;"),
    ],
)
def test_a_body_for_a_handler_is_at_most_a_gibibyte(changes: dict[str, Any], words: str) -> None:
    """More could not be gathered; where it is forwarded as it comes, any size may be allowed."""
    document = with_route(0, **changes)
    document["policies"] = [*BASE["policies"], {"name": "large", "max_body": "3GiB"}]
    document["caps"] = {"body": "2GiB"}
    assert faults(**document) == []
    del document["routes"][0]["service"]
    document["routes"][0]["handler"] = "some.module:handler"
    ((path, said),) = faults(**document)
    assert path == "routes[0].max_body"
    assert words in said
    assert "Set `max_body` on the route, to 1GiB or less." in said
    document["routes"][0]["max_body"] = "1GiB"
    assert faults(**document) == []


def test_a_sound_document_has_no_faults() -> None:
    assert faults() == []
    require(decode(BASE))


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (with_route(0, service="apis"), "routes[0].service", "Did you mean 'api'?"),
        (with_route(0, service="zzz"), "routes[0].service", "Services: api."),
        (with_route(0, policies=["fair", "fare"]), "routes[0].policies[1]", "no policy 'fare'"),
        ({"upstreams": []}, "services[0].upstream", "Upstreams: none."),
        (
            {"services": [{"name": "api", "upstream": "up", "plans": "x"}]},
            "services[0].plans[0]",
            "no plan",
        ),
        ({"plans": [{"name": "starter", "services": "x"}]}, "plans[0].services[0]", "no service"),
        ({"plans": []}, "consumers[0].plan", "no plan 'starter'"),
        (with_route(1, name="keyed"), "routes[1].name", "is already used by routes[0]"),
        (
            {"listeners": [":80", {"name": "b", "bind": "*:80"}]},
            "listeners[1].bind",
            "'0.0.0.0:80' is already used",
        ),
        ({"listeners": ":8081", "control": ":8081"}, "control.bind", "already used"),
        (
            {"consumers": [{"name": "a", "id": "x"}, {"name": "b", "id": "x"}]},
            "consumers[1].id",
            "'x' is already used",
        ),
        (
            {"consumers": [{"name": "a", "keys": ["one-key-1", "one-key-1"]}]},
            "consumers[0].keys[1]",
            "consumers[0].keys[0]",
        ),
        (
            {"control": {"tokens": [{"name": "a", "token": "x" * 9}] * 2}},
            "control.tokens[1].name",
            "already used",
        ),
        (
            with_route(0, limits=[{"rate": "1/s", "name": "a"}] * 2),
            "routes[0].limits[1].name",
            "'a' is already used",
        ),
        (with_route(0, timeout="2d"), "routes[0].timeout", "from 1ms to 1d"),
        (with_route(0, timeout="0s"), "routes[0].timeout", "from 1ms to 1d"),
        (with_route(0, idle_timeout="2d"), "routes[0].idle_timeout", "from 1ms to 1d"),
        (with_route(0, deadline="2d"), "routes[0].deadline", "from 1ms to 1d"),
        (with_route(1, limits="5/s"), "routes[1].limits[0].by", "does not identify the caller"),
        (with_route(1, quotas="5/day"), "routes[1].quotas[0].by", "by consumer"),
        (with_route(1, policies="fair"), "routes[1].policies", "of the policy fair"),
        ({"default_policies": ["fare"]}, "default_policies[0]", "no policy 'fare'"),
        (
            with_route(1, default_policies=True) | {"default_policies": "fair"},
            "routes[1].default_policies",
            "write `default_policies: false`",
        ),
        (
            with_route(1, default_policies=False)
            | {"default_policies": "fair", "plans": [{"name": "starter", "policies": "fair"}]},
            "plans[0].policies[0]",
            "named by default_policies too",
        ),
        (
            with_route(0, limits=[{"by": "header:X_Tenant", "rate": "5/s"}]),
            "routes[0].limits[0].by",
            "headers with '_' in their name are dropped",
        ),
        (
            with_route(0, auth="none") | {"plans": [{"name": "starter", "services": "api"}]},
            "routes[0].auth",
            "for the plans starter",
        ),
        (
            with_route(0, policies="fair") | {"plans": [{"name": "starter", "policies": "fair"}]},
            "plans[0].policies[0]",
            "counted twice",
        ),
    ],
)
def test_a_fault_is_found_in_its_place(changes: dict[str, Any], path: str, words: str) -> None:
    ((found, text),) = faults(**changes)
    assert found == path
    assert words in text


def test_a_header_may_have_an_underscore_where_that_is_allowed() -> None:
    route = with_route(1, limits=[{"by": "header:X_Tenant", "rate": "5/s"}])
    assert faults(**route, headers={"underscores": "allow"}) == []


OWN = {
    "limits": [{"rate": "5/s", "name": "burst"}],
    "quotas": [{"period": "day", "requests": 5, "name": "daily"}],
}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"brust": "9/s"}, "no limit 'brust' that counts by consumer. Did you mean 'burst'?"),
        ({"everyone": "9/s"}, "no limit 'everyone' that counts by consumer"),
        ({"daily": "9/s"}, "is a quota, and has no 'rate'. Write 'requests'."),
        ({"burst": {"max": 3}}, "is a rate, and has no 'max'. Write 'rate'."),
    ],
)
def test_own_numbers_are_for_limits_that_there_are(own: dict[str, Any], words: str) -> None:
    everyone = {"by": "service", "rate": "9/s", "name": "everyone"}
    plan = {"name": "starter", **OWN, "limits": [*OWN["limits"], everyone]}
    document = {"plans": [plan], "consumers": [{"name": "demo", "plan": "starter", "limits": own}]}
    ((path, said),) = faults(**document)
    assert path == f"consumers[0].limits.{next(iter(own))}"
    assert words in said
    document["consumers"][0]["limits"] = {"burst": "9/s", "daily": {"requests": 9}}
    assert faults(**document) == []


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"a": {}}, "exactly one of rate, requests, max"),
        ({"a": {"rate": "1/s", "max": 1}}, "not rate and max together"),
        ({"a": {"max": 1, "burst": 1}}, "only with a rate"),
        ({f"l{i}": "1/s" for i in range(9)}, "8 is the most"),
        ({"a b": "1/s"}, "a name"),
    ],
)
def test_own_numbers_that_are_none(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        decode(BASE | {"consumers": [{"name": "demo", "limits": own}]})


def test_default_policies_are_named() -> None:
    document = copy.deepcopy(BASE) | {"default_policies": ["fair"]}
    document["routes"][1]["default_policies"] = False
    assert [found.path for found in warnings(decode(document)) if "fair" in found.message] == []


def test_limits_by_address_need_no_identity() -> None:
    assert faults(**with_route(1, limits=[{"by": "address", "rate": "5/s"}], concurrency=9)) == []


def test_a_key_that_may_be_left_out_is_asking() -> None:
    optional = {"api_key": {"optional": True}}
    assert faults(**with_route(0, auth=optional, limits="5/s")) == []


def test_several_addresses_with_port_0_are_not_the_same() -> None:
    listeners = [{"name": "a", "bind": ":0"}, {"name": "b", "bind": ":0"}]
    assert faults(listeners=listeners) == []


def test_all_faults_are_raised_together() -> None:
    gateway = decode({**BASE, "plans": [], "upstreams": []})
    with pytest.raises(ConfigurationError) as caught:
        require(gateway)
    assert [error.path for error in caught.value] == ["services[0].upstream", "consumers[0].plan"]


def test_warnings() -> None:
    gateway = decode(
        {
            **BASE,
            "upstreams": [*BASE["upstreams"], {"name": "unused", "targets": "http://b"}],
            "services": [*BASE["services"], {"name": "idle", "upstream": "up"}],
        }
    )
    assert check(gateway) == []
    assert [(warning.path, warning.message) for warning in warnings(gateway)] == [
        ("upstreams[1]", "'unused': no service uses it"),
        ("services[1]", "'idle': no route uses it"),
        ("policies[0]", "'fair': nothing names it"),
    ]


def test_trust_in_unix_sockets_without_any_looks_unintended() -> None:
    gateway = decode({"version": 1, "trusted_proxies": ["unix"]})
    assert [str(warning) for warning in warnings(gateway)] == [
        "trusted_proxies: 'unix' trusts peers on Unix sockets, but no listener is a Unix socket. "
        "Add a listener with `bind: unix:/path`, or take `unix` out."
    ]
    listeners = [":8080", "unix:/run/fastgate.sock"]
    gateway = decode({"version": 1, "trusted_proxies": ["unix"], "listeners": listeners})
    assert warnings(gateway) == []


def test_routes_that_unmerged_slashes_lead_around_look_unintended() -> None:
    def found(merge: bool, *routes: dict[str, Any]) -> list[str]:
        document = {
            "version": 1,
            "merge_slashes": merge,
            "upstreams": [{"name": name, "targets": f"http://{name}"} for name in ("a", "b")],
            "services": [{"name": name, "upstream": name} for name in ("a", "b")],
            "routes": [{"name": f"r{i}", "service": "a", **r} for i, r in enumerate(routes)],
        }
        gateway = decode(document)
        return [w.message for w in warnings(gateway) if w.path.startswith("routes")]

    admin = {"path": "/admin/{rest*}", "auth": "api_key"}
    rest = {"path": "/{rest*}"}
    assert found(True, admin, rest) == []
    assert found(False, admin, rest) == [
        "'r1' requires no credential and matches paths with empty segments, which the upstream "
        "may treat as paths of 'r0', which does"
    ]
    assert found(False, admin, {**rest, "auth": "api_key"}) == []
    assert found(False, admin, {**rest, "service": "b"}) == []
    assert found(False, admin, {"path": "/open/{rest*}"}) == []
    assert found(False, {**admin, "hosts": "a.example"}, {**rest, "hosts": "b.example"}) == []
    assert len(found(False, {**admin, "hosts": "a.example"}, rest)) == 1
    assert found(False, admin, {"path": "/{name}"}) == []


def test_handlers_may_call_any_upstream() -> None:
    gateway = decode(
        {**BASE, "upstreams": [*BASE["upstreams"], {"name": "b", "targets": "http://b"}]}
    )
    assert "upstreams[1]" in [warning.path for warning in warnings(gateway)]
    route = decode({"version": 1, "routes": [{"name": "h", "path": "/h", "handler": "m:f"}]}).routes
    gateway = msgspec.structs.replace(gateway, routes=[*gateway.routes, *route])
    assert "upstreams[1]" not in [warning.path for warning in warnings(gateway)]


def test_a_meter_that_nothing_counts_looks_unintended() -> None:
    per_unit = [{"meter": "tokens", "price": "1 USD", "per": 1000}]
    usage = {"requests": "api_requests", "tokens": "api_tokens", "tokns": "api_tokens"}
    document = {
        **BASE,
        "plans": [{"name": "starter", "price": {"per_unit": per_unit}}],
        "billing": {"stripe": {"secret": "env:STRIPE_KEY", "usage": usage}},
    }
    found = [warning for warning in warnings(decode(document)) if "stripe" in warning.path]
    assert [warning.path for warning in found] == ["billing.stripe.usage.tokns"]
    assert "Counted: requests, tokens." in str(found[0])


# ---- currencies -------------------------------------------------------------------------


def plan(name: str, flat: str | None, *services: str, each: str | None = None) -> dict[str, Any]:
    price = {"flat": flat, "per_request": each}
    named = {"services": list(services)} if services else {}
    return {"name": name, "price": {k: v for k, v in price.items() if v}, **named}


SERVICES = {"services": [{"name": name, "upstream": "up"} for name in ("api", "geo")]}
USED = {"plans": [{"name": "starter"}]}


@pytest.mark.parametrize(
    ("plans", "sound"),
    [
        ((plan("a", "10 USD"), plan("b", "20 USD")), True),
        ((plan("a", "1000 JPY"), plan("b", "20 USD")), False),
        ((plan("a", "1000 JPY"), plan("b", None, each="1 USD")), False),
        ((plan("a", None, each="1 JPY"), plan("b", None, each="1 USD")), True),
        ((plan("a", "1000 JPY", "api"), plan("b", "20 USD", "geo")), True),
        ((plan("a", "1000 JPY", "api"), plan("b", "20 USD", "geo", "api")), False),
        ((plan("a", "1000 JPY", "api"), plan("b", "20 USD")), False),
    ],
)
def test_plans_that_a_subscription_could_change_between_have_one_currency(
    plans: tuple[dict[str, Any], ...], sound: bool
) -> None:
    found = faults(**SERVICES, plans=[*USED["plans"], *plans])
    assert [path for path, _ in found] == ([] if sound else ["plans[2].price"])
    assert sound or "there are no exchange rates" in found[0][1]


@pytest.mark.parametrize(
    ("currency", "limit", "price", "sound"),
    [
        ("EUR", "10 EUR", "1 EUR", True),
        ("EUR", "10 USD", "1 EUR", False),
        ("USD", "10 USD", "1 EUR", False),
    ],
)
def test_spending_is_limited_in_the_one_currency_there_is(
    currency: str, limit: str, price: str, sound: bool
) -> None:
    billing = {"currency": currency, "spending": {"account": {"amount": limit}}}
    found = faults(billing=billing, **with_route(0, price=price))
    assert [path for path, _ in found] == ([] if sound else ["billing.spending.account.amount"])


@pytest.mark.parametrize("where", ["plan", "policy", "nowhere"])
def test_included_requests_need_a_price_or_a_quota_for_the_others(where: str) -> None:
    quota = {"quotas": [{"by": ["consumer"], "period": "month", "requests": 100}]}
    plan = {"name": "small", "price": {"included": 100}}
    document = {
        "version": 1,
        "plans": [{**plan, **quota} if where == "plan" else {**plan, "policies": ["p"]}],
        "policies": [{"name": "p", **quota}] if where != "nowhere" else [{"name": "p"}],
    }
    found = check(decode(document))
    if where != "nowhere":
        assert found == []
        (only,) = decode(document).plans
        assert only.price is not None
        assert price_steps(only.price) == ((None, 0),)  # not the route's price
        return
    (fault,) = found
    assert fault.path == "plans[0].price.included"
    assert "no price for further requests" in fault.message
