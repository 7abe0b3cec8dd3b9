"""Copies the latest results of `python -m benchmarks.compare` into the README.

    python -m benchmarks.readme          write what stands between the two marks
    python -m benchmarks.readme --check  exit 1 when it is not as it would be written

The tables are those of `benchmarks/results/compare.md`, unchanged: the budgets, met and missed, and
the scenarios in SHOWN. Nothing is chosen by how it came out.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.compare.scenarios import table

PROJECT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
SHOWN = ("saturation", "half-load", "paid", "reload-10000", "idle")
NOTHING = "No results are in this tree yet; `make compare` makes them."


def section_of(results: Path) -> str:
    """What the README says of the results in this folder."""
    report = results / "compare.md"
    if not report.exists():
        return NOTHING
    opening, *sections = report.read_text(encoding="utf-8").split("\n## ")
    machine = [line for line in opening.splitlines() if line.startswith("- ")]
    by_title = {title: body for title, _, body in (s.partition("\n") for s in sections)}
    titles = [scenario.title for scenario in table() if scenario.name in SHOWN]
    lines = [
        "The latest results: medians, with the least and the greatest of the rounds. All of them "
        "are in [benchmarks/results/compare.md](benchmarks/results/compare.md).",
        "",
        *machine,
        "",
    ]
    for title in ("Budgets", *titles):
        if title in by_title:
            lines += [f"### {title}", "", by_title[title].strip(), ""]
    if (results / "compare.png").exists():
        lines += ["![The same as bars](benchmarks/results/compare.png)", ""]
    return "\n".join(lines).rstrip()


def filled(text: str, results: Path) -> str:
    """The README with the section as it should be. Raises ValueError without the marks."""
    section = section_of(results)
    made, count = MARKED.subn(lambda match: f"{match[1]}{section}\n{match[2]}", text)
    if count != 1:
        raise ValueError("the README has not exactly one section for benchmarks")
    return made


def main(arguments: list[str]) -> int:
    """Write the section, or check it."""
    path = PROJECT / "README.md"
    text = path.read_text(encoding="utf-8")
    made = filled(text, PROJECT / "benchmarks" / "results")
    if made == text:
        return 0
    if "--check" in arguments:
        print("not up to date: README.md")
        return 1
    path.write_text(made, encoding="utf-8")
    print("written: README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
