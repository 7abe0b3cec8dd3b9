"""What an import could not express: where it is in the source, and what happens instead."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from fastgate.config.documents import Lines

Kind = Literal["open", "lost", "changed"]
MEANINGS: dict[Kind, str] = {
    "open": "PROTECTION MISSING",
    "lost": "not imported",
    "changed": "different",
}
"""`open`: a protection is missing, so more requests are served; `lost`: it is not in the document;
`changed`: it is, but does not mean exactly the same."""


class Finding(NamedTuple):
    """One thing that the document does not say as the source does. Never has a secret."""

    kind: Kind
    path: str
    """The place in the source: `services[0].plugins[1]`."""
    name: str
    """What it belongs to: `route 'orders'`."""
    message: str
    line: int | None = None

    def __str__(self) -> str:
        spot = f"line {self.line}: " if self.line is not None else ""
        place = f"{self.path}: " if self.path else ""
        name = f"{self.name}: " if self.name else ""
        return f"{MEANINGS[self.kind]}: {spot}{place}{name}{self.message}"

    @property
    def data(self) -> dict[str, Any]:
        """As data, for `--json`."""
        return self._asdict()


class Report:
    """Collects findings, each once."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def add(self, kind: Kind, path: str, name: str, message: str) -> None:
        """Add a finding, unless it is there already."""
        self._found.setdefault(Finding(kind, path, name, message))

    def findings(self, lines: Lines) -> list[Finding]:
        """All, with their lines; missing protections first."""
        order = list(MEANINGS)
        found = sorted(self._found, key=lambda one: order.index(one.kind))
        return [one._replace(line=lines.of(one.path) if one.path else None) for one in found]
