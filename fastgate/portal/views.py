"""Views of the public pages: defined once, shown as HTML, Markdown or JSON.

A handler makes a `View`: texts, facts, steps, links and at most a few forms. HTML needs no script,
no picture and no style sheet from elsewhere, and works with a keyboard and a screen reader;
Markdown is for agents; JSON is the data the view was made from. Everything that goes into HTML is
escaped here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import msgspec
from litestar import Response

from fastgate._core.exchange.accept import form_for
from fastgate.refusal.pages import document

Form = Literal["json", "markdown", "html"]

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self' https: http://127.0.0.1:* http://localhost:*",
    "X-Content-Type-Options": "nosniff",
    # Links carry tokens, which no other site is to see; our own forms send their origin.
    "Referrer-Policy": "same-origin",
    "Vary": "Accept, Authorization",
}


@dataclass(frozen=True)
class Input:
    """A field of a form. `value`: its initial value; `secret`: not shown while typed."""

    name: str
    label: str
    value: str = ""
    hint: str = ""
    secret: bool = False
    choices: tuple[str, ...] = ()
    """The choices; empty: anything may be typed."""


@dataclass(frozen=True)
class Ask:
    """A form that posts to `path` (with its query)."""

    path: str
    button: str
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A line of a list of checks."""

    result: str  # passed | failed | skipped
    title: str
    text: str
    fix: str = ""
    """What fixes it."""
    numbers: str = ""


@dataclass(frozen=True)
class View:
    """One page."""

    title: str
    kicker: str = ""
    texts: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    asks: tuple[Ask, ...] = ()
    acts: tuple[tuple[str, str], ...] = ()
    """What can be done, best first: (text, path)."""
    marks: tuple[Mark, ...] = ()
    entries: tuple[tuple[str, str, str], ...] = ()
    """A list of pages: (name, what it is about, path)."""
    links: tuple[tuple[str, str], ...] = ()
    """Where else to go: (text, path)."""
    data: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


_STYLE = """
label{display:block;margin-bottom:.25rem}
input,select{font:inherit;color:inherit;background:var(--back);border:1px solid var(--soft);
border-radius:.5rem;padding:.5rem .75rem;width:100%;max-width:24rem}
input:focus-visible,select:focus-visible{outline:3px solid var(--act);outline-offset:1px}
.checks,.pages{list-style:none;margin:1rem 0;padding:0}
.checks li{margin:.5rem 0;padding:.35rem .9rem;border-left:4px solid var(--line)}
.checks p,.pages p{margin:0}.checks .fix{font-weight:600}
.passed{border-color:var(--good)!important}.passed b{color:var(--good)}
.failed{border-color:var(--bad)!important;background:var(--back)}.failed b{color:var(--bad)}
.skipped{color:var(--soft);font-size:.9rem}
.numbers{color:var(--soft);font-size:.9rem}
.pages li{display:grid;grid-template-columns:17rem 1fr;padding:.4rem 0;
border-top:1px solid var(--line)}
@media (max-width:36rem){.pages li{display:block}}
footer a{margin-right:1.25rem;white-space:nowrap}
""".replace("\n", "")
_SIGNS = {"passed": "✓", "failed": "✗", "skipped": "·"}


def html(view: View) -> str:
    """The page for people."""
    out = []
    if view.kicker:
        out.append(f'<p class="kicker">{escape(view.kicker)}</p>')
    out.append(f"<h1>{escape(view.title)}</h1>")
    out += [f"<p>{escape(text)}</p>" for text in view.texts]
    if view.facts:
        rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in view.facts)
        out.append(f"<dl>{''.join(rows)}</dl>")
    out += [_form(ask) for ask in view.asks]
    if view.acts:
        out.append(f'<ul class="act">{_items(view.acts)}</ul>')
    if view.marks:
        rows = (_mark(mark) for mark in view.marks)
        out.append(f'<h2>The checks, in order</h2><ol class="checks">{"".join(rows)}</ol>')
    if view.entries:
        rows = (
            f'<li><a href="{escape(path)}"><code>{escape(name)}</code></a>'
            f"<p>{escape(about)}</p></li>"
            for name, about, path in view.entries
        )
        out.append(f'<ul class="pages">{"".join(rows)}</ul>')
    if view.links:
        anchors = (f'<a href="{escape(path)}">{escape(text)}</a>' for text, path in view.links)
        out.append(f"<footer>{' '.join(anchors)}</footer>")
    return document(view.title, "".join(out), _STYLE)


def _items(links: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<li><a href="{escape(path)}">{escape(text)}</a></li>' for text, path in links)


def _mark(mark: Mark) -> str:
    more = "".join(
        f'<p class="{kind}">{escape(text)}</p>'
        for kind, text in (("fix", mark.fix), ("numbers", mark.numbers))
        if text
    )
    return (
        f'<li class="{mark.result}"><b><span aria-hidden="true">{_SIGNS[mark.result]} </span>'
        f"{escape(mark.title)}</b> <small>{mark.result}</small>"
        f"<p>{escape(mark.text)}</p>{more}</li>"
    )


def _form(ask: Ask) -> str:
    fields = []
    for index, one in enumerate(ask.inputs):
        ident = f"f{index}"
        hint = f"<br><small>{escape(one.hint)}</small>" if one.hint else ""
        fields.append(
            f'<p><label for="{ident}">{escape(one.label)}</label>{_field(ident, one)}{hint}</p>'
        )
    return (
        f'<form method="post" action="{escape(ask.path)}">{"".join(fields)}'
        f"<p><button>{escape(ask.button)}</button></p></form>"
    )


def _field(ident: str, one: Input) -> str:
    if one.choices:
        options = (
            f"<option{' selected' if choice == one.value else ''}>{escape(choice)}</option>"
            for choice in one.choices
        )
        return f'<select id="{ident}" name="{escape(one.name)}">{"".join(options)}</select>'
    kind = "password" if one.secret else "text"
    return (
        f'<input id="{ident}" name="{escape(one.name)}" type="{kind}" '
        f'value="{escape(one.value)}" autocomplete="off" required>'
    )


def markdown(view: View) -> str:
    """The page for agents."""
    lines = [f"# {view.title}", ""]
    for text in view.texts:
        lines += [text, ""]
    lines += [f"- {name}: {value}" for name, value in view.facts]
    if view.facts:
        lines.append("")
    for ask in view.asks:
        names = ", ".join(
            f"`{one.name}`{f' ({one.value})' if one.value else ''}" for one in ask.inputs
        )
        lines.append(f"- {ask.button}: POST {ask.path}{f' with {names}' if names else ''}")
    lines += [f"- [{text}]({path})" for text, path in view.acts]
    if view.asks or view.acts:
        lines.append("")
    for number, mark in enumerate(view.marks, 1):
        lines.append(f"{number}. **{mark.result}** {mark.title}: {mark.text}")
        lines += [f"   {more}" for more in (mark.fix, mark.numbers) if more]
    if view.marks:
        lines.append("")
    lines += [f"- [{name}]({path}): {about}" for name, about, path in view.entries]
    lines += [f"- [{text}]({path})" for text, path in view.links]
    return "\n".join(lines).rstrip() + "\n"


def wanted(accept: str | None) -> Form:
    """The form that an Accept field asks for; JSON without one."""
    return form_for((accept or "").encode("latin-1", "replace"))  # type: ignore[return-value]


def respond(view: View, accept: str | None) -> Response[bytes]:
    """The view as the client wants it."""
    form = wanted(accept)
    if form == "html":
        body, media = html(view).encode(), "text/html"
    elif form == "markdown":
        body, media = markdown(view).encode(), "text/markdown"
    else:
        data = view.data if view.data is not None else {"title": view.title, "detail": view.texts}
        body, media = msgspec.json.encode(data), "application/json"
        if view.status >= 400:
            media = "application/problem+json"
    headers = {"Cache-Control": "no-store", **SECURITY, **view.headers}
    return Response(body, status_code=view.status, media_type=media, headers=headers)
