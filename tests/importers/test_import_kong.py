"""Kong's documents: what becomes of each part, and what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate.errors import ConfigurationError
from fastgate.importers.kong import convert
from fastgate.importers.report import Report
from fastgate.importers.run import run
from fastgate.importers.source import Source
from fastgate.model.values import KeyDigest

SECRET = "a-key-that-nobody-sees"


def document(route: str = "", service: str = "", rest: str = "", version: str = "3.0") -> str:
    """A document with one service and one route, in flow style."""
    return f"""\
_format_version: "{version}"
services:
  - name: orders
    url: http://orders.internal:8080
    {service}
    routes: [{{name: orders, {route or "paths: [/orders]"}}}]
{rest}
"""


def test_service_and_upstream(import_: Any) -> None:
    text = document(service="{}").replace("    {}\n", "") + ""
    found = import_("kong", text)
    upstream = found.part("upstreams", "orders")
    assert upstream["targets"] == [{"url": "http://orders.internal:8080"}]
    assert upstream["timeouts"] == dict.fromkeys(("connect", "write", "first_byte", "idle"), "60s")
    assert found.part("services", "orders")["retries"] == {"attempts": 6}


def test_timeouts_retries_and_a_base_path(import_: Any) -> None:
    found = import_("kong", """\
_format_version: "1.1"
services:
  - {name: a, host: a.internal, port: 8443, protocol: https, path: /base/, retries: 0,
     connect_timeout: 1500, write_timeout: 2000, read_timeout: 3000, tls_verify: false}
routes: [{name: r, paths: [/r], service: {name: a}}]
""")  # fmt: skip
    upstream = found.part("upstreams", "a")
    assert upstream["targets"] == [{"url": "https://a.internal:8443/base"}]
    assert upstream["timeouts"] == {
        "connect": "1500ms", "write": "2s", "first_byte": "3s", "idle": "3s"
    }  # fmt: skip
    assert upstream["tls"] == {"verify": False}
    assert found.part("services", "a")["retries"] == {"attempts": 1}


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("paths: [/orders]", {"path": "/orders/{rest*}", "rewrite": {"strip_prefix": "/orders"}}),
        ("paths: [/orders], strip_path: false", {"path": "/orders/{rest*}"}),
        ("paths: [/]", {"path": "/{rest*}"}),
        ("hosts: [a.example, '*.b.example']", {"hosts": ["a.example", "*.b.example"]}),
        ("methods: [get, POST]", {"methods": ["GET", "POST"], "path": "/{rest*}"}),
        ("preserve_host: true", {"preserve_host": True}),
        ("headers: {x-v: ['2']}", {"match": {"headers": {"x-v": {"equals": "2"}}}}),
        ("paths: ['~/u/(?<id>[^/]+)$'], strip_path: false", {"path": "/u/{id}"}),
        ("paths: ['~/u/[^/]+/a\\.b$'], strip_path: false", {"path": "/u/{p1}/a.b"}),
        ("paths: ['~/f/(?<rest>.*)']", {"path": "/f/{rest*}", "rewrite": {"path": "/{rest}"}}),
    ],
)  # fmt: skip
def test_routes(import_: Any, route: str, expected: dict[str, Any]) -> None:
    found = import_("kong", document(route)).route("orders")
    assert {key: found.get(key) for key in expected} == expected
    assert found["service"] == "orders"


def test_several_paths_are_one_route_unless_they_are_stripped(import_: Any) -> None:
    found = import_("kong", document("paths: [/a, /b], strip_path: false"))
    assert found.route("orders")["paths"] == ["/a/{rest*}", "/b/{rest*}"]
    found = import_("kong", document("paths: [/a, /b]"))
    assert [one["rewrite"]["strip_prefix"] for one in found.data["routes"]] == ["/a", "/b"]


def test_values_of_a_header_are_variants(import_: Any) -> None:
    found = import_("kong", document("headers: {x-v: ['1', '2']}"))
    values = [one["match"]["headers"]["x-v"]["equals"] for one in found.data["routes"]]
    assert values == ["1", "2"]


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ("paths: ['~/u/(a|b)/x$']", "regular expression"),
        ("hosts: ['example.*']", "wildcard at its end"),
        ("snis: [a.example.com]", "snis"),
        ("protocols: [tcp]", "protocols are tcp"),
        ("headers: {x-v: ['~*a']}", "regular expression for 'x-v'"),
        ("expression: 'http.path == \"/a\"'", "expression"),
    ],
)
def test_a_route_that_would_match_more_is_left_out(import_: Any, route: str, words: str) -> None:
    found = import_("kong", document(route))
    assert found.names == []
    assert found.said("lost", words)


def test_paths_of_old_formats_are_expressions_by_their_characters(import_: Any) -> None:
    found = import_("kong", document("paths: ['/u/(a|b)']", version="2.1"))
    assert found.said("lost", "regular expression")


def test_a_prefix_within_a_segment_is_reported(import_: Any) -> None:
    assert import_("kong", document()).said("changed", "not of '/ordersx'")


def test_the_order_of_routes_that_differs_is_reported(import_: Any) -> None:
    found = import_("kong", """\
_format_version: "3.0"
services:
  - name: a
    host: a
    routes:
      - {name: broad, paths: [/a], methods: [GET]}
      - {name: narrow, paths: [/a/b]}
      - {name: other, paths: [/c/d], methods: [GET]}
      - {name: outer, paths: [/c]}
""")  # fmt: skip
    assert found.said("changed", "Kong tries 'broad' before 'narrow'")
    assert "outer" not in found.report.replace("route 'outer'", "")


def test_upstreams(import_: Any) -> None:
    found = import_("kong", """\
_format_version: "3.0"
upstreams:
  - name: pool
    algorithm: consistent-hashing
    hash_on: header
    hash_on_header: X-Tenant
    host_header: app.internal
    targets: [{target: "10.0.0.1:80", weight: 10}, {target: 10.0.0.2, weight: 20},
              {target: "10.0.0.3:80", weight: 0}]
    healthchecks:
      active: {http_path: /ping, timeout: 2, healthy: {interval: 5, successes: 3},
               unhealthy: {interval: 5, http_failures: 4, timeouts: 2}}
      passive: {unhealthy: {http_failures: 7, http_statuses: [500, 503]}}
  - {name: spare, targets: []}
services: [{name: s, host: pool, routes: [{name: r, paths: [/r]}]}]
""")  # fmt: skip
    upstream = found.part("upstreams", "s")
    assert upstream["targets"] == [
        {"url": "http://10.0.0.1:80", "weight": 10},
        {"url": "http://10.0.0.2:8000", "weight": 20},
    ]
    assert (upstream["balance"], upstream["hash_by"]) == ("hash", "header:X-Tenant")
    assert upstream["host"] == "app.internal"
    assert upstream["health"] == {
        "path": "/ping", "interval": "5000ms", "timeout": "2s", "healthy_after": 3,
        "unhealthy_after": 2,
    }  # fmt: skip
    assert upstream["eject"] == {"after": 7, "statuses": ["500", "503"]}
    assert found.said("lost", "weight 0")
    assert found.said("lost", "upstream 'spare': no service uses it")


@pytest.mark.parametrize(
    ("settings", "sticky"),
    [
        ("hash_on: cookie, hash_on_cookie: lb", {"cookie": "lb", "path": "/"}),
        (
            "algorithm: consistent-hashing, hash_on: cookie, hash_on_cookie: lb, "
            "hash_on_cookie_path: /shop",
            {"cookie": "lb", "path": "/shop"},
        ),
        (
            "algorithm: sticky-sessions, sticky_sessions_cookie: gruber, hash_on: none, "
            "sticky_sessions_cookie_path: /",
            {"cookie": "gruber", "path": "/"},
        ),
    ],
)
def test_sticky_upstreams(import_: Any, settings: str, sticky: dict[str, str]) -> None:
    found = import_("kong", f"""\
_format_version: "3.0"
upstreams: [{{name: pool, {settings}, targets: [{{target: "10.0.0.1:80"}}]}}]
services: [{{name: s, host: pool, routes: [{{name: r, paths: [/r]}}]}}]
""")  # fmt: skip
    upstream = found.part("upstreams", "s")
    assert upstream["sticky"] == sticky
    assert upstream["balance"] == "round_robin"
    assert not found.said("changed", "hash_on")


def with_plugin(plugin: str, where: str = "route") -> str:
    plugins = f"plugins: [{{{plugin}}}]"
    if where == "route":
        return document(f"paths: [/orders], {plugins}")
    return document(service=plugins) if where == "service" else document(rest=plugins)


@pytest.mark.parametrize("where", ["route", "service", "global"])
@pytest.mark.parametrize(
    ("plugin", "key", "expected"),
    [
        ("name: key-auth, config: {key_names: [token], hide_credentials: true}", "auth",
         {"api_key": {"header": "token", "bearer": False, "query": "token"}}),
        ("name: key-auth, config: {key_in_query: false}", "auth",
         {"api_key": {"header": "apikey", "bearer": False, "forward": True}}),
        ("name: rate-limiting, config: {second: 5, hour: 100}", "limits",
         [{"name": "second", "rate": "5/s", "by": ["address"]},
          {"name": "hour", "rate": "100/h", "by": ["address"]}]),
        ("name: rate-limiting, config: {day: 7, limit_by: header, header_name: X-T}", "quotas",
         [{"name": "day", "requests": 7, "period": "day", "by": ["header:X-T"]}]),
        ("name: cors, config: {origins: ['https://a.example'], methods: [GET], headers: [X-A], "
         "exposed_headers: [X-B], credentials: true, max_age: 60}", "cors",
         {"origins": ["https://a.example"], "methods": ["GET"], "headers": ["X-A"],
          "expose": ["X-B"], "credentials": True, "max_age": "60s"}),
        ("name: ip-restriction, config: {allow: [10.0.0.1/8], deny: [10.0.0.7]}", "addresses",
         {"allow": ["10.0.0.0/8"], "deny": ["10.0.0.7"]}),
        ("name: request-termination, config: {status_code: 403, message: Closed}", "respond",
         {"status": 403, "json": {"message": "Closed"}}),
        ("name: request-transformer, config: {add: {headers: ['X-A:1']}, remove: {headers: [X-B]},"
         " append: {headers: ['X-C:2']}}", "headers",
         {"request": {"remove": ["X-B"], "add": {"X-C": "2"}, "default": {"X-A": "1"}}}),
        ("name: response-transformer, config: {add: {headers: ['X-A:1']}}", "headers",
         {"response": {"default": {"X-A": "1"}}}),
    ],
)  # fmt: skip
def test_plugins(import_: Any, where: str, plugin: str, key: str, expected: Any) -> None:
    assert import_("kong", with_plugin(plugin, where)).rules("orders", key) == expected


def test_the_most_specific_plugin_holds_alone(import_: Any) -> None:
    limits = "plugins: [{name: rate-limiting, config: {second: %d}}]"
    text = document(f"paths: [/o], {limits % 1}", limits % 2, limits % 3)
    assert import_("kong", text).rules("orders", "limits")[0]["rate"] == "1/s"


def test_a_disabled_plugin_has_no_effect(import_: Any) -> None:
    found = import_("kong", with_plugin("name: key-auth, enabled: false"))
    assert "auth" not in found.route("orders")


@pytest.mark.parametrize(
    ("plugin", "kind", "words"),
    [
        ("name: acl, config: {allow: [gold]}", "open", "plugin 'acl'"),
        ("name: jwt", "open", "plugin 'jwt'"),
        ("name: prometheus", "lost", "plugin 'prometheus'"),
        ("name: rate-limiting, config: {second: 5, policy: redis}", "changed", "policy 'redis'"),
        ("name: request-transformer, config: {replace: {headers: ['X-A:1']}}", "lost", "'X-A'"),
        ("name: request-transformer, config: {add: {querystring: ['a:1']}}", "lost", "querystring"),
        ("name: cors, config: {origins: ['*'], credentials: true}", "lost", "credentials"),
        ("name: request-termination, config: {trigger: x}", "lost", "triggers"),
    ],
)
def test_plugins_that_are_reported(import_: Any, plugin: str, kind: str, words: str) -> None:
    found = import_("kong", with_plugin(plugin))
    assert found.names == ["orders"]
    assert found.said(kind, words)


def test_consumers(import_: Any) -> None:
    consumers = f"""\
consumers:
  - username: alice@example.com
    keyauth_credentials: [{{key: {SECRET}}}, {{key: '${{{{ env "DECK_KEY" }}}}'}}, {{key: kurz}}]
    plugins: [{{name: rate-limiting, config: {{second: 50, minute: 9}}}}]
    jwt_secrets: [{{key: k, secret: {SECRET}}}]
"""
    text = document("plugins: [{name: key-auth}, {name: rate-limiting, config: {second: 5}}]")
    found = import_("kong", text + consumers, DECK_KEY="from-the-environment")
    (consumer,) = found.gateway.consumers
    assert consumer.name == "alice@example.com"
    assert consumer.keys == [KeyDigest.of(SECRET), KeyDigest.of("from-the-environment")]
    assert found.data["consumers"][0]["limits"] == {"second": {"rate": "50/s"}}
    assert found.said("open", "no route has a limit 'minute'")
    assert found.said("lost", "jwt_secrets")
    assert found.said("lost", "keyauth_credentials[2]")
    assert SECRET not in found.imported.text + found.report
    assert "kurz" not in found.imported.text + found.report
    assert found.rules("orders", "limits")[0]["by"] == ["consumer"]


def test_a_limit_of_a_consumer_that_no_route_counts_by_consumer(import_: Any) -> None:
    consumer = "consumers: [{username: a, plugins: [{name: rate-limiting, config: {second: 9}}]}]"
    text = document("plugins: [{name: rate-limiting, config: {second: 5}}]", rest=consumer)
    found = import_("kong", text)
    assert found.data["consumers"] == [{"name": "a"}]
    assert found.said("open", "limit 'second'")


def test_a_plugin_of_something_that_is_not_there(import_: Any) -> None:
    found = import_("kong", document(rest="plugins: [{name: key-auth, route: other}]"))
    assert found.said("open", "not in the document")


def test_passwords_of_targets_are_not_shown(import_: Any) -> None:
    text = document().replace("http://orders", "http://me:geheim@orders")
    found = import_("kong", text)
    assert found.said("lost", "a user")
    assert "geheim" not in found.report + found.imported.text


def test_nothing_is_lost_silently(import_: Any) -> None:
    found = import_("kong", document("sauce: hot", "spice: mild", "vaults: [{name: v}]"))
    for words in ("sauce", "spice", "vaults"):
        assert found.said("lost", words)


def test_routes_that_match_the_same_requests(import_: Any) -> None:
    route = "  - {name: %s, host: h, routes: [{name: %s, paths: [/a]}]}\n"
    text = '_format_version: "3.0"\nservices:\n' + route % ("a", "a") + route % ("b", "b")
    found = import_("kong", text)
    assert len(found.names) == 1
    assert found.said("lost", "match the same requests")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: []\n", "_format_version"),
        ('_format_version: "9.0"\n', ":1: _format_version: the format '9.0' is not known"),
        ('_format_version: "3.0"\nservices: 5\n', ":2: services: expected a list, not a number"),
        ('_format_version: "3.0"\nservices:\n- name: a\n', ":3: services[0]: the service has no"),
        ("- 1\n", "expected a declarative document of Kong, not a list"),
        ("a: [\n", "not valid YAML"),
        ("a: 1\na: 2\n", ":2: a: the key 'a' is there twice"),
    ],
)
def test_bad_documents(import_: Any, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        import_("kong", text)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        run("kong", str(tmp_path / "missing.yaml"))


KEYS = [
    "name", "url", "host", "path", "paths", "routes", "plugins", "config", "hosts", "headers",
    "service", "second", "key_names", "targets", "target", "weight", "keyauth_credentials", "key",
]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(
    ["key-auth", "cors", "rate-limiting", "/a", "~/a", "http://h", "request-termination"]
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["services", "routes", "upstreams", "plugins", "consumers"]), TREES
    )
)
def test_any_document_is_imported_or_refused(data: dict[str, Any]) -> None:
    from fastgate.config.documents import Lines
    from fastgate.importers.draft import dump

    source = Source({"_format_version": "3.0", **data}, Lines("", "yaml"), "a.yaml")
    try:
        draft = convert(source, Report())
        document = draft.document()
    except ConfigurationError:
        return
    assert yaml.safe_load(dump(document, draft.environment)) == document
