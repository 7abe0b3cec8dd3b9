"""The fuzzer runs, briefly, from a fixed seed; and sees every outcome it is there to see."""

from __future__ import annotations

import pytest
from fuzz_proxy import fuzz, main

from fastgate._core.io.proxy_header import ProxyFault


def test_fuzz() -> None:
    seen = fuzz(seconds=60, rounds=4000, seed=20260101)
    assert seen.total() == 4000
    assert {"client", "no client", "incomplete"} <= seen.keys()
    found_by_others = ("PROXY_CUT", "PROXY_LATE", "PROXY_FAULTS")
    faults = {fault.name for fault in ProxyFault} - {*found_by_others}
    assert faults <= seen.keys()


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "50", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("seed 1\n50 rounds\n")
