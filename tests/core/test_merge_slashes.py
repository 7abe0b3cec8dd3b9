"""`merge_slashes`: what becomes of empty segments, in what is routed, forwarded and logged."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane

from fastgate._core.logs.drain import LogDrain


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def document(backend: Backend, merge: bool | None = None) -> dict[str, Any]:
    return {
        **({} if merge is None else {"merge_slashes": merge}),
        "upstreams": [{"name": "u", "targets": [backend.url]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [
            {"name": "admin", "path": "/admin/{rest*}", "service": "s"},
            {"name": "item", "path": "/items/{id}/parts", "service": "s"},
            {"name": "closed", "path": "/closed/{id}/", "service": "s"},
            {
                "name": "stripped",
                "path": "/files/{rest*}",
                "service": "s",
                "rewrite": {"strip_prefix": "/files"},
            },
            {"name": "all", "path": "/{rest*}", "service": "s"},
        ],
    }


async def seen(plane: Plane, backend: Backend, path: str) -> tuple[str, str]:
    """Route, path as forwarded; what the log has is that, before the rewrite."""
    assert (await plane.get(path)).status == 200
    lines = LogDrain(plane.segment).drain(0).splitlines()
    return orjson.loads(lines[-1])["route"], backend.requests[-1].target


@pytest.mark.parametrize("merge", [None, True])
async def test_slashes_are_merged_unless_said_otherwise(backend, merge):
    async with Plane(document(backend, merge)) as plane:
        for path, expected in {
            "//admin//x": ("admin", "/admin/x"),
            "/items//7/parts": ("item", "/items/7/parts"),
            "/files//a//b": ("stripped", "/a/b"),
            "//x//?a=//": ("all", "/x/?a=//"),
        }.items():
            assert await seen(plane, backend, path) == expected


async def test_without_merging_empty_segments_are_segments(backend):
    async with Plane(document(backend, merge=False)) as plane:
        for path, expected in {
            "/admin/x": ("admin", "/admin/x"),
            "/admin//x": ("admin", "/admin//x"),
            "/admin//": ("admin", "/admin//"),
            # Another path than /admin/x: another route.
            "//admin/x": ("all", "//admin/x"),
            # A parameter is never empty.
            "/items//parts": ("all", "/items//parts"),
            "/items/7/parts": ("item", "/items/7/parts"),
            "/items/7//parts": ("all", "/items/7//parts"),
            "/closed/7/": ("closed", "/closed/7/"),
            "/closed/7//": ("all", "/closed/7//"),
            "/files//a//b": ("stripped", "//a//b"),
            # `..` takes one segment, an empty one too.
            "/admin/x//../y": ("admin", "/admin/x/y"),
            "/admin//../../x": ("all", "/x"),
            "/a%2D//%7eb": ("all", "/a-//~b"),
        }.items():
            assert await seen(plane, backend, path) == expected, path


async def test_a_reload_turns_it_on_and_off(backend):
    async with Plane(document(backend)) as plane:
        assert await seen(plane, backend, "/a//b") == ("all", "/a/b")
        plane.install(document(backend, merge=False))
        assert await seen(plane, backend, "/a//b") == ("all", "/a//b")
        plane.install(document(backend, merge=True))
        assert await seen(plane, backend, "/a//b") == ("all", "/a/b")
