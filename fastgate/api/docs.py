"""The API's reference as one page: made here from the OpenAPI document, with nothing loaded from
anywhere, no script, and a Content-Security-Policy that says so."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import msgspec
from litestar import Litestar, Response, get

from fastgate.api.context import AnyRequest
from fastgate.api.describe import spec
from fastgate.api.openapi import REFERENCE, document

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;padding:1.5rem;max-width:62rem}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:var(--soft);padding:.7rem;border-radius:.4rem;overflow:auto}
h2{margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
details{border:1px solid var(--line);border-radius:.4rem;margin:.4rem 0;padding:.35rem .7rem}
summary{cursor:pointer}summary b{display:inline-block;min-width:4.2rem}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid var(--line);
padding:.25rem .5rem;text-align:left;vertical-align:top}
.q{opacity:.75}
"""

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _inline(text: str) -> str:
    """Text with `code` in backquotes."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links to the named ones."""
    if reference := schema.get("$ref"):
        name = html.escape(reference.removeprefix(REFERENCE))
        return f'<a href="#schema-{name}">{name}</a>'
    if options := schema.get("anyOf"):
        return " or ".join(_type(one) for one in options)
    if "enum" in schema:
        return " | ".join(f"<code>{html.escape(json.dumps(one))}</code>" for one in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else html.escape(kind)


def _operation(path: str, method: str, one: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code></td><td>{p['in']}</td>"
        f"<td>{_type(p['schema'])}{', needed' if p['required'] else ''}</td>"
        f"<td>{_inline(p.get('description', ''))}</td></tr>"
        for p in one.get("parameters", [])
    )
    body = ""
    if content := one.get("requestBody", {}).get("content"):
        types = ", ".join(f"<code>{html.escape(media)}</code>" for media in content)
        body = f"<p>Body: {_type(next(iter(content.values()))['schema'])} ({types})</p>"
    answers = "".join(
        f"<p>{status}: {_type(media['schema'])} <span class=q>{html.escape(name)}</span></p>"
        for status, response in one["responses"].items()
        for name, media in response.get("content", {}).items()
    )
    table = f"<table>{rows}</table>" if rows else ""
    return (
        f'<details id="{html.escape(one["operationId"])}"><summary><b>{method.upper()}</b> '
        f"<code>{html.escape(path)}</code> <span class=q>{_inline(one['summary'])}</span>"
        f"</summary>{_paragraphs(one['description'])}{table}{body}{answers}</details>"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{html.escape(key)}</code>{' *' if key in needed else ''}</td>"
        f"<td>{_type(part)}</td><td>{_inline(str(part.get('description', '')))}</td></tr>"
        for key, part in schema.get("properties", {}).items()
    )
    head = _paragraphs(str(schema.get("description", "")))
    inner = f"<table>{rows}</table>" if rows else f"<p>{_type(schema)}</p>"
    escaped = html.escape(name)
    return (
        f'<details id="schema-{escaped}"><summary><code>{escaped}</code></summary>'
        f"{head}{inner}</details>"
    )


def page(made: dict[str, Any]) -> str:
    """The whole page for an OpenAPI document."""
    groups: dict[str, list[str]] = {}
    for path, methods in made["paths"].items():
        for method, one in methods.items():
            groups.setdefault(one["tags"][0], []).append(_operation(path, method, one))
    sections = "".join(
        f"<h2>{html.escape(tag)}</h2>{''.join(parts)}" for tag, parts in groups.items()
    )
    schemas = "".join(_schema(*item) for item in made["components"]["schemas"].items())
    info = made["info"]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<title>{html.escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(info['title'])} <span class=q>{html.escape(info['version'])}</span></h1>"
        f"{_paragraphs(info['description'])}"
        '<pre>curl -H "Authorization: Bearer $(cat .fastgate/admin-token)" '
        "http://127.0.0.1:8081/v1/status</pre>"
        '<p><a href="/openapi.json">openapi.json</a></p>'
        f"{sections}<h2>Schemas</h2>{schemas}</body></html>"
    )


def handlers() -> list[Any]:
    """The two handlers; each keeps what it made."""
    kept: dict[str, bytes] = {}

    def once(app: Litestar) -> dict[str, bytes]:
        if not kept:
            made = document(app.routes)
            kept["json"] = msgspec.json.encode(made)
            kept["html"] = page(made).encode()
        return kept

    @get("/openapi.json", sync_to_thread=False, opt=spec("open", answer=dict[str, Any]))
    def openapi(request: AnyRequest) -> Response[bytes]:
        """This API as an OpenAPI 3.1 document."""
        return Response(once(request.app)["json"], media_type="application/json")

    @get(["/", "/docs"], sync_to_thread=False, opt=spec("open", media="text/html"))
    def docs(request: AnyRequest) -> Response[bytes]:
        """This API as a page."""
        content = once(request.app)["html"]
        return Response(content, media_type="text/html", headers=SECURITY)

    return [openapi, docs]
