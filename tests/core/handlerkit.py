"""What tests of Python handlers are made with: a plane whose one route has a handler."""

from __future__ import annotations

from enginekit import Plane


def config(*urls: str, **route: object) -> dict[str, object]:
    return {
        "upstreams": [{"name": f"u{i}", "targets": [url]} for i, url in enumerate(urls)],
        "routes": [{"name": "r", "path": "/h/{id}", "handler": "test:handler", **route}],
        "consumers": [{"name": "ann"}],
    }


def plane(handler: object, *urls: str, **route: object) -> Plane:
    return Plane(
        config(*urls, **route), handlers={"test:handler": handler}, keys={"ann-key": "ann"}
    )
