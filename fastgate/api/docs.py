"""The API's reference as one page, generated from the OpenAPI document. It loads nothing and has no
script, and its Content-Security-Policy enforces that."""

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
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--paper:#fff;--back:#f3f4f6;
--line:#d8dce1;--act:#0b57d0}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3abb5;--paper:#1d2024;
--back:#121417;--line:#3a4048;--act:#8ab4f8}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.55 system-ui,sans-serif}
main{margin:0 auto;padding:2rem 1.25rem;max-width:62rem}
h1{margin:0 0 1rem;line-height:1.25}h2{margin:2.5rem 0 .6rem;text-transform:capitalize}
a{color:var(--act)}a:focus-visible,summary:focus-visible,pre:focus-visible{
outline:3px solid var(--act);outline-offset:2px}
code,pre{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:var(--paper);border:1px solid var(--line);padding:.7rem 1rem;border-radius:.5rem;
white-space:pre-wrap}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;padding:.8rem 0;border:solid var(--line);
border-width:1px 0;text-transform:capitalize}
details{background:var(--paper);border:1px solid var(--line);border-radius:.5rem;margin:.4rem 0;
padding:.45rem .9rem}
summary{cursor:pointer}summary b{display:inline-block;min-width:4.2rem;color:var(--act)}
table{border-collapse:collapse;width:100%}td{border-top:1px solid var(--line);
padding:.35rem .6rem .35rem 0;text-align:left;vertical-align:top}
.q{color:var(--soft)}
@media (max-width:36rem){summary .q{display:block}td{display:block;border:0;padding:.1rem 0}
tr{display:block;border-top:1px solid var(--line);padding:.4rem 0}}
""".replace("\n", "")

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
        f'<h2 id="tag-{html.escape(tag)}">{html.escape(tag)}</h2>{"".join(parts)}'
        for tag, parts in groups.items()
    )
    ways = "".join(
        f'<a href="#tag-{html.escape(tag)}">{html.escape(tag)}</a>' for tag in [*groups, "schemas"]
    )
    schemas = "".join(_schema(*item) for item in made["components"]["schemas"].items())
    info = made["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(info['title'])}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{html.escape(info['title'])} <span class=q>{html.escape(info['version'])}</span></h1>"
        f"{_paragraphs(info['description'])}"
        '<pre>curl -H "Authorization: Bearer $(cat .fastgate/admin-token)" '
        "http://127.0.0.1:8081/v1/status</pre>"
        '<p><a href="/openapi.json">openapi.json</a></p>'
        f'<nav aria-label="Sections">{ways}</nav>{sections}'
        f'<h2 id="tag-schemas">Schemas</h2>{schemas}</main></body></html>'
    )


def handlers() -> list[Any]:
    """The two handlers; each caches its document."""
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
