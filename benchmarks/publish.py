"""Publishes the latest results of `python -m benchmarks.compare` in the documentation.

    python -m benchmarks.publish          write what stands between the marks
    python -m benchmarks.publish --check  exit 1 when a page is not as it would be written

`docs/benchmarks.md` gets tables of `benchmarks/results/compare.md`, unchanged: the budgets, met and
missed, and the scenarios in SHOWN. The README gets the six budgets in HEADLINES, whatever they came
to, and how many of all budgets were met.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.compare.scenarios import table
from benchmarks.compare.schema import Budget, Report

PROJECT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
SHOWN = ("saturation", "windows", "half-load", "partial-load", "connection-per-request",
         "upstreams-unix", "paid", "reload-10000", "idle", "tls", "tls-handshakes", "tls-resumed",
         "tls-upstream", "tls-idle", "tls-flood", "sidecar")  # fmt: skip
HEADLINES = {
    "CPU per request, policies on / nginx": "CPU per request with key, rate limit, quota and log, "
    "against nginx with key, rate limit and log",
    "CPU per request, policies on / HAProxy": "the same against HAProxy with key, rate limit and "
    "log",
    "CPU per request, paid and keyed / rate limit alone, with control": "CPU per request that is "
    "charged and written to the ledger, against one that is not",
    "added latency at half load, p99": "latency added at half load, 99th percentile",
    "requests failed by reloads, 10000 routes": "requests failed by reloads of 10,000 routes",
    "idle memory": "memory at rest:",
}
"""The budgets that the README names, by how their names begin, and what it calls them."""
NOTHING = "No results are in this tree yet; `make compare` makes them."


def tables(results: Path) -> str:
    """What docs/benchmarks.md says of the results in this folder."""
    report = results / "compare.md"
    if not report.exists():
        return NOTHING
    opening, *sections = report.read_text(encoding="utf-8").split("\n## ")
    machine = [line for line in opening.splitlines() if line.startswith("- ")]
    by_title = {title: body for title, _, body in (s.partition("\n") for s in sections)}
    titles = [scenario.title for scenario in table() if scenario.name in SHOWN]
    lines = [
        "Medians, with the least and the greatest of the rounds. All of them are in "
        "[benchmarks/results/compare.md](../benchmarks/results/compare.md).",
        "",
        *machine,
        "",
    ]
    for title in ("Budgets", *titles):
        if title in by_title:
            lines += [f"### {title}", "", by_title[title].strip(), ""]
    if (results / "compare.png").exists():
        lines += ["![The same as bars](../benchmarks/results/compare.png)", ""]
    return "\n".join(lines).rstrip()


def headlines(results: Path) -> str:
    """What the README says of the results in this folder."""
    path = results / "compare.json"
    if not path.exists():
        return NOTHING
    report = msgspec.json.decode(path.read_bytes(), type=Report)
    lines = ["| | measured | target |", "| --- | ---: | ---: |"]
    for start, words in HEADLINES.items():
        (found,) = (line for line in report.verdict if line.budget.startswith(start))
        if words.endswith(":"):  # of what, is in the budget's own name
            words += f" {found.budget.partition(', ')[2]}"
        lines.append(f"| {words} | {_figure(found)} | {_limit(found)} |")
    measured = [line for line in report.verdict if line.met is not None]
    met = sum(bool(line.met) for line in measured)
    lines += ["", f"{met} of {len(measured)} targets are met on the {report.machine.cpu} "
              f"({report.machine.cores} cores) that this was measured on."]  # fmt: skip
    return "\n".join(lines)


def _figure(budget: Budget) -> str:
    if budget.figure is None:
        return "not measured"
    return _quantity(budget.figure, budget.unit) + ("" if budget.met else " (missed)")


def _limit(budget: Budget) -> str:
    # A limit that is a peer's own figure says whose.
    peer = f" ({budget.note})" if budget.note.startswith("best: ") else ""
    if budget.limit == 0:
        return "0"
    words = "at most" if budget.sense == "<=" else "at least"
    return f"{words} {_quantity(budget.limit, budget.unit)}{peer}"


def _quantity(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.2f} x"
    return f"{value:,.4g} {unit}".strip()


PAGES: dict[str, Callable[[Path], str]] = {"README.md": headlines, "docs/benchmarks.md": tables}


def filled(text: str, section: str) -> str:
    """A page with its section as it should be. Raises ValueError without the marks."""
    made, count = MARKED.subn(lambda match: f"{match[1]}{section}\n{match[2]}", text)
    if count != 1:
        raise ValueError("the page has not exactly one section for benchmarks")
    return made


def main(arguments: list[str]) -> int:
    """Write the sections, or check them."""
    stale = []
    for name, section in PAGES.items():
        path = PROJECT / name
        text = path.read_text(encoding="utf-8")
        made = filled(text, section(PROJECT / "benchmarks" / "results"))
        if made == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.write_text(made, encoding="utf-8")
    if stale:
        print(f"{'not up to date' if '--check' in arguments else 'written'}: {', '.join(stale)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
