"""When keys are fetched again: what the answer says, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.issuers.freshness import (
    BACKOFF_MOST_S,
    DEFAULT_S,
    LEAST_S,
    MOST_S,
    backoff_s,
    fresh_s,
    spread,
)

NOW = 1_800_000_000.0
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # NOW
LATER = "Fri, 15 Jan 2027 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, DEFAULT_S),
        ({"cache-control": "public"}, DEFAULT_S),
        ({"cache-control": "max-age=600"}, 600),
        ({"cache-control": 'public, MAX-AGE="600", must-revalidate'}, 600),
        ({"cache-control": "max-age = 600"}, 600),
        ({"cache-control": "max-age=600", "age": "100"}, 500),
        ({"cache-control": "max-age=600", "age": "soon"}, 600),
        ({"cache-control": "max-age=600", "expires": DATE}, 600),
        ({"cache-control": "s-maxage=900"}, DEFAULT_S),
        ({"cache-control": "x-max-age=900"}, DEFAULT_S),
        ({"cache-control": "max-age=1"}, LEAST_S),
        ({"cache-control": "max-age=0"}, LEAST_S),
        ({"cache-control": "max-age=400", "age": "500"}, LEAST_S),
        ({"cache-control": "max-age=9999999999"}, MOST_S),
        ({"cache-control": "no-cache"}, LEAST_S),
        ({"cache-control": "no-store, max-age=6000"}, LEAST_S),
        ({"expires": LATER, "date": DATE}, 7200),
        ({"expires": LATER}, 7200),
        ({"expires": LATER, "date": "never"}, 7200),
        ({"expires": "0"}, LEAST_S),
        ({"expires": DATE}, LEAST_S),
        ({"expires": "Sat, 15 Jan 2028 08:00:00 GMT"}, MOST_S),
    ],
)
def test_what_answers_say(headers: dict[str, str], seconds: float) -> None:
    assert fresh_s(headers, NOW) == seconds


@given(
    st.dictionaries(
        st.sampled_from(["cache-control", "age", "expires", "date"]),
        st.text(max_size=20)
        | st.sampled_from(["max-age=99999999999999", "Mon, 99 Foo 2027 00:00:00 GMT", DATE]),
    )
)
def test_nothing_that_is_said_leaves_the_bounds(headers: dict[str, str]) -> None:
    assert LEAST_S <= fresh_s(headers, NOW) <= MOST_S


def test_errors_are_followed_by_longer_waits() -> None:
    assert [backoff_s(n) for n in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert backoff_s(7) == BACKOFF_MOST_S == backoff_s(10_000)


@given(st.floats(0, MOST_S))
def test_a_little_less_at_random(seconds: float) -> None:
    assert 0.9 * seconds <= spread(seconds) <= seconds
