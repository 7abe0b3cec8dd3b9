"""OpenAPI and Swagger: what becomes of each part, and what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate.config.documents import Lines
from fastgate.errors import ConfigurationError
from fastgate.importers.draft import dump
from fastgate.importers.openapi import convert
from fastgate.importers.report import Report
from fastgate.importers.source import Source

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "openapi"
"""Descriptions of real APIs, which are not part of the project."""
METHODS = {"get", "head", "post", "put", "patch", "delete", "options", "trace", "query"}
SCHEMES = """\
components:
  securitySchemes:
    key: {type: apiKey, in: header, name: X-Key}
    query: {type: apiKey, in: query, name: key}
    cookie: {type: apiKey, in: cookie, name: key}
    basic: {type: http, scheme: basic}
    login: {type: oauth2, flows: {}}
"""


def document(path: str = "/orders", item: str = "get: {}", rest: str = "") -> str:
    return f"""\
openapi: 3.1.0
info: {{title: The Orders, version: "1"}}
servers: [{{url: "https://api.example.com/v1/"}}]
paths: {{"{path}": {{{item}}}}}
{rest}
"""


def test_a_path_is_a_route(import_: Any) -> None:
    found = import_("openapi", document(item="get: {}, post: {}, parameters: []"))
    assert found.data == {
        "version": 1,
        "upstreams": [{"name": "the-orders", "targets": [{"url": "https://api.example.com/v1"}]}],
        "services": [{"name": "the-orders", "upstream": "the-orders"}],
        "routes": [
            {
                "name": "orders", "methods": ["GET", "POST"], "path": "/orders",
                "service": "the-orders",
            }
        ],
    }  # fmt: skip
    assert found.report == ""


def test_the_name_of_the_only_operation(import_: Any) -> None:
    assert import_("openapi", document(item="get: {operationId: listOrders}")).names == [
        "listOrders"
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/a/{user-id}/b", "/a/{user_id}/b"),
        ("/a/{id}/{id}", "/a/{id}/{id_2}"),
        ("/a/{2x}", "/a/{p2x}"),
        ("/a/{rest+}", "/a/{rest*}"),
        ("/v1/items:batch", "/v1/items:batch"),
        ("/a b", "/a%20b"),
    ],
)
def test_paths(import_: Any, path: str, expected: str) -> None:
    found = import_("openapi", document(path))
    assert found.data["routes"][0]["path"] == expected
    assert found.report == ""


def test_a_parameter_within_a_segment_is_reported(import_: Any) -> None:
    found = import_("openapi", document("/a/{id}.json"))
    assert found.data["routes"][0]["path"] == "/a/{id}"
    assert found.said("changed", "'{id}.json'")


@pytest.mark.parametrize("path", ["no-slash", "/a//b", "/a/../b", "/a/{b"])
def test_a_path_that_no_request_has_is_reported(import_: Any, path: str) -> None:
    found = import_("openapi", document(path))
    assert found.names == []
    assert found.said("lost", "the route")


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ("[]", None),
        ("[key: []]", {"header": "X-Key", "bearer": False}),
        ("[query: []]", {"header": None, "bearer": False, "query": "key"}),
        ("[{}, key: []]", {"header": "X-Key", "bearer": False, "optional": True}),
        ("[{login: [], key: []}]", {"header": "X-Key", "bearer": False}),
        ("[basic: [], key: []]", {"header": "X-Key", "bearer": False}),
        ("[basic: []]", None),
        ("[cookie: []]", None),
    ],
)
def test_security(import_: Any, security: str, expected: Any) -> None:
    found = import_("openapi", document(rest=f"{SCHEMES}security: {security}"))
    assert found.data["routes"][0].get("auth", {}).get("api_key") == expected


@pytest.mark.parametrize(
    ("security", "kind", "words"),
    [
        ("[basic: []]", "open", "'basic': http"),
        ("[cookie: []]", "open", "'cookie'"),
        ("[{login: [], key: []}]", "open", "'login': oauth2"),
        ("[{login: []}, {key: []}]", "lost", "'login': oauth2: an alternative"),
        ("[other: []]", "open", "no security scheme 'other'"),
    ],
)
def test_security_that_is_reported(import_: Any, security: str, kind: str, words: str) -> None:
    assert import_("openapi", document(rest=f"{SCHEMES}security: {security}")).said(kind, words)


def test_operations_that_differ_are_routes_of_their_own(import_: Any) -> None:
    item = "get: {security: []}, post: {}, put: {}, delete: {servers: [{url: 'http://other'}]}"
    found = import_("openapi", document(item=item, rest=f"{SCHEMES}security: [key: []]"))
    routes = found.data["routes"]
    assert [one["methods"] for one in routes] == [["GET"], ["POST", "PUT"], ["DELETE"]]
    assert ["auth" in one for one in routes] == [False, True, True]
    assert [one["targets"][0]["url"] for one in found.data["upstreams"]] == [
        "https://api.example.com/v1",
        "http://other",
    ]
    assert routes[2]["service"] == "the-orders-2"


def test_servers(import_: Any) -> None:
    text = document().replace(
        '{url: "https://api.example.com/v1/"}',
        '{url: "https://{region}.example.com:{port}", variables: {region: {default: eu, enum: '
        '[eu, us]}, port: {default: "8443"}}}, {url: "https://user:geheim@test.example.com"}',
    )
    found = import_("openapi", text)
    assert found.data["upstreams"][0]["targets"] == [{"url": "https://eu.example.com:8443"}]
    assert found.said("changed", "'region'")
    assert found.said("lost", "test.example.com")
    assert "geheim" not in found.report


@pytest.mark.parametrize(("servers", "base"), [("[]", ""), ("[{url: /api/}]", "/api")])
def test_no_server_with_a_host(import_: Any, servers: str, base: str) -> None:
    text = document().replace('[{url: "https://api.example.com/v1/"}]', servers)
    found = import_("openapi", text)
    assert found.data["upstreams"][0]["targets"] == [{"url": f"http://127.0.0.1:9000{base}"}]
    assert found.said("changed", "--upstream")


def test_swagger(import_: Any) -> None:
    found = import_(
        "openapi",
        """{"swagger": "2.0", "host": "api.example.com", "basePath": "/v2", "schemes": ["http"],
        "securityDefinitions": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}},
        "security": [{"key": []}], "paths": {"/a": {"get": {"responses": {}}}, "x-more": 1}}""",
        ".json",
    )
    assert found.data["upstreams"][0]["targets"] == [{"url": "http://api.example.com/v2"}]
    assert found.data["routes"][0]["auth"]["api_key"]["header"] == "X-Key"
    assert found.report == ""


def test_references(import_: Any) -> None:
    found = import_(
        "openapi",
        document(
            item="$ref: '#/components/pathItems/a'",
            rest="components: {pathItems: {a: {$ref: '#/components/pathItems/b'}, b: {put: {}}}}",
        ),
    )
    assert found.data["routes"][0]["methods"] == ["PUT"]
    for reference in ("other.yaml#/a", "#/paths/~1orders", "#/nowhere"):
        found = import_("openapi", document(item=f"$ref: '{reference}'"))
        assert found.said("lost", "another document, or nowhere")


@pytest.mark.parametrize(
    ("item", "rest", "words"),
    [
        ("get: {deprecated: true}", "", "deprecated"),
        ("get: {x-amazon-apigateway-integration: {}}", "", "x-amazon-apigateway-integration"),
        ("get: {}", "x-kong-plugin-jwt: {}", "x-kong-plugin-jwt"),
        ("get: {}", "webhooks: {a: {}}", "webhooks"),
        ("get: {}, tracing: 1", "", "tracing"),
    ],
)
def test_what_is_reported(import_: Any, item: str, rest: str, words: str) -> None:
    assert import_("openapi", document(item=item, rest=rest)).said("lost", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paths: {}\n", "neither `openapi: 3.x` nor `swagger: 2.0`"),
        ("openapi: 4.0.0\n", ":1: openapi: this is not"),
        ("openapi: 3.0.0\npaths: []\n", ":2: paths: expected a mapping, not a list"),
        ("openapi: 3.0.0\npaths:\n  /a:\n    get: 5\n", ":4: paths./a.get: expected a mapping"),
    ],
)
def test_bad_documents(import_: Any, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        import_("openapi", text)
    assert words in str(caught.value)


@pytest.mark.skipif(not VECTORS.is_dir(), reason="needs ../shared/vectors/openapi")
def test_descriptions_of_real_apis(import_: Any) -> None:
    files = [path for path in VECTORS.rglob("*.*") if path.suffix in (".json", ".yaml", ".yml")]
    assert files
    for path in files:
        found = import_("openapi", path.read_text(), path.suffix)
        paths = yaml.load(path.read_text(), Loader=yaml.CSafeLoader).get("paths") or {}
        wanted = sum(len(METHODS & item.keys()) for item in paths.values())
        assert sum(len(one["methods"]) for one in found.data.get("routes", [])) == wanted, path


KEYS = ["/a", "/{b}", "get", "post", "security", "servers", "url", "$ref", "variables", "key"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(
    ["http://h", "/a", "#/paths", "{b}"]
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["paths", "servers", "security", "components"]), TREES))
def test_any_document_is_imported_or_refused(data: dict[str, Any]) -> None:
    source = Source({"openapi": "3.1.0", **data}, Lines("", "yaml"), "a.yaml")
    try:
        document = convert(source, Report()).document()
    except ConfigurationError:
        return
    assert yaml.safe_load(dump(document, {})) == document
