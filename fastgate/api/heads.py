"""HEAD: wherever GET is answered, the same without the body (RFC 9110, 9.3.2).

Done around an application, before it looks for who answers, so that no handler has to think of it.
"""

from __future__ import annotations

from typing import cast

from litestar import Litestar
from litestar.types import ASGIApp, Message, Receive, Scope, Send


def with_head(allow: str) -> str:
    """A list of methods, with HEAD where it has GET."""
    methods = {method.strip() for method in allow.split(",")}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def answering_heads(app: Litestar) -> Litestar:
    """The application, which takes HEAD for GET and keeps the body back."""
    app.asgi_handler = _head_as_get(app.asgi_handler)
    return app


def _head_as_get(inner: ASGIApp) -> ASGIApp:
    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        asked = cast("dict[str, object]", scope)
        if asked.get("method") != "HEAD":
            await inner(scope, receive, send)
            return

        async def bodiless(message: Message) -> None:
            if message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        # A copy: the server looks at its own to see that no body belongs to this answer.
        await inner(cast("Scope", {**asked, "method": "GET"}), receive, bodiless)

    return outer
