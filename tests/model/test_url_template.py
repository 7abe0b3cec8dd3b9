"""Templates of `rewrite.path` and `redirect.to`: what they are made of, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model import check, codec
from fastgate.model.url_template import Piece, redirect_pieces, rewrite_pieces

PATHS = ["/users/{id}/orders/{rest*}"]


def text(value: str) -> Piece:
    return Piece("text", value)


def param(name: str, encode: bool = False) -> Piece:
    return Piece("param", name, encode)


QUERY, MORE = Piece("query"), Piece("query_more")


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        ("/x", [text("/x"), QUERY]),
        ("/{rest}", [text("/"), param("rest"), QUERY]),
        ("/v2/{id}.json", [text("/v2/"), param("id"), text(".json"), QUERY]),
        (
            "/v2/{rest}?user={id}",
            [text("/v2/"), param("rest"), text("?user="), param("id", True), MORE],
        ),
        ("/a?b=1", [text("/a?b=1"), MORE]),
        ("/%7Bid%7D?x=%26", [text("/%7Bid%7D?x=%26"), MORE]),
    ],
)
def test_the_pieces_of_a_target(template: str, pieces: list[Piece]) -> None:
    assert rewrite_pieces(template, PATHS) == pieces


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        ("/new/{id}", [text("/new/"), param("id"), QUERY]),
        ("https://{host}/{id}", [text("https://"), Piece("host"), text("/"), param("id"), QUERY]),
        (
            "{scheme}://www.{host}:8443{path}",
            [Piece("scheme"), text("://www."), Piece("host"), text(":8443"), Piece("path"), QUERY],
        ),
        (
            "http://login.example?next={path}&at={host}#top",
            [
                text("http://login.example?next="),
                Piece("path", "", True),
                text("&at="),
                Piece("host", "", True),
                MORE,
                text("#top"),
            ],
        ),
        ("https://[::1]:8443", [text("https://[::1]:8443"), QUERY]),
    ],
)
def test_the_pieces_of_a_location(template: str, pieces: list[Piece]) -> None:
    assert redirect_pieces(template, PATHS, True) == pieces
    bare = [piece for piece in pieces if piece not in (QUERY, MORE)]
    if not template.endswith("#top"):
        assert redirect_pieces(template, PATHS, False) == bare


def test_a_parameter_hides_what_a_redirect_knows_itself() -> None:
    pieces = redirect_pieces("/x/{path}/{scheme}", ["/{path}/{scheme}"], False)
    assert pieces == [text("/x/"), param("path"), text("/"), param("scheme")]


BOTH = [
    ("/{rest*}", "here write '{rest}'"),
    ("/{nope}", "has no parameter '{nope}'; known are: {id}, {rest}"),
    ("/{", "a literal brace is written '%7B' or '%7D'"),
    ("/a}b", "a literal brace is written '%7B' or '%7D'"),
    ("/{}", "braces enclose the name of a parameter"),
    ("/{{id}}", "braces enclose the name of a parameter"),
    ("/{ id }", "braces enclose the name of a parameter"),
    ("/a//b", "'/a//b' has an empty segment"),
    ("/a/../x", "'/a/../x' has a dot segment"),
    ("/a/%2E", "has a dot segment"),
    ("/..;x/a", "has a dot segment"),
    ("/a%2F../b", "has a dot segment"),
    ("/.%3Bx", "has a dot segment"),
    ("/.{id}", "'.{id}': dots alone beside a parameter"),
    ("/{id}..", "dots alone beside a parameter"),
    ("/{id}%2f%2e/x", "dots alone beside a parameter"),
    ("/a b", "'a b' has characters that must be percent-encoded in a path"),
    ("/é", "percent-encoded in a path"),
    ("/%zz", "percent-encoded in a path"),
    ("/%00", "percent-encoded in a path"),
    ("/x?a=<", "'a=<' has characters that must be percent-encoded in a query"),
    ("/x?a=\r\nb", "percent-encoded in a query"),
    ("/x?", "nothing stands behind the '?'"),
    ("/{rest}/x", "'{rest}' may have slashes, so it must come last in the path"),
    ("/{rest}{id}", "'{rest}' may have slashes, so it must come last in the path"),
]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        *BOTH,
        ("v2", "does not begin with '/'"),
        ("//x", "has an empty segment"),
        ("/x#f", "an upstream gets no fragment"),
        ("/{host}", "has no parameter '{host}'"),
    ],
)
def test_what_is_no_template_of_a_target(template: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        rewrite_pieces(template, PATHS)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        *(
            (template, says.replace("{id}, {rest}", "{id}, {rest}, {host}, {scheme}, {path}"))
            for template, says in BOTH
        ),
        ("//x", "begins with '//'; write 'https://' in front of a host"),
        ("//{host}/x", "begins with '//'"),
        ("x", "begins neither with '/' nor with 'https://', 'http://' or '{scheme}://'"),
        ("ftp://x", "begins neither"),
        ("HTTPS://x/", "begins neither"),
        ("{id}://x", "begins neither"),
        ("{path}", "begins neither"),
        ("https://{id}.example/", "a parameter cannot be part of the host"),
        ("https://x{rest}", "a parameter cannot be part of the host"),
        ("https://{host}{id}", "a parameter cannot be part of the host"),
        ("https://user@x/", "'user@x' is not a host such as 'api.example.com' or '{host}:8443'"),
        ("https://x:99999/", "is not a host"),
        ("https://", "is not a host"),
        ("https:///x", "is not a host"),
        ("https://a\\b/", "is not a host"),
        ("https://{host}/{path}", "'{path}' begins with a '/'; leave out the one before it"),
        ("https://x{path}/y", "'{path}' may have slashes, so it must come last in the path"),
        ("/a#{id}", "a fragment is literal text"),
        ("/a#é", "a fragment is literal text"),
    ],
)
def test_what_is_no_template_of_a_location(template: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        redirect_pieces(template, PATHS, True)


def test_a_parameter_of_the_path_is_never_the_host() -> None:
    with pytest.raises(ValueError, match="is a parameter of the path, not the host; rename it"):
        redirect_pieces("https://{host}/", ["/{host}"], True)
    with pytest.raises(ValueError, match="is a parameter of the path, not the scheme; rename it"):
        redirect_pieces("{scheme}://x/", ["/{scheme}"], True)


def test_every_path_of_the_route_has_the_parameters() -> None:
    both = ["/a/{id}", "/b/{x}/{id}"]
    assert rewrite_pieces("/{id}", both) == [text("/"), param("id"), QUERY]
    with pytest.raises(ValueError, match=r"the path '/a/\{id\}' has no parameter '\{x\}'"):
        rewrite_pieces("/{x}", both)
    none = r"the path '/b' has no parameter '\{host\}'; known are: "
    with pytest.raises(ValueError, match=f"{none}none"):
        rewrite_pieces("/{host}", ["/{host}", "/b"])
    with pytest.raises(ValueError, match=rf"{none}\{{scheme\}}, \{{path\}}"):
        redirect_pieces("https://x/{host}", ["/{host}", "/b"], True)
    with pytest.raises(ValueError, match="must come last"):
        rewrite_pieces("/{id}/x", ["/a/{id}", "/b/{id*}"])


# ---- in a route ------------------------------------------------------------------------------


def fault(**route: Any) -> ConfigurationError | None:
    """The one error of a route with this, if it has one."""
    kinds = {"respond", "handler", "redirect"}
    kind = {} if kinds & set(route) else {"service": "s"}
    source = {
        "version": 1,
        "upstreams": [{"name": "u", "targets": ["http://127.0.0.1:9"]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [{"name": "r", "path": "/users/{id}", **kind, **route}],
    }
    try:
        check.require(codec.decode(source))
    except ConfigurationError as error:
        (one,) = list(error)
        return one
    return None


@pytest.mark.parametrize(
    ("route", "path", "says"),
    [
        ({"rewrite": {"path": "/{x}"}}, "routes[0].rewrite.path", "has no parameter '{x}'"),
        ({"rewrite": {"path": "x"}}, "routes[0].rewrite.path", "a path that begins with '/'"),
        ({"rewrite": {"path": "/" * 2049}}, "routes[0].rewrite.path", "2048"),
        (
            {"rewrite": {}},
            "routes[0].rewrite",
            "give path, or strip_prefix, replace_prefix or both",
        ),
        (
            {"rewrite": {"path": "/x", "strip_prefix": "/users"}},
            "routes[0].rewrite.path",
            "leave out strip_prefix and replace_prefix",
        ),
        (
            {"rewrite": {"path": "/x", "replace_prefix": "/users"}},
            "routes[0].rewrite.path",
            "leave out strip_prefix and replace_prefix",
        ),
        (
            {"rewrite": {"replace_prefix": "/v1/{id}"}},
            "routes[0].rewrite.replace_prefix",
            "written as rewrite.path",
        ),
        (
            {"respond": {}, "rewrite": {"path": "/x"}},
            "routes[0].rewrite",
            "only a route with",
        ),
        ({"redirect": "/x", "rewrite": {"path": "/x"}}, "routes[0].rewrite", "only a route with"),
        ({"redirect": {"to": "//x"}}, "routes[0].redirect.to", "begins with '//'"),
        ({"redirect": "/{x}"}, "routes[0].redirect.to", "has no parameter '{x}'"),
        ({"redirect": ""}, "routes[0].redirect.to", "at least 1"),
        ({"redirect": {"to": "/x", "status": 304}}, "routes[0].redirect.status", "304"),
        ({"redirect": {}}, "routes[0].redirect", "to"),
        (
            {"redirect": "/x", "respond": {}},
            "routes[0]",
            "exactly one of service, handler, respond, redirect, not respond and redirect together",
        ),
        ({"redirect": "/x", "timeout": "1s"}, "routes[0].timeout", "a redirect takes no time"),
        ({"redirect": "/x", "idle_timeout": "1s"}, "routes[0].idle_timeout", "with a service"),
        ({"redirect": "/x", "websocket": True}, "routes[0].websocket", "with a service"),
        (
            {"redirect": "/x", "headers": {"request": {"set": {"A": "1"}}}},
            "routes[0].headers.request",
            "a redirect forwards no request",
        ),
    ],
)
def test_a_route_says_where_its_template_is_wrong(
    route: dict[str, Any], path: str, says: str
) -> None:
    error = fault(**route)
    assert error is not None
    assert (error.path, says in str(error)) == (path, True), str(error)


def test_routes_with_templates() -> None:
    assert fault(rewrite={"path": "/v2/{id}?x={id}"}) is None
    assert fault(redirect="/new/{id}") is None
    for status in (301, 302, 303, 307, 308):
        assert fault(redirect={"to": "https://x/", "status": status, "keep_query": False}) is None
    assert fault(redirect="/x", retired=True) is None
    assert (
        fault(redirect="/x", cors={"origins": ["*"]}, limits=[{"by": "route", "rate": "1/s"}])
        is None
    )


def test_a_redirect_in_short() -> None:
    routes = [{"name": "r", "path": "/x", "redirect": "/y"}]
    (route,) = codec.decode({"version": 1, "routes": routes}).routes
    assert route.redirect is not None
    assert (route.redirect.to, route.redirect.status, route.redirect.keep_query) == (
        "/y",
        307,
        True,
    )
