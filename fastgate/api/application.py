"""What the two ASGI applications share, the control API and the gateway's own pages."""

from __future__ import annotations

from typing import Any, cast

from litestar import Litestar
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ASGIApp, Message, Receive, Scope, Send


class Application(Litestar):
    """A Litestar application. It takes the arguments of `Litestar`.

    HEAD is answered wherever GET is, the same without the body (RFC 9110, 9.3.2).

    The plugins that Litestar makes by default for pydantic and attrs are left out. Nothing here
    uses either, and where they are installed, importing them takes a fifth of a second.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, openapi_config=None, logging_config=None, debug=False)
        # Before it is looked up who answers, so that no handler has to think of HEAD.
        self.asgi_handler = _head_as_get(self.asgi_handler)

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def with_head(allow: str) -> str:
    """A list of methods, with HEAD where it has GET."""
    methods = {method.strip() for method in allow.split(",")}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


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
