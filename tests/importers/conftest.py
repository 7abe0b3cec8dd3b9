"""Runs an import of a text, and checks the result as `fastgate check` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from fastgate.config.compiler import compile_gateway
from fastgate.config.file import loads
from fastgate.config.slots import SlotBook
from fastgate.importers.run import Imported, run


def pytest_asyncio_loop_factories() -> Any:
    return {"uvloop": uvloop.new_event_loop}


class Result:
    """An import that succeeded, with its parts by name."""

    def __init__(self, imported: Imported, environ: dict[str, str]) -> None:
        self.imported = imported
        self.data = imported.document
        assert yaml.safe_load(imported.text) == imported.document
        self.gateway = loads(imported.text, environ=environ).gateway
        compile_gateway(self.gateway, generation=1, slots=SlotBook(), addresses={})

    def part(self, section: str, name: str) -> dict[str, Any]:
        return next(one for one in self.data[section] if one["name"] == name)

    def route(self, name: str) -> dict[str, Any]:
        return self.part("routes", name)

    def rules(self, name: str, key: str) -> Any:
        """Rules of a route: its own, or those of its policies."""
        route = self.route(name)
        held = [route, *(self.part("policies", one) for one in route.get("policies", []))]
        found = [one[key] for one in held if key in one]
        assert len(found) < 2
        return found[0] if found else None

    @property
    def names(self) -> list[str]:
        return [one["name"] for one in self.data.get("routes", [])]

    def said(self, kind: str, words: str) -> bool:
        """Whether a finding of this kind has these words."""
        return any(one.kind == kind and words in str(one) for one in self.imported.findings)

    @property
    def report(self) -> str:
        return "\n".join(map(str, self.imported.findings))


Import = Callable[..., Result]


@pytest.fixture
def import_(tmp_path: Path) -> Import:
    def importing(form: str, text: str, suffix: str = ".yaml", **environ: str) -> Result:
        path = tmp_path / f"source{suffix}"
        path.write_text(text)
        return Result(run(form, str(path)), environ)

    return importing
