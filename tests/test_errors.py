"""The error tree and the table of reasons; the table against the core's enum."""

import copy
import pickle

import pytest

from fastgate import errors
from fastgate._core import reason as core
from fastgate.errors import REASON_BY_CODE, REASON_BY_NUMBER, REASONS, ConfigurationError, Reason

STATUSES = {400, 401, 402, 403, 404, 405, 406, 408, 410, 413, 414, 417, 421, 429, 431,
            500, 501, 502, 503, 504, 505, 508}  # fmt: skip


def test_the_table_and_the_core_have_the_same_reasons() -> None:
    numbers = {name: int(member) for name, member in core.Reason.__members__.items()}
    assert numbers.pop("REASON_NONE") == 0
    assert numbers.pop("REASON_COUNT") > max(numbers.values())
    assert {reason.code.upper(): reason.number for reason in REASONS} == numbers


def test_codes_and_numbers_are_each_used_once() -> None:
    assert len(REASON_BY_CODE) == len(REASON_BY_NUMBER) == len(REASONS)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.code)
def test_every_reason_is_told_in_full(reason: Reason) -> None:
    assert reason.status in STATUSES | {0}
    assert reason.title
    assert not reason.title.endswith(".")
    assert reason.text.endswith(".")
    assert len(reason.text) > len(reason.title)
    assert (reason.title + reason.text).isascii()
    assert reason.side in ("client", "gateway", "upstream")


def test_what_waiting_fixes_is_retryable() -> None:
    assert all(reason.retryable for reason in REASONS if reason.status == 429)
    assert not any(reason.retryable for reason in REASONS if reason.status in (400, 401, 402, 403))


def test_the_connection_ends_where_the_next_message_cannot_be_found() -> None:
    found = {reason.code for reason in REASONS if reason.status in (0, 400, 408, 413, 414, 431)}
    # A request is validated when all of it is here.
    assert {reason.code for reason in REASONS if reason.close} >= found - {"request_invalid"}


def test_the_code_of_a_number() -> None:
    assert errors.reason_code(60) == "rate_limited"
    assert errors.reason_code(0) == ""
    assert errors.reason_code(127) == "reason_127"


def test_every_exception_is_in_the_tree_and_documented() -> None:
    found = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(found) > 8
    for error in found:
        assert issubclass(error, errors.FastGateError)
        assert (error.__doc__ or "").partition("\n")[0].endswith("."), error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigurationError("wrong"), "wrong"),
        (ConfigurationError("wrong", "a[1].b"), "a[1].b: wrong"),
        (ConfigurationError("wrong", "a", 7), "line 7: a: wrong"),
        (ConfigurationError("wrong", "a", 7, file="f.yaml"), "f.yaml:7: a: wrong"),
        (ConfigurationError("wrong", hint="Do this."), "wrong. Do this."),
        (ConfigurationError("is it?", hint="Yes."), "is it? Yes."),
        (ConfigurationError("one", "a", others=[ConfigurationError("two", "b")]), "a: one\nb: two"),
    ],
)
def test_a_configuration_error_reads_well(error: ConfigurationError, text: str) -> None:
    assert str(error) == text


def test_a_configuration_error_survives_copies() -> None:
    error = ConfigurationError("m", "p", 3, "h", "f", [ConfigurationError("o")])
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(other) == str(error)
        assert len(list(other)) == 2
