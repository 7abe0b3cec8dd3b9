"""docs/control-api.md says what the code says."""

from __future__ import annotations

from pathlib import Path

from fastgate.api.reference import SECTIONS, filled

PAGE = Path(__file__).parents[2] / "docs" / "control-api.md"


def test_the_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    for name in SECTIONS:
        assert f"<!-- begin: {name} -->" in text
    assert filled(text) == text, "run: python -m fastgate.api.reference docs/control-api.md"
