"""Moments and key digests, and what all values share."""

import copy
import hashlib
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.model.gateway import Duration, KeyDigest, Moment, Rate, Value


@given(st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1)))
def test_moments_to_the_second(when: datetime) -> None:
    when = when.replace(microsecond=0, tzinfo=UTC)
    moment = Moment.parse(when.isoformat())
    assert moment.time == when
    assert Moment.parse(str(moment)) == moment


def test_a_date_is_its_first_second() -> None:
    assert str(Moment.parse("2026-11-20")) == "2026-11-20T00:00:00Z"
    assert str(Moment.parse("2026-11-20T12:00:00+02:00")) == "2026-11-20T10:00:00Z"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tomorrow", "not a date"),
        ("2026-02-30", "not a valid date or time"),
        ("2026-11-20T12:00:00", "not a date"),
        ("1969-12-31", "before 1970"),
        (20261120, "expected a date"),
    ],
)
def test_bad_moments(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Moment.parse(text)


def test_a_key_becomes_its_digest_and_stays_so() -> None:
    key = "demo-key-123"
    digest = KeyDigest.parse(key)
    assert digest.digest == hashlib.sha256(key.encode()).digest()
    assert key not in repr(digest)
    assert KeyDigest.parse(str(digest)) == digest == KeyDigest.of(key)


@pytest.mark.parametrize("bad", ["short", "with space in it", "sha256:12", "x" * 513, "schlüssel1"])
def test_bad_keys_are_never_shown(bad: str) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        KeyDigest.parse(bad)
    assert bad not in str(caught.value)


def test_keys_in_clear_are_not_remembered() -> None:
    assert KeyDigest.read("a-key-in-clear") is not KeyDigest.read("a-key-in-clear")
    assert Duration.read("17s") is Duration.read("17s")


@pytest.mark.parametrize("value", [Duration.parse("5s"), Rate.parse("5/s"), KeyDigest.of("k" * 9)])
def test_values_survive_copies(value: Value) -> None:
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value
