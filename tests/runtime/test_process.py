"""Children: their exit codes, their signals, and how long to wait before the next one."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.runtime.supervisor.process import Backoff, describe_status, spawn


def end_of(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    return describe_status(status)


def test_the_result_is_the_exit_code() -> None:
    assert end_of(spawn("child", lambda: 5)) == "exit 5"


def test_system_exit_is_an_exit() -> None:
    def main() -> int:
        raise SystemExit(7)

    assert end_of(spawn("child", main)) == "exit 7"


def test_an_error_does_not_return_to_the_parents_code() -> None:
    def main() -> int:
        raise RuntimeError("oh")

    assert end_of(spawn("child", main)) == "exit 70"


def test_a_signal_is_named() -> None:
    def main() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert end_of(spawn("child", main)) == "signal 15 (SIGTERM)"


def test_what_a_terminal_sends_to_its_group_is_ignored() -> None:
    def main() -> int:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return 0

    assert end_of(spawn("child", main)) == "exit 0"


def test_the_parents_handlers_and_mask_are_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    handler = signal.getsignal(signal.SIGINT)
    end_of(spawn("child", lambda: 0))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_child_has_its_name() -> None:
    read, write = os.pipe()

    def main() -> int:
        with open("/proc/self/comm", "rb") as file:
            os.write(write, file.read())
        return 0

    end_of(spawn("fg-worker-3", main))
    assert os.read(read, 100) == b"fg-worker-3\n"
    os.close(read)
    os.close(write)


def test_the_first_death_is_answered_at_once_the_next_ones_later_and_later() -> None:
    backoff = Backoff(longest=10.0, good=10.0)
    waits = [backoff.after(0.0) for _ in range(10)]
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert backoff.failures == 10


def test_some_deaths_in_a_row_may_be_free() -> None:
    backoff = Backoff(longest=0.4, good=5.0, free=3)
    assert [backoff.after(1.0) for _ in range(7)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.4, 0.4])
    assert [backoff.after(5.0), backoff.after(1.0)] == [0, 0]


@given(st.lists(st.floats(0, 30), max_size=50))
def test_a_good_life_forgives(lives: list[float]) -> None:
    backoff = Backoff(longest=5.0, good=10.0)
    for lived in lives:
        wait = backoff.after(lived)
        assert 0.0 <= wait <= 5.0
        if lived >= 10.0:
            assert wait == 0.0
            assert backoff.failures == 1
