"""The router against a naive one that tries every pattern, in the documented order."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routerkit import Rule, find_naively

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.router import METHODS as METHOD_TEXTS
from fastgate._core.snapshot.router import Found, Router
from fastgate._core.snapshot.router_build import (
    METHOD_NUMBERS,
    RouteConflict,
    RouterBuilder,
    TrieTooBroad,
    method_mask,
    pattern_params,
    verify_router,
)
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate._core.testing.route_bench import bench_find
from fastgate.errors import SnapshotError

KINDS = {"present": 0, "equals": 1, "prefix": 2}


def parts_of(rules: list[Rule]) -> tuple[ImageBuilder, bytes]:
    """An image with the routes, and the router's tables, which are not in it yet."""
    image = ImageBuilder()
    tables = RouterBuilder()
    for i, rule in enumerate(rules):
        name = rule.name or f"r{i}"
        predicates = sorted(
            [
                *((1 + KINDS[kind], key, value) for key, kind, value in rule.headers),
                *((4 + KINDS[kind], key, value) for key, kind, value in rule.query),
                *((7 + KINDS[kind], key, value) for key, kind, value in rule.cookies),
            ]
        )
        handle = image.table([image.predicate(*predicate) for predicate in predicates])
        mask, tokens = method_mask(list(rule.methods))
        route = image.add_route(
            name,
            slot=i,
            pattern=rule.path,
            predicates=handle,
            tokens=image.strings(list(tokens)),
        )
        tables.add(
            route,
            name,
            hosts=list(rule.hosts),
            pattern=rule.path,
            methods=mask,
            tokens=tokens,
            ranking=(rule.priority, len(predicates), handle, 0),
        )
    return image, tables.build(image)


def mapped(image: ImageBuilder, blob: bytes) -> Snapshot:
    image.set_router(blob)
    image.set_settings(identity=1, via="test", server="")
    fd = image.finish(1)
    try:
        return Snapshot(fd, verify=True)
    finally:
        os.close(fd)


def build(rules: list[Rule]) -> Router:
    snapshot = mapped(*parts_of(rules))
    verify_router(snapshot)
    return Router(snapshot)


def test_each_list_of_methods_is_the_same() -> None:
    """Numbers for the compiler, names for lookups, and names in the Allow of a refusal."""
    assert list(METHOD_NUMBERS) == [*METHOD_TEXTS][1:]
    assert list(METHOD_NUMBERS.values()) == list(range(1, len(METHOD_TEXTS)))
    source = (Path(__file__).parents[2] / "fastgate/_core/exchange/refusal.pyx").read_text()
    found = re.search(r"fg_method_names\[\] = \{(.*?)\}", source, re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r'"(\w*)"', found[1])) == METHOD_TEXTS


# ---- properties --------------------------------------------------------------------------

SEGMENTS = st.sampled_from(["a", "b", "ab", "abc-long-segment", "v1", "{x}", "{x}"])
HOSTS = ["a.test", "b.test", "x.a.test", "*.a.test", "*.test", "*.x.a.test"]
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PURGE", "REPORT"]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    segments = draw(st.lists(SEGMENTS, max_size=4))
    end = draw(st.sampled_from(["", "", "/", "{rest*}"]))
    parts = [f"{{p{i}}}" if part == "{x}" else part for i, part in enumerate(segments)]
    if end == "{rest*}":
        parts.append(end)
    elif end == "/" or not parts:
        parts.append("")
    return "/" + "/".join(parts)


PREDICATES = st.lists(
    st.tuples(
        st.sampled_from(["x-a", "x-b"]),
        st.sampled_from(["present", "equals", "prefix"]),
        st.sampled_from(["1", "12"]),
    ),
    max_size=2,
    unique_by=lambda predicate: predicate[0],
)


def tidy(found: list[tuple[str, str, str]]) -> tuple[tuple[str, str, str], ...]:
    """Presence has no value; the same conditions in the same order."""
    return tuple(sorted((name, k, "" if k == "present" else v) for name, k, v in found))


RULES = st.builds(
    Rule,
    path=patterns(),
    hosts=st.lists(st.sampled_from(HOSTS), max_size=2, unique=True).map(tuple),
    methods=st.lists(st.sampled_from(METHODS), max_size=2, unique=True).map(tuple),
    headers=st.one_of(st.just(()), PREDICATES.map(tidy)),
    query=st.one_of(st.just(()), PREDICATES.map(tidy)),
    cookies=st.one_of(st.just(()), PREDICATES.map(tidy)),
    priority=st.sampled_from([0, 0, 1]),
)

COOKIES = [
    "x-a=1", "x-b=12; x-a=123", " ;;\tx-b=1 ;x-a", "x-a", "X-A=1", "x-a==1", "x-a=;x-a=1", "",
    "=", ";",
]  # fmt: skip

REQUESTS = st.tuples(
    st.sampled_from(
        ["a.test", "A.Test", "x.a.test", "y.x.a.test", "z.test.", "other", "", "b.test"]
    ),
    st.lists(
        st.sampled_from(["a", "b", "ab", "abc-long-segment", "v1", "zz"]), min_size=1, max_size=5
    ).map(lambda parts: "/" + "/".join(parts))
    | st.sampled_from(["/", "/a/", "/a/b/", "/v1/a/b/"]),
    st.sampled_from([*METHODS, "DELETE", "CONNECT", "MKCOL"]),
    st.lists(
        st.tuples(st.sampled_from(["X-A", "x-b", "x-c"]), st.sampled_from(["1", "12", ""]))
        | st.tuples(st.sampled_from(["Cookie", "cookie"]), st.sampled_from(COOKIES)),
        max_size=3,
    ),
    st.sampled_from([None, "", "x-a=1", "x-a", "x-b=12&x-a=123", "&&x-a=1=2", "X-A=1"]),
)


def conflicts(one: Rule, other: Rule) -> bool:
    """Whether nothing but their names tells the two apart."""

    def shape(path: str) -> list[str]:
        return ["{}" + p[-2:-1] * (p[-2] == "*") if p[:1] == "{" else p for p in path.split("/")]

    same = (
        shape(one.path) == shape(other.path)
        and one.priority == other.priority
        and (one.headers, one.query, one.cookies) == (other.headers, other.query, other.cookies)
        and (bool(set(one.hosts) & set(other.hosts)) or (not one.hosts and not other.hosts))
    )
    overlap = set(one.methods) & set(other.methods) or (not one.methods and not other.methods)
    return bool(same and overlap)


@settings(max_examples=400, deadline=None)
@given(
    rules=st.lists(RULES, min_size=1, max_size=12),
    requests=st.lists(REQUESTS, min_size=1, max_size=12),
    hosts=st.booleans(),
)
def test_finds_what_trying_everything_finds(
    rules: list[Rule], requests: list[Any], hosts: bool
) -> None:
    kept: list[Rule] = []
    for rule in rules if hosts else [rule._replace(hosts=()) for rule in rules]:
        if not any(conflicts(rule, other) for other in kept):
            kept.append(rule)
    router = build(kept)
    ahead = Router(router.snapshot, ahead=True)
    for host, path, method, headers, query in requests:
        expected = find_naively(kept, host, path, method, headers, query)
        assert router.find(host, path, method, headers, query) == expected
        assert ahead.find(host, path, method, headers, query) == expected


@settings(max_examples=300, deadline=None)
@given(rules=st.lists(RULES, min_size=2, max_size=8))
def test_conflicts_are_those_that_names_alone_would_decide(rules: list[Rule]) -> None:
    expected = {
        (i, j) for j in range(len(rules)) for i in range(j) if conflicts(rules[i], rules[j])
    }
    if not expected:
        build(rules)
        return
    with pytest.raises(RouteConflict) as caught:
        build(rules)
    assert (caught.value.first, caught.value.second) in expected


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.text("abcdefghijklmnop/", min_size=1, max_size=80).filter(lambda t: "//" not in t),
        min_size=1,
        max_size=200,
        unique=True,
    )
)
def test_static_paths_of_any_length(names: list[str]) -> None:
    paths = list(dict.fromkeys("/" + name.lstrip("/") for name in names))
    router = build([Rule(path) for path in paths])
    for i, path in enumerate(paths):
        assert router.find(path=path).route == i
        longer = path + "q"
        assert router.find(path=longer).route == (paths.index(longer) if longer in paths else None)


# ---- examples: what docs/routing.md promises ------------------------------------------------


def test_literal_before_parameter_before_rest() -> None:
    router = build(
        [
            Rule("/users/{id}", "param"),
            Rule("/users/me", "literal"),
            Rule("/users/{rest*}", "rest"),
            Rule("/{rest*}", "all"),
        ]
    )
    assert router.find(path="/users/me").name == "literal"
    assert router.find(path="/users/7").name == "param"
    assert router.find(path="/users/7/x").name == "rest"
    assert router.find(path="/users/").name == "rest"
    assert router.find(path="/users").name == "rest"
    assert router.find(path="/user").name == "all"
    assert router.find(path="/").name == "all"


def test_a_method_that_does_not_fit_goes_on_to_the_less_specific_pattern() -> None:
    router = build([Rule("/users/me", "me", methods=("GET",)), Rule("/users/{id}", "any")])
    assert router.find(path="/users/me", method="DELETE") == Found(
        200, 1, "any", ("me",), frozenset()
    )


def test_values_of_parameters_and_of_the_rest() -> None:
    router = build([Rule("/a/{x}/b/{y}/{rest*}", "r")])
    assert router.find(path="/a/1/b/22/c/d/").params == ("1", "22", "c/d/")
    assert router.find(path="/a/1/b/22").params == ("1", "22", "")
    assert router.find(path="/a/1/b/").status == 404  # a parameter is not empty


def test_backs_out_of_a_literal_that_leads_nowhere() -> None:
    router = build(
        [Rule("/a/b/c/d", "static"), Rule("/a/b/{x}/e", "deep"), Rule("/{x}/b/c/{y}", "wide")]
    )
    assert router.find(path="/a/b/c/e").name == "deep"
    assert router.find(path="/a/b/c/z").name == "wide"
    assert router.find(path="/a/b/c/z").params == ("a", "z")


def test_the_longest_prefix_first_then_shorter_ones() -> None:
    router = build(
        [
            Rule("/{rest*}", "any"),
            Rule("/a/{x}", "one"),
            Rule("/a/{rest*}", "one-rest"),
            Rule("/a/b/c/{x}", "three", methods=("GET",)),
            Rule("/b/{rest*}", "other", hosts=("h",)),
            Rule("//{x}", "empty"),
        ]
    )
    assert router.find("", "/a/b/c/d").name == "three"
    assert router.find("", "/a/b/c/d", method="PUT").name == "one-rest"
    assert router.find("", "/a/b/c").name == "one-rest"
    assert router.find("", "/a/b").name == "one"
    assert router.find("", "/a").name == "one-rest"
    assert router.find("", "/ab/c").name == "any"
    assert router.find("", "/b/c").name == "any"
    assert router.find("h", "/b/c").name == "other"
    assert router.find("", "//5").name == "empty"


@pytest.mark.parametrize("segments", [30, 31, 32, 33, 127])
def test_prefixes_of_any_depth(segments: int) -> None:
    """Deeper than what is hashed, the prefix goes on in the trie."""
    prefix = "/s" * segments
    router = build(
        [
            Rule(prefix + "/{x}", "deep"),
            Rule("/s" * (segments - 1) + "/t/{x}", "beside"),
            Rule("/s" * (segments - 2) + "/{rest*}", "shorter"),
        ]
    )
    assert router.find("", prefix + "/1").name == "deep"
    assert router.find("", "/s" * (segments - 1) + "/t/1").name == "beside"
    assert router.find("", prefix + "/1/2").name == "shorter"
    assert router.find("", "/s" * (segments - 3)).status == 404


def test_hosts_fall_through_from_exact_to_wildcard_to_any() -> None:
    router = build(
        [
            Rule("/exact", "exact", hosts=("api.example.com",)),
            Rule("/near", "near", hosts=("*.example.com",)),
            Rule("/near", "far", hosts=("*.com",)),
            Rule("/any", "any"),
        ]
    )
    assert router.find("API.example.com", "/exact").name == "exact"
    assert router.find("api.example.com.", "/near").name == "near"
    assert router.find("a.b.example.com", "/near").name == "near"
    assert router.find("example.com", "/near").name == "far"
    assert router.find("api.example.com", "/any").name == "any"
    assert router.find("other.example.com", "/exact").status == 404
    assert router.find("x" * 300 + ".example.com", "/near").status == 404


def test_405_names_the_methods_of_every_level() -> None:
    router = build(
        [
            Rule("/x", "get", hosts=("a.test",), methods=("GET",)),
            Rule("/{p}", "post", methods=("POST", "PURGE")),
        ]
    )
    found = router.find("a.test", "/x", "DELETE")
    assert (found.status, found.allowed) == (405, {"GET", "POST", ""})
    assert router.find("a.test", "/x", "PURGE").name == "post"
    assert router.find("a.test", "/x", "PURG").status == 405


def test_predicates_that_fail_are_no_405() -> None:
    router = build([Rule("/x", methods=("GET",), headers=(("x-a", "present", ""),))])
    assert router.find(path="/x").status == 404
    assert router.find(path="/x", method="POST").status == 404
    assert router.find(path="/x", method="POST", headers=[("X-A", "")]).status == 405


def test_a_field_that_is_dropped_for_its_underscore_is_not_there() -> None:
    router = build([Rule("/x", headers=(("x_a", "present", ""),))])
    assert router.find(path="/x", headers=[("x_a", "1")]).status == 404


@pytest.mark.parametrize("path", ["", "*", "x/y"])
def test_what_is_no_path_matches_nothing(path: str) -> None:
    assert build([Rule("/{rest*}")]).find(path=path).status == 404


@pytest.mark.parametrize(
    "pattern", ["/a{x}", "/{x}b", "/{}", "/{*}", "/{x*}/b", "/{x", "/x}", "/{a{b}}"]
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"segment|rest"):
        pattern_params(pattern)


def test_names_of_parameters() -> None:
    assert pattern_params("/a/{x}/{y}/{z*}") == ["x", "y", "z"]
    assert pattern_params("/a/b") == []


def test_more_parameters_or_segments_than_a_match_can_hold_are_refused() -> None:
    build([Rule("/" + "/".join(f"{{p{i}}}" for i in range(16)))])
    with pytest.raises(ValueError, match="16 parameters"):
        build([Rule("/" + "/".join(f"{{p{i}}}" for i in range(17)))])
    with pytest.raises(ValueError, match="128 segments"):
        build([Rule("/" + "a/" * 128 + "{x}")])


def test_patterns_that_could_send_a_lookup_everywhere_are_refused() -> None:
    def both(depth: int) -> list[str]:
        paths = [""]
        for _ in range(depth):
            paths = [f"{path}/{part}" for path in paths for part in ("a", "{p}")]
        return paths

    def named(path: str) -> str:
        parts = path.split("/")
        return "/".join(f"{{p{i}}}" if part == "{p}" else part for i, part in enumerate(parts))

    router = build([Rule(named(path) + "/{end}") for path in both(8)])
    assert router.find(path="/a/a/a/a/a/a/a/a/x").params == ("x",)
    assert router.find(path="/b/a/a/a/a/a/a/a/x").params == ("b", "x")
    assert router.find(path="/b/a/a/a/a/a/a/a/x/y").status == 404
    with pytest.raises(TrieTooBroad) as caught:
        build([Rule(named(path) + "/{end}") for path in both(12)])
    assert caught.value.visits > 4096


# ---- at scale, anywhere in memory ----------------------------------------------------------


def many(count: int) -> list[Rule]:
    rules = []
    for i in range(count):
        word = f"{i * 2654435761 % 2**32:x}"
        kind = i % 4
        if kind == 0:
            rules.append(Rule(f"/svc{i % 97}/{word}/items", methods=("GET",)))
        elif kind == 1:
            rules.append(Rule(f"/svc{i % 97}/{word}/items/{{id}}", methods=("GET",)))
        elif kind == 2:
            rules.append(Rule(f"/files/{word}/{{rest*}}", hosts=("files.test",)))
        else:
            rules.append(Rule(f"/{word}", hosts=(f"h{i % 1000}.test",)))
    return rules


def test_a_hundred_thousand_routes_are_all_found() -> None:
    rules = many(100_000)
    router = build(rules)
    for i, rule in enumerate(rules):
        host = rule.hosts[0] if rule.hosts else "elsewhere"
        path = rule.path.replace("{id}", "42").replace("{rest*}", "a/b")
        assert router.find(host, path).route == i
        assert router.find(host, path + "x/y/z").route in ((i,) if i % 4 == 2 else (None,))
    blob = router.snapshot.settings()["router"]["count"]
    assert blob / len(rules) < 150
    paths = [rule.path.encode() for rule in rules if rule.path[:4] == "/svc"]
    ns, found = bench_find(router.snapshot, paths)
    assert ns > 0
    assert found == 50_000


def test_two_mappings_give_the_same_answers() -> None:
    rules = many(400)
    first = build(rules)
    block = mmap.mmap(-1, 1 << 20)  # so that the second lands elsewhere
    second = Router(Snapshot(first.snapshot.fd))
    try:
        for rule in rules:
            host = rule.hosts[0] if rule.hosts else ""
            assert first.find(host, rule.path) == second.find(host, rule.path)
    finally:
        block.close()


def test_tables_that_say_something_else_of_a_route_than_its_record_are_refused() -> None:
    """A request goes by what the tables say of its route's policy and metrics row."""
    rules = many(40)
    _, blob = parts_of(rules)
    for changed in ({"slot": 7}, {"slot": 0, "flags": 1}):
        image = ImageBuilder()
        image.add_route("r0", **changed)
        for i in range(1, len(rules)):
            image.add_route(f"r{i}", slot=i)
        with pytest.raises(SnapshotError, match="router"):
            verify_router(mapped(image, blob))


def test_tables_are_made_for_routes_of_the_image() -> None:
    tables = RouterBuilder()
    tables.add(0, "r", hosts=[], pattern="/", methods=method_mask([])[0])
    with pytest.raises(ValueError, match="no route 0"):
        tables.build(ImageBuilder())


DAMAGED = many(40)


@settings(max_examples=300, deadline=None)
@given(
    at=st.integers(0, len(parts_of(DAMAGED)[1]) // 4 - 1),
    word=st.sampled_from([0, 1, 8, 64, 0x7FFFFFFF, 0xFFFFFFFF]),
)
def test_damaged_tables_are_refused_or_harmless(at: int, word: int) -> None:
    """Whatever word of the tables is changed: it is refused, or lookups stay within bounds."""
    image, blob = parts_of(DAMAGED)
    snapshot = mapped(image, blob[: 4 * at] + word.to_bytes(4, "little") + blob[4 * at + 4 :])
    try:
        verify_router(snapshot)
    except SnapshotError:
        return
    for rule in DAMAGED:
        found = Router(snapshot).find(rule.hosts[0] if rule.hosts else "", rule.path)
        assert found.route is None or 0 <= found.route < len(DAMAGED)
