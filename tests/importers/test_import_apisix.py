"""APISIX's documents: what becomes of each part, and what is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate.config.documents import Lines
from fastgate.errors import ConfigurationError
from fastgate.importers.apisix import convert
from fastgate.importers.draft import dump
from fastgate.importers.report import Report
from fastgate.importers.source import Source
from fastgate.model.values import KeyDigest

SECRET = "a-key-that-nobody-sees"
NODES = 'upstream: {nodes: {"10.0.0.1:80": 1}, pass_host: node}'


def document(route: str = "uri: /orders", upstream: str = NODES, rest: str = "") -> str:
    return f"routes:\n  - {{id: orders, {route}, {upstream}}}\n{rest}\n#END\n"


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("uri: /orders", {"path": "/orders"}),
        ("uri: /orders/*", {"path": "/orders/{rest*}"}),
        ("uri: /orders*", {"path": "/orders/{rest*}"}),
        ("uri: /*", {"path": "/{rest*}"}),
        ("uri: /orders/:id", {"path": "/orders/{id}"}),
        ("uris: [/a, /b]", {"paths": ["/a", "/b"]}),
        ("uri: /a, host: A.example", {"hosts": ["a.example"]}),
        ("uri: /a, hosts: ['*.b.example']", {"hosts": ["*.b.example"]}),
        ("uri: /a, methods: [GET, PUT]", {"methods": ["GET", "PUT"]}),
        ("uri: /a, priority: 7", {"priority": 7}),
        ("uri: /a, enable_websocket: true", {"websocket": True}),
        ("uri: /a, timeout: {read: 5}", {"timeout": "5s", "idle_timeout": "5s"}),
        ("uri: /a, remote_addrs: [10.0.0.0/8]", {"addresses": {"allow": ["10.0.0.0/8"]}}),
        (
            "uri: /a, vars: [[arg_v, '==', '2'], [http_x_a, '==', b]]",
            {"match": {"query": {"v": {"equals": "2"}}, "headers": {"x-a": {"equals": "b"}}}},
        ),
    ],
)
def test_routes(import_: Any, route: str, expected: dict[str, Any]) -> None:
    found = import_("apisix", document(route)).route("orders")
    assert {key: found.get(key) for key in expected} == expected
    assert found["service"] == "orders"


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ("uri: /a, vars: [[arg_v, '~~', '2']]", "vars"),
        ("uri: /a, vars: [[cookie_v, '==', '2']]", "vars"),
        ("uri: /a, filter_func: 'function(vars) return true end'", "filter_func"),
        ("uri: /a, status: 0", "disabled"),
        ("uri: /a/*/b", "'/a/*/b'"),
        ("uri: /a, service_id: nowhere", "service_id 'nowhere'"),
        ("uri: /a, plugin_config_id: nowhere", "plugin_config_id 'nowhere'"),
    ],
)
def test_a_route_that_would_match_more_is_left_out(import_: Any, route: str, words: str) -> None:
    found = import_("apisix", document(route))
    assert found.names == []
    assert found.said("lost", words)


def test_paths_that_differ_are_reported(import_: Any) -> None:
    assert import_("apisix", document("uri: /a/*")).said("changed", "also matches '/a'")
    assert import_("apisix", document("uri: /a*")).said("changed", "not of '/ax'")


def test_upstreams(import_: Any) -> None:
    found = import_("apisix", document(upstream="upstream_id: 7", rest="""\
upstreams:
  - id: 7
    type: chash
    hash_on: vars
    key: http_x_tenant
    scheme: https
    retries: 2
    pass_host: rewrite
    upstream_host: app.internal
    timeout: {connect: 1, send: 2, read: 0.5}
    nodes: [{host: 10.0.0.1, port: 8443, weight: 2}, {host: app, weight: 1}]
    keepalive_pool: {size: 9, idle_timeout: 30, requests: 100}
    checks:
      active: {http_path: /ping, timeout: 2, host: ping.internal, port: 81,
               req_headers: ["X-A: 1"], healthy: {interval: 3, successes: 4},
               unhealthy: {interval: 3, http_failures: 5}}
      passive: {unhealthy: {http_statuses: [500], http_failures: 6}}
  - {id: 8, nodes: {}}
"""))  # fmt: skip
    assert found.part("upstreams", "upstream-7") == {
        "name": "upstream-7",
        "targets": [{"url": "https://10.0.0.1:8443", "weight": 2}, {"url": "https://app"}],
        "balance": "hash",
        "hash_by": "header:x-tenant",
        "host": "app.internal",
        "timeouts": {"connect": "1s", "write": "2s", "first_byte": "500ms", "idle": "500ms"},
        "health": {
            "interval": "3000ms", "path": "/ping", "timeout": "2s", "healthy_after": 4,
            "unhealthy_after": 5, "host": "ping.internal", "port": 81, "headers": {"X-A": "1"},
        },
        "eject": {"after": 6, "statuses": ["500"]},
        "keepalive": {"max": 9, "idle": "30s"},
    }  # fmt: skip
    assert found.part("services", "upstream-7")["retries"] == {"attempts": 3}
    assert found.said("changed", "certificate of the upstream is verified")
    assert found.said("lost", "upstream '8': no route uses it")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("roundrobin", "round_robin"), ("ewma", "p2c_ewma"), ("least_conn", "least_connections")],
)
def test_balancing(import_: Any, kind: str, expected: str) -> None:
    upstream = f'upstream: {{nodes: {{"a:80": 1}}, type: {kind}}}'
    found = import_("apisix", document(upstream=upstream))
    assert found.part("upstreams", "orders")["balance"] == expected
    assert found.part("upstreams", "orders")["host"] == "client"


def test_service_discovery_is_reported(import_: Any) -> None:
    upstream = "upstream: {service_name: orders, discovery_type: consul}"
    found = import_("apisix", document(upstream=upstream))
    assert found.names == []
    assert found.said("lost", "discovery")


def test_services_and_plugin_configs_are_merged(import_: Any) -> None:
    count = "{limit-count: {count: %d, time_window: 60}}"
    found = import_("apisix", f"""\
routes:
  - {{id: a, uri: /a, service_id: s, plugin_config_id: p, plugins: {count % 1}}}
  - {{id: b, uri: /b, service_id: s, plugin_config_id: p}}
  - {{id: c, uri: /c, service_id: s}}
services:
  - {{id: s, hosts: [s.example], {NODES}, plugins: {count % 3}, enable_websocket: true}}
plugin_configs:
  - {{id: p, plugins: {count % 2}}}
""")  # fmt: skip
    rates = [found.route(name)["limits"][0]["rate"] for name in "abc"]
    assert rates == ["1/min", "2/min", "3/min"]
    assert all(found.route(name)["hosts"] == ["s.example"] for name in "abc")
    assert found.route("a")["websocket"] is True
    assert len(found.data["upstreams"]) == 1


def with_plugin(plugin: str, uri: str = "/orders") -> str:
    return document(f"uri: {uri}, plugins: {{{plugin}}}")


@pytest.mark.parametrize(
    ("plugin", "key", "expected"),
    [
        ("key-auth: {header: token, query: q, hide_credentials: true}", "auth",
         {"api_key": {"header": "token", "bearer": False, "query": "q"}}),
        ("limit-count: {count: 5, time_window: 30, key: http_x_t}", "limits",
         [{"rate": "5/30s", "by": ["header:x-t"]}]),
        ("limit-count: {count: 5, time_window: 3600, key_type: constant, key: a}", "limits",
         [{"rate": "5/h", "by": ["route"]}]),
        ("limit-count: {count: 5, time_window: 1, key: consumer_name}, key-auth: {}", "limits",
         [{"rate": "5/s", "by": ["consumer"]}]),
        ("limit-req: {rate: 0.5, burst: 2, key: remote_addr, nodelay: true}", "limits",
         [{"rate": "1/2s", "burst": 3, "by": ["address"]}]),
        ("limit-conn: {conn: 5, burst: 0, key: remote_addr}", "concurrency",
         [{"max": 5, "by": ["address"]}]),
        ("cors: {}", "cors", {"origins": ["*"], "max_age": "5s"}),
        ("cors: {allow_origins: 'https://a.example,https://b.example', allow_methods: 'GET,PUT', "
         "allow_headers: X-A, expose_headers: X-B, allow_credential: true, max_age: 60}", "cors",
         {"origins": ["https://a.example", "https://b.example"], "methods": ["GET", "PUT"],
          "headers": ["X-A"], "expose": ["X-B"], "credentials": True, "max_age": "60s"}),
        ("ip-restriction: {whitelist: [10.0.0.0/8]}", "addresses", {"allow": ["10.0.0.0/8"]}),
        ("ip-restriction: {blacklist: [10.0.0.7]}", "addresses", {"deny": ["10.0.0.7"]}),
        ("proxy-rewrite: {uri: /new}", "rewrite", {"path": "/new"}),
        ("proxy-rewrite: {headers: {set: {X-A: a}, add: {X-B: b}, remove: [X-C]}}", "headers",
         {"request": {"remove": ["X-C"], "set": {"X-A": "a"}, "add": {"X-B": "b"}}}),
        ("proxy-rewrite: {headers: {X-A: a}}", "headers", {"request": {"set": {"X-A": "a"}}}),
        ("response-rewrite: {headers: {set: {X-A: a}}}", "headers",
         {"response": {"set": {"X-A": "a"}}}),
        ("redirect: {uri: '/new$uri', ret_code: 301}", "redirect",
         {"to": "/new{path}", "status": 301, "keep_query": False}),
        ("key-auth: {_meta: {disable: true}}", "auth", None),
    ],
)  # fmt: skip
def test_plugins(import_: Any, plugin: str, key: str, expected: Any) -> None:
    if "$uri" in plugin:
        expected = {**expected, "to": "https://a.example{path}"}
        plugin = plugin.replace("/new$uri", "https://a.example$uri")
    found = import_("apisix", with_plugin(plugin))
    assert found.route("orders").get(key) == expected


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        ("['^/api/(.*)', '/$1']", {"strip_prefix": "/api"}),
        ("['^/api/(.*)', '/v2/$1']", {"strip_prefix": "/api", "replace_prefix": "/v2"}),
        ("['^/(.*)', '/v2/$1']", {"replace_prefix": "/v2"}),
        ("['^/other/(.*)', '/$1']", None),
        ("['^/api/(.*)/(.*)', '/$2']", None),
    ],
)
def test_regular_expressions_of_rewrites(import_: Any, regex: str, expected: Any) -> None:
    found = import_("apisix", with_plugin(f"proxy-rewrite: {{regex_uri: {regex}}}", "/api/*"))
    assert found.route("orders").get("rewrite") == expected
    assert found.said("lost", "regex_uri") == (expected is None)


def test_the_host_of_a_rewrite_is_the_services(import_: Any) -> None:
    found = import_("apisix", with_plugin("proxy-rewrite: {host: app.internal}"))
    assert found.part("services", "orders")["host"] == "app.internal"


def test_shared_limits_are_policies(import_: Any) -> None:
    group = "{limit-count: {count: 5, time_window: 1, group: all}}"
    found = import_("apisix", f"""\
routes:
  - {{id: a, uri: /a, {NODES}, plugins: {group}}}
  - {{id: b, uri: /b, {NODES}, plugins: {group}}}
global_rules:
  - {{id: 1, plugins: {{limit-count: {{count: 9, time_window: 1}}, cors: {{}}}}}}
""")  # fmt: skip
    for name in "ab":
        assert found.route(name)["policies"] == ["all", "global-limit-count", "global-cors"]
    assert found.part("policies", "all")["limits"] == [{"rate": "5/s", "by": ["address"]}]


def test_a_global_rule_beside_a_plugin_of_the_route(import_: Any) -> None:
    rules = "global_rules: [{id: 1, plugins: {ip-restriction: {whitelist: [10.0.0.0/8]}}}]"
    text = document("uri: /a, plugins: {ip-restriction: {blacklist: [10.0.0.7]}}", rest=rules)
    found = import_("apisix", text)
    assert found.route("orders")["addresses"] == {"deny": ["10.0.0.7"]}
    assert found.said("open", "the global rule has the plugin")


def test_remote_addrs_and_a_whitelist(import_: Any) -> None:
    plugins = "plugins: {ip-restriction: {whitelist: [10.0.0.0/8]}}"
    found = import_("apisix", document(f"uri: /a, remote_addrs: [10.1.0.0/16], {plugins}"))
    assert found.route("orders")["addresses"] == {"allow": ["10.1.0.0/16"]}
    assert found.said("open", "whitelist")


@pytest.mark.parametrize(
    ("plugin", "kind", "words"),
    [
        ("jwt-auth: {}", "open", "plugin 'jwt-auth'"),
        ("prometheus: {}", "lost", "plugin 'prometheus'"),
        ("limit-count: {count: 5, time_window: 1, policy: redis}", "changed", "'redis'"),
        ("limit-count: {count: '$x', time_window: 1}", "open", "there is no limit"),
        ("limit-count: {count: 5, time_window: 1, rules: [1]}", "lost", "rules"),
        ("cors: {allow_origins_by_regex: ['.*']}", "lost", "regular expression"),
        ("redirect: {http_to_https: true}", "open", "redirect: https"),
        ("proxy-rewrite: {uri: '/a$arg_b'}", "lost", "variables"),
        ("response-rewrite: {status_code: 201}", "lost", "status"),
        ("key-auth: {anonymous_consumer: guest}", "changed", "pass as nobody"),
    ],
)
def test_plugins_that_are_reported(import_: Any, plugin: str, kind: str, words: str) -> None:
    found = import_("apisix", with_plugin(plugin))
    assert found.names == ["orders"]
    assert found.said(kind, words)


def test_consumers(import_: Any) -> None:
    found = import_("apisix", document(rest=f"""\
consumers:
  - username: jack
    plugins:
      key-auth: {{key: {SECRET}}}
      jwt-auth: {{key: jack, secret: {SECRET}}}
      limit-count: {{count: 1, time_window: 1}}
  - {{username: jill, plugins: {{key-auth: {{key: kurz}}}}}}
"""))  # fmt: skip
    jack, jill = found.gateway.consumers
    assert (jack.name, jack.keys) == ("jack", [KeyDigest.of(SECRET)])
    assert (jill.name, jill.keys) == ("jill", [])
    assert found.said("lost", "jwt-auth")
    assert found.said("open", "limit-count")
    assert found.said("lost", "consumers[1].plugins.key-auth")
    for secret in (SECRET, "kurz"):
        assert secret not in found.imported.text + found.report


def test_exports_of_the_admin_api(import_: Any) -> None:
    upstream = {"nodes": {"10.0.0.1:80": 1}}
    route = {"key": "/apisix/routes/r", "value": {"uri": "/a", "upstream_id": "u"}}
    pool = {"key": "/apisix/upstreams/u", "value": upstream, "createdIndex": 3}
    jack = {"key": "/apisix/consumers/jack", "value": {"username": "jack"}}
    auth = {"plugins": {"key-auth": {"key": SECRET}}}
    credential = {"key": "/apisix/consumers/jack/credentials/c", "value": auth}
    forms: list[Any] = [
        {"total": 4, "list": [route, pool, jack, credential]},
        {"node": {"dir": True, "nodes": [route, pool, jack, credential]}, "action": "get"},
        {
            "routes": {"list": [route]},
            "upstreams": {"list": [pool]},
            "consumers": {"list": [jack, credential]},
        },
    ]
    for form in forms:
        found = import_("apisix", json.dumps(form), ".json")
        assert found.names == ["r"]
        assert found.gateway.consumers[0].keys == [KeyDigest.of(SECRET)]
        assert found.report == ""


def test_nothing_is_lost_silently(import_: Any) -> None:
    found = import_("apisix", document("uri: /a, sauce: hot", rest="ssls: [{id: 1}]\nspice: 1"))
    for words in ("sauce", "ssls", "spice"):
        assert found.said("lost", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#END\n", "expected a document of APISIX, not nothing"),
        ("a: 1\n", "it has no routes"),
        ("routes: 1\n", ":1: routes: expected a list, not a number"),
        ("routes:\n  - uri: [[]]\n", ":2: routes[0].uri: expected a list of texts"),
        ('{"list": [{"value": {}}]}', "it is not known what this object is"),
    ],
)
def test_bad_documents(import_: Any, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        import_("apisix", text)
    assert words in str(caught.value)


KEYS = [
    "id", "uri", "uris", "upstream", "upstream_id", "nodes", "plugins", "vars", "service_id",
    "key-auth", "key", "limit-count", "count", "time_window", "cors", "redirect", "proxy-rewrite",
    "headers", "list", "value", "checks", "active", "hosts", "regex_uri",
]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(
    ["/a", "/*", "1", "h:80", "/apisix/routes/1"]
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
OBJECTS = st.lists(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=5), max_size=3) | TREES


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["routes", "services", "upstreams", "consumers", "list", "node"]),
        OBJECTS,
    )
)
def test_any_document_is_imported_or_refused(data: dict[str, Any]) -> None:
    source = Source(data, Lines("", "yaml"), "a.yaml")
    try:
        document = convert(source, Report()).document()
    except ConfigurationError:
        return
    assert yaml.safe_load(dump(document, {})) == document


TWO = """
upstreams:
  - {id: v2, nodes: {"10.0.0.2:80": 1}}
"""


def test_a_traffic_split_is_a_split(import_: Any) -> None:
    plugin = """plugins: {traffic-split: {rules: [
      {match: [{vars: [[http_x_canary, "==", "1"]]}, {vars: [[arg_v, "==", "2"]]}],
       weighted_upstreams: [{upstream_id: v2}]},
      {weighted_upstreams: [{upstream_id: v2, weight: 1}, {weight: 7}]}]}}"""
    found = import_("apisix", document(f"uri: /a, {plugin}", rest=TWO))
    split = found.route("orders")["split"]
    name = split[0]["service"]
    assert split == [
        {"service": name, "when": {"headers": {"x-canary": {"equals": "1"}}}},
        {"service": name, "when": {"query": {"v": {"equals": "2"}}}},
        {"service": name, "weight": "12.5%"},
    ]
    pool = found.part("upstreams", found.part("services", name)["upstream"])
    assert "10.0.0.2:80" in str(pool["targets"])
    assert found.route("orders")["service"] != name


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            '{match: [{vars: [[arg_v, "==", "2"]]}],'
            " weighted_upstreams: [{upstream_id: v2, weight: 1}, {weight: 1}]}",
            "a rule with `match` can send requests to one other service",
        ),
        (
            '{match: [{vars: [[arg_v, "~~", "2"]]}], weighted_upstreams: [{upstream_id: v2}]}',
            "the rule: `vars` other than headers",
        ),
    ],
)
def test_what_a_split_cannot_say_is_reported(import_: Any, rule: str, words: str) -> None:
    plugin = f"plugins: {{traffic-split: {{rules: [{rule}]}}}}"
    found = import_("apisix", document(f"uri: /a, {plugin}", rest=TWO))
    assert "split" not in found.route("orders")
    assert found.said("lost", words)


def test_a_proxy_mirror_is_a_mirror(import_: Any) -> None:
    plugin = "plugins: {proxy-mirror: {host: 'http://10.0.0.9:8080', sample_ratio: 0.25}}"
    found = import_("apisix", document(f"uri: /a, {plugin}"))
    mirror = found.route("orders")["mirror"]
    assert mirror["share"] == "25%"
    pool = found.part("upstreams", found.part("services", mirror["service"])["upstream"])
    assert pool["targets"] == ["http://10.0.0.9:8080"]
    plugin = "plugins: {proxy-mirror: {host: 'grpc://10.0.0.9:8080', path: /x}}"
    found = import_("apisix", document(f"uri: /a, {plugin}"))
    assert "mirror" not in found.route("orders")
    assert found.said("lost", "only http and https can be mirrored to")
    assert found.said("changed", "copies have the path of the original")
