"""The figures in the documentation are those of the last results, and only those."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks import publish
from benchmarks.compare.scenarios import table
from benchmarks.compare.schema import Report
from benchmarks.compare.verdict import judge

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


def test_the_pages_are_up_to_date() -> None:
    assert publish.main(["--check"]) == 0, "run: python -m benchmarks.publish"


def test_tables_are_copied_unchanged(tmp_path: Path) -> None:
    titles = {scenario.name: scenario.title for scenario in table()}
    assert set(publish.SHOWN) <= titles.keys()
    (tmp_path / "compare.md").write_text(REPORT.format(**titles))
    made = publish.filled(PAGE, publish.tables(tmp_path))
    assert made.startswith("before\n<!-- benchmarks -->\n")
    assert made.endswith("\n<!-- /benchmarks -->\nafter\n")
    assert "old" not in made
    assert "- a processor, 4 cores" in made
    assert "### Budgets\n\n| budget | measured |\n| --- | ---: |\n| CPU | **missed** |\n" in made
    assert f"### {titles['saturation']}\n\n| | requests/s |" in made
    assert "not shown" not in made
    assert "compare.png" not in made
    assert publish.filled(made, publish.tables(tmp_path)) == made


def test_each_headline_is_one_budget() -> None:
    budgets = [line.budget for line in judge([])]
    for start in publish.HEADLINES:
        assert sum(budget.startswith(start) for budget in budgets) == 1, start


def test_headlines_say_what_was_measured_and_what_was_missed(tmp_path: Path) -> None:
    kept = publish.PROJECT / "benchmarks" / "results" / "compare.json"
    report = msgspec.json.decode(kept.read_bytes(), type=Report)
    first, second, third = list(publish.HEADLINES)[:3]
    figures = {first: (0.7364, 0.9, True), second: (0.9, 0.85, False), third: (None, 1.05, None)}
    verdict = []
    for line in judge([]):
        for start, (figure, limit, met) in figures.items():
            if line.budget.startswith(start):
                line = msgspec.structs.replace(line, figure=figure, limit=limit, met=met)
        verdict.append(line)
    made = msgspec.structs.replace(report, verdict=verdict)
    (tmp_path / "compare.json").write_bytes(msgspec.json.encode(made))
    text = publish.headlines(tmp_path)
    assert "| 0.74 x | at most 0.90 x |" in text
    assert "| 0.90 x (missed) | at most 0.85 x |" in text
    assert "| not measured | at most 1.05 x |" in text
    assert "\n1 of 2 targets are met" in text


def test_without_results_they_say_so(tmp_path: Path) -> None:
    for section in publish.PAGES.values():
        assert publish.filled(PAGE, section(tmp_path)).count(publish.NOTHING) == 1


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="exactly one section"):
        publish.filled("nothing", "")
