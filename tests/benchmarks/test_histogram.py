"""The histogram: Python against a sorted list, and the C tool against Python."""

from __future__ import annotations

import json
import math
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.histogram import TOP, Histogram, highest_of, index_of
from benchmarks.tools import NoCompiler, tool

VALUES = st.one_of(
    st.integers(0, 300),
    st.integers(0, TOP),
    st.integers(0, 41).map(lambda b: (1 << b) - 1),
    st.integers(0, 40).map(lambda b: 1 << b),
)


@given(VALUES)
def test_a_value_is_in_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    i = index_of(value)
    assert highest_of(i) >= value
    assert i == 0 or highest_of(i - 1) < value
    assert highest_of(i) - value <= value / 128


@given(st.integers(TOP, TOP * 1000))
def test_what_is_too_large_is_in_the_last_bucket(value: int) -> None:
    assert index_of(value) == index_of(TOP)


@given(st.lists(VALUES, min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_quantiles_are_those_of_the_sorted_values(values: list[int], q: float) -> None:
    histogram = Histogram()
    histogram.record(values)
    exact = sorted(values)[max(0, math.ceil(round(q * len(values), 6)) - 1)]
    told = histogram.quantile(q)
    assert exact <= told <= exact + exact / 128
    assert histogram.mean == sum(values) / len(values)


@given(st.lists(VALUES), st.lists(VALUES))
def test_adding_is_recording_both(one: list[int], other: list[int]) -> None:
    a, b, both = Histogram(), Histogram(), Histogram()
    a.record(one)
    b.record(other)
    both.record(one + other)
    a.add(b)
    assert a == both


def test_an_empty_one_has_no_quantiles() -> None:
    assert Histogram().quantile(0.99) == 0
    assert Histogram().mean == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(VALUES, st.integers(TOP, 2**63)), max_size=200))
def test_the_tool_counts_as_python_does(values: list[int]) -> None:
    try:
        program = tool("load")
    except NoCompiler as e:
        pytest.skip(str(e))
    done = subprocess.run(
        [program, "--histogram"],
        input="\n".join(map(str, values)),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = Histogram()
    expected.record(values)
    told = Histogram.read(json.loads(done.stdout))
    assert told.buckets == expected.buckets
    assert (told.count, told.greatest) == (expected.count, expected.greatest)
    assert told.total == expected.total % 2**64
