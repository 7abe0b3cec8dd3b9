"""Refusals for people and for agents: one page of HTML, one of Markdown, made as templates.

Both have the same content as the problem document: what happened, the numbers, what to do, with
links. The HTML needs no script, and no font, picture or style sheet from elsewhere; its policy
makes browsers enforce that. Holes and sections are those of `_core/exchange/refusal.pyx`; the
worker escapes their values for the form.
"""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from fastgate.errors import Reason
from fastgate.refusal.remedies import Retry

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--paper:#fff;--back:#f3f4f6;
--line:#d8dce1;--act:#0b57d0;--good:#13703c;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3abb5;--paper:#1d2024;
--back:#121417;--line:#3a4048;--act:#8ab4f8;--good:#81c995;--bad:#f2b8b5}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:42rem;margin:3rem auto;padding:2rem 2.25rem 1.5rem;background:var(--paper);
border:1px solid var(--line);border-top:4px solid var(--act);border-radius:.75rem}
h1{margin:.1rem 0 .75rem;font-size:1.6rem;line-height:1.25}
h2{font-size:1.1rem;margin:1.75rem 0 .5rem}p{margin:.75rem 0}
.kicker,footer,small{color:var(--soft);font-size:.9rem}.kicker{margin:0;font-weight:600}
dl{display:grid;grid-template-columns:minmax(6rem,auto) 1fr;gap:.3rem 1.25rem;margin:1.25rem 0}
dt{color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.act{display:flex;flex-wrap:wrap;gap:.6rem;margin:1.25rem 0;padding:0;list-style:none}
.act a,button{display:inline-block;padding:.5rem 1rem;border:1px solid var(--act);
border-radius:.5rem;color:var(--act);background:none;text-decoration:none;font:inherit;cursor:pointer}
.act li:first-child a,button{background:var(--act);color:var(--paper)}
form~.act li:first-child a{background:none;color:var(--act)}
a{color:var(--act)}code{font-size:.9em;overflow-wrap:anywhere}
a:focus-visible,button:focus-visible{outline:3px solid var(--act);outline-offset:2px}
footer{margin-top:2rem;padding-top:1rem;border-top:1px solid var(--line)}
@media (max-width:36rem){main{margin:0;padding:1.5rem 1.25rem;border-width:4px 0 0;
border-radius:0;min-height:100vh}
dl{display:block}dd{margin-bottom:.6rem}.act li,.act a{width:100%}.act a{text-align:center}}
""".replace("\n", "")
"""The style of all the gateway's own pages."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

HTML_FIELDS = [
    "Content-Type: text/html; charset=utf-8",
    "X-Content-Type-Options: nosniff",
    "Referrer-Policy: no-referrer",
]
"""For any page that is sent as a refusal."""
OWN_HTML_FIELDS = [*HTML_FIELDS, f"Content-Security-Policy: {POLICY}"]
"""For the gateway's own pages."""
MARKDOWN_FIELDS = [
    "Content-Type: text/markdown; charset=utf-8",
    "X-Content-Type-Options: nosniff",
]

RETRY_TEXTS: dict[Retry, str] = {
    "never": "The same request will be refused again until something changes.",
    "after_payment": "After paying, send the same request again with the same key.",
    "after_delay": "Send the same request again later. Nothing needs to be changed.",
    "same_credential": "Do not pay again. Send the same request again shortly, with the same "
    "payment.",
}


class Fact(NamedTuple):
    """A number or text that belongs to the refusal."""

    name: str
    value: str
    """With holes."""
    section: str = ""
    """Letter of its section; empty: it is always there."""


class Action(NamedTuple):
    """Something that helps."""

    title: str
    """With holes."""
    path: str
    """Path and query of its page, with holes; empty: there is no page for it."""
    section: str = ""
    """Letter of the section without which it would not help; empty: it always does."""


class Page(NamedTuple):
    """The content of a refusal, for all forms."""

    reason: Reason
    status: str
    """With holes, if the configuration sets it; then there is no phrase."""
    phrase: str
    detail: str
    """What happened and what to do, with holes."""
    facts: list[Fact]
    retry: Retry
    remedies: list[Action]
    """Best first."""
    diagnosis: str
    """Path and query of the diagnosis; empty: none."""
    about: str
    """Path of the reason's page; empty: there are no pages."""
    base: str
    """The beginning of absolute addresses, for readers who do not know the host."""


def document(title: str, content: str, style: str = "") -> str:
    """A whole HTML page. `style`: more styles for this page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><main>{content}</main></body></html>\n"
    )


def _sections(text: str, section: str) -> str:
    return f"\1{section}{text}\1." if section else text


def html(page: Page) -> bytes:
    """The template of the page for people."""
    reason = page.reason
    content = [
        f'<p class="kicker">{_kicker(page)}</p>',
        f"<h1>{escape(reason.title)}</h1><p>{escape(page.detail)}</p>",
    ]
    if page.facts:
        rows = (
            _sections(f"<dt>{escape(fact.name)}</dt><dd>{fact.value}</dd>", fact.section)
            for fact in page.facts
        )
        content.append(f"<dl>{''.join(rows)}</dl>")
    linked = [one for one in page.remedies if one.path] if page.about else []
    if linked:
        items = (
            _sections(f'<li><a href="{_href(one.path)}">{escape(one.title)}</a></li>', one.section)
            for one in linked
        )
        content.append(f'\1g<ul class="act">{"".join(items)}</ul>\1.')
    # An action without a page is a sentence, not a button.
    content += [
        _sections(f"<p>{escape(_sentence(one.title, other=bool(linked)))}.</p>", one.section)
        for one in page.remedies
        if not one.path
    ]
    content.append(f"<p>{escape(RETRY_TEXTS[page.retry])}</p>")
    if page.diagnosis:
        content.append(
            f'\1g<p><a href="{_href(page.diagnosis)}">See what was checked, step by step</a></p>\1.'
        )
    name = f"<code>{reason.code}</code>"
    # Where HTTPS is required, a relative link leads to the same refusal.
    base = page.base if reason.code == "https_required" else ""
    about = f'<a href="{_href(base + page.about)}">{name}</a>' if page.about else name
    content.append(f"<footer>Reason {about} · request <code>\1I</code></footer>")
    return document(f"{page.status} {reason.title}", "".join(content)).encode()


def _kicker(page: Page) -> str:
    return f"{page.status} {escape(page.phrase)}".strip()


def _sentence(title: str, *, other: bool) -> str:
    """`other`: it follows another remedy."""
    return f"Or {title[0].lower()}{title[1:]}" if other else title


def _href(path: str) -> str:
    """Inside an attribute; the holes that paths have are letters and digits."""
    return escape(path)


def markdown(page: Page) -> bytes:
    """The template of the page for agents."""
    reason = page.reason
    phrase = f"{page.phrase}: " if page.phrase else ""
    lines = [f"# {page.status} {phrase}{reason.title}\n\n{page.detail}\n"]
    if page.facts:
        rows = (_sections(f"- {fact.name}: {fact.value}\n", fact.section) for fact in page.facts)
        lines.append("\n" + "".join(rows))
    items = [
        _sections(
            f"- [{one.title}]({page.base}{one.path})\n" if one.path else f"- {one.title}.\n",
            one.section,
        )
        for one in page.remedies
        if page.about or not one.path
    ]
    lines.append(f"\n## What to do\n\n{''.join(items)}\n" if items else "\n")
    lines.append(f"{RETRY_TEXTS[page.retry]}\n\n- Reason: `{reason.code}`\n- Request: `\1I`\n")
    if page.about:
        lines.append(f"- About this reason: {page.base}{page.about}\n")
    if page.diagnosis:
        lines.append(f"\1g- What was checked: {page.base}{page.diagnosis}\n\1.")
    return "".join(lines).encode()
