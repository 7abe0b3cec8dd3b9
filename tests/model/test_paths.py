"""Values that can never match or never count are refused, with what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model import check, codec


def document(**route: Any) -> dict[str, Any]:
    kind = {} if {"respond", "handler"} & set(route) else {"service": "s"}
    return {
        "version": 1,
        "upstreams": [{"name": "u", "targets": ["http://127.0.0.1:9"]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [{"name": "r", "path": "/x", **kind, **route}],
    }


def faults(**route: Any) -> str:
    """Every error of such a route, in words; empty when it is sound."""
    try:
        check.require(codec.decode(document(**route)))
    except ConfigurationError as error:
        return "\n".join(str(each) for each in error)
    return ""


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/*", "write '/api/{rest*}'"),
        ("/api/**", "write '/api/{rest*}'"),
        ("/*", "write '/{rest*}'"),
        ("/api*", "write '/api' and '/{rest*}' behind it"),
        ("/api/*/items", "write '{name}' for one segment"),
        ("/api/:id", "write '{id}'"),
        ("/api/:user_id/items", "write '{user_id}'"),
        ("/api/<id>", "write '{id}'"),
        ("/api/<int:id>", "write '{id}'"),
        ("/a%2fb", "`encoded_slash: true`"),
        ("/a%2Fb/{id}", "`encoded_slash: true`"),
        ("/a%5cb", "`encoded_slash: true`"),
        ("/a/%2e%2e/b", "dot segment"),
        ("/a/..;x/b", "dot segment"),
        ("/a?b=1", "match.query"),
        ("/a{b", "is not a parameter"),
        ("/a}b", "is not a parameter"),
        ("/{}", "is not a parameter"),
        ("/{a}/{a}", "name twice"),
        ("/{a*}/b", "must come last"),
        ("/a//b", "empty or dot segment"),
        ("/a b", "percent-encoded"),
        ("/é", "percent-encoded"),
    ],
)
def test_paths_that_match_nothing_or_something_else(path: str, says: str) -> None:
    assert says in faults(path=path)


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs:run", "/a:b", "/:", "/a*b", "/~x", "/a.b", "/a;v=1", "/..a", "/%7Ea", "/a%20b"],
)
def test_paths_that_only_look_like_it(path: str) -> None:
    assert faults(path=path) == ""


def test_encoded_slashes_where_they_are_allowed() -> None:
    assert faults(path="/a%2Fb", encoded_slash=True) == ""


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("/v1/{id}", "taken literally"),
        ("/v1/{rest*}", "taken literally"),
        ("/a//b", "empty or dot segment"),
        ("/a/../b", "empty or dot segment"),
        ("/a<b", "percent-encoded"),
        ("/é", "percent-encoded"),
    ],
)
def test_what_is_put_in_front_of_a_path(prefix: str, says: str) -> None:
    assert says in faults(rewrite={"replace_prefix": prefix})
    assert faults(rewrite={"replace_prefix": "/v1/a%20b/"}) == ""


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("api.example.com:8080", "write the host without a port"),
        ("https://api.example.com", "without scheme and path"),
        ("api.example.com/v1", "without scheme and path"),
        ("API.example.com", "lower case"),
        ("api.example.com.", "leave out the dot"),
        ("*.*.example.com", "once"),
        ("api.*.com", "once"),
        ("bücher.example", "Punycode"),
        ("", "is not a host name"),
        ("a b", "is not a host name"),
        ("*.", "is not a host name"),
    ],
)
def test_hosts_that_no_client_sends(host: str, says: str) -> None:
    assert says in faults(hosts=[host])


@pytest.mark.parametrize("method", ["get", "Post", "CONNECT", "A B", ""])
def test_methods_that_no_request_has(method: str) -> None:
    assert "methods" in faults(methods=[method])


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ({"headers": {"X Y": "1"}}, "HTTP token"),
        ({"headers": {"X_Y": "1"}}, "`headers: {underscores: allow}`"),
        ({"headers": {"X-Y": " 1"}}, "white space"),
        ({"headers": {"X-Y": {"equals": "a\nb"}}}, "control characters"),
        ({"query": {"a b": "1"}}, "percent-encoded"),
        ({"query": {"a=b": "1"}}, "percent-encoded"),
        ({"query": {"a": "x y"}}, "percent-encoded"),
        ({"query": {"a": "x&y"}}, "percent-encoded"),
        ({"query": {"é": "1"}}, "percent-encoded"),
    ],
)
def test_conditions_that_never_hold(match: dict[str, Any], says: str) -> None:
    assert says in faults(match=match)


def test_conditions_that_may_hold() -> None:
    query = {"a%20b": "x+y", "a[]": {"prefix": "1"}, "b": {"present": True}, "c": "a=b"}
    assert faults(match={"query": query, "headers": {"X-Y": {"prefix": "Bearer "}}}) == ""


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ("https://*.example.com", "cannot have wildcards"),
        ("https://App.example.com", "lower case"),
        ("https://app.example.com:443", "own port"),
        ("http://app.example.com:80", "own port"),
        ("https://app.example.com?x", "is not an origin"),
        ("https://a@app.example.com", "is not an origin"),
    ],
)
def test_origins_that_no_browser_sends(origin: str, says: str) -> None:
    assert says in faults(cors={"origins": [origin]})
    assert faults(cors={"origins": ["https://app.example.com:8443", "null"]}) == ""


def test_methods_of_cors_are_case_sensitive_too() -> None:
    assert "write 'PUT'" in faults(cors={"origins": ["*"], "methods": ["put"]})


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ({"respond": {}, "preserve_host": True}, "preserve_host"),
        ({"respond": {}, "websocket": True}, "websocket"),
        ({"respond": {}, "timeout": "5s"}, "timeout"),
        ({"respond": {}, "headers": {"request": {"set": {"X-A": "1"}}}}, "headers.request"),
        ({"respond": {}, "idle_timeout": "5s"}, "idle_timeout"),
        ({"handler": "a:b", "idle_timeout": "5s"}, "idle_timeout"),
        ({"handler": "a:b", "preserve_host": True}, "preserve_host"),
        ({"handler": "a:b", "websocket": True}, "websocket"),
        ({"respond": {}, "rewrite": {"strip_prefix": "/x"}}, "rewrite"),
    ],
)
def test_what_nothing_would_look_at(route: dict[str, Any], says: str) -> None:
    assert says in faults(**route)


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ({"path": None}, "exactly one of path, paths"),
        ({"path": None, "paths": []}, "exactly one of path, paths"),
        ({"paths": ["/b"]}, "not path and paths together"),
        ({"path": None, "paths": ["/a", "/a"]}, "there twice"),
        ({"path": None, "paths": ["/a", "b"]}, "begins with '/'"),
        ({"path": None, "paths": ["/a", "/b*"]}, "/b"),
        ({"path": None, "paths": [f"/{i}" for i in range(65)]}, "64"),
    ],
)
def test_a_route_has_a_path_or_several(route: dict[str, Any], says: str) -> None:
    assert says in faults(respond={}, **route)
    assert faults(respond={}, path=None, paths=["/a", "/b/{id}"]) == ""
    assert faults(respond={}, path=None, paths="/a") == ""


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "x-request-id", "X-Consumer-ID", "traceparent"]
)
@pytest.mark.parametrize("how", ["set", "add", "default", "remove"])
def test_rules_for_what_the_gateway_writes(name: str, how: str) -> None:
    rule = [name] if how == "remove" else {name: "1"}
    assert "written by the gateway" in faults(headers={"request": {how: rule}})
    assert faults(headers={"request": {"set": {"X-Forwarded-Prefix": "/api"}}}) == ""


def test_cors_is_said_in_one_place() -> None:
    cors = {"origins": ["*"]}
    own = {"Access-Control-Allow-Origin": "*"}
    assert "cannot be set twice" in faults(cors=cors, respond={"headers": own})
    assert "cannot be set twice" in faults(cors=cors, headers={"response": {"set": own}})
    assert faults(cors=cors, headers={"response": {"remove": list(own)}}) == ""
    assert faults(respond={"headers": own}) == ""


@pytest.mark.parametrize("header", ["Cookie", "Host", "Connection", "Content-Length"])
def test_headers_that_cannot_hold_a_key(header: str) -> None:
    assert "cannot hold a key" in faults(auth={"api_key": {"header": header}})


@pytest.mark.parametrize(
    ("where", "entry"),
    [
        ("upstreams", {"targets": ["http://127.0.0.1:9"]}),
        ("services", {"upstream": "u"}),
        ("routes", {"path": "/y", "service": "s"}),
        ("policies", {}),
        ("plans", {}),
        ("listeners", {"bind": "127.0.0.1:1"}),
    ],
)
@pytest.mark.parametrize("name", ["a" * 57, "", "-a", "a b", "ä"])
def test_one_limit_for_all_names(where: str, entry: dict[str, Any], name: str) -> None:
    source = document()
    source.setdefault(where, []).append({"name": name, **entry})
    with pytest.raises(ConfigurationError, match="a name: 1 to 56 letters"):
        codec.decode(source)
    source[where][-1]["name"] = "a" * 56
    codec.decode(source)


def test_two_consumers_whose_names_make_one_id() -> None:
    source = {**document(), "consumers": [{"name": "a b"}, {"name": "a-b"}]}
    with pytest.raises(ConfigurationError, match="the id 'a-b' is already used"):
        check.require(codec.decode(source))
    source["consumers"] = [{"name": "a b", "id": "one"}, {"name": "a-b"}]
    check.require(codec.decode(source))
