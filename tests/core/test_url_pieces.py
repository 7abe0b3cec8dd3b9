"""URLs that routes make, against templates filled in by hand; what an image's pieces refer to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from compilerkit import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.http.uri import normalize
from fastgate._core.reason import Reason
from fastgate._core.snapshot.bounds import verify_records
from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.router import Router
from fastgate._core.snapshot.snapshot import Snapshot, UrlPiece
from fastgate._core.testing.url_sample import made_url
from fastgate.errors import SnapshotError
from fastgate.model.url_template import rewrite_pieces

PARAM = re.compile(r"\{(\w+)\}")
LIMIT = 8192
"""The longest request line, and so the longest URL, unless `caps` says otherwise."""


# ---- by hand -------------------------------------------------------------------------------------


def filled(
    template: str, values: dict[str, str], query: bytes | None, keep_query: bool = True
) -> bytes:
    """What a template comes to, step by step."""
    url, mark, fragment = template.partition("#")
    path, asks, own = url.partition("?")
    path = PARAM.sub(lambda found: values[found[1]], path)
    own = PARAM.sub(
        lambda found: re.sub(r"[^A-Za-z0-9._~%-]", lambda c: f"%{ord(c[0]):02X}", values[found[1]]),
        own,
    )
    kept = ""
    if keep_query and query is not None and (query or not asks):
        kept = ("&" if asks else "?") + query.decode()
    return (path + asks + own + kept + mark + fragment).encode()


PATTERNS = {
    "/one/{a}": ["a"],
    "/two/{a}/{b}": ["a", "b"],
    "/rest/{r*}": ["r"],
    "/both/{a}/x/{r*}": ["a", "r"],
}
"""Paths of routes, with their parameters."""
texts = st.lists(
    st.sampled_from([*"ab.-~;:@$+,=!", "%20", "%2F", "%3B"]), min_size=1, max_size=4
).map("".join)
octets = st.lists(
    st.sampled_from(
        [*"ab.;&=+:@|[]~", "%2e", "%2F", "%5c", "%3f", "%23", "%0a", "%26", "%25", "\\"]
    ),
    min_size=1,
    max_size=6,
).map("".join)
queries = st.none() | st.text(st.sampled_from([*"ab=&?/{}[]\\"]), max_size=8).map(str.encode)


def is_template(text: str, pattern: str) -> bool:
    try:
        rewrite_pieces(text, [pattern])
    except ValueError:
        return False
    return True


@st.composite
def templates(draw: st.DrawFn, pattern: str) -> str:
    """One that the model takes."""
    names = PATTERNS[pattern]
    inner = st.sampled_from([f"{{{name}}}" for name in names if name != "r"] or ["x"])
    outer = st.sampled_from([f"{{{name}}}" for name in names])
    segment = st.lists(texts | inner, min_size=1, max_size=3).map("".join)
    last = draw(segment | outer | st.tuples(texts, outer).map("".join))
    path = "/" + "/".join([*draw(st.lists(segment, max_size=2)), last])
    if draw(st.booleans()):
        path += "?" + draw(st.lists(texts | outer, min_size=1, max_size=3).map("".join))
    return path


@st.composite
def paths(draw: st.DrawFn) -> bytes:
    """A canonical path of one of the routes, mostly."""
    pattern = draw(st.sampled_from(list(PATTERNS)))
    rest = st.lists(octets | st.just(""), max_size=4).map("/".join)
    raw = re.sub(r"\{\w+\}", lambda _: draw(octets), pattern)
    raw = re.sub(r"\{\w+\*\}", lambda _: draw(rest), raw)
    path = normalize(raw.encode(), True, merge_slashes=draw(st.booleans()))
    return path if isinstance(path, bytes) else b"/one/a"


@st.composite
def routes(draw: st.DrawFn) -> dict[str, str]:
    """A template for each pattern."""
    return {
        pattern: draw(templates(pattern).filter(lambda text, at=pattern: is_template(text, at)))
        for pattern in PATTERNS
    }


def asked_of(
    snapshot: Snapshot, known: dict[str, str], asked: list[bytes]
) -> Iterator[tuple[bytes, str, dict[str, str]]]:
    """Each path that a route has, with the route's template and the values of its parameters."""
    for path in asked:
        found = Router(snapshot).find(path=path.decode())
        if found.status == 200:
            pattern = list(known)[int(found.name or "")]
            yield path, known[pattern], dict(zip(PATTERNS[pattern], found.params, strict=True))


@settings(max_examples=60, deadline=None)
@given(routes(), st.lists(paths(), min_size=4, max_size=12), queries)
def test_targets_are_what_a_template_comes_to_by_hand(
    known: dict[str, str], asked: list[bytes], query: bytes | None
) -> None:
    configured = [
        {"name": str(i), "path": pattern, "service": "svc", "rewrite": {"path": template}}
        for i, (pattern, template) in enumerate(known.items())
    ]
    with compiled({"routes": configured}) as snapshot:
        for path, template, values in asked_of(snapshot, known, asked):
            made = made_url(snapshot, path, query=query)
            assert made == filled(template, values, query)
            assert isinstance(made, bytes)
            keeps_its_place(made, template, values, query)


def keeps_its_place(
    made: bytes, template: str, values: dict[str, str], query: bytes | None
) -> None:
    """What was asked for adds no segment but those of a {rest*}, no dots and no parameter."""
    path, _, rest = made.partition(b"?")
    text, mark, own = template.partition("?")
    assert normalize(path, True, merge_slashes=False) == path
    slashes = values["r"].count("/") if "{r}" in text else 0
    assert path.count(b"/") == text.count("/") + slashes
    if mark:
        assert rest.count(b"&") == own.count("&") + (query.count(b"&") + 1 if query else 0)
    assert not re.search(rb"[\x00-\x20\x7f-\xff#]", made)


@settings(max_examples=60, deadline=None)
@given(
    routes(),
    st.lists(paths(), min_size=4, max_size=12),
    queries,
    st.booleans(),
    st.sampled_from(["", "https://new.example", "{scheme}://{host}:1"]),
)
def test_locations_are_what_a_template_comes_to_by_hand(
    known: dict[str, str], asked: list[bytes], query: bytes | None, keep: bool, origin: str
) -> None:
    configured = [
        {
            "name": str(i),
            "path": pattern,
            "redirect": {"to": f"{origin}{template}#end", "keep_query": keep},
        }
        for i, (pattern, template) in enumerate(known.items())
    ]
    with compiled({"routes": configured}) as snapshot:
        for path, template, values in asked_of(snapshot, known, asked):
            made = made_url(snapshot, path, query=query, host=b"a.example", secure=keep)
            values |= {"scheme": "https" if keep else "http", "host": "a.example"}
            expected = filled(f"{origin}{template}#end", values, query, keep)
            if not origin:
                assert isinstance(made, bytes)
                assert not made.startswith(b"//")
                expected = re.sub(rb"^/+", b"/", expected)
            assert made == expected


def document(pattern: str, **route: Any) -> dict[str, Any]:
    kind = {} if "redirect" in route else {"service": "svc"}
    return {"routes": [{"name": "r", "path": pattern, **kind, **route}]}


# ---- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "template", "asked", "query", "made"),
    [
        ("/f/{r*}", "/g/{r}", b"/f", None, b"/g/"),
        ("/f/{r*}", "/g/{r}", b"/f/", b"", b"/g/?"),
        ("/f/{r*}", "/g/{r}", b"/f/a/b/", b"c=d", b"/g/a/b/?c=d"),
        ("/f/{r*}", "/g?r={r}", b"/f", None, b"/g?r="),
        ("/f/{r*}", "/g?r={r}", b"/f/a/b+c&d=e", None, b"/g?r=a%2Fb%2Bc%26d%3De"),
        ("/f/{r*}", "/g?r={r}", b"/f/%26%20", b"x=1", b"/g?r=%26%20&x=1"),
        ("/f/{r*}", "/g?r={r}", b"/f/x", b"", b"/g?r=x"),
        ("/f/{r*}", "/{r}", b"/f//evil.example", None, b"//evil.example"),
        ("/{a}/{b}", "/{b}/{a}/{b}", b"/1/2", None, b"/2/1/2"),
    ],
)
def test_targets(path: str, template: str, asked: bytes, query: bytes | None, made: bytes) -> None:
    with compiled(document(path, rewrite={"path": template})) as snapshot:
        assert made_url(snapshot, asked, query=query) == made


@pytest.mark.parametrize(
    ("to", "asked", "made"),
    [
        ("/{r}", b"/f//evil.example", b"/evil.example"),
        ("/{r}", b"/f///evil.example//x", b"/evil.example//x"),
        ("/{r}", b"/f//", b"/"),
        ("/{r}", b"/f", b"/"),
        ("/{r}", b"/f/%5Cevil.example", b"/%5Cevil.example"),
        ("https://{host}{path}", b"/f//a", b"https://[::1]/f//a"),
        ("https://{host}/{r}", b"/f//a", b"https://[::1]//a"),
        ("{scheme}://{host}?to={path}", b"/f/a", b"http://[::1]?to=%2Ff%2Fa"),
        ("https://x?h={host}&s={scheme}", b"/f", b"https://x?h=%5B%3A%3A1%5D&s=http"),
    ],
)
def test_locations(to: str, asked: bytes, made: bytes) -> None:
    with compiled(document("/f/{r*}", redirect=to)) as snapshot:
        assert made_url(snapshot, asked, host=b"[::1]") == made


def test_a_url_is_as_long_as_a_request_line_at_most() -> None:
    with compiled(document("/f/{r*}", rewrite={"path": "/{r}?r={r}"})) as snapshot:
        longest = b"/f/" + b"a" * ((LIMIT - len("/?r=")) // 2)
        assert len(bytes(made_url(snapshot, longest) or b"")) == LIMIT
        assert made_url(snapshot, longest + b"a") == Reason.TARGET_TOO_LONG
        assert made_url(snapshot, longest, query=b"") == Reason.TARGET_TOO_LONG
        # Each octet that is encoded counts as the three that it becomes.
        assert made_url(snapshot, b"/f/" + b"@" * 2047) != Reason.TARGET_TOO_LONG
        assert made_url(snapshot, b"/f/" + b"@" * 2048) == Reason.TARGET_TOO_LONG
    with compiled(document("/f/{r*}", redirect="/{r}")) as snapshot:
        assert made_url(snapshot, b"/f/" + b"a" * LIMIT) == Reason.TARGET_TOO_LONG
    strip = {"strip_prefix": "/f", "replace_prefix": "/gggggggg"}
    with compiled(document("/f/{r*}", rewrite=strip)) as snapshot:
        assert made_url(snapshot, b"/f/" + b"a" * LIMIT) == b"/gggggggg/" + b"a" * LIMIT


def test_without_a_host() -> None:
    for to in ("https://{host}/", "/x?h={host}"):
        with compiled(document("/f", redirect=to)) as snapshot:
            assert made_url(snapshot, b"/f") == Reason.BAD_HOST
            assert made_url(snapshot, b"/f", host=b"a") != Reason.BAD_HOST
    with compiled(document("/f", redirect="/x")) as snapshot:
        assert made_url(snapshot, b"/f") == b"/x"


# ---- the image -----------------------------------------------------------------------------------


def test_routes_with_equal_templates_share_the_pieces() -> None:
    paths = ["/a/{x}/{y}", "/b/{y}/{x}", "/c/{x}/{y}"]
    routes = [
        {"name": path[1], "path": path, "service": "svc", "rewrite": {"path": "/{x}"}}
        for path in paths
    ]
    with compiled({"routes": routes}) as snapshot:
        records = [snapshot.route(i) for i in range(3)]
        assert [record["rewrite"][1]["param"] for record in records] == [0, 1, 0]
        assert records[0]["policy"] == records[2]["policy"] != records[1]["policy"]
    redirects = [{"name": path[1], "path": path, "redirect": "/{x}"} for path in paths]
    with compiled({"routes": redirects}) as snapshot:
        statics = [snapshot.route(i)["static_response"] for i in range(3)]
        assert statics == [0, 1, 0]
        assert [piece["kind"] for piece in snapshot.static(0)["location"]] == [
            UrlPiece.URL_TEXT,
            UrlPiece.URL_PARAM,
            UrlPiece.URL_QUERY,
        ]


OUTSIDE = (0xFFFFFFF8 << 32) + 1


@pytest.mark.parametrize(
    ("kind", "param", "params", "where"),
    [
        (UrlPiece.URL_PARAM, 0, [], "a parameter of route 0"),
        (UrlPiece.URL_PARAM, 1, ["x"], "a parameter of route 0"),
        (UrlPiece.URL_PIECES, 0, ["x"], "policy 0|static response 0"),
        (UrlPiece.URL_PARAM, 0, ["x"], ""),
    ],
)
@pytest.mark.parametrize("redirect", [False, True])
def test_pieces_refer_to_what_is_there(
    kind: int, param: int, params: list[str], where: str, redirect: bool
) -> None:
    image = ImageBuilder()
    pieces = image.table([image.url_piece(kind, param=param)])
    rest: dict[str, int] = {"rewrite": pieces}
    if redirect:
        rest = {
            "static_response": image.add_static(fields=b"", body=b"", status=307, location=pieces)
        }
    image.add_route("r", slot=0, params=image.strings(params), **rest)
    verified(image, where)


@pytest.mark.parametrize("redirect", [False, True])
def test_pieces_lie_in_the_image(redirect: bool) -> None:
    image = ImageBuilder()
    if redirect:
        index = image.add_static(fields=b"", body=b"", status=307, location=OUTSIDE)
        image.add_route("r", slot=0, static_response=index)
    else:
        image.add_route("r", slot=0, rewrite=OUTSIDE)
    verified(image, "policy 0|static response 0")


def verified(image: ImageBuilder, where: str) -> None:
    """Whether what is wrong is found when the image is verified; "": nothing is wrong."""
    made = image.finish(1)
    try:
        if not where:
            verify_records(Snapshot(made, verify=True))
            return
        with pytest.raises(SnapshotError, match=where):
            verify_records(Snapshot(made, verify=True))
    finally:
        os.close(made)
