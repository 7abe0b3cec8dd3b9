"""Plain data ↔ structs: short forms, canonical data, faults in words."""

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.base import Model
from fastgate.model.gateway import (
    Addresses,
    Auth,
    Consumer,
    Cors,
    Duration,
    Gateway,
    HeaderRules,
    Health,
    Limit,
    Quota,
    Respond,
    Route,
    Upstream,
)
from fastgate.model.shape import fields_of, shape_of
from fastgate.model.short import SHORT

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "listeners": [":8080", {"name": "local", "bind": "unix:/run/f.sock", "mode": "0600"}],
    "upstreams": [
        {
            "name": "orders",
            "targets": ["http://10.0.0.11:9000", {"url": "unix:/run/o.sock", "weight": 3}],
            "balance": "hash",
            "hash_by": "header:X-Tenant",
            "health": "/healthz",
            "eject": {"after": 3, "for": "1m"},
            "keepalive": 8,
        }
    ],
    "services": [
        {
            "name": "orders",
            "upstream": "orders",
            "timeout": "10s",
            "retries": {"attempts": 2, "budget": "20%"},
            "concurrency": 50,
        }
    ],
    "routes": [
        {
            "name": "read",
            "hosts": "api.example.com",
            "methods": "GET",
            "path": "/orders/{id}",
            "service": "orders",
            "auth": {"api_key": {"header": "X-Key", "query": "key"}},
            "match": {"headers": {"X-Version": "2*"}, "query": {"beta": "*"}},
            "fault": {"delay": "1s", "delay_share": "5%", "when": {"cookies": {"chaos": "1*"}}},
            "limits": {"by": ["consumer", "route"], "rate": "50/s", "burst": 100},
            "quotas": ["100/day"],
            "concurrency": 10,
            "price": "0.002 USD",
            "headers": {"request": {"set": {"X-A": "1"}, "remove": "Cookie"}},
            "cors": "*",
            "addresses": ["10.0.0.0/8"],
            "deprecated": "2026-01-01",
            "sunset": "2027-01-01",
        },
        {"name": "hello", "path": "/hello", "respond": "Hello"},
        {"name": "data", "path": "/data", "respond": {"json": {"a": [1, None, "x"]}}},
    ],
    "plans": [{"name": "starter", "limits": ["10/s"], "services": "orders"}],
    "consumers": [{"name": "demo", "keys": "demo-key-1", "plan": "starter"}, "other"],
    "control": "127.0.0.1:8081",
    "observability": {"access_log": "stdout", "metrics": False},
    "workers": 2,
}


def fault(data: Any, struct: type[Any] = Gateway) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        codec.decode(data, struct)
    return caught.value


def changed(*path: Any, **values: Any) -> dict[str, Any]:
    """The document with values put in at a place, or taken out with `...`."""
    document = copy.deepcopy(DOCUMENT)
    at: Any = document
    for step in path:
        at = at[step]
    for key, value in values.items():
        if value is ...:
            del at[key]
        else:
            at[key] = value
    return document


# ---- round trips ------------------------------------------------------------------------


def test_canonical_data_decodes_to_the_same_struct() -> None:
    gateway = codec.decode(DOCUMENT)
    data = codec.encode(gateway)
    assert codec.decode(data) == gateway
    assert codec.encode(codec.decode(data)) == data
    assert json.loads(json.dumps(data)) == data


def test_short_and_full_forms_are_the_same() -> None:
    gateway = codec.decode(DOCUMENT)
    read = gateway.routes[0]
    assert read.limits == [Limit(by=["consumer", "route"], rate=read.limits[0].rate, burst=100)]
    assert read.quotas == [Quota(period="day", requests=100)]
    assert read.concurrency[0].by == ["route"]
    assert gateway.services[0].concurrency[0].by == ["service"]
    assert read.cors == Cors(origins=["*"])
    assert isinstance(read.addresses, Addresses)
    assert read.match is not None
    assert read.match.headers["X-Version"].prefix == "2"
    assert read.match.query["beta"].present is True
    assert gateway.routes[1].respond == Respond(body="Hello")
    assert gateway.upstreams[0].targets[1].weight == 3
    assert gateway.listeners[0].name == "8080"
    assert gateway.observability.metrics.enabled is False


def test_spelling_and_defaults_make_no_difference_to_the_digest() -> None:
    one = codec.decode(changed("services", 0, timeout="10000ms"))
    two = codec.decode(changed(workers=2, drain_timeout="30s", caps={}))
    assert codec.digest(one) == codec.digest(two) == codec.digest(codec.decode(DOCUMENT))
    assert codec.digest(codec.decode(changed(workers=3))) != codec.digest(one)


def test_an_empty_document_has_working_defaults() -> None:
    gateway = codec.decode({"version": 1})
    assert gateway == Gateway(version=1)
    assert codec.encode(gateway) == {"version": 1}
    assert str(gateway.listeners[0].bind) == "127.0.0.1:8080"
    assert gateway.control.bind.loopback


def test_keys_are_never_in_canonical_data() -> None:
    assert "demo-key-1" not in json.dumps(codec.encode(codec.decode(DOCUMENT)))


def test_passwords_are_masked() -> None:
    data = {"store": {"url": "postgresql://fg:hunter2@db/fg"}, "list": ["http://a:b@c"]}
    shown = json.dumps(codec.redact(data))
    assert "hunter2" not in shown
    assert "postgresql://fg:***@db/fg" in shown


def test_asking_for_a_key_with_nothing_behind_it_is_not_open() -> None:
    asked = {"name": "r", "path": "/", "respond": 204, "auth": {"api_key": None}}
    assert codec.decode(asked, Route).auth.api_key is not None
    assert codec.decode({**asked, "auth": "none"}, Route).auth == Auth()


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
durations = st.sampled_from(["5s", "250ms", "1m30s", "2h"])
limits = st.fixed_dictionaries(
    {"rate": st.sampled_from(["5/s", "100/min", "3/10s"])},
    optional={
        "by": st.sampled_from(["address", ["address", "route"], ["service"]]),
        "burst": st.integers(1, 1000),
        "name": names,
    },
)
routes = st.fixed_dictionaries(
    {"name": names, "path": st.sampled_from(["/", "/a/{b}", "/x/{rest*}", "/a-b/c.d"])},
    optional={
        "hosts": st.lists(st.sampled_from(["a.example", "*.b.example"]), max_size=2),
        "methods": st.lists(st.sampled_from(["GET", "POST", "PURGE"]), max_size=3),
        "priority": st.integers(-5, 5),
        "limits": st.lists(limits, max_size=3),
        "max_body": st.sampled_from(["1MB", 100, "0B"]),
        "auth": st.sampled_from(
            [
                "none",
                "api_key",
                {"api_key": {"bearer": False}},
                {"jwt": "corp", "scopes": {"GET": "a", "*": ["b", "c"]}},
                {"any": ["basic", {"mtls": "a"}, {"jwt": ["a", "b"]}], "optional": True},
                {"all": ["hmac", {"forward": "http://a"}], "anonymous": "guest"},
            ]
        ),
        "limit_headers": st.booleans(),
        "cors": st.sampled_from(["*", ["https://a.example"], {"origins": ["https://b.example"]}]),
    },
).flatmap(
    lambda route: st.sampled_from(
        [
            {**route, "respond": 204},
            {**route, "respond": {"json": {"x": 1}}},
            {**route, "handler": "package.module:function", "timeout": "5s"},
            {**route, "service": "s", "rewrite": {"replace_prefix": "/v2"}, "timeout": "2m"},
        ]
    )
)


@settings(max_examples=150)
@given(routes)
def test_any_route_survives_the_way_there_and_back(data: dict[str, Any]) -> None:
    route = codec.decode(data, Route)
    canonical = codec.encode(route)
    assert codec.decode(canonical, Route) == route
    assert codec.encode(codec.decode(canonical, Route)) == canonical


# ---- faults -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        (changed("routes", 0, pth="/x"), "routes[0].pth", "Did you mean 'path'?"),
        (changed("routes", 0, path=...), "routes[0]", "exactly one of path, paths"),
        (
            changed("routes", 0, path=..., paths=["/a", "/b?c"]),
            "routes[0].paths[1]",
            "'/b?c' has a query",
        ),
        (changed("routes", 0, path=5), "routes[0].path", 'Put it in quotes: "5"'),
        (changed("routes", 0, path="/a//b"), "routes[0].path", "empty or dot segment"),
        (changed("routes", 0, path="/{a}/{a}"), "routes[0].path", "name twice"),
        (changed("routes", 0, path="/{a*}/b"), "routes[0].path", "must come last"),
        (changed("routes", 0, path="/{a*}/"), "routes[0].path", "must come last"),
        (changed("routes", 0, path="/a/../b"), "routes[0].path", "dot segment"),
        (changed("routes", 0, path="/a/."), "routes[0].path", "dot segment"),
        (changed("routes", 0, path="/x{a}"), "routes[0].path", "whole segment"),
        (changed("routes", 0, path="/ü"), "routes[0].path", "percent-encoded"),
        (changed("routes", 0, hosts="a.b:80"), "routes[0].hosts", "write the host without a port"),
        (changed("routes", 0, hosts="a.*.b"), "routes[0].hosts", "may only be at the front"),
        (changed("routes", 0, hosts="A.b"), "routes[0].hosts", "lower case"),
        (changed("routes", 0, methods=["get"]), "routes[0].methods", "'GET'"),
        (changed("routes", 0, handler="a:b"), "routes[0]", "service and handler together"),
        (changed("routes", 0, service=...), "routes[0]", "exactly one of"),
        (changed("routes", 0, auth="jwt"), "routes[0].auth", "jwt needs more: `{jwt: ISSUER}`"),
        (changed("routes", 0, auth="oauth"), "routes[0].auth", "not a way to authenticate"),
        (changed("routes", 0, auth=None), "routes[0].auth", "The key has no value"),
        (changed("routes", 0, limits="50"), "routes[0].limits[0].rate", "not a rate"),
        (
            changed("routes", 0, limits=[{"rate": "5/s", "by": "user"}]),
            "routes[0].limits[0].by[0]",
            "'address', 'route', 'service', 'consumer', 'credential', 'plan' or",
        ),
        (
            changed("routes", 0, limits=[{"rate": "5/s", "by": []}]),
            "routes[0].limits[0].by",
            "at least 1",
        ),
        (changed("routes", 0, quotas="5/moon"), "routes[0].quotas[0]", "not a quota"),
        (changed("routes", 0, timeout=5), "routes[0].timeout", "'5s'"),
        (changed("routes", 0, price=1), "routes[0].price", "'1 USD'"),
        (changed("routes", 0, sunset="2020-01-01"), "routes[0].sunset", "not before deprecated"),
        (changed("routes", 0, websocket="yes"), "routes[0].websocket", "true or false"),
        (
            changed("routes", 0, cors={"origins": "*", "credentials": True}),
            "routes[0].cors.credentials",
            "every origin",
        ),
        (
            changed("routes", 0, rewrite={"strip_prefix": "/orders/x"}),
            "routes[0].rewrite.strip_prefix",
            "literal beginning",
        ),
        (
            changed("routes", 1, rewrite={"strip_prefix": "/hello"}),
            "routes[1].rewrite",
            "only a route with a service",
        ),
        (
            changed("routes", 0, "match", "headers", **{"X Y": "1"}),
            "routes[0].match.headers",
            "not an HTTP token",
        ),
        (
            changed("routes", 0, "match", "headers", **{"X-Y": {"equal": "1"}}),
            "routes[0].match.headers.X-Y.equal",
            "Did you mean 'equals'?",
        ),
        (changed("routes", 0, "match", "query", b=2), "routes[0].match.query.b", "the number 2"),
        (
            changed("routes", 0, "headers", "request", set={"Host": "x"}),
            "routes[0].headers.request",
            "belongs to the connection",
        ),
        (
            changed("routes", 0, "headers", "request", set={"X-A": "a\nb"}),
            "routes[0].headers.request.set.X-A",
            "line breaks",
        ),
        (changed("routes", 1, respond={"body": "a", "json": 1}), "routes[1].respond", "not both"),
        (changed("routes", 1, respond=99), "routes[1].respond.status", "at least 200"),
        (changed("upstreams", 0, balance="random"), "upstreams[0].balance", "Choices: round_robin"),
        (changed("upstreams", 0, balance="round_robin"), "upstreams[0].hash_by", "balance: hash"),
        (changed("upstreams", 0, targets=[]), "upstreams[0].targets", "at least 1 entry"),
        (
            changed("upstreams", 0, targets=["http://a", "http://a:80"]),
            "upstreams[0].targets",
            "twice",
        ),
        (
            changed("upstreams", 0, eject={"fo": "1s"}),
            "upstreams[0].eject.fo",
            "Did you mean 'for'?",
        ),
        (changed("services", 0, retries=0), "services[0].retries.attempts", "at least 1"),
        (changed("consumers", 0, keys="short"), "consumers[0].keys[0]", "8 to 512"),
        (changed(version=2), "version", "Choices: 1."),
        (changed(version=...), "", "'version' is missing"),
        (changed(workers=0), "workers", "at least 1"),
        (changed(workers="all"), "workers", "Choices: auto."),
        (changed(caps={"head": "1MiB"}), "caps.head", "not from 512B to 64KiB"),
        (changed(store="mysql://x"), "store.url", "'sqlite:///' or"),
        (changed(routes=None), "routes", "expected a list, not nothing"),
        ([], "", "expected a mapping, not a list"),
        ("text", "", "expected a mapping, not the text"),
    ],
)
def test_a_fault_names_its_place_and_the_way_out(document: Any, path: str, words: str) -> None:
    error = fault(document)
    assert error.path == path
    assert words in str(error)


def test_every_part_says_what_is_wrong_with_it() -> None:
    route = {"name": "a", "path": "/", "service": "s"}
    document = {
        "version": 1,
        "routes": [
            route,
            {**route, "path": "here"},
            {**route, "limits": [{"rate": "ten"}, {"rate": "1/s", "burst": "big"}]},
            7,
        ],
        "plans": [{"name": "p", "fo": 1}],
        "caps": {"head": "1MiB"},
        "wrokers": 2,
        "upstreams": [{"nam": "u", "targets": ["htp://x", "unix:"], "health": "/", "balance": 7}],
    }
    error = fault(document)
    assert [one.path for one in error] == [
        "routes[1].path",
        "routes[2].limits[0].rate",
        "routes[2].limits[1].burst",
        "routes[3]",
        "plans[0].fo",
        "caps.head",
        "wrokers",
        "upstreams[0].nam",
        "upstreams[0].targets[0].url",
        "upstreams[0].targets[1].url",
        "upstreams[0].balance",
        "upstreams[0]",
    ]
    assert len({one.message for one in error}) == len(list(error))


def test_nothing_in_place_of_a_part_is_no_fault_where_a_field_may_have_it() -> None:
    document = changed("routes", 0, price=None, respond=None)
    codec.decode(document)
    assert [one.path for one in fault({**document, "workers": 0})] == ["workers"]


def test_a_password_in_a_bad_address_is_not_shown() -> None:
    error = fault(changed(store="mysql://fg:hunter2@db/x"))
    assert "hunter2" not in str(error)


def test_one_resource_decodes_alone() -> None:
    upstream = codec.decode({"name": "u", "targets": "http://a"}, Upstream)
    assert upstream.timeouts.connect == Duration.parse("2s")
    assert fault({"name": "u"}, Upstream).path == ""


# ---- what the model promises ------------------------------------------------------------


def structs() -> list[type[Model]]:
    found: list[type[Model]] = []

    def visit(annotation: Any) -> None:
        shape = shape_of(annotation)
        if shape.struct is not None and shape.struct not in found:
            found.append(shape.struct)
            for field in fields_of(shape.struct).values():
                visit(field.annotation)
        elif shape.item is not None:
            visit(shape.item)

    visit(Gateway)
    return found


@pytest.mark.parametrize("struct", structs(), ids=lambda struct: struct.__name__)
def test_every_struct_and_field_is_described(struct: type[Model]) -> None:
    assert struct.__doc__
    for field in fields_of(struct).values():
        assert field.description, f"{struct.__name__}.{field.name} has no description"
        assert field.description.endswith((".", "`.")), f"{struct.__name__}.{field.name}"


def test_short_forms_are_of_structs_that_the_document_has() -> None:
    assert set(SHORT) <= set(structs())


def test_the_model_imports_nothing_heavy() -> None:
    code = (
        "import sys, fastgate.model.codec, fastgate.config.file; "
        "print([m for m in ('yaml', 'rich', 'click', 'litestar', 'sqlalchemy', 'asyncio') "
        "if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (Consumer, {"name": "acme\n"}, "is not a name"),
        (HeaderRules, {"set": {"x-by": "us\n"}}, "is not a header value"),
        (HeaderRules, {"set": {"x-by\n": "us"}}, "is not an HTTP token"),
        (Health, {"path": "/live\n"}, "is not a path"),
        (Health, {"path": "/live", "headers": {"x-probe": "1\n"}}, "is not a header value"),
    ],
)
def test_a_line_end_after_a_text_is_no_part_of_it(kind: Any, data: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        codec.decode(data, kind)
