"""The tables of docs/control-api.md, generated from the code:

    python -m fastgate.api.reference docs/control-api.md

rewrites the text between `<!-- begin: NAME -->` and `<!-- end -->`; a test checks the file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.di import Provide

from fastgate.api.app import all_handlers
from fastgate.api.openapi import document, operations
from fastgate.api.problems import PROBLEMS
from fastgate.api.roles import NEEDS


def _routes() -> list[Any]:
    def nothing() -> None:
        return None

    app = Litestar(
        all_handlers(),
        dependencies={"ctx": Provide(nothing, sync_to_thread=False)},
        openapi_config=None,
        logging_config=None,
    )
    return list(app.routes)


def endpoints() -> str:
    """Method, path, role, what it does."""
    routes = _routes()
    described = document(routes)["paths"]
    rows = ["| | path | role | |", "| --- | --- | --- | --- |"]
    for one in operations(routes):
        if one.handler.opt["media"] == "text/html":
            continue
        summary = described[one.path][one.method.lower()]["summary"]
        role = NEEDS[one.handler.opt["permission"]] or "open"
        rows.append(f"| {one.method} | `{one.path}` | {role} | {summary} |")
    return "\n".join(rows)


def problems() -> str:
    """Reason, status, title."""
    rows = ["| status | reason | |", "| --- | --- | --- |"]
    rows += [f"| {status} | `{reason}` | {title} |" for reason, (status, title) in PROBLEMS.items()]
    return "\n".join(rows)


def permissions() -> str:
    """What each role may do."""
    rows = ["| permission | from role |", "| --- | --- |"]
    rows += [f"| `{name}` | {role or 'anyone who can connect'} |" for name, role in NEEDS.items()]
    return "\n".join(rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "endpoints": endpoints,
    "problems": problems,
    "permissions": permissions,
}


def filled(text: str) -> str:
    """The document with its sections regenerated."""

    def make(match: re.Match[str]) -> str:
        return f"<!-- begin: {match[1]} -->\n{SECTIONS[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- begin: (\w+) -->\n.*?<!-- end -->", make, text, flags=re.S)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(filled(path.read_text()))
