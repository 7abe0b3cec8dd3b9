"""Run an import: a file of another program → a checked FastGate document and what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastgate.errors import ConfigurationError
from fastgate.importers import apisix, kong, openapi
from fastgate.importers.draft import Draft, dump
from fastgate.importers.report import Finding, Report
from fastgate.importers.source import read

FORMATS: dict[str, tuple[str, Callable[..., Draft]]] = {
    "kong": (kong.WHAT, kong.convert),
    "apisix": (apisix.WHAT, apisix.convert),
    "openapi": (openapi.WHAT, openapi.convert),
}
"""What a file of each format is, and how it is converted."""


class Imported(NamedTuple):
    """The result of an import."""

    document: dict[str, Any]
    """As plain data; it passes `fastgate check`."""
    text: str
    """The same as YAML."""
    findings: list[Finding]
    """What it does not say as the source does."""


def run(form: str, file: str, **options: Any) -> Imported:
    """Import a file ("-": standard input) of one of `FORMATS`. `options`: of its `convert`.

    Raises ConfigurationError with the place in the file if it is not such a document.
    """
    what, convert = FORMATS[form]
    source = read(file, what)
    report = Report()
    try:
        draft = convert(source, report, **options)
        document = draft.document()
    except ConfigurationError as error:
        raise source.locate(error) from None
    return Imported(document, dump(document, draft.environment), report.findings(source.lines))
