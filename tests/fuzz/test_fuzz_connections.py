"""The fuzzer of connections runs, briefly, from a fixed seed; and everybody takes part."""

from __future__ import annotations

import os
import random

import pytest
from fuzz_connections import fuzz, main

LONG = float(os.environ.get("FASTGATE_FUZZ_S", "0"))
"""Seconds, from a seed that is new each time: make fuzz."""


async def test_fuzz() -> None:
    if LONG:
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}")
        seen = await fuzz(1 << 62, LONG, seed, report=True)
    else:
        seen = await fuzz(1200, 120, 20260101)
        assert seen["WildClient"] + seen["TameClient"] == 1200
    assert min(seen[name] for name in ("TameClient", "WildPeer", "TamePeer", "reloads")) > 5


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--connections", "20", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("seed 1\n20 connections\n")
