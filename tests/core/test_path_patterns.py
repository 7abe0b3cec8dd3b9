"""Parameters with patterns in the paths of routes, through a real engine."""

from __future__ import annotations

from typing import Any

import pytest
from enginekit import Backend, Plane, proxied

from fastgate.errors import ConfigurationError
from fastgate.model.codec import decode


def routes(*paths: str | tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A route for each path, named a, b, ... and answering its name."""
    found = []
    for number, path in enumerate(paths):
        path, more = path if isinstance(path, tuple) else (path, {})
        name = chr(ord("a") + number)
        found.append({"name": name, "path": path, "respond": {"body": name}, **more})
    return {"routes": found}


async def answers(plane: Plane, *paths: str) -> list[str]:
    replies = [await plane.get(path) for path in paths]
    return [each.body.decode() if each.status == 200 else str(each.status) for each in replies]


async def test_a_pattern_decides_whether_a_route_matches():
    async with Plane(routes("/orders/{id:[0-9]+}", "/orders/{id:[a-z]{3}}/x")) as plane:
        assert await answers(
            plane, "/orders/7", "/orders/", "/orders/x7", "/orders/7x", "/orders/abc/x",
            "/orders/abcd/x", "/orders/ABC/x", "/orders/%37", "/orders/7/", "/orders/abc/y",
        ) == ["a", "404", "404", "404", "b", "404", "404", "a", "404", "404"]  # fmt: skip


async def test_a_segment_is_as_long_as_it_is():
    long = "1" * 3000
    async with Plane(routes("/{id:1+}/{rest*}")) as plane:
        assert await answers(plane, f"/{long}/x", f"/{long}2/x", f"/{long}") == ["a", "404", "a"]


async def test_literal_text_then_patterns_then_any_segment_then_the_rest():
    document = routes("/{rest*}", "/o/{id}", ("/o/{id:[0-9]+}", {"priority": -5}), "/o/12")
    async with Plane(document) as plane:
        assert await answers(plane, "/o/12", "/o/13", "/o/x", "/o/13/x") == ["d", "c", "b", "a"]


async def test_a_pattern_comes_before_methods_and_conditions():
    document = routes(
        ("/o/{id}", {"methods": ["GET"], "match": {"query": {"q": {"present": True}}}}),
        "/o/{id:[0-9]+}",
    )
    async with Plane(document) as plane:
        assert await answers(plane, "/o/1?q=1", "/o/x?q=1", "/o/x") == ["b", "a", "404"]


async def test_the_leftmost_pattern_decides():
    async with Plane(routes("/{x}/{y:[a-z]+}", "/{x:[a-z]+}/{y}", "/{x}/{y}")) as plane:
        assert await answers(plane, "/a/b", "/1/b", "/a/1", "/1/1") == ["b", "a", "b", "c"]


async def test_two_patterns_that_match_the_same_segment():
    """The first by name, unless a priority says otherwise."""
    async with Plane(routes("/{x:[a-z]+}", "/{x:[a-f]+}")) as plane:
        assert await answers(plane, "/abc", "/xyz") == ["a", "a"]
        plane.install(routes("/{x:[a-z]+}", ("/{x:[a-f]+}", {"priority": 1})))
        assert await answers(plane, "/abc", "/xyz") == ["b", "a"]


async def test_other_ways_are_tried_when_a_pattern_does_not_match():
    async with Plane(routes("/o/{id:[0-9]+}/items", "/o/{rest*}", "/{x}/y/{z:[0-9]}")) as plane:
        assert await answers(plane, "/o/1/items", "/o/x/items", "/o/y/1") == ["a", "b", "b"]


async def test_conditions_hold_as_well():
    document = routes(("/{x:[0-9]+}", {"match": {"headers": {"X-A": {"equals": "1"}}}}))
    async with Plane(document) as plane:
        assert (await plane.get("/1", headers={"X-A": "1"})).status == 200
        assert (await plane.get("/1")).status == 404
        assert (await plane.get("/x", headers={"X-A": "1"})).status == 404


async def test_a_method_that_no_route_with_this_pattern_takes():
    async with Plane(routes(("/{x:[0-9]+}", {"methods": ["GET"]}))) as plane:
        reply = await plane.request("POST", "/1")
        assert (reply.status, reply.headers["allow"]) == (405, "GET")
        assert (await plane.request("POST", "/x")).status == 404


async def test_parameters_with_patterns_are_put_into_rewrites():
    backend = await Backend().start()
    try:
        document = proxied(backend.url, path="/o/{id:[0-9]+}", rewrite={"path": "/new/{id}?a={id}"})
        async with Plane(document) as plane:
            assert (await plane.get("/o/42?x=1")).status == 200
            assert (await plane.get("/o/a")).status == 404
        assert [seen.target for seen in backend.requests] == ["/new/42?a=42&x=1"]
    finally:
        await backend.stop()


async def test_several_paths_have_patterns_of_their_own():
    document = {
        "routes": [
            {"name": "r", "paths": ["/a/{x:[0-9]}", "/b/{y:[a-z]}"], "respond": {"body": "r"}}
        ]
    }
    async with Plane(document) as plane:
        assert await answers(plane, "/a/1", "/a/x", "/b/x", "/b/1") == ["r", "404", "r", "404"]


def test_the_same_pattern_twice_is_a_conflict():
    from fastgate.config.compiler import SlotBook, compile_gateway

    document = routes("/o/{id:[0-9]+}", "/o/{key:[0-9]+}")
    with pytest.raises(ConfigurationError, match="match the same requests"):
        compile_gateway(
            decode({"version": 1, **document}), generation=1, slots=SlotBook(), addresses={}
        )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/o/{id:[0-9}", "the pattern of 'id': '[0-9', at character 5: a ']' is missing"),
        ("/o/{id:[/]}", "a pattern has no '/'"),
        ("/o/x{id:[0-9]}", "a parameter is a whole segment"),
        ("/o/{rest*:.+}", "a parameter is a whole segment"),
        ("/o/{id:a}/{id:b}", "uses a parameter's name twice"),
    ],
)
def test_paths_with_mistakes(path: str, message: str):
    with pytest.raises(ConfigurationError) as raised:
        decode({"version": 1, **routes(path)})
    assert message in str(raised.value)
    assert "routes[0]" in str(raised.value)
