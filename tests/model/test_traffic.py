"""What routes do with their traffic: which settings are valid, and what errors say."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.check import check
from fastgate.model.gateway import Route


def route(**fields: Any) -> Route:
    data = {"name": "r", "path": "/x", "service": "s", **fields}
    decoded: Route = codec.decode(data, Route)
    return decoded


def refused(**fields: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        route(**fields)
    return str(caught.value)


# ---- faults ------------------------------------------------------------------------------


def test_the_shares_of_faults_are_all_requests_unless_given() -> None:
    fault = route(fault={"delay": "2s", "abort": 503, "abort_share": "2.5%"}).fault
    assert fault is not None
    assert (str(fault.delay_share), str(fault.abort_share)) == ("100%", "2.5%")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({}, "fault: give delay, abort or both"),
        ({"when": {"query": {"a": "1"}}}, "fault: give delay, abort or both"),
        ({"delay": "0s"}, "fault.delay: 0s is not between 1ms and 1h"),
        ({"delay": "61m"}, "fault.delay: 61m is not between 1ms and 1h"),
        ({"delay": "1s", "abort_share": "5%"}, "fault.abort_share: give abort too"),
        ({"abort": 500, "delay_share": "5%"}, "fault.delay_share: give delay too"),
        ({"abort": 200}, "fault.abort"),
        ({"abort": 600}, "fault.abort"),
        ({"abort": 500, "abort_share": "101%"}, "fault.abort_share"),
        ({"abort": 500, "when": {}}, "fault.when: give headers, query or cookies"),
        ({"abort": 500, "when": {"headers": {"A": "1", "a": "2"}}}, "a name is there twice"),
        ({"abort": 500, "when": {"cookies": {"a": "b c"}}}, "'b c' cannot be the value of 'a'"),
        ({"abort": 500, "when": {"cookies": {"a b": "c"}}}, "when.cookies"),
    ],
)
def test_faults_that_make_no_sense(fault: dict[str, Any], says: str) -> None:
    assert says in refused(fault=fault)


# ---- maintenance -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "full"),
    [
        (True, {"enabled": True}),
        (False, {"enabled": False}),
        ("Back soon.", {"message": "Back soon."}),
        ({"retry_after": "1h"}, {"enabled": True, "retry_after": "1h"}),
    ],
)
def test_short_forms_of_maintenance(short: Any, full: dict[str, Any]) -> None:
    assert route(maintenance=short) == route(maintenance=full)
    whole = {"version": 1, "maintenance": short}
    assert codec.decode(whole) == codec.decode({"version": 1, "maintenance": full})


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"retry_after": "999ms"}, "maintenance.retry_after: 999ms is not between 1s and 30d"),
        ({"retry_after": "31d"}, "maintenance.retry_after: 31d is not between 1s and 30d"),
        ({"message": ""}, "maintenance.message"),
        ({"message": "a\nb"}, "is not a text in one line without"),
        ({"message": 'so "called"'}, "is not a text in one line without"),
        ({"message": "x" * 257}, "at most 256 characters"),
        ({"allow": "10.0.0.1/8"}, "has bits set outside its prefix"),
        ({"except": ["r"]}, "maintenance.except"),  # of the whole gateway only
    ],
)
def test_maintenance_that_makes_no_sense(setting: dict[str, Any], says: str) -> None:
    assert says in refused(maintenance=setting)


def test_routes_that_stay_open_exist() -> None:
    document = {
        "version": 1,
        "routes": [{"name": "status", "path": "/", "respond": 200}],
        "maintenance": {"except": ["status", "statsu"]},
    }
    (error,) = check(codec.decode(document))
    assert str(error) == (
        "maintenance.except[1]: there is no route 'statsu'. Did you mean 'status'? Routes: status."
    )


# ---- splits and mirrors ------------------------------------------------------------------


def test_a_list_is_a_split_without_more() -> None:
    entry = {"service": "b", "weight": "0.25%"}
    assert route(split=[entry]) == route(split={"to": [entry]})
    split = route(split=[entry, {"service": "c", "when": {"query": {"x": "1"}}}]).split
    assert split is not None
    assert (str(split.to[0].weight), str(split.rest)) == ("0.25%", "99.75%")
    assert route(mirror="b") == route(mirror={"service": "b", "share": "100%"})


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ([], "split.to"),
        ([{"service": "b"}], "split.to[0]: give weight, when or both"),
        ([{"service": "b", "when": {}}], "split.to[0].when: give headers, query or cookies"),
        ([{"service": "b", "weight": 5}], "a share needs its sign: '5%'"),
        ([{"service": "b", "weight": "101%"}], "is more than 100%"),
        ([{"service": "b", "weight": "0.00001%"}], "is finer than a ten-thousandth of a percent"),
        (
            [{"service": "b", "weight": "60%"}, {"service": "c", "weight": "40.5%"}],
            "split: the weights add up to 100.5%, which is more than 100%",
        ),
        (
            [{"service": "b", "weight": "1%"}, {"service": "b", "weight": "2%"}],
            "split.to[1].weight: 'b' has a weight already",
        ),
        ([{"service": "s", "weight": "1%"}], "split.to[0].service: 's' is the route's own service"),
        (
            {"sticky": "consumer", "to": [{"service": "b", "weight": "1%"}]},
            "split.sticky: this route does not identify the caller",
        ),
        (
            {"to": [{"service": "b", "weight": "1%"}], "cookie": "x"},
            "split.cookie: only a split with `sticky: cookie` sets one",
        ),
        (
            {
                "to": [{"service": "b", "weight": "1%"}],
                "sticky": "cookie",
                "cookie": {"cookie": "__Host-x"},
            },
            "only with `secure: true`",
        ),
    ],
)
def test_splits_that_make_no_sense(split: Any, says: str) -> None:
    assert says in refused(split=split)


@pytest.mark.parametrize("name", ["split", "mirror"])
@pytest.mark.parametrize("kind", [{"respond": 200}, {"handler": "a:b"}, {"redirect": "/x"}])
def test_only_what_is_forwarded_goes_elsewhere(name: str, kind: dict[str, Any]) -> None:
    value: Any = "b" if name == "mirror" else [{"service": "b", "weight": "1%"}]
    said = refused(service=None, **kind, **{name: value})
    assert f"{name}: only a route with a service forwards requests" in said


def two_services(split: Any = None, *, of: Any = None, **more: Any) -> list[str]:
    """The errors of a document with a route to `s`, and `b` beside it."""
    of = of or {}
    extra = {} if split is None else {"split": split}
    document = {
        "version": 1,
        "upstreams": [{"name": "u", "targets": ["http://127.0.0.1:1"]}],
        "services": [{"name": n, "upstream": "u", **of.get(n, {})} for n in ("s", "b")],
        "policies": [{"name": "p", "addresses": ["10.0.0.0/8"]}],
        "plans": [{"name": "gold"}],
        "routes": [{"name": "r", "path": "/", "service": "s", **extra, **more}],
    }
    return [str(error) for error in check(codec.decode(document))]


def test_services_of_splits_and_mirrors_exist() -> None:
    (first, second) = two_services([{"service": "c", "weight": "1%"}], mirror="d")
    assert first.startswith("routes[0].split.to[0].service: there is no service 'c'.")
    assert second.startswith("routes[0].mirror.service: there is no service 'd'.")


def test_what_holds_for_a_route_holds_with_each_of_its_services() -> None:
    split = [{"service": "b", "weight": "1%"}]
    assert two_services(split) == []
    (error,) = two_services(split, of={"b": {"plans": ["gold"]}})
    assert "the service 'b' is only for the plans gold" in error
    assert two_services(split, of={"b": {"plans": ["gold"]}}, auth="api_key") == []


@pytest.mark.parametrize(
    ("of", "says"),
    [
        ({"b": {"policies": ["p"]}}, "the services 's' and 'b' have different policies"),
        (
            {"s": {"limits": [{"rate": "1/s", "by": ["address"]}]}},
            "the service 's' has a limit by address",
        ),
    ],
)
def test_before_the_consumer_is_known_the_services_are_alike(of: Any, says: str) -> None:
    entry = [{"service": "b", "weight": "1%"}]
    (error,) = two_services({"sticky": "consumer", "to": entry}, of=of, auth="api_key")
    assert says in error
    for sticky in ("address", "cookie"):
        assert two_services({"sticky": sticky, "to": entry}, of=of, auth="api_key") == []
    alike = {"s": {"policies": ["p"]}, "b": {"policies": ["p"], "limits": "5/s"}}
    assert two_services({"sticky": "consumer", "to": entry}, of=alike, auth="api_key") == []


# ---- shedding ----------------------------------------------------------------------------


def test_marks_of_shedding() -> None:
    gateway = codec.decode({"version": 1, "shedding": {"lag": "50ms", "buffers": "256MiB"}})
    assert gateway.shedding is not None
    assert (str(gateway.shedding.lag), str(gateway.shedding.buffers)) == ("50ms", "256MiB")
    assert codec.decode({"version": 1}).shedding is None
    assert route().importance == "normal"


@pytest.mark.parametrize(
    ("shedding", "says"),
    [
        ({}, "shedding: give lag, buffers or both"),
        ({"lag": "0s"}, "shedding.lag: 0s is not between 1ms and 1m"),
        ({"lag": "61s"}, "shedding.lag: 61s is not between 1ms and 1m"),
        ({"buffers": "63KiB"}, "shedding.buffers: 63KiB is not between 64KiB and 1TiB"),
        ({"buffers": "1025GiB"}, "shedding.buffers: 1025GiB is not between 64KiB and 1TiB"),
        ({"memory": "1GiB"}, "unknown key 'memory'"),
    ],
)
def test_marks_that_make_no_sense(shedding: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        codec.decode({"version": 1, "shedding": shedding})
    assert says in str(caught.value)


def test_an_importance_that_does_not_exist() -> None:
    assert "importance" in refused(importance="highest")
