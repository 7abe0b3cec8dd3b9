"""Reasons: one list in C, one in `fastgate.errors`; the same names and numbers in both."""

from __future__ import annotations

from fastgate import errors
from fastgate._core.reason import Reason, reason_name

NOT_REASONS = {"REASON_NONE", "REASON_COUNT"}


def test_the_core_and_the_errors_know_the_same_reasons() -> None:
    core = {
        int(member): name.lower()
        for name, member in Reason.__members__.items()
        if name not in NOT_REASONS
    }
    assert core == {reason.number: reason.code for reason in errors.REASONS}


def test_the_names_in_c_are_the_stable_codes() -> None:
    assert {reason_name(r.number) for r in errors.REASONS} == {r.code for r in errors.REASONS}
    assert all(reason_name(r.number) == r.code for r in errors.REASONS)


def test_numbers_without_a_reason_have_a_name_too() -> None:
    assert reason_name(0) == ""
    assert reason_name(9) == "reason_9"
    assert reason_name(159) == "reason_159"
    assert reason_name(160) == reason_name(65_535) == "reason_other"
