"""Quantities: what is read, what is refused, and that texts and values stand for each other."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.handlers.metering import HELD_MOST
from fastgate.model.units import MONEY_MOST, Duration, Money, Percent, Rate, Size


@pytest.mark.parametrize(
    ("text", "ns", "canonical"),
    [
        ("250ms", 250_000_000, "250ms"),
        ("10s", 10_000_000_000, "10s"),
        ("1.5m", 90_000_000_000, "90s"),
        ("1h30m", 5_400_000_000_000, "90m"),
        ("24h", 86_400_000_000_000, "1d"),
        ("2w", 14 * 86_400_000_000_000, "14d"),
        ("1us", 1000, "1us"),
        ("7ns", 7, "7ns"),
        (" 5s ", 5_000_000_000, "5s"),
        (0, 0, "0s"),
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("0.25s", 250_000_000, "250ms"),
    ],
)
def test_durations(text: object, ns: int, canonical: str) -> None:
    duration = Duration.parse(text)
    assert duration.ns == ns
    assert str(duration) == canonical


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (5, "needs a unit: '5s'"),
        (2.5, "needs a unit"),
        ("5", "needs a unit"),
        ("5 apples", "not a duration"),
        ("", "not a duration"),
        ("-5s", "not a duration"),
        ("5s5m", "larger units before smaller"),
        ("5s5s", "each once"),
        ("0.1ns", "finer than a nanosecond"),
        ("3651d", "longer than 3650 days"),
        (True, "expected a duration"),
        (None, "expected a duration"),
        ([], "expected a duration"),
        ("٣s", "not a duration"),
    ],
)
def test_bad_durations(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Duration.parse(text)


def test_a_duration_that_is_set_is_never_zero_milliseconds() -> None:
    assert Duration.parse("1us").ms == 1
    assert Duration.parse("1500us").ms == 2
    assert Duration.parse("0").ms == 0


@given(st.integers(0, 3650 * 86_400 * 10**9))
def test_duration_texts_stand_for_their_values(ns: int) -> None:
    text = str(Duration(ns))
    assert Duration.parse(text) == Duration(ns)
    assert str(Duration.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "interval", "canonical"),
    [
        ("50/s", 20_000_000, "50/s"),
        ("1000/min", 60_000_000, "1000/min"),
        ("1/hour", 3_600_000_000_000, "1/h"),
        ("5/10s", 2_000_000_000, "5/10s"),
        ("3/2min", 40_000_000_000, "3/2m"),
        ("60/60s", 1_000_000_000, "60/min"),
        ("7 / second", 142_857_143, "7/s"),
    ],
)
def test_rates(text: str, interval: int, canonical: str) -> None:
    rate = Rate.parse(text)
    assert rate.interval_ns == interval
    assert str(rate) == canonical
    assert Rate.parse(canonical) == rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (50, "needs its period"),
        ("50", "not a rate"),
        ("0/s", "allows no request"),
        ("5/0s", "allows no request"),
        ("2000000000/s", "more than one per nanosecond"),
        ("1/999d", "longer than 366 days"),
        ("5/fortnight", "not a rate"),
        ("5/ms", "not a rate"),
    ],
)
def test_bad_rates(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rate.parse(text)


@given(st.integers(1, 10**9), st.sampled_from(["s", "min", "h", "d", "7s", "90min"]))
def test_the_interval_never_lets_more_through(amount: int, period: str) -> None:
    rate = Rate.parse(f"{amount}/{period}")
    assert rate.interval_ns * rate.amount >= rate.period_ns
    assert (rate.interval_ns - 1) * rate.amount < rate.period_ns
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "count", "canonical"),
    [
        ("16KiB", 16384, "16KiB"),
        ("1MB", 10**6, "1MB"),
        (512, 512, "512B"),
        ("1024", 1024, "1KiB"),
        ("1.5 GiB", 3 * 2**29, "1536MiB"),
        ("0", 0, "0B"),
        ("2k", 2048, "2KiB"),
        ("1000kb", 10**6, "1MB"),
    ],
)
def test_sizes(text: object, count: int, canonical: str) -> None:
    size = Size.parse(text)
    assert size.bytes == count
    assert str(size) == canonical


@pytest.mark.parametrize("text", ["-1", "1.3B", "5 miles", "", True, None, "2000TiB"])
def test_bad_sizes(text: object) -> None:
    with pytest.raises(ValueError, match=r"size|bytes|more than"):
        Size.parse(text)


@given(st.integers(0, 2**50))
def test_size_texts_stand_for_their_values(count: int) -> None:
    assert Size.parse(str(Size(count))) == Size(count)


@given(st.integers(0, 1000))
def test_percentages(permille: int) -> None:
    text = str(Percent(permille))
    assert Percent.parse(text) == Percent(permille)
    assert Decimal(text[:-1]) * 10 == permille


@pytest.mark.parametrize(
    ("text", "words"),
    [(20, "its sign"), ("20", "not a percentage"), ("101%", "more than"), ("0.05%", "finer")],
)
def test_bad_percentages(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Percent.parse(text)


@pytest.mark.parametrize(
    ("text", "micros", "canonical"),
    [
        ("0.002 USD", 2000, "0.002 USD"),
        ("5EUR", 5_000_000, "5 EUR"),
        ("0.000001 USDC", 1, "0.000001 USDC"),
        ("1.50 USD", 1_500_000, "1.5 USD"),
        ("0 USD", 0, "0 USD"),
    ],
)
def test_money(text: str, micros: int, canonical: str) -> None:
    money = Money.parse(text)
    assert money.micros == micros
    assert str(money) == canonical


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (0.002, "needs its currency"),
        ("0.002", "not an amount"),
        ("-1 USD", "not an amount"),
        ("1 usd", "not an amount"),
        ("0.0000001 USD", "finer than a millionth"),
        ("9999999999999 USD", "more than can be counted"),
    ],
)
def test_bad_money(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Money.parse(text)


@given(st.integers(0, 2**63 - 1))
def test_money_is_exact(micros: int) -> None:
    text = str(Money(micros, "USD"))
    assert Decimal(text.split()[0]) * 1_000_000 == micros
    assert Money.parse(text) == Money(micros, "USD")


def test_values_of_two_kinds_are_never_equal() -> None:
    assert Size(5) != Percent(5)
    assert Duration(5) != 5
    assert len({Size(5), Size(5), Percent(5)}) == 2


def test_the_maximum_amount_is_that_of_shared_memory() -> None:
    assert MONEY_MOST == HELD_MOST
