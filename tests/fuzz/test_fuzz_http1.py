"""The fuzzer runs, briefly, from a fixed seed; and sees every outcome it is there to see."""

from __future__ import annotations

import pytest
from fuzz_http1 import fuzz, main

from fastgate._core.testing.scanners import scanner, scanners, use_scanner


@pytest.mark.parametrize("name", scanners())
def test_fuzz(name: str) -> None:
    before = scanner()
    use_scanner(name)
    try:
        seen = fuzz(seconds=60, rounds=4000, seed=20260101)
    finally:
        use_scanner(before)
    assert seen.total() == 4000
    assert {"complete", "incomplete", "path", "body complete", "body refused"} <= seen.keys()
    assert sum(name.startswith("FAULT_") for name in seen) > 25


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "50", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("seed 1\n50 rounds\n")
