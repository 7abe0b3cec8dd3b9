"""What the micro-benchmarks share: figures per operation, beside their budgets."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Figure:
    """One measured operation."""

    name: str
    ns: float
    budget_ns: float | None


FIGURES = pytest.StashKey[list[Figure]]()

Operation = Callable[[], object]
Measure = Callable[..., float]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any) -> Measure:
    """measure(run, operations=n, budget_ns=b): runs `run` some rounds, nanoseconds per operation.

    `run` does `operations` of them. Where it returns a float, that is taken as nanoseconds per
    operation (it left its preparations out); else the time of the whole call counts. The median
    of the rounds is reported, and kept in the JSON of pytest-benchmark as extra_info.
    """

    def call(
        run: Operation, *, operations: int = 1, budget_ns: float | None = None, rounds: int = 7
    ) -> float:
        told: list[float] = []

        def once() -> None:
            result = run()
            if isinstance(result, float):
                told.append(result)

        benchmark.pedantic(once, rounds=rounds, iterations=1, warmup_rounds=1)
        if told:
            ns = statistics.median(told[1:] or told)
        elif benchmark.stats is not None:
            ns = benchmark.stats.stats.median * 1e9 / operations
        else:  # --benchmark-disable: it ran, once
            return 0.0
        benchmark.extra_info["operations"] = operations
        benchmark.extra_info["ns_per_operation"] = round(ns, 2)
        benchmark.extra_info["budget_ns"] = budget_ns
        name = request.node.name.removeprefix("test_")
        request.config.stash[FIGURES].append(Figure(name, ns, budget_ns))
        return ns

    return call


def readable(ns: float) -> str:
    """A duration with three digits and its unit."""
    for limit, scale, unit in ((1e4, 1, "ns"), (1e7, 1e3, "µs"), (1e10, 1e6, "ms")):
        if ns < limit:
            return f"{ns / scale:,.1f} {unit}"
    return f"{ns / 1e9:,.2f} s"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures:
        return
    terminalreporter.section("per operation, median of the rounds")
    for figure in figures:
        against = ""
        if figure.budget_ns is not None:
            mark = "within" if figure.ns <= figure.budget_ns else "OVER"
            against = f"   {mark} the budget of {readable(figure.budget_ns)}"
        terminalreporter.write_line(f"{figure.name:44} {readable(figure.ns):>12}{against}")
