"""Ratios by pairs: which values are neighbours, and how much their ratios spread."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.compare import verdict
from benchmarks.compare.ratios import Figure, all_ratios, pairs, quartiles, ratio
from benchmarks.compare.report import measured, ratio_table
from benchmarks.compare.scenarios import table
from benchmarks.compare.schema import Point, Spread


def a_point(
    subject: str, values: list[float], visits: list[int], scenario: str = "windows"
) -> Point:
    return Point(
        scenario=scenario, subject=subject, workers=1, connections=64, body=100, mode="closed",
        metrics={"cpu_us": Spread.of(values)}, statuses={"200": 1}, errors={}, visits=visits,
    )  # fmt: skip


A, B = Figure("windows", "a", "cpu_us"), Figure("windows", "b", "cpu_us")


def test_a_machine_that_is_slow_for_a_while_is_so_for_both() -> None:
    points = [a_point("a", [10, 20, 10], [0, 1, 2]), a_point("b", [20, 40, 20], [0, 1, 2])]
    found = ratio(points, A, B)
    assert found is not None
    assert (found.median, found.lower, found.upper, found.pairs) == (0.5, 0.5, 0.5, 3)
    assert ratio(points, A, Figure("windows", "c", "cpu_us")) is None
    assert ratio(points, A, Figure("windows", "b", "rps")) is None


def test_a_visit_that_failed_leaves_its_neighbour_without_a_pair() -> None:
    points = [a_point("a", [10, 30], [0, 2]), a_point("b", [20, 99, 10], [0, 1, 2])]
    assert pairs(points, A, B) == [0.5, 3.0]
    # As many values on both sides, of which one pair only are neighbours.
    points = [a_point("a", [10, 30], [0, 1]), a_point("b", [15, 10], [1, 2])]
    assert pairs(points, A, B) == [2.0]


def test_results_without_numbers_of_visits_are_paired_in_order() -> None:
    assert pairs([a_point("a", [2, 9], []), a_point("b", [4, 3], [])], A, B) == [0.5, 3.0]


def test_figures_of_two_scenarios_are_compared_by_their_medians() -> None:
    points = [
        a_point("a", [1, 3, 2], [0, 1, 2], "flood-401"),
        a_point("b", [4, 2, 9], [0, 1, 2], "saturation"),
    ]
    over, under = Figure("flood-401", "a", "cpu_us"), Figure("saturation", "b", "cpu_us")
    assert pairs(points, over, under) == [0.5]


def test_nothing_is_divided_by_zero() -> None:
    assert pairs([a_point("a", [1, 2], [0, 1]), a_point("b", [0, 4], [0, 1])], A, B) == [0.5]


def test_half_of_the_values_are_between_the_quartiles() -> None:
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_scenarios_ask_for_ratios_of_their_own_subjects() -> None:
    for scenario in table():
        assert {name for pair in scenario.ratios for name in pair} <= set(scenario.subjects)
    points = [
        a_point(name, [base, base * 3], [0, 1]) for name, base in (("fastgate", 6.0), ("relay", 5))
    ]
    (found,) = all_ratios(points, table())  # the others were not measured
    assert (found.over, found.under, found.median, found.pairs) == ("fastgate", "relay", 1.2, 2)


def test_policies_are_judged_in_the_windows_and_with_their_spread() -> None:
    visits = list(range(5))
    points = [
        a_point("fastgate-policies", [11.0, 10.8, 10.9, 11.1, 11.2], visits),
        a_point("fastgate", [10.0] * 5, visits),
        a_point("relay", [5.0] * 5, visits),
    ]
    judged = {b.budget: b for b in verdict.judge(points)}
    off = judged["CPU per request, policies on / all policies off"]
    assert (off.figure, off.lower, off.upper, off.pairs) == (1.1, 1.09, 1.11, 5)
    assert off.met is False
    assert measured(off) == "1.1 x (1.09 to 1.11)"
    assert judged["CPU per request, policies on / the bare relay"].figure == 2.2
    assert measured(msgspec.structs.replace(off, pairs=1)) == "1.1 x"


@pytest.mark.parametrize("scenario", ["connections-1", "partial-load", "connection-per-request"])
@pytest.mark.parametrize(("mine", "met"), [(19.0, True), (19.1, False)])
def test_nginx_is_beaten_in_three_more_loads(scenario: str, mine: float, met: bool) -> None:
    points = [
        a_point("fastgate-policies", [mine], [0], scenario),
        a_point("nginx-policies", [20.0], [0], scenario),
    ]
    (judged,) = (b for b in verdict.judge(points) if b.figure is not None)
    assert (judged.limit, judged.met) == (0.95, met)
    assert "nginx with its policies" in judged.budget


def test_a_table_of_ratios_has_a_row_for_each() -> None:
    points = [a_point("fastgate", [6.0, 7.0, 8.0], [0, 1, 2]), a_point("relay", [5] * 3, [0, 1, 2])]
    lines = ratio_table(all_ratios(points, table()))
    assert lines[-1] == "| fastgate / relay | 1.400 | 1.300 to 1.500 | 1.200 to 1.600 | 3 |"
    assert ratio_table([]) == []
