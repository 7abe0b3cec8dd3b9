"""Ratios of figures, formed by pairs of neighbouring visits.

Two visits are neighbours when they have the same number: the same turn of the same round of one
scenario, a second or so apart. What the machine did meanwhile fell on both, so their ratio has much
less noise than either figure. The median of all pairs is what counts; the quartiles say how much it
is worth. Figures of two scenarios have no neighbours: their ratio is that of their medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.schema import Point, Ratio, find


@dataclass(frozen=True)
class Figure:
    """One metric of one subject in one scenario."""

    scenario: str
    subject: str
    metric: str


def by_visit(point: Point, metric: str) -> dict[int, float]:
    """The values of a metric by the number of their visit."""
    values = point.metrics[metric].values
    # Results of before there were numbers have values in order, and none without its neighbour.
    visits = point.visits if len(point.visits) == len(values) else range(len(values))
    return dict(zip(visits, values, strict=True))


def pairs(points: Sequence[Point], over: Figure, under: Figure) -> list[float]:
    """over / under of each pair of neighbours; empty when one of them was not measured."""
    a = find(points, over.scenario, over.subject)
    b = find(points, under.scenario, under.subject)
    if a is None or b is None or over.metric not in a.metrics or under.metric not in b.metrics:
        return []
    if over.scenario != under.scenario:
        base = b.metrics[under.metric].median
        return [a.metrics[over.metric].median / base] if base else []
    upper, lower = by_visit(a, over.metric), by_visit(b, under.metric)
    return [upper[n] / lower[n] for n in sorted(upper.keys() & lower.keys()) if lower[n]]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile of at least one value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def ratio(points: Sequence[Point], over: Figure, under: Figure) -> Ratio | None:
    """The ratio of two figures, to four digits; None when one was not measured."""
    found = pairs(points, over, under)
    if not found:
        return None
    lower, median, upper = (round(value, 4) for value in quartiles(found))
    return Ratio(
        scenario=over.scenario,
        over=over.subject,
        under=under.subject,
        metric=over.metric,
        median=median,
        lower=lower,
        upper=upper,
        low=round(min(found), 4),
        high=round(max(found), 4),
        pairs=len(found),
    )


def all_ratios(points: Sequence[Point], scenarios: Iterable[Scenario]) -> list[Ratio]:
    """The ratios of CPU per request that the scenarios ask for, as far as they were measured."""
    wanted = (
        ratio(points, Figure(s.name, over, "cpu_us"), Figure(s.name, under, "cpu_us"))
        for s in scenarios
        for over, under in s.ratios
    )
    return [found for found in wanted if found is not None]
