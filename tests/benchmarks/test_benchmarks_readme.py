"""The README's figures are those of the last results, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.compare.scenarios import table

REPORT = """# FastGate beside other proxies

- a processor, 4 cores

## Budgets

| budget | measured |
| --- | ---: |
| CPU | **missed** |

## {saturation}

| | requests/s |
| --- | ---: |
| relay | 50,000 |

## Something that is not shown

| | |
"""
PAGE = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"


def test_the_readme_is_up_to_date() -> None:
    assert readme.main(["--check"]) == 0, "run: python -m benchmarks.readme"


def test_tables_are_copied_unchanged(tmp_path: Path) -> None:
    titles = {scenario.name: scenario.title for scenario in table()}
    assert set(readme.SHOWN) <= titles.keys()
    (tmp_path / "compare.md").write_text(REPORT.format(**titles))
    made = readme.filled(PAGE, tmp_path)
    assert made.startswith("before\n<!-- benchmarks -->\n")
    assert made.endswith("\n<!-- /benchmarks -->\nafter\n")
    assert "old" not in made
    assert "- a processor, 4 cores" in made
    assert "### Budgets\n\n| budget | measured |\n| --- | ---: |\n| CPU | **missed** |\n" in made
    assert f"### {titles['saturation']}\n\n| | requests/s |" in made
    assert "not shown" not in made
    assert "compare.png" not in made
    assert readme.filled(made, tmp_path) == made


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert readme.NOTHING in readme.filled(PAGE, tmp_path)


def test_a_page_without_marks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly one section"):
        readme.filled("nothing", tmp_path)
