"""OPTIONS: which methods a path has, for every path.

Litestar answers OPTIONS by itself, but where several handlers share a path, with the methods of
the first one alone. So each path gets a handler here.
"""

from __future__ import annotations

from collections.abc import Iterable

from litestar import route
from litestar.handlers import HTTPRouteHandler

from fastgate.api.application import with_head


def options(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """A handler for each path of `handlers`."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(map(str, handler.http_methods))
    return [_answering(path, with_head(",".join(allowed))) for path, allowed in methods.items()]


def _answering(path: str, allow: str) -> HTTPRouteHandler:
    @route(
        path,
        http_method=["OPTIONS"],
        status_code=204,
        response_headers={"Allow": allow},
        sync_to_thread=False,
    )
    def answer() -> None:
        """Says so in Allow alone."""

    return answer
